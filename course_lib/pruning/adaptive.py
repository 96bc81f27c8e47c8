"""Pruning as far as the metric allows: sparsities are raised by validation F1, within a stated budget.

Each knob (one for the whole model, or one per layer or kind) is turned up by its step. Where the metric stays within the
budget the step stands; where it does not, the knob goes back and its step is halved. A metric on few sentences is no smooth
function of sparsity, so every model seen counts, and the smallest of those within the budget is returned.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from course_lib.artifacts import digest, read_json, write_json
from course_lib.errors import CourseError, expect
from course_lib.measure.size import effective_parameters
from course_lib.ner.checkpoint import weights_sha256


@dataclass(frozen=True)
class Trial:
    """One decision.

    Attributes:
        number: 0 is the model as it was given.
        knob: the one that was turned.
        sparsities: of all knobs, as tried.
        metric, size: measured.
        within: the metric is within the budget.
        decision: what followed from it.
    """

    number: int
    knob: str
    sparsities: dict[str, float]
    metric: float
    size: int
    within: bool
    decision: str

    def __str__(self) -> str:
        tried = ", ".join(f"{k} {v:.4g}" for k, v in self.sparsities.items())
        return f"{self.number}. {tried}: metric {self.metric:.4f}, size {self.size:,}; {self.decision}"


@dataclass
class Adapted:
    """The smallest model within the budget, the number of its trial, and all trials."""

    model: nn.Module
    trial: int
    log: list[Trial]


def prune_within(
    model: nn.Module,
    prune: Callable[[nn.Module, dict[str, float]], object],
    metric: Callable[[nn.Module], float],
    budget: float,
    knobs: Sequence[str] = ("all",),
    step: float = 0.2,
    finest: float = 0.025,
    highest: float = 0.95,
    size: Callable[[nn.Module], int] = effective_parameters,
    progress: Callable[[Trial], None] | None = None,
    log: Path | None = None,
) -> Adapted:
    """Raise sparsities as far as the metric stays within a budget.

    Args:
        model: where to start; it is left as it is, copies are pruned.
        prune: (a copy of the last model within the budget, sparsity per knob) → prunes it in place to these sparsities;
            training it to recover belongs here too.
        metric: of a model on **validation** data; higher is better.
        budget: how much of the given model's metric may be lost, in the metric's unit (0.01: one point of F1).
        knobs: names of the sparsities, for ``prune``.
        step: first step of each knob; halved at each failure until it is below ``finest``, then the knob rests.
        highest: sparsity at which a knob stops.
        size: what is to be made small; :func:`course_lib.report.parameter_count` where units are removed.
        progress: called after each trial that was measured.
        log: a JSON file of all decisions, whole after each trial. When it is there, its decisions are made again without being
            measured (only models within the budget are pruned again), and the search goes on from there: with the same
            functions, to the same end. It knows the model and the numbers, not the functions: another ``prune``, ``metric`` or
            ``size`` needs another file.
    Returns:
        See :class:`Adapted`. Among models of one size the better one, then the earlier one.
    Raises:
        ValueError: a budget, step or highest sparsity out of range, no knobs or one twice, a metric that is not finite.
        CourseError: a log of another model or other settings.
    """
    expect(0 <= budget < math.inf, "budget", budget, "a loss of the metric, at least 0")
    expect(0 < finest <= step <= 1, "finest, step", (finest, step), "0 < finest ≤ step ≤ 1")
    expect(0 < highest <= 1, "highest", highest, "a sparsity above 0, at most 1")
    expect(len(knobs) == len(set(knobs)) > 0, "knobs", knobs, "different names, at least one")
    made_of = digest(weights_sha256(model), list(knobs), budget, step, finest, highest) if log else ""
    known = _decisions(log, made_of)
    trials: list[Trial] = []

    def note(trial: Trial) -> None:
        trials.append(trial)
        if len(trials) > len(known):
            if log:
                write_json(log, {"made_of": made_of, "trials": [asdict(t) for t in trials]})
            if progress:
                progress(trial)

    good, sparsities, steps = model, dict.fromkeys(knobs, 0.0), dict.fromkeys(knobs, step)
    dense, whole = (known[0].metric, known[0].size) if known else (_finite(metric(model)), size(model))
    note(Trial(0, "", dict(sparsities), dense, whole, True, f"the floor is {dense - budget:.4f}"))
    smallest, best = model, trials[0]
    while turning := [k for k in knobs if steps[k] >= finest and sparsities[k] < highest]:
        for knob in turning:
            tried = {**sparsities, knob: min(highest, sparsities[knob] + steps[knob])}
            told = known[len(trials)] if len(trials) < len(known) else None
            candidate = copy.deepcopy(good)
            if told is None or told.within:
                prune(candidate, dict(tried))
            value, left = (told.metric, told.size) if told else (_finite(metric(candidate)), size(candidate))
            within = value >= dense - budget
            if within:
                good, sparsities, decision = candidate, tried, f"{knob} stays at {tried[knob]:.4g}"
            else:
                steps[knob] /= 2
                rests = "rests" if steps[knob] < finest else f"next step {steps[knob]:.4g}"
                decision = f"{knob} back to {sparsities[knob]:.4g}, {rests}"
            note(Trial(len(trials), knob, tried, value, left, within, decision))
            if within and (left, -value) < (best.size, -best.metric):
                smallest, best = candidate, trials[-1]
    return Adapted(copy.deepcopy(model) if smallest is model else smallest, best.number, trials)


def _decisions(log: Path | None, made_of: str) -> list[Trial]:
    found = read_json(log) if log and Path(log).exists() else {"made_of": made_of, "trials": []}
    if found.get("made_of") != made_of:
        raise CourseError(
            f"{log}: its decisions are of another model or other settings. Give another file, or delete it to start afresh."
        )
    return [Trial(**trial) for trial in found["trials"]]


def _finite(value: float) -> float:
    expect(math.isfinite(value), "metric", value, "a finite number")
    return value
