"""From outcomes to points and a diagnosis. No learner's code runs here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from course_lib.exercises.exercise import Case, Exercise, Misconception
from course_lib.exercises.run import PRINT_LIMIT, Outcome, run_case
from course_lib.exercises.values import article, describe, kind, same

INSTEAD = {
    "generator": "it yields instead of returning. Is there a `yield` where `return` is meant?",
    "coroutine": "it is an `async` function, which returns later. Leave that word out.",
}


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
        in_place: it changed an argument.
        faults: for each case what is wrong, in a sentence; None where it passes. Empty when not attempted.
    """

    state: str
    points: float
    of: float
    passed: int
    cases: int
    message: str = ""
    misconception: str | None = None
    notes: list[str] = field(default_factory=list)
    in_place: bool = False
    faults: list[str | None] = field(default_factory=list)


def judge(exercise: Exercise, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> Verdict:
    """Points, and for a wrong answer one message.

    The message is that of the misconception which fails as the function does on every failing case (and, if several do,
    passes where it passes), else the fault of the smallest failing case.
    """
    verdict = Verdict("passed", 0.0, exercise.points, 0, len(cases))
    if outcomes[0].not_attempted:
        verdict.state = "not attempted"
        return verdict
    faults = [_fault(exercise, case, outcome) for case, outcome in zip(cases, outcomes, strict=True)]
    verdict.faults, verdict.passed = faults, sum(f is None for f in faults)
    parts = {case.part: True for case in cases}
    for case, fault in zip(cases, faults, strict=True):
        parts[case.part] &= fault is None
    verdict.points = round(exercise.points * sum(parts.values()) / len(parts), 4)
    verdict.notes, verdict.in_place = _notes(cases, outcomes), any(o.changed for o in outcomes)
    if verdict.passed == len(cases):
        return verdict
    verdict.state = "wrong"
    failing = [(c, o, f) for c, o, f in zip(cases, outcomes, faults, strict=True) if f is not None and not o.skipped]
    found = _misconception(exercise, failing, [c for c, f in zip(cases, faults, strict=True) if f is None])
    if found:
        verdict.misconception, verdict.message = found
    else:
        case, outcome, fault = min(failing, key=lambda row: row[0].size)
        verdict.message = outcome.misfit or f"{_called(exercise, case, outcome)}: {fault}{'' if fault[-1] in '.?!' else '.'}"
    return verdict


def _fault(exercise: Exercise, case: Case, outcome: Outcome) -> str | None:
    if outcome.skipped:
        return "it was not tried"
    if outcome.timed_out:
        return f"it did not return within {exercise.seconds:g} seconds and was stopped. Is there a loop that never ends?"
    if outcome.misfit:
        return outcome.misfit
    if outcome.error:
        return _raised(outcome)
    if outcome.output is None:
        return "it returned None. Does every path through the function end in `return`?"
    if kind(outcome.output) in INSTEAD:
        return INSTEAD[kind(outcome.output)]
    try:
        return exercise.verify(case, outcome.output)
    except Exception as error:  # an output so strange that judging it failed
        return f"what it returned, {_safely(outcome.output)}, cannot be judged ({type(error).__name__})"


def _raised(outcome: Outcome) -> str:
    """What was raised, where, and for two errors that beginners cannot read, what it means."""
    means = {"RecursionError": "It calls itself and never stops.", "SystemExit": "It ends the program instead of returning."}
    said = f"it raised {outcome.error}" + (f" (`{outcome.line}`)" if outcome.line else "")
    meaning = means.get(outcome.error.partition(":")[0])
    return f"{said}. {meaning}" if meaning else said


def _misconception(exercise: Exercise, failing: list, passing: list[Case]) -> tuple[str, str] | None:
    """Name and words of the known mistake that does what the learner's function did."""
    telling = [row for row in failing if not row[0].free] or failing
    returned = [(c, o) for c, o, _ in telling if o.returned]
    if not returned:
        return None
    case, outcome = min(returned, key=lambda row: row[0].size)
    alike = [m for m in exercise.misconceptions if all(_alike(_made(exercise, m, c), o) for c, o, _ in telling)]
    if len(alike) > 1:  # the first one that is right where the learner is right, or else the first
        alike.sort(key=lambda m: any(_fault(exercise, c, _made(exercise, m, c)) for c in passing))
    try:
        return (alike[0].name, alike[0].says(case, outcome.output)) if alike else None
    except Exception:  # words that do not fit this output: then it is described like any other
        return None


def _made(exercise: Exercise, misconception: Misconception, case: Case) -> Outcome:
    return run_case(misconception.mistake, case, exercise.seconds)


def _alike(mistake: Outcome, outcome: Outcome) -> bool:
    """Both returned the same, or both raised an error of the same type."""
    if mistake.error or outcome.error:
        return bool(mistake.error and outcome.error) and mistake.error.partition(":")[0] == outcome.error.partition(":")[0]
    try:
        return mistake.returned and outcome.returned and same(outcome.output, mistake.output, rtol=1e-4, atol=1e-6)
    except Exception:  # an output that cannot be compared
        return False


def _called(exercise: Exercise, case: Case, outcome: Outcome) -> str:
    """The call as the learner would write it, and what came of it."""
    call = f"{exercise.id}({', '.join(describe(a) for a in case.args)})"
    call += "".join(f".{name}({', '.join(describe(a) for a in given)})" for name, given in case.calls[:3])
    call += " …" if len(case.calls) > 3 else ""
    return f"With {case.label}, `{call}`" + (f" gave {_safely(outcome.output)}" if outcome.returned else "")


def _safely(output: Any) -> str:
    try:
        return describe(output)
    except Exception:
        return article(kind(output))


def _notes(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> list[str]:
    notes = []
    changed = next((o.changed for o in outcomes if o.changed), ())
    if changed:
        which = " and ".join(f"argument {i + 1}" for i in changed)
        notes.append(
            f"It changes {which} in place. That is accepted, but a caller who goes on using the old values will be surprised."
        )
    printed = max((o.printed for o in outcomes), key=len)
    if printed:
        first = (printed.strip().splitlines() or [""])[0][:60]
        much = f"{len(printed):,}" if len(printed) < PRINT_LIMIT else f"{PRINT_LIMIT:,} or more"
        notes.append(f"It prints ({much} characters in one call, beginning with {first!r}), which is not shown here.")
    return notes
