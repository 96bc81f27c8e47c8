"""Hostile answers: none earns a point, reads what it must not, stops the batch, or costs another exercise its points."""

import dataclasses
import functools
import os
import socket
import time
from pathlib import Path

import pytest
from attempts import ATTEMPTS
from hand_in import MEGABYTES, SPARSITY, close, notebook, server

from course_lib.classroom import grade_one
from course_lib.classroom.grade_one import grade
from course_lib.classroom.results import from_json, to_json
from course_lib.exercises.registry import exercises, find

COURSE = Path(__file__).parents[3]
TIERS = ("namespaces", "bubblewrap", "landlock")
IMPATIENT = 0.5  # seconds for a case, so that the ones that never end are soon over


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    close(TIERS)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    short = tuple(dataclasses.replace(e, seconds=IMPATIENT) for e in exercises("00_start_here"))
    monkeypatch.setattr(grade_one, "exercises_of", lambda lesson: short)
    monkeypatch.setattr("course_lib.classroom.session.GRACE", 0.5)
    monkeypatch.setattr("course_lib.classroom.session.BUILD_SECONDS", 3.0)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A file of another student, or of the instructor."""
    file = tmp_path_factory.mktemp("class") / "gradebook.csv"
    file.write_text("grace,15\n")
    return file


@pytest.fixture(scope="module")
def listener():
    """A server of this machine that waits for somebody to call."""
    with socket.create_server(("127.0.0.1", 0)) as open_to_all:
        open_to_all.setblocking(False)
        yield open_to_all


def children_of(pid: int) -> list[int]:
    """Processes below one, at any depth."""
    here = [int(p) for task in Path(f"/proc/{pid}/task").glob("*/children") for p in task.read_text().split()]
    return here + [p for child in here for p in children_of(child)]


def process(tier: str) -> int:
    """The forking process of a server."""
    return [server(tier)._process.pid, *children_of(server(tier)._process.pid)][-1]


@functools.cache
def graded(tier: str, source: str):
    return grade(notebook(source, MEGABYTES), "mallory", "00_start_here", server(tier), seed=1)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda a: a.name)
def test_an_attempt_gets_nothing_and_harms_nobody(attempt, tier, victim, listener):
    server(tier)
    forker = process(tier)
    source = attempt.source
    for name, value in {
        "course": COURSE, "victim": victim, "port": listener.getsockname()[1], "judge": os.getpid(), "server": forker,
    }.items():  # fmt: skip
        source = source.replace(f"{{{name}}}", str(value))
    started = time.monotonic()
    result = grade(notebook(source, MEGABYTES), "mallory", "00_start_here", server(tier), seed=1)
    sparsity, megabytes = result.exercises
    assert sparsity.verdict in attempt.verdicts, (sparsity, result.error)
    assert sparsity.points == (sparsity.max_points if sparsity.verdict == "solved" else 0), sparsity
    assert megabytes.points == megabytes.max_points, "its other exercise pays for it"
    assert victim.read_text() == "grace,15\n", "a file of somebody else was changed"
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert process(tier) == forker and children_of(forker) == [], "something was left, or the server is another one"
    assert time.monotonic() - started < 60, "it holds up the batch"
    line = to_json(result)
    assert from_json(line) == result and len(line) < 20_000


def test_what_an_attempt_does_when_it_is_defined_is_done():
    """An attempt of which nothing runs would prove nothing: none of its cells stops, and what it returns is what it says."""
    source = next(a.source for a in ATTEMPTS if a.name == "ipython_transformers")
    result = grade(notebook(source, MEGABYTES), "mallory", "00_start_here", server(), seed=1).exercises[0]
    assert result.verdict == "wrong" and result.flags == () and result.message.endswith("that is not the right number.")


@pytest.mark.parametrize("tier", TIERS)
def test_after_all_of_them_the_server_grades_as_before(tier):
    result = grade(notebook(f"import torch\n{SPARSITY}", MEGABYTES), "ada", "00_start_here", server(tier), seed=1)
    assert result.points == result.max_points == find("sparsity").points + find("megabytes").points


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_is_left_for_the_next_student(tier):
    places = ("/tmp", "/var/tmp", "/dev/shm", ".", "/")
    leave = f"""def sparsity(w):
    done = 0
    for place in {places!r}:
        try:
            done += open(place + "/loot", "w").write("the answer")
        except OSError:
            pass
    return float(done)"""
    look = f"""import os
def sparsity(w):
    return None if any(os.path.exists(place + "/loot") for place in {places!r}) else float((w == 0).float().mean())"""
    first, second = (grade(notebook(s), "eve", "00_start_here", server(tier), seed=1).exercises[0] for s in (leave, look))
    assert first.verdict in ("wrong", "partial") and second.verdict == "solved"
    assert not any(Path(place, "loot").exists() for place in places)


def test_there_are_enough_attempts():
    assert len({a.name for a in ATTEMPTS}) == len(ATTEMPTS) >= 40


def test_answers_remembered_from_the_cases_one_can_see_earn_less_on_others():
    known = {repr(c.args[0].tolist()): find("sparsity").reference(*c.args) for c in find("sparsity").draw(0)}
    source = f"def sparsity(w):\n    return {known!r}[repr(w.tolist())]"
    seen, unseen = (grade(notebook(source), "eve", "00_start_here", server(), seed=seed).exercises[0] for seed in (0, 1))
    assert seen.verdict == "solved" and unseen.verdict in ("wrong", "partial") and unseen.points < unseen.max_points
