"""The filter of system calls, run on a small model of the machine that the kernel has for it; Landlock's paths."""

import platform
import re
from pathlib import Path

import pytest

from course_lib.classroom.kernel import (
    ARCHITECTURES,
    CLONE_THREAD,
    COMMANDS,
    DENIED,
    NUMBERS,
    OUTSIDE,
    TO_ITSELF,
    TO_ZERO,
    filter_program,
    supported,
    system_call,
)
from course_lib.classroom.landlock import without

ALLOW, KILL, REFUSE, ABSENT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
PID = 4242


def decision(
    machine: str, number: int, first: int = 0, audit: int | None = None, second: int = 0, pid: int | None = PID
) -> int:
    """What the filter says of a system call with these first arguments."""
    memory = {0: number, 4: ARCHITECTURES[machine][1] if audit is None else audit, 16: first, 24: second}
    lines, here, value = filter_program(pid, machine), 0, 0
    while True:
        code, yes, no, operand = lines[here]
        here += 1
        if code == 0x20:
            value = memory[operand]
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            here += yes if holds else no


@pytest.fixture(params=ARCHITECTURES)
def machine(request):
    return request.param


def number(machine: str, name: str) -> int | None:
    return NUMBERS[name][ARCHITECTURES[machine][0]]


def test_what_children_have_no_business_with_is_refused(machine):
    for name in DENIED:
        if number(machine, name) is not None:
            assert decision(machine, number(machine, name)) == REFUSE, name
    assert {"socket", "ptrace", "execve", "mount", "process_vm_writev", "memfd_create", "io_uring_setup"} <= set(DENIED)


def test_threads_can_be_made_and_processes_not(machine):
    assert decision(machine, number(machine, "clone"), CLONE_THREAD | 0x100) == ALLOW
    assert decision(machine, number(machine, "clone"), 17) == REFUSE
    assert decision(machine, number(machine, "clone3")) == ABSENT


def test_signals_reach_the_process_itself_alone(machine):
    for name in TO_ITSELF:
        assert decision(machine, number(machine, name), PID) == ALLOW
        assert {decision(machine, number(machine, name), other) for other in (0, 1, PID + 1, 2**32 - 1)} == {REFUSE}


def test_limits_and_processors_of_the_caller_alone_are_set(machine):
    for name in TO_ZERO:
        assert decision(machine, number(machine, name), 0) == ALLOW
        assert {decision(machine, number(machine, name), other) for other in (1, PID, PID + 1, 2**32 - 1)} == {REFUSE}


def test_commands_that_reach_others_are_refused_and_others_of_the_same_calls_are_not(machine):
    for name, commands in COMMANDS.items():
        assert {decision(machine, number(machine, name), second=c) for c in commands} == {REFUSE}
        assert {decision(machine, number(machine, name), second=c) for c in (0, 1, 2, 3, 4, 6, 1030, 0x5401, 0x541B)} == {ALLOW}
    assert set(COMMANDS["fcntl"]) > {8, 10, 15}


def test_everything_else_is_allowed(machine):
    known = {number(machine, name) for name in (*DENIED, *TO_ITSELF, *TO_ZERO, "clone", "clone3")}
    assert {decision(machine, n) for n in set(range(480)) - known} == {ALLOW}


def test_what_starts_programs_gets_no_namespace_and_no_look_into_others(machine):
    for name in OUTSIDE:
        assert decision(machine, number(machine, name), pid=None) == REFUSE, name
    clone = number(machine, "clone")
    for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert decision(machine, clone, flag | 17, pid=None) == REFUSE
    assert decision(machine, clone, 17, pid=None) == decision(machine, clone, 0x3D0F00, pid=None) == ALLOW
    assert decision(machine, number(machine, "clone3"), pid=None) == ABSENT
    for name in ("execve", "socket", "kill", "memfd_create", "fcntl", "ioctl", "prlimit64"):
        assert decision(machine, number(machine, name), 1, second=8, pid=None) == ALLOW, name


def test_numbers_are_those_of_the_headers_of_this_system():
    """The table, against ``linux/unistd`` where its headers are installed."""
    headers = [*Path("/usr/include").glob("**/asm/unistd_64.h")]
    if not supported() or platform.machine() != "x86_64" or not headers:
        pytest.skip("no headers of x86-64 Linux here")
    listed = dict(re.findall(r"#define __NR_(\w+) (\d+)", headers[0].read_text()))
    assert {name: int(listed[name]) for name in NUMBERS if name in listed} == {
        name: NUMBERS[name][0] for name in NUMBERS if name in listed
    }


def test_other_numbers_for_the_same_calls_are_no_way_round():
    assert decision("x86_64", 41, audit=0x40000003) == KILL, "32-bit calls"
    assert decision("x86_64", 0x40000000 | 41) == REFUSE, "x32"


def test_a_system_call_that_fails_names_itself():
    if not supported():
        pytest.skip("numbers are known for Linux on two kinds of processor")
    with pytest.raises(OSError, match="landlock_add_rule"):
        system_call("landlock_add_rule", -1, 99, None, 0)


def test_landlock_opens_what_is_beside_a_hidden_folder(tmp_path):
    for name in ("site/torch", "site/course/exercises", "site/numpy", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "site" / "link").symlink_to(tmp_path / "site" / "course")
    found = set(without(str(tmp_path), [str(tmp_path / "site" / "course")]))
    assert found == {str(tmp_path / "site" / "torch"), str(tmp_path / "site" / "numpy"), str(tmp_path / "other")}
    assert list(without(str(tmp_path / "site"), [str(tmp_path)])) == []
