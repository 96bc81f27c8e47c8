"""Pruning as far as the metric allows: sparsities are raised by validation F1, within a stated budget.

Each knob (one for the whole model, or one per layer or kind) is turned up by its step. Where the metric stays within the
budget the step stands; where it does not, the knob goes back and its step is halved. A metric on few sentences is no smooth
function of sparsity, so every model seen counts, and the smallest of those within the budget is returned.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from course_lib.errors import expect
from course_lib.measure.size import effective_parameters


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
        progress: called after each trial.
    Returns:
        See :class:`Adapted`. Among models of one size the better one, then the earlier one.
    Raises:
        ValueError: a budget, step or highest sparsity out of range, no knobs or one twice, a metric that is not finite.
    """
    expect(0 <= budget < math.inf, "budget", budget, "a loss of the metric, at least 0")
    expect(0 < finest <= step <= 1, "finest, step", (finest, step), "0 < finest ≤ step ≤ 1")
    expect(0 < highest <= 1, "highest", highest, "a sparsity above 0, at most 1")
    expect(len(knobs) == len(set(knobs)) > 0, "knobs", knobs, "different names, at least one")
    good, sparsities, steps = model, dict.fromkeys(knobs, 0.0), dict.fromkeys(knobs, step)
    dense = _finite(metric(model))
    log = [Trial(0, "", dict(sparsities), dense, size(model), True, f"the floor is {dense - budget:.4f}")]
    if progress:
        progress(log[0])
    smallest, best = model, log[0]
    while turning := [k for k in knobs if steps[k] >= finest and sparsities[k] < highest]:
        for knob in turning:
            tried = {**sparsities, knob: min(highest, sparsities[knob] + steps[knob])}
            candidate = copy.deepcopy(good)
            prune(candidate, dict(tried))
            value = _finite(metric(candidate))
            within = value >= dense - budget
            if within:
                good, sparsities, decision = candidate, tried, f"{knob} stays at {tried[knob]:.4g}"
            else:
                steps[knob] /= 2
                rests = "rests" if steps[knob] < finest else f"next step {steps[knob]:.4g}"
                decision = f"{knob} back to {sparsities[knob]:.4g}, {rests}"
            log.append(Trial(len(log), knob, tried, value, size(candidate), within, decision))
            if within and (log[-1].size, -value) < (best.size, -best.metric):
                smallest, best = candidate, log[-1]
            if progress:
                progress(log[-1])
    return Adapted(copy.deepcopy(model) if smallest is model else smallest, best.number, log)


def _finite(value: float) -> float:
    expect(math.isfinite(value), "metric", value, "a finite number")
    return value
