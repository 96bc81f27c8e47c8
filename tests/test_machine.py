"""What the machine is said to be, and the one voice in which the user hears of it."""

import importlib.metadata
import io
import json
import os
import platform
import re
from pathlib import Path

import pytest
from rich.console import Console

from course_lib import console, machine

LINUX = Path("/proc/cpuinfo").is_file()


def test_the_form_is_json_and_complete():
    found = machine.machine(3)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"cpu", "flags", "threads", "versions"}
    assert found["cpu"] and found["threads"] == 3
    assert set(found["flags"]) == machine.cpu_info()[1] & set(machine.FLAGS)
    assert set(found["versions"]) == {"python", *machine.PACKAGES}


def test_versions_are_those_installed(monkeypatch):
    import numpy
    import onnxruntime

    found = machine.versions()
    assert (found["numpy"], found["onnxruntime"]) == (numpy.__version__, onnxruntime.__version__)
    assert found["python"] == platform.python_version()
    assert found["course_lib"] == importlib.metadata.version("course_lib")
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    assert machine.versions() == {"python": found["python"], "numpy": found["numpy"], "no-such-package": "not installed"}


def test_cpu_info_is_read_from_the_system(monkeypatch):
    name, flags = machine.cpu_info()
    if LINUX:
        text = Path("/proc/cpuinfo").read_text()
        listed = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)[-1].split()
        assert flags == set(listed) and name
    table = "processor\t: 0\nmodel name\t: Tested CPU: fast\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
    monkeypatch.setattr(Path, "read_text", lambda self: table)
    assert machine.cpu_info() == ("Tested CPU: fast", {"fpu", "avx2", "avx512_vnni"})
    monkeypatch.setattr(Path, "read_text", lambda self: "processor\t: 0\nFeatures\t: fp asimd bf16\n")  # as Arm has it
    assert machine.cpu_info() == (platform.machine(), {"fp", "asimd", "bf16"})


def test_a_system_that_tells_nothing_has_no_flags(monkeypatch):
    def absent(self):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", absent)
    name, flags = machine.cpu_info()
    assert name and flags == set()
    assert not machine.fast_bf16(), "what is not known to be fast is not used"


@pytest.mark.parametrize(
    "system, flags, bf16, saturates",
    [
        ("x86_64", "avx2", False, True),
        ("AMD64", "avx2 avx512f", False, True),
        ("x86_64", "avx2 avx_vnni", False, False),
        ("x86_64", "avx512f avx512_vnni", False, False),
        ("x86_64", "avx512_vnni avx512_bf16", True, False),
        ("x86_64", "amx_int8 amx_bf16", True, False),
        ("aarch64", "asimd asimddp", False, False),
        ("arm64", "asimd bf16 i8mm", True, False),
    ],
)
def test_what_follows_from_the_flags(system, flags, bf16, saturates, monkeypatch):
    monkeypatch.setattr(machine, "cpu_info", lambda: ("some CPU", set(flags.split())))
    monkeypatch.setattr(platform, "machine", lambda: system)
    assert machine.fast_bf16() is bf16
    assert machine.int8_saturates() is saturates


def test_processors_are_those_this_process_may_use(monkeypatch):
    if not hasattr(os, "sched_setaffinity"):
        assert machine.processors() == os.cpu_count()
        return
    allowed = os.sched_getaffinity(0)
    assert machine.processors() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.processors() == os.cpu_count()


# --- messages and progress


def test_messages_go_to_standard_error_as_they_are(capsys):
    message = "corpus data[v2] [/red] [1, 2] " + "long " * 40
    console.say(message)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == message + "\n", "neither read as markup nor broken into lines"


def test_without_a_terminal_the_bar_prints_nothing(capsys):
    with console.bar("training", 3) as advance:
        for _ in range(3):
            advance()
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", "")


def test_on_a_terminal_the_bar_shows_what_is_done_and_goes_away(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, height=20)
    monkeypatch.setattr(console, "stderr", screen)
    with console.bar("training") as advance:
        advance(completed=7, total=9, note="loss 0.125")
        advance(1)
    text = screen.file.getvalue()
    assert "training loss 0.125" in text and "8/9" in text
    assert text.rstrip().endswith("\x1b[2K"), "the line is erased at the end"
