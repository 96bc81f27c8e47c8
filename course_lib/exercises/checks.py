"""``check``, ``use`` and ``hint``: what a learner calls. None of them ever raises in a notebook."""

import functools
import os
import sys
from collections.abc import Callable, Mapping

from course_lib.errors import CourseError
from course_lib.exercises.card import Card
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.judge import Verdict, judge
from course_lib.exercises.progress import open_hint, record_check
from course_lib.exercises.registry import find
from course_lib.exercises.run import can_stop, run_cases
from course_lib.exercises.source import only_calls_the_library, source_of
from course_lib.exercises.values import copied

_VERDICTS: dict[tuple, Verdict] = {}  # by exercise, seed and source: `use` need not run what `check` just ran


def check_seed() -> int:
    """The seed that cases are drawn from: ``COURSE_CHECK_SEED``, a whole number below 2³¹; 0 when unset.

    Raises:
        CourseError: it is none.
    """
    text = os.environ.get("COURSE_CHECK_SEED", "").strip() or "0"
    if not (text.isdecimal() and int(text) < 2**31):
        raise CourseError(f"COURSE_CHECK_SEED = {text!r}: expected a whole number from 0 to 2147483647.")
    return int(text)


def check(exercise: str, function: Callable) -> float:
    """Try an answer on fresh cases, show a card, keep the points.

    Args:
        exercise: its id, the name of the function in the lesson.
        function: the answer.
    Returns:
        The points earned, a plain float: partial credit for a part of the properties, 0 when not attempted.
    """
    try:
        found = find(exercise)
        if function is found.reference:
            Card("note", f"{found.id}: this is the library's function, not yours", [_AGAIN.format(name=found.id)]).show()
            return 0.0
        verdict = run_check(found, function, check_seed())
        lines = card_lines(found, function, verdict)
    except CourseError as error:
        Card("wrong", str(error)).show()
        return 0.0
    except KeyboardInterrupt:
        Card("note", f"{exercise}: interrupted; nothing was noted.").show()
        return 0.0
    except Exception as error:
        Card(
            "wrong", f"{exercise}: this check is broken ({type(error).__name__}: {error}). It is not your answer's fault."
        ).show()
        return 0.0
    try:
        record_check(found.id, verdict.state, verdict.points, verdict.of, verdict.misconception)
    except CourseError as error:
        lines.append(f"Your progress could not be kept: {error}")
    Card(verdict.state, headline(found, verdict), lines).show()
    return float(verdict.points)


_AGAIN = "A cell further down put it in the place of yours. Run the cell with your `{name}` again, then this one."


def run_check(exercise: Exercise, function: Callable, seed: int) -> Verdict:
    """The verdict on a function, from cases drawn by ``seed``."""
    cases = exercise.draw(seed)
    verdict = judge(exercise, cases, run_cases(function, cases, exercise.seconds))
    if source := source_of(function):
        _VERDICTS[exercise.id, seed, source] = verdict
    return verdict


def headline(exercise: Exercise, verdict: Verdict) -> str:
    """The first line of the card."""
    if verdict.state == "not attempted":
        return f"{exercise.id}: not attempted yet ({verdict.of:g} points wait)"
    score = f"{verdict.points:g} of {verdict.of:g} points"
    return f"{exercise.id}: {verdict.passed} of {verdict.cases} cases pass, {score}"


def card_lines(exercise: Exercise, function: Callable, verdict: Verdict) -> list[str]:
    """The other lines: diagnosis, notes."""
    lines = []
    if verdict.state == "not attempted":
        lines.append(f'Write the body and run this again; `hint("{exercise.id}")` gives one step at a time.')
    elif verdict.state == "wrong":
        lines.append(verdict.message)
        if verdict.passed and verdict.points < verdict.of:
            lines.append("Cases come in groups, one for each property; a group earns its points when all of its cases pass.")
    source = source_of(function)
    if verdict.state == "passed" and source and only_calls_the_library(source, _names(function), exercise.reference):
        lines.append("This answer calls the library's own. It passes here, but what you would learn is in writing it yourself.")
    if not can_stop():
        lines.append("On this system a function that never returns cannot be stopped: interrupt the kernel if this hangs.")
    return lines + verdict.notes


def use(exercise: str, function: Callable) -> Callable:
    """The function the lesson goes on with: the learner's if it passes everything, the library's otherwise; says which."""
    try:
        found = find(exercise)
    except CourseError as error:
        Card("wrong", str(error), ["Going on with the function as it is."]).show()
        return function
    try:
        seed, source = check_seed(), source_of(function)
        verdict = _VERDICTS.get((found.id, seed, source)) or run_check(found, function, seed)
        mine = verdict.state == "passed" and function is not found.reference
    except (Exception, KeyboardInterrupt):  # whatever it is, `check` has said it or will
        mine = False
    if mine:
        copies = ["It gets copies, since it changes what it is given."] if verdict.in_place else []
        Card("passed", f"Going on with your `{found.id}`.", copies).show()
        return _on_copies(function) if verdict.in_place else function
    Card("note", f"Going on with the library's `{found.id}`; yours takes its place as soon as it passes.").show()
    return found.reference


def _on_copies(function: Callable) -> Callable:
    """The function, called with copies of its arguments: what the lesson goes on using stays as it is."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*copied(args), **copied(kwargs))

    return call


def hint(exercise: str) -> None:
    """Open the next hint of an exercise, and show those opened before."""
    try:
        found = find(exercise)
    except CourseError as error:
        Card("wrong", str(error)).show()
        return
    try:
        count, notes = open_hint(found.id, len(found.hints)), []
    except CourseError as error:
        count, notes = len(found.hints), [f"All of them, since it could not be kept which you have opened: {error}"]
    left = len(found.hints) - count
    lines = [f"{i}. {text}" for i, text in enumerate(found.hints[:count], start=1)]
    more = f"{left} more: run it again." if left else "That was the last one."
    Card("hint", f"Hint {count} of {len(found.hints)} for {found.id}. {more}", lines + notes).show()


def _names(function: Callable) -> Mapping:
    """What names in a function or class stand for."""
    return getattr(function, "__globals__", None) or vars(sys.modules.get(getattr(function, "__module__", None), object))
