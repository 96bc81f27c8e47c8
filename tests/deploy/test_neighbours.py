"""Neighbours run while they should and are gone afterwards; what a model needs beside itself is counted."""

import threading

import pytest

from course_lib.deploy import neighbours
from course_lib.deploy.footprint import imported_by, installed_bytes
from course_lib.deploy.neighbours import all_at_once, busy_neighbours, half_disturbed
from course_lib.errors import CourseError


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    found, popen = [], neighbours.subprocess.Popen

    def start(*args, **kwargs):
        found.append(popen(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(neighbours.subprocess, "Popen", start)
    return found


def test_neighbours_are_there_inside_the_block_and_gone_after_it_even_after_an_error(started):
    with pytest.raises(KeyError), busy_neighbours(2):
        assert [p.poll() for p in started] == [None, None]
        raise KeyError
    assert len(started) == 2 and all(p.poll() is not None for p in started)
    with pytest.raises(ValueError, match="count = 0"), busy_neighbours(0):
        raise AssertionError("not reached")


@pytest.mark.parametrize("turns, order", [(True, "ababab"), (False, "aaabbb")])
def test_the_second_half_of_the_calls_is_disturbed(started, turns, order):
    said = []

    def call(name):
        return lambda: said.append((name, len(started)))

    calls, (start, end) = half_disturbed({"a": call("a"), "b": call("b")}, rounds=3, turns=turns, neighbours=1)
    assert "".join(name for name, _ in said) == order and [n for _, n in said] == [0, 0, 0, 1, 1, 1]
    moments = sorted(moment for own in calls.values() for moment, _ in own)
    assert moments[2] < start <= moments[3] <= end and all(p.poll() is not None for p in started)
    with pytest.raises(ValueError, match="rounds = 0"):
        half_disturbed({}, 0, True, 1)


def test_copies_are_called_at_the_same_time_and_every_answer_is_timed():
    meeting = threading.Barrier(3)  # a call returns when the other two copies have been called too, or fails after 5 s
    per_second, ms = all_at_once([lambda: meeting.wait(5)] * 3, calls=4)
    assert len(ms) == 12 and min(ms) >= 0 and per_second > 0
    for copies, calls, message in (([], 1, r"copies = \[\]"), ([print], 0, "calls = 0")):
        with pytest.raises(ValueError, match=message):
            all_at_once(copies, calls)


def test_the_bytes_of_packages_add_up():
    assert installed_bytes("tokenizers", "numpy") == installed_bytes("tokenizers") + installed_bytes("numpy") > 10**6
    with pytest.raises(CourseError, match="no_such_package is not installed"):
        installed_bytes("no_such_package")


def test_the_shipped_program_needs_no_torch():
    assert "torch" not in imported_by("course_lib.deploy.runtime")
    with pytest.raises(CourseError, match=r"no_such_module: .*No module named"):
        imported_by("no_such_module")
