"""Progress is whole or as before, whoever writes, dies or damages it meanwhile."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from course_lib.errors import CourseError
from course_lib.exercises import progress as keeping
from course_lib.exercises.progress import (
    open_hint,
    progress_file,
    read_progress,
    record_answer,
    record_check,
    record_measurement,
    record_prediction,
    update_progress,
)

EMPTY = {"version": 1, "exercises": {}, "hints": {}, "predictions": {}, "questions": {}}
WAIT = 60  # seconds until a process that does not do what it must is given up
fork = multiprocessing.get_context("fork")  # the children only write files


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "p" / "progress.json"


def files(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_nothing_is_kept_before_anything_is_done_and_reading_makes_no_file(path):
    assert read_progress(path) == EMPTY and not path.parent.exists()


def test_the_best_points_count_and_attempts_and_diagnoses_are_counted(path):
    record_check("clip", "not attempted", 0.0, 4, None, path)
    assert read_progress(path)["exercises"]["clip"]["state"] == "not attempted"
    record_check("clip", "wrong", 2.0, 4, "one_sided", path)
    record_check("clip", "wrong", 1.0, 4, None, path)
    entry = read_progress(path)["exercises"]["clip"]
    assert (entry["points"], entry["of"], entry["state"]) == (2.0, 4, "wrong")
    assert (entry["attempts"], entry["diagnosed"]) == (2, 1)
    record_check("clip", "passed", 4.0, 4, None, path)
    record_check("clip", "wrong", 0.0, 4, None, path)
    record_check("clip", "not attempted", 0.0, 4, None, path)
    entry = read_progress(path)["exercises"]["clip"]
    assert (entry["points"], entry["state"], entry["attempts"]) == (4.0, "passed", 4)


def test_an_attempt_is_not_forgotten_when_the_stub_is_checked_again(path):
    record_check("clip", "wrong", 2.0, 4, None, path)
    record_check("clip", "not attempted", 0.0, 4, None, path)
    assert read_progress(path)["exercises"]["clip"]["state"] == "wrong"


def test_hints_open_one_by_one_up_to_the_last(path):
    assert [open_hint("clip", 2, path) for _ in range(3)] == [1, 2, 2]


def test_the_first_prediction_counts_and_the_measurement_joins_it(path):
    assert record_prediction("size", 75, "%", path) and not record_prediction("size", 80, "%", path)
    assert record_measurement("other", 1.0, path) is None
    assert record_measurement("size", 70.5, path) == {"value": 75, "unit": "%", "measured": 70.5}
    written = path.stat().st_mtime_ns
    assert record_measurement("size", 70.5, path)["measured"] == 70.5
    assert record_measurement("size", float("inf"), path)["measured"] == 70.5
    assert path.stat().st_mtime_ns == written


def test_a_prediction_that_vanished_meanwhile_is_no_error(path, monkeypatch):
    monkeypatch.setattr(keeping, "read_progress", lambda p: {"predictions": {"size": {"value": 1, "unit": ""}}})
    assert record_measurement("size", 2.0, path) is None


def test_tries_are_counted_until_the_answer_is_right(path):
    for right in (False, True, False):
        record_answer("why", right, path)
    assert read_progress(path)["questions"]["why"] == {"tries": 2, "right": True}


# Where it is. --------------------------------------------------------------------------------------------------------


def test_the_file_is_that_of_the_environment_else_of_the_course_else_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", "mine.json")
    assert progress_file() == Path("mine.json")
    monkeypatch.delenv("COURSE_PROGRESS")
    for part in ("course_lib/exercises", "notebooks", "work/1_pruning"):
        (tmp_path / "course" / part).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "course" / "work" / "1_pruning")
    assert progress_file() == tmp_path / "course" / "work" / "progress.json"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert progress_file().name == "progress.json" and "course_lib" in progress_file().parts


# Damage. -------------------------------------------------------------------------------------------------------------

GOOD = {**EMPTY, "exercises": {"clip": {"points": 2.0, "of": 4, "attempts": 1, "diagnosed": 0, "state": "wrong"}}}
DAMAGED = [
    b"",
    b'{"version": 1, "exerc',
    b"\xff\xfe\x00not text",
    b"[1, 2]",
    b"null",
    b'{"version": 99}',
    b"[" * 200_000,
    json.dumps({**EMPTY, "hints": [1]}).encode(),
    json.dumps({**EMPTY, "hints": {"clip": "two"}}).encode(),
    json.dumps({k: v for k, v in EMPTY.items() if k != "questions"}).encode(),
    json.dumps({**EMPTY, "exercises": {"clip": 3}}).encode(),
    json.dumps({**EMPTY, "exercises": {"clip": {"points": 2.0}}}).encode(),
    json.dumps({**EMPTY, "predictions": {"size": {"value": [1], "unit": ""}}}).encode(),
    json.dumps({**EMPTY, "questions": {"why": {"tries": "x", "right": True}}}).encode(),
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda c: c[:30].decode("utf-8", "replace"))
@pytest.mark.parametrize("use", ["read", "write"])
def test_a_damaged_file_is_set_aside_and_work_goes_on(path, content, use):
    path.parent.mkdir()
    path.write_bytes(content)
    if use == "read":
        assert read_progress(path) == EMPTY
    else:
        record_check("clip", "passed", 4.0, 4, None, path)
        assert read_progress(path)["exercises"]["clip"]["points"] == 4
    assert (path.parent / "progress.damaged-1.json").read_bytes() == content
    record_answer("why", True, path)
    assert read_progress(path)["questions"] == {"why": {"tries": 1, "right": True}}


def test_a_file_with_more_than_is_known_is_not_damaged(path):
    later = {**GOOD, "something": 1, "exercises": {"clip": {**GOOD["exercises"]["clip"], "more": [1]}}}
    path.parent.mkdir()
    path.write_text(json.dumps(later))
    record_answer("why", True, path)
    assert read_progress(path) == {**later, "questions": {"why": {"tries": 1, "right": True}}}


def test_damaged_files_do_not_replace_one_another(path):
    path.parent.mkdir()
    for n, content in enumerate((b"one", b"two", b"three"), start=1):
        path.write_bytes(content)
        if n == 3:
            (path.parent / "progress.damaged-1.json").unlink()  # number 2 is still taken
        assert read_progress(path) == EMPTY
    kept = {p.name: p.read_bytes() for p in path.parent.glob("*damaged*")}
    assert kept == {"progress.damaged-1.json": b"three", "progress.damaged-2.json": b"two"}


def test_a_file_that_another_process_has_mended_meanwhile_is_not_set_aside(path, monkeypatch):
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    locked = keeping._locked

    def mended_first(p):
        path.write_text(json.dumps(GOOD))
        return locked(p)

    monkeypatch.setattr(keeping, "_locked", mended_first)
    assert read_progress(path) == GOOD and not list(path.parent.glob("*damaged*"))


def test_a_file_that_cannot_be_read_is_left_alone(path):
    """A folder of its name stands for every fault that is not damage, such as a permission."""
    path.mkdir(parents=True)
    assert read_progress(path) == EMPTY and path.is_dir()
    with pytest.raises(CourseError, match=r"progress.json cannot be written \(Is a directory\). The lesson works without it"):
        record_answer("why", True, path)
    assert path.is_dir() and files(path) == ["progress.json", "progress.lock"]


def test_what_cannot_be_written_says_so_and_what_to_do(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        CourseError, match=r"cannot be written \(No space left on device\).*COURSE_PROGRESS to the name of a file"
    ):
        record_answer("why", True, path)
    assert files(path) == ["progress.lock"]


def test_a_damaged_file_where_nothing_can_be_written_reads_as_empty(path, monkeypatch):
    path.parent.mkdir()
    path.write_bytes(b"damaged")

    def no_lock(p):
        raise CourseError("read-only")

    monkeypatch.setattr(keeping, "_locked", no_lock)
    assert read_progress(path) == EMPTY and path.read_bytes() == b"damaged"


# Others. -------------------------------------------------------------------------------------------------------------


def hold(path: Path, held, release) -> None:
    with keeping._locked(path):
        held.set()
        release.wait(WAIT)


def test_a_lock_that_is_never_given_back_is_an_error_that_names_the_file(path, monkeypatch):
    held, release = fork.Event(), fork.Event()
    holder = fork.Process(target=hold, args=(path, held, release))
    holder.start()
    assert held.wait(WAIT)
    monkeypatch.setattr(keeping, "LOCK_SECONDS", 0.05)
    with pytest.raises(CourseError, match=r"progress.json cannot be written \(.*lock"):
        record_answer("why", True, path)
    os.kill(holder.pid, signal.SIGKILL)  # the system takes the lock back
    holder.join(WAIT)
    record_answer("why", True, path)


def add(path: Path, name: str, times: int, start) -> None:
    start.wait(WAIT)
    for _ in range(times):
        record_check("both", "wrong", 1.0, 4, None, path)
        record_check(name, "wrong", 1.0, 4, None, path)


def test_two_notebooks_that_write_at_once_lose_nothing(path):
    start, times = fork.Event(), 60
    writers = [fork.Process(target=add, args=(path, name, times, start)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    start.set()
    seen = 0
    while any(w.is_alive() for w in writers):  # and a reader meets a whole file at any time
        attempts = read_progress(path)["exercises"].get("both", {"attempts": 0})["attempts"]
        assert attempts >= seen
        seen = attempts
    for writer in writers:
        writer.join(WAIT)
        assert writer.exitcode == 0
    counts = {k: v["attempts"] for k, v in read_progress(path)["exercises"].items()}
    assert counts == {"both": 2 * times, "one": times, "two": times} and not list(path.parent.glob("*damaged*"))


def die(path: Path, operation: int) -> None:
    """Write, and be killed at the n-th of one's own file operations on the way."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.chmod", "os.mkdir") and str(path.parent) in str(arguments[0]):
            seen += 1
            if seen == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    update_progress(lambda progress: progress["hints"].update(new=1), path)


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new(path):
    record_prediction("size", 75, "%", path)
    outcomes = []
    for operation in range(1, 50):
        process = fork.Process(target=die, args=(path, operation))
        process.start()
        process.join(WAIT)
        found = read_progress(path)
        assert found["predictions"] == {"size": {"value": 75, "unit": "%"}} and found["hints"] in ({}, {"new": 1})
        outcomes.append(process.exitcode)
        if process.exitcode == 0:
            break
    assert outcomes[-1] == 0 and len(outcomes) >= 4 and set(outcomes[:-1]) == {-signal.SIGKILL}
    record_answer("why", True, path)  # and the lock of the dead is not in the way
    assert not list(path.parent.glob("*damaged*"))
