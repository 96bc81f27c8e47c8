"""Grade one notebook: the learner's functions run confined, cases and verdicts stay here.

Points are those of the lesson's own ``check``: the same cases, the same judge. Only where the function runs differs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib import __version__
from course_lib.classroom.confine import Server
from course_lib.classroom.library import is_reference, modules_for, place
from course_lib.classroom.results import CALLS_REFERENCE, CaseResult, ExerciseResult, OpenAnswer, Result
from course_lib.classroom.session import Lost, Session, clean
from course_lib.errors import CourseError, expect
from course_lib.exercises.exercise import Case, Exercise
from course_lib.exercises.judge import Verdict, judge
from course_lib.exercises.registry import all_exercises
from course_lib.exercises.registry import exercises as exercises_of
from course_lib.exercises.run import Outcome

SIZE_LIMIT = 20_000_000  # bytes of a notebook
NOT_YOURS = "This is the library's function, not yours."


@dataclass(frozen=True)
class Settings:
    """What an instructor decides.

    Attributes:
        reference_earns: False gives an answer that calls the library's own 0 points; True gives it what its outputs earn.
            It is flagged in either case.
    """

    reference_earns: bool = True


@dataclass(frozen=True)
class OpenQuestion:
    """A question that a person grades.

    Attributes:
        id: public and permanent.
        text: of its cell as it was handed out.
        points: that a person may give.
    """

    id: str
    text: str
    points: float


def open_questions(notebook: Path) -> tuple[OpenQuestion, ...]:
    """The open questions of a lesson, in its order.

    Args:
        notebook: the learners' notebook as it was handed out.
    Raises:
        CourseError: it cannot be read.
    """
    try:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"Cannot read {notebook}: expected the notebook of a lesson ({error}).") from error
    found = [(c["metadata"].get("course", {}).get("open"), c) for c in cells]
    return tuple(
        OpenQuestion(name, "".join(c["source"]), float(c["metadata"]["nbgrader"]["points"])) for name, c in found if name
    )


def grade(
    notebook: bytes,
    student: str,
    lesson: str,
    server: Server,
    seed: int = 0,
    settings: Settings = Settings(),
    questions: Sequence[OpenQuestion] = (),
) -> Result:
    """Grade what one student handed in for one lesson. Whatever it is, a result comes back.

    Args:
        notebook: the file's bytes.
        student: whose it is.
        lesson: the lesson's stem, as ``01_l1_pruning_math``.
        server: where the code runs.
        seed: that cases are drawn from, 0 to 2³¹ − 1.
        settings: what the instructor decided.
        questions: of the lesson, from :func:`open_questions`.
    Raises:
        CourseError: there is no such lesson.
        ServerGone: the server has ended; start another and grade again.
    """
    expect(0 <= seed < 2**31, "seed", seed, "a whole number from 0 to 2147483647")
    exercises = exercises_of(lesson)
    base = Result(
        student, lesson, hashlib.sha256(notebook).hexdigest(), __version__, seed, server.tier, "functions",
        tuple(ExerciseResult(e.id, 0.0, float(e.points), "missing") for e in exercises),
        tuple(OpenAnswer(q.id, "", q.points) for q in questions),
    )  # fmt: skip
    if len(notebook) > SIZE_LIMIT:
        megabytes = len(notebook) / 1e6
        return dataclasses.replace(
            base, error=f"The file has {megabytes:.0f} MB; more than {SIZE_LIMIT / 1e6:.0f} are not read."
        )
    with Children(server, notebook, exercises, questions) as children:
        try:
            found = children.first()
        except Lost as lost:
            return dataclasses.replace(base, error=f"The notebook could not be read: {lost.says}.")
        if "unreadable" in found:
            return dataclasses.replace(base, error=f"The notebook could not be read: {clean(found['unreadable'])}.")
        graded: dict[str, tuple[ExerciseResult, Verdict | None]] = {}
        for exercise in exercises:
            graded[exercise.id] = _grade_exercise(exercise, found["exercises"][exercise.id], children, graded, seed, settings)
    answers = tuple(OpenAnswer(q.id, clean(found["answers"][q.id], 20_000), q.points) for q in questions)
    results = tuple(result for result, _ in graded.values())
    return dataclasses.replace(base, exercises=results, answers=answers, flags=_flags(found, lesson))


class Children:
    """The children that one notebook gets: one, and a new one after each that was lost."""

    def __init__(self, server: Server, notebook: bytes, exercises: Sequence[Exercise], questions: Sequence[OpenQuestion]):
        self._server, self._session = server, None
        self._asked = (notebook, [e.id for e in exercises], {q.id: q.text for q in questions})

    def first(self) -> dict[str, Any]:
        """Start one; what it says of the notebook before any of its code has run."""
        self._session = Session(self._server)
        return self._session.read(*self._asked)

    def session(self) -> Session:
        """One that has read the notebook."""
        if self._session is None:
            self.first()
        return self._session

    def lost(self) -> None:
        """The child has ended: the next exercise gets a new one."""
        self._session = None

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.close()


def _grade_exercise(
    exercise: Exercise, about: Mapping, children: Children, graded: Mapping, seed: int, settings: Settings
) -> tuple[ExerciseResult, Verdict | None]:
    def without_points(verdict: str, message: str, *more: str) -> tuple[ExerciseResult, None]:
        return ExerciseResult(exercise.id, 0.0, float(exercise.points), verdict, message, flags=(*flags, *more)), None

    calls = any(is_reference(name, exercise.reference) for name in about["mentions"])
    flags = [CALLS_REFERENCE] if calls else []
    if helpers := sorted({n.rpartition(".")[0] for n in about["mentions"]} - {"course_lib", "", "course_lib.exercises"}):
        flags.append(f"uses {', '.join(helpers[:3])}")
    if about["is"] and is_reference(about["is"], exercise.reference):
        return without_points("missing", NOT_YOURS)
    if not about["found"]:
        if about["broken"]:
            return without_points("crashed", f"Its cell is no Python: {clean(about['broken'])}.")
        return without_points("missing", f"There is no function named {exercise.id}.")
    if calls and not settings.reference_earns:
        return without_points("refused", "It calls the library's own function, which earns nothing here.")
    others, references = _others(about["uses"], graded, exercise)
    modules = modules_for(about["mentions"], references)
    cases = exercise.draw(seed)
    try:
        session = children.session()
        built = session.build(exercise.id, modules, others)
        flags += [f"a cell that it uses stopped at {text}" for text in built["failed"]]
        if built["error"]:
            return without_points("crashed", f"Its cell stops at {built['error']}.")
        outcomes = _run_cases(session, cases, exercise.seconds)
    except Lost as lost:
        children.lost()
        return without_points(lost.why, f"{lost.says[0].upper()}{lost.says[1:]}.")
    verdict = judge(exercise, cases, outcomes)
    if not session.open:
        children.lost()
    return _result(exercise, cases, outcomes, verdict, tuple(flags)), verdict


def _run_cases(session: Session, cases: Sequence[Case], seconds: float) -> list[Outcome]:
    """As ``exercises.run.run_cases``, in the child."""
    outcomes: list[Outcome] = []
    for case in cases:
        give_up = outcomes and (outcomes[0].not_attempted or outcomes[-1].timed_out or outcomes[-1].skipped)
        outcomes.append(Outcome(skipped=True) if give_up else session.call(case, seconds))
    return outcomes


def _result(
    exercise: Exercise, cases: Sequence[Case], outcomes: Sequence[Outcome], verdict: Verdict, flags: tuple
) -> ExerciseResult:
    state = {"passed": "solved", "wrong": "partial" if verdict.points else "wrong"}.get(verdict.state, verdict.state)
    if any(o.timed_out for o in outcomes):
        state = "timed out"
    tried = tuple(CaseResult(c.label, f is None, clean(f or "")) for c, f in zip(cases, verdict.faults, strict=False))
    points = float(verdict.points)
    message = clean(_message(cases, outcomes, verdict))
    return ExerciseResult(exercise.id, points, float(exercise.points), state, message, verdict.misconception, tried, flags)


def _message(cases: Sequence[Case], outcomes: Sequence[Outcome], verdict: Verdict) -> str:
    """What the check would say; where that shows a call, only what the case is about, since its inputs are not handed out."""
    if verdict.misconception or verdict.state != "wrong":
        return verdict.message
    failing = [(c, f) for c, o, f in zip(cases, outcomes, verdict.faults, strict=True) if f and not o.skipped]
    case, fault = min(failing, key=lambda row: row[0].size)
    return f"With {case.label}: {fault}{'' if fault[-1] in '.?!' else '.'}"


def _others(uses: Sequence[str], graded: Mapping, exercise: Exercise) -> tuple[dict[str, Any], list[Any]]:
    """What ``use`` gives for other exercises in a lesson: the learner's function if it passed, else the library's.

    Returns:
        For the child, see ``child.build``; and the library's functions among them.
    """
    others: dict[str, Any] = {}
    references = []
    for name in uses:
        if name == exercise.id or name not in graded:
            continue
        verdict = graded[name][1]
        if verdict is not None and verdict.state == "passed":
            others[name] = "copies" if verdict.in_place else None
        else:
            reference = all_exercises()[name].reference
            others[name], references = list(place(reference)), [*references, reference]
    return others, references


def _flags(found: Mapping, lesson: str) -> tuple[str, ...]:
    """About the notebook as a whole."""
    flags = []
    if found["lesson"] != lesson:
        flags.append(f"made for lesson {clean(found['lesson'], 100)}" if found["lesson"] else "does not say which lesson it is")
    if found["language"].lower() != "python":
        flags.append(f"its kernel is for {clean(found['language'], 100)}")
    return tuple(flags)
