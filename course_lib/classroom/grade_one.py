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
from course_lib.classroom.library import answers_given, is_reference, modules_for, place
from course_lib.classroom.results import CALLS_REFERENCE, CaseResult, ExerciseResult, OpenAnswer, Result
from course_lib.classroom.said import Source, fault_text, shown, stop_text
from course_lib.classroom.session import Lost, Session, clean
from course_lib.errors import CourseError, expect
from course_lib.exercises.exercise import Case, Exercise
from course_lib.exercises.judge import Verdict, judge
from course_lib.exercises.registry import all_exercises
from course_lib.exercises.registry import exercises as exercises_of
from course_lib.exercises.run import Outcome

SIZE_LIMIT = 20_000_000  # bytes of a notebook
NOT_YOURS = "This is the library's function, not yours."
BRINGS_REFERENCE = "another exercise's answer, in place of which the library's goes on, brings its reference along"  # a flag


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
        if not _complete(found, exercises, questions):
            return dataclasses.replace(base, error="The notebook could not be read: what was read of it is incomplete.")
        graded: dict[str, tuple[ExerciseResult, Verdict | None]] = {}
        source = Source(tuple(found["sources"]))
        for exercise in exercises:
            about = found["exercises"][exercise.id]
            graded[exercise.id] = _grade_exercise(exercise, about, source, children, graded, seed, settings)
    answers = tuple(OpenAnswer(q.id, clean(found["answers"][q.id], 20_000), q.points) for q in questions)
    results = tuple(result for result, _ in graded.values())
    return dataclasses.replace(base, exercises=results, answers=answers, flags=_flags(found, lesson))


class Children:
    """The children that one notebook gets: one, and a new one after each that was lost or may know an answer to come."""

    def __init__(self, server: Server, notebook: bytes, exercises: Sequence[Exercise], questions: Sequence[OpenQuestion]):
        self._server, self._session, self._given = server, None, frozenset()
        self._asked = (notebook, [e.id for e in exercises], {q.id: q.text for q in questions})

    def first(self) -> dict[str, Any]:
        """Start one; what it says of the notebook before any of its code has run."""
        self._session, self._given = Session(self._server), frozenset()
        return self._session.read(*self._asked)

    def session(self, reference: tuple[str, str], given: frozenset[tuple[str, str]]) -> Session:
        """One that has read the notebook, for one exercise.

        Args:
            reference: the exercise's, as (module, name): a child that had it for an earlier exercise may have kept it.
            given: references that the child gets now.
        """
        if not self._session.open or reference in self._given:
            self._session.close()
            self.first()
        self._given |= given
        return self._session

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.close()


def _grade_exercise(
    exercise: Exercise,
    about: Mapping,
    source: Source,
    children: Children,
    graded: Mapping,
    seed: int,
    settings: Settings,
) -> tuple[ExerciseResult, Verdict | None]:
    def without_points(verdict: str, message: str, *more: str) -> tuple[ExerciseResult, None]:
        return ExerciseResult(exercise.id, 0.0, float(exercise.points), verdict, message, flags=(*flags, *more)), None

    mentioned, own = answers_given(about["mentions"]), place(exercise.reference)
    calls = own in mentioned
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
    stand_ins = answers_given(".".join(place(r)) for r in references)
    if own in stand_ins and not calls:
        flags.append(BRINGS_REFERENCE)
    cases = exercise.draw(seed)
    try:
        session = children.session(own, mentioned | stand_ins)
        built = session.build(exercise.id, modules, others)
        flags += [f"a cell that it uses stopped at {stop_text(text, source)}" for text in built["failed"]]
        if built["error"]:
            return without_points("crashed", f"Its cell stops at {stop_text(built['error'], source)}.")
        outcomes = _run_cases(session, cases, exercise.seconds, source)
    except Lost as lost:
        return without_points(lost.why, f"{lost.says[0].upper()}{lost.says[1:]}.")
    try:
        verdict = judge(exercise, cases, outcomes)
        if verdict.faults:  # empty where the first case was not attempted
            told = zip(verdict.faults, outcomes, strict=True)
            verdict.faults = [fault and fault_text(fault, outcome, exercise, source) for fault, outcome in told]
        return _result(exercise, cases, outcomes, verdict, tuple(flags)), verdict
    except Exception as error:  # whatever it returned, the notebook's other exercises are graded
        return without_points("refused", f"What it returned cannot be judged ({type(error).__name__}).")


def _run_cases(session: Session, cases: Sequence[Case], seconds: float, source: Source) -> list[Outcome]:
    """As ``exercises.run.run_cases``, in the child; of what it says, only what may be repeated."""
    outcomes: list[Outcome] = []
    for case in cases:
        give_up = outcomes and (outcomes[0].not_attempted or outcomes[-1].timed_out or outcomes[-1].skipped)
        outcomes.append(Outcome(skipped=True) if give_up else shown(session.call(case, seconds), case, source))
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


def _complete(found: Mapping, exercises: Sequence[Exercise], questions: Sequence[OpenQuestion]) -> bool:
    """Whether what a child says of a notebook has all that grading looks at."""
    try:
        texts = [found["language"], found["lesson"] or "", *found["sources"], *(found["answers"][q.id] for q in questions)]
        for about in (found["exercises"][e.id] for e in exercises):
            texts += [*about["uses"], *about["mentions"], about["is"] or "", about["broken"] or ""]
            if type(about["found"]) is not bool:
                return False
        return all(type(text) is str for text in texts)
    except (KeyError, TypeError):
        return False


def _flags(found: Mapping, lesson: str) -> tuple[str, ...]:
    """About the notebook as a whole."""
    flags = []
    if found["lesson"] != lesson:
        flags.append(f"made for lesson {clean(found['lesson'], 100)}" if found["lesson"] else "does not say which lesson it is")
    if found["language"].lower() != "python":
        flags.append(f"its kernel is for {clean(found['language'], 100)}")
    return tuple(flags)
