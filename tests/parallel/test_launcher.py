"""The launcher: results by rank, errors that name the culprit, and nothing left however a call ends."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jobs
import psutil
import pytest

from course_lib import parallel
from course_lib.parallel.failures import WorkerError
from course_lib.parallel.launcher import run

WITHIN = 15  # seconds from a failure to the end of all, as promised


def alive(pids) -> list[int]:
    """Those of these processes that run."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def left_in(folder: Path) -> list[int]:
    """The process ids that workers wrote there."""
    return [int(path.read_text()) for path in folder.iterdir() if path.suffix != ".new"]


def none_is_left(pids: list[int]) -> bool:
    """Whether all are gone, or go within :data:`WITHIN`."""
    deadline = time.monotonic() + WITHIN
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


def test_results_come_by_rank_and_output_with_its_rank_before_it(capfd):
    results = parallel.run(jobs.look_round, 2, 3, env={"COLOUR": "red"}, threads=1)
    assert [r["rank"] for r in results] == [0, 1]
    assert [r["sum"].item() for r in results] == [7, 7]  # (0 + 3) + (1 + 3)
    assert all((r["world_size"], r["threads"], r["colour"], r["stdin"]) == (2, 1, "red", "") for r in results)
    out, err = capfd.readouterr()
    assert sorted(out.split("\n")) == ["", "[rank 0] hello from stdout", "[rank 1] hello from stdout"]
    assert sorted(err.split("\n")) == ["", "[rank 0] hello from stderr", "[rank 1] hello from stderr"]
    with pytest.raises(AttributeError, match="no attribute 'ran'"):
        parallel.ran  # noqa: B018


def test_functions_without_a_module_go_by_value_and_ten_runs_at_once_do_not_meet():
    def mine(number):  # as in a notebook's cell: no module has it
        import torch
        import torch.distributed as dist

        t = torch.tensor([number])
        dist.all_reduce(t)
        return t.item()

    before, children = threading.active_count(), set(psutil.Process().children())
    sizes = [2, 1, 1, 2, 1, 1, 2, 1, 1, 2]
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda n, size: run(mine, size, 10**n), range(10), sizes))
    assert results == [[size * 10**n] * size for n, size in enumerate(sizes)]
    assert set(psutil.Process().children()) == children and threading.active_count() == before
    assert [c for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN] == []


@pytest.mark.parametrize(
    ("how", "message", "traceback"),
    [
        ("raise", "rank 1 of 3 raised ValueError: no such tag", 'raise ValueError("no such tag")'),
        ("kill", "rank 1 of 3 was killed by SIGKILL", ""),
        ("exit", "rank 1 of 3 ended with exit code 3 before it returned", "I leave"),
        ("sleep", "rank 1 of 3 kept its peers waiting in a collective for more than 2 s. It is here:", "time.sleep(600)"),
        ("stop", "rank 1 of 3 kept its peers waiting in a collective for more than 2 s and does not answer", ""),
    ],
)
def test_a_worker_that_fails_ends_the_others_and_is_named(how, message, traceback, tmp_path):
    with pytest.raises(WorkerError, match=re.escape(message)) as caught:
        run(jobs.fail, 3, 1, how, str(tmp_path), timeout_s=2)
    assert caught.value.rank == 1 and traceback in caught.value.traceback
    assert "launcher.py" not in caught.value.traceback and "worker.py" not in caught.value.traceback  # the culprit's code alone
    assert len(left_in(tmp_path)) == 3 and alive(left_in(tmp_path)) == []


PARENT = """
import sys
sys.path.insert(0, {tests!r})
import jobs
from course_lib.parallel.launcher import run
run(jobs.sleep, 2, sys.argv[1])
"""


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT)])
def test_a_parent_that_is_killed_or_interrupted_leaves_no_worker(ending, code, tmp_path):
    script = PARENT.format(tests=str(Path(__file__).parent))
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE, start_new_session=True)
    while len(left_in(tmp_path)) < 2:
        assert parent.poll() is None, parent.stderr.read().decode()
        time.sleep(0.05)
    os.kill(parent.pid, ending)
    _, errors = parent.communicate(timeout=WITHIN)
    assert parent.returncode == code and (ending == signal.SIGKILL or b"KeyboardInterrupt" in errors)
    assert none_is_left(left_in(tmp_path))
