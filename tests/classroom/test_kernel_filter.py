"""The filter of system calls, run on a small model of the machine that the kernel has for it; Landlock's paths."""

import pytest

from course_lib.classroom.kernel import (
    ARCHITECTURES,
    CLONE_THREAD,
    DENIED,
    NUMBERS,
    TO_ITSELF,
    filter_program,
    supported,
    system_call,
)
from course_lib.classroom.landlock import without

ALLOW, KILL, REFUSE, ABSENT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
PID = 4242


def decision(machine: str, number: int, first: int = 0, audit: int | None = None) -> int:
    """What the filter says of a system call with this first argument."""
    memory = {0: number, 4: ARCHITECTURES[machine][1] if audit is None else audit, 16: first}
    lines, here, value = filter_program(PID, machine), 0, 0
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


def test_everything_else_is_allowed(machine):
    known = {number(machine, name) for name in (*DENIED, *TO_ITSELF, "clone", "clone3")}
    assert {decision(machine, n) for n in set(range(460)) - known} == {ALLOW}


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
