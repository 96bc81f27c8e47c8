"""A stand-in for a grader, for tests of what is round it: it reads no code, and says the same of the same bytes."""

import contextlib
import os
import time

from course_lib.classroom.results import CALLS_REFERENCE, CaseResult, ExerciseResult, OpenAnswer, Result
from course_lib.errors import CourseError

PART, LESSON = "0_start", "00_start_here"
LESSONS = {LESSON: ["sparsity", "megabytes"]}
SOLVED, WRONG, HALF = (f"def sparsity(w): '{kind}'".encode() for kind in ("solved", "wrong", "half"))


def result_of(student: str, lesson: str, data: bytes, seed: int = 3) -> Result:
    """The verdict on some bytes."""
    import hashlib

    kind = data.decode("utf-8", "replace")
    points = 2.0 if "solved" in kind else 1.0 if "half" in kind else 0.0
    verdict = {2.0: "solved", 1.0: "partial", 0.0: "wrong"}[points]
    cases = (CaseResult("a short vector", points > 0, "" if points else "`sparsity([7.25])` gave 1: its value is too large."),)
    first = ExerciseResult(
        "sparsity", points, 2.0, verdict, "" if points == 2 else "With a matrix, `sparsity([7.25])` gave 1: too large.",
        "density" if points == 0 else None, cases, (CALLS_REFERENCE,) if "library" in kind else (),
    )  # fmt: skip
    second = ExerciseResult("megabytes", 0.0, 2.0, "not attempted")
    answers = (OpenAnswer("why_zeros", kind.partition("answer:")[2], 3.0),)
    return Result(
        student, lesson, hashlib.sha256(data).hexdigest(), "1.0", seed, "landlock", "functions", (first, second), answers
    )


@contextlib.contextmanager
def grader():
    """Opened in a worker: ``(student, lesson, bytes)`` → verdict; some bytes make it raise, or end its process."""

    def grade(piece: tuple[str, str, bytes]) -> Result:
        student, lesson, data = piece
        if b"raises" in data:
            raise ValueError("no good")
        if b"dies" in data:
            os._exit(7)
        if b"stuck" in data:
            time.sleep(600)
        if b"slow" in data:
            time.sleep(0.02)
        return result_of(student, lesson, data)

    yield grade


@contextlib.contextmanager
def unable():
    """A worker that cannot begin."""
    raise CourseError("this machine confines nothing")
    yield


def in_this_process(work, opened):
    """As :func:`course_lib.classroom.workers.local`, without processes."""
    from course_lib.classroom.workers import _tried

    with opened() as do:
        for name, piece in work:
            yield name, _tried(do, piece)
