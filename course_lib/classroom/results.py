"""What grading found in one submission: plain data, and the same bytes whenever and wherever it is found again.

No time, no path and no process id goes into a record, so that a run that was killed and continued gives the files of one
that was not.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from course_lib.errors import expect

TIERS = ("bubblewrap", "namespaces", "landlock", "unconfined")
ENGINES = ("functions", "kernel")
VERDICTS = ("solved", "partial", "wrong", "not attempted", "missing", "crashed", "timed out", "refused")
CALLS_REFERENCE = "calls the reference"  # a flag of an exercise: the answer hands its work to the library's own


@dataclass(frozen=True)
class CaseResult:
    """One case of an exercise, without its inputs.

    Attributes:
        name: what the case is about: "a threshold of 0".
        passed: whether the output was right.
        message: for the learner, when it was not; never the expected value.
    """

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class ExerciseResult:
    """What one exercise earned.

    Attributes:
        id: of the exercise.
        points, max_points: earned, of how many; both from the exercise, nothing from the notebook.
        verdict: one of :data:`VERDICTS`. "missing": no definition in the notebook; "crashed": its code ended the process, or
            is no Python; "timed out": a case was stopped; "refused": it asked for what grading does not give.
        message: the one message that the learner's own check would show; empty when solved.
        misconception: its name when the answer is a known mistake.
        cases: one entry for each case, in order; empty when none was tried.
        flags: for the instructor, as :data:`CALLS_REFERENCE`.
    """

    id: str
    points: float
    max_points: float
    verdict: str
    message: str = ""
    misconception: str | None = None
    cases: tuple[CaseResult, ...] = ()
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect(self.verdict in VERDICTS, "verdict", self.verdict, f"one of {', '.join(VERDICTS)}")
        expect(0 <= self.points <= self.max_points, "points", self.points, f"0 to {self.max_points}")


@dataclass(frozen=True)
class OpenAnswer:
    """A learner's answer to an open question, which a person grades.

    Attributes:
        id: of the question.
        text: what was written, without the question; empty when nothing was.
        max_points: that a person may give.
    """

    id: str
    text: str
    max_points: float


@dataclass(frozen=True)
class Result:
    """What grading found in one notebook of one student.

    Attributes:
        student, lesson: whose notebook, of which lesson (its stem: ``01_l1_pruning_math``).
        sha256: of the bytes that were handed in.
        version: of the course that graded it.
        seed: that the cases were drawn from.
        tier: one of :data:`TIERS`: how the code was confined.
        engine: one of :data:`ENGINES`.
        exercises: one entry for each exercise of the lesson, in its order; also when the notebook could not be read.
        answers: to the lesson's open questions.
        flags: for the instructor, about the notebook as a whole.
        error: why the notebook could not be read, None when it could.
    """

    student: str
    lesson: str
    sha256: str
    version: str
    seed: int
    tier: str
    engine: str
    exercises: tuple[ExerciseResult, ...]
    answers: tuple[OpenAnswer, ...] = ()
    flags: tuple[str, ...] = field(default=())
    error: str | None = None

    def __post_init__(self) -> None:
        expect(self.tier in TIERS, "tier", self.tier, f"one of {', '.join(TIERS)}")
        expect(self.engine in ENGINES, "engine", self.engine, f"one of {', '.join(ENGINES)}")

    @property
    def points(self) -> float:
        """Earned in all exercises; the open questions are not among them."""
        return round(sum(e.points for e in self.exercises), 4)

    @property
    def max_points(self) -> float:
        """That all exercises are worth."""
        return sum(e.max_points for e in self.exercises)


def to_json(result: Result) -> str:
    """A result as one line of JSON, in ASCII, without a line end; equal results give equal text."""
    return json.dumps(asdict(result), sort_keys=True, allow_nan=False)


def from_json(text: str) -> Result:
    """The result that :func:`to_json` wrote.

    Raises:
        ValueError: the text is none.
    """
    try:
        found: dict[str, Any] = json.loads(text)
        exercises = tuple(_exercise(e) for e in found.pop("exercises"))
        answers = tuple(OpenAnswer(**a) for a in found.pop("answers"))
        return Result(**found | {"exercises": exercises, "answers": answers, "flags": tuple(found["flags"])})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"text = {text[:80]!r}: expected a result of grading ({error})") from error


def _exercise(found: dict) -> ExerciseResult:
    cases = tuple(CaseResult(**c) for c in found["cases"])
    return ExerciseResult(**found | {"cases": cases, "flags": tuple(found["flags"])})
