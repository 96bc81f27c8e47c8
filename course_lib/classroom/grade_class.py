"""Grade a class: what was handed in and is not graded yet goes to workers, and every verdict to the log.

A folder of results holds

=====================  =================================================================================================
``log.jsonl``          every verdict ever made here, in the order it was made; nothing in it changes
``results.jsonl``      the verdict that counts for each student and lesson, sorted
``history.jsonl``      earlier verdicts: of submissions that changed since, of other seeds or another version of the course
``collected/``         notebooks that came in a zip, by their sha256
``settings.json``      the seed, drawn once when none was given
=====================  =================================================================================================
"""

import contextlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course_lib import __version__
from course_lib.artifacts import digest, read_json, write_json, write_text
from course_lib.classroom.grading_log import GradingLog
from course_lib.classroom.handed_in import Refused
from course_lib.classroom.results import ExerciseResult, Result, to_json
from course_lib.classroom.submissions import Submission, read_submission
from course_lib.classroom.workers import Failed, Open
from course_lib.errors import CourseError
from course_lib.exercises.registry import find

Do = Callable[[Iterable[tuple[Any, Any]], Open], Iterator[tuple[Any, Any]]]  # how work is spread: workers.local or .dask
HALF_WRITTEN = re.compile(
    r"\.(?:settings\.json|(?:results|history)\.jsonl|gradebook\.csv|open_points\.csv|(?:summary|open_answers)\.html|feedback"
    r"|[^/]+\.ipynb)\.(?:old\.)?[a-z0-9_]{8}"
)
NOT_GRADED = "not graded: look at it yourself"  # a flag


@dataclass(frozen=True)
class Settings:
    """What a verdict depends on beside the submission.

    Attributes:
        seed: that cases are drawn from.
        engine: ``functions`` or ``kernel``.
        reference_earns: False where answers that call the library's own earn nothing.
        tier: of confinement; of those who are not graded at all, since a submission's own is in its verdict.
        code: a hash of the course's code that judges.
    """

    seed: int
    engine: str
    reference_earns: bool
    tier: str
    code: str

    def key(self, submission: Submission) -> str:
        """The name of a verdict: equal when it would be the same."""
        judged_by = self.seed, self.engine, self.reference_earns, self.code
        return digest(submission.student, submission.lesson, submission.sha256, *judged_by)


@dataclass(frozen=True)
class Graded:
    """What came of a run.

    Attributes:
        results: the verdict that counts for each submission, sorted by student and lesson.
        anew: how many were graded in this run; the others had been before.
        failed: ``(student, lesson, why)`` of those that a rerun would try again.
    """

    results: list[Result]
    anew: int
    failed: list[tuple[str, str, str]]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a folder of results: two runs in one would write the same files.

    Raises:
        CourseError: another run holds it.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise CourseError(
            f"{out}: another run is grading into it. Wait for it, or choose another folder (--out DIR)."
        ) from error


def clear_away(out: Path) -> None:
    """Delete what killed runs left half-written in a folder of results, which must be locked; no finished file is touched.

    Files and folders are written under the name ``.NAME.`` with eight characters behind it, and renamed when they are whole.
    """
    for folder in (out, out / "collected", *(out / "executed").glob("*/")):
        for left in folder.iterdir() if folder.is_dir() else ():
            if not HALF_WRITTEN.fullmatch(left.name):
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def seed_of(out: Path, seed: int | None) -> int:
    """The seed of a folder of results: the one given, else the one of the last run, else one that nobody could prepare for."""
    kept = out / "settings.json"
    if seed is None:
        seed = read_json(kept)["seed"] if kept.exists() else secrets.randbelow(2**31)
    write_json(kept, {"seed": seed})
    return seed


def grade_class(
    submissions: Sequence[Submission],
    lessons: Mapping[str, Sequence[str]],
    out: Path,
    settings: Settings,
    opened: Open,
    spread: Do,
    advance: Callable[[int], object] = lambda count: None,
) -> Graded:
    """Grade what is not graded yet and write ``results.jsonl`` and ``history.jsonl``.

    Killed at any moment and run again, it leaves the files of a run that was not.

    Args:
        submissions: as :func:`course_lib.classroom.submissions.collect` finds them.
        lessons: of the part: stem → ids of its exercises.
        out: folder of results.
        settings: what verdicts depend on.
        opened: what a worker does: made there, its context gives ``(student, lesson, bytes) → Result``.
        spread: how work is spread over workers.
        advance: called with how many verdicts there are already, then with 1 after each.
    """
    log = GradingLog(out / "log.jsonl")
    with contextlib.closing(log):
        keys = {settings.key(s): s for s in submissions if s.path is not None}
        done = {key: result for key, result in log.entries if key in keys}
        before, failed = len(done), {}
        advance(before)
        work = _pieces([(key, s) for key, s in keys.items() if key not in done], failed)
        for key, result in spread(work, opened):
            if isinstance(result, Failed):
                failed[key] = str(result)
            else:
                log.append(key, result)
                done[key] = result
            advance(1)
        final = []
        for s in submissions:
            key = settings.key(s)
            result = done.get(key) or ungraded(s, lessons.get(s.lesson, ()), settings, failed.get(key) or s.problem)
            final.append(replace(result, flags=(*result.flags, *s.notes)))
        earlier = sorted(((r.student, r.lesson), n, r) for n, (key, r) in enumerate(log.entries) if key not in keys)
        write_text(out / "history.jsonl", "".join(to_json(r) + "\n" for *_, r in earlier))
        write_text(out / "results.jsonl", "".join(to_json(r) + "\n" for r in final))
    return Graded(final, len(done) - before, [(keys[k].student, keys[k].lesson, why) for k, why in failed.items()])


def _pieces(work: Iterable[tuple[str, Submission]], failed: dict[str, str]) -> Iterator[tuple[str, tuple[str, str, bytes]]]:
    """Read submissions as they are asked for, so that no more of them are in memory than workers."""
    for key, submission in work:
        try:
            yield key, (submission.student, submission.lesson, read_submission(submission))
        except Refused as error:
            failed[key] = f"{submission.name} {error}."


def ungraded(submission: Submission, exercises: Sequence[str], settings: Settings, why: str) -> Result:
    """The verdict on what could not be graded: no points, the reason, a flag for the instructor."""
    none = tuple(ExerciseResult(e.id, 0.0, float(e.points), "missing") for e in map(find, exercises))
    return Result(
        submission.student, submission.lesson, submission.sha256, __version__, settings.seed, settings.tier, settings.engine,
        none, flags=(NOT_GRADED,), error=why,
    )  # fmt: skip
