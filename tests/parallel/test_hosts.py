"""The same script on one host by torchrun and on two, with the losses of one process."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from course_lib.errors import CourseError
from course_lib.parallel import demo, hosts

COMMAND = ["-m", "course_lib.parallel.demo"]
# A rounding error of a gradient is at most some 5e-13 of the largest, about 0.1 (tests/parallel/model_jobs.py derives it); AdamW makes
# of it at most lr / ε = 1e5 times as much, where the gradient itself is nearly 0, and such weights hardly change the loss.
TOLERANCE = demo.STEPS * 5e-14 * demo.LR / 1e-8


@pytest.fixture(scope="module")
def alone() -> list[float]:
    """The losses of one process."""
    losses = demo.one_process()
    assert len(losses) == demo.STEPS and min(abs(a - b) for a, b in pairwise(losses)) > 1000 * TOLERANCE
    return losses


def told(out: str) -> dict:
    """What the first worker printed, among what gloo prints."""
    return next(json.loads(line) for line in out.splitlines() if line.startswith("{"))


def test_the_demo_under_torchrun_has_the_losses_of_one_process(alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert told(done.stdout)["losses"] == pytest.approx(alone, rel=0, abs=TOLERANCE)
    assert told(done.stdout)["workers"] == 2


def why_not() -> str | None:
    """Why there can be no network namespaces here; None where there can be."""
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need Linux, iproute2 and root"
    name = f"course-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"this system does not allow network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


needs_namespaces = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@needs_namespaces
def test_two_hosts_have_the_losses_of_one_process_and_leave_nothing(alone, capsys):
    path = Path(__file__).parents[2] / "data_scripts" / "two_hosts.py"
    specification = importlib.util.spec_from_file_location("two_hosts", path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    assert script.main(workers=1) <= TOLERANCE
    shown = capsys.readouterr().out
    assert "2 hosts, 2 workers:" in shown and shown.count(f"{alone[-1]:.7f}"[:-1]) == 2
    assert f"course-{os.getpid()}" not in subprocess.check_output(["ip", "netns", "list"], text=True)


@needs_namespaces
def test_a_host_that_fails_or_hangs_is_named_and_all_are_ended():
    with hosts.two_hosts() as pair:
        with pytest.raises(CourseError, match=rf"{pair[0].name}: torchrun ended with exit code 2:"):
            hosts.torchrun(pair[:1], 1, ["--no-such-option"])
        with pytest.raises(CourseError, match=rf"{pair[0].name}: torchrun did not end within 0.1 s"):
            hosts.torchrun(pair[:1], 1, COMMAND, timeout_s=0.1)
        with pytest.raises(ValueError, match="workers = 0: expected at least 1 on each host"):
            hosts.torchrun(pair, 0, COMMAND)
        for host in pair:
            assert subprocess.check_output(["ip", "netns", "pids", host.name], text=True) == ""


def test_a_system_that_makes_no_namespaces_is_told_what_they_need(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CourseError, match=r"`ip netns add .*` failed: .*It needs Linux, iproute2 and root"), hosts.two_hosts():
        raise AssertionError("no hosts were made")
