"""From outcomes to points and a diagnosis. No learner's code runs here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from course_lib.exercises.exercise import Case, Exercise, Misconception
from course_lib.exercises.run import Outcome, run_case
from course_lib.exercises.values import describe, same


@dataclass
class Verdict:
    """What a check found.

    Attributes:
        state: ``"passed"``, ``"wrong"`` (points may still be above 0) or ``"not attempted"``.
        points: earned, of ``of``; each part of the exercise earns its share when all its cases pass.
        passed, cases: how many cases passed, of how many.
        message: for a wrong answer: what it looks like, for the learner; never the answer.
        misconception: its name when it is a known one.
        notes: remarks that cost nothing.
    """

    state: str
    points: float
    of: float
    passed: int
    cases: int
    message: str = ""
    misconception: str | None = None
    notes: list[str] = field(default_factory=list)


def judge(exercise: Exercise, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> Verdict:
    """Points, and for a wrong answer one message.

    The message is the misconception whose own outputs are those of every failing case that returned something, else the
    fault of the smallest failing case.
    """
    verdict = Verdict("passed", 0.0, exercise.points, 0, len(cases))
    if outcomes[0].not_attempted:
        verdict.state = "not attempted"
        return verdict
    faults = [_fault(exercise, case, outcome) for case, outcome in zip(cases, outcomes, strict=True)]
    verdict.passed = sum(f is None for f in faults)
    parts = {case.part: True for case in cases}
    for case, fault in zip(cases, faults, strict=True):
        parts[case.part] &= fault is None
    verdict.points = round(exercise.points * sum(parts.values()) / len(parts), 4)
    verdict.notes = _notes(cases, outcomes)
    if verdict.passed == len(cases):
        return verdict
    verdict.state = "wrong"
    failing = [(c, o, f) for c, o, f in zip(cases, outcomes, faults, strict=True) if f is not None]
    found = _misconception(exercise, failing)
    if found:
        misconception, case, output = found
        verdict.misconception, verdict.message = misconception.name, misconception.says(case, output)
    else:
        case, outcome, fault = min(failing, key=lambda row: row[0].size)
        verdict.message = f"{_called(exercise, case, outcome)}: {fault}{'' if fault[-1] in '.?!' else '.'}"
    return verdict


def _fault(exercise: Exercise, case: Case, outcome: Outcome) -> str | None:
    if outcome.timed_out:
        return f"it did not return within {exercise.seconds:g} seconds and was stopped. Is there a loop that never ends?"
    if outcome.error:
        return f"it raised {outcome.error}" + (f" ({outcome.line})" if outcome.line else "")
    if outcome.output is None:
        return "it returned None. Does every path through the function end in `return`?"
    try:
        return exercise.verify(case, outcome.output)
    except Exception as error:  # an output so strange that judging it failed
        return f"its output, {describe(outcome.output)}, cannot be judged ({type(error).__name__})"


def _misconception(exercise: Exercise, failing: list) -> tuple[Misconception, Case, Any] | None:
    """The first known mistake that gives what the learner's function gave, on every failing case that returned."""
    returned = [(c, o.output) for c, o, _ in failing if not o.error and not o.timed_out and o.output is not None]
    raised = [(c, o.error.split(":")[0]) for c, o, _ in failing if o.error]
    if not returned:
        return None
    for misconception in exercise.misconceptions:
        if all(_gives(misconception, c, output, exercise.seconds) for c, output in returned) and all(
            _raises(misconception, c, error, exercise.seconds) for c, error in raised
        ):
            case, output = min(returned, key=lambda row: row[0].size)
            return misconception, case, output
    return None


def _gives(misconception: Misconception, case: Case, output: Any, seconds: float) -> bool:
    outcome = run_case(misconception.mistake, case, seconds)
    return not outcome.error and not outcome.timed_out and same(output, outcome.output, rtol=1e-4, atol=1e-6)


def _raises(misconception: Misconception, case: Case, error: str, seconds: float) -> bool:
    outcome = run_case(misconception.mistake, case, seconds)
    return outcome.error is not None and outcome.error.split(":")[0] == error


def _called(exercise: Exercise, case: Case, outcome: Outcome) -> str:
    """The call as the learner would write it, and what came of it."""
    call = f"{exercise.id}({', '.join(describe(a) for a in case.args)})"
    call += "".join(f".{name}({', '.join(describe(a) for a in given)})" for name, given in case.calls[:3])
    call += " …" if len(case.calls) > 3 else ""
    returned = not outcome.error and not outcome.timed_out and outcome.output is not None
    return f"With {case.label}, `{call}`" + (f" gave {describe(outcome.output)}" if returned else "")


def _notes(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> list[str]:
    notes = []
    changed = next((o.changed for o in outcomes if o.changed), ())
    if changed:
        which = " and ".join(f"argument {i + 1}" for i in changed)
        notes.append(
            f"It changes {which} in place. That is accepted, but a caller who goes on using the old values will be surprised."
        )
    printed = next((o.printed for o in outcomes if o.printed), "")
    if printed:
        first = printed.strip().split("\n")[0][:80]
        notes.append(f"It printed ({len(printed):,} characters or more per call, starting with {first!r}); not shown here.")
    return notes
