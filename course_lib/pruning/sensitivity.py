"""How much of each layer can go: one layer pruned at a time, to several sparsities, measured on validation data.

The model is put back after every step, to the bit. Each layer is pruned alone: the curves say which layers are robust, not
what happens when all are pruned together (Han et al. 2015, 1506.02626, figure 6).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from course_lib.errors import expect
from course_lib.models.gates import require_no_gates
from course_lib.models.groups import CoupledGroup
from course_lib.plan import match
from course_lib.pruning.masks import mask_by_sparsity
from course_lib.pruning.scores import magnitude_scores
from course_lib.pruning.unit_masks import encoder_groups, mask_units, match_groups, unmask
from course_lib.pruning.unit_scores import group_weight_scores

Metric = Callable[[nn.Module], float]
Progress = Callable[[str, float, float], None]


@dataclass
class Sensitivity:
    """What a scan found.

    Attributes:
        dense: the metric of the model as it is.
        curves: layer → {sparsity: metric}, sparsities ascending.
        skipped: a line per module left out, with the reason.
    """

    dense: float
    curves: dict[str, dict[float, float]]
    skipped: list[str] = field(default_factory=list)

    def tolerated(self, loss: float) -> dict[str, float]:
        """Per layer the highest sparsity up to which, at every level scanned, at most ``loss`` of the metric is lost.

        >>> Sensitivity(0.9, {"a": {0.0: 0.9, 0.5: 0.88, 0.7: 0.6, 0.9: 0.89}}).tolerated(0.05)
        {'a': 0.5}
        """
        expect(loss >= 0, "loss", loss, "a drop of the metric, at least 0")
        best = {}
        for name, curve in self.curves.items():
            best[name] = 0.0
            for sparsity, value in curve.items():
                if value < self.dense - loss:
                    break
                best[name] = sparsity
        return best


def prune_smallest(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The weight, of any shape, with its smallest entries set to zero (as ``mask · weight``)."""
    return torch.where(mask_by_sparsity(magnitude_scores(weight), sparsity), weight, torch.zeros_like(weight))


def scan_weights(
    model: nn.Module,
    plan: Mapping[str, Sequence[float]],
    metric: Metric,
    prune: Callable[[torch.Tensor, float], torch.Tensor] = prune_smallest,
    progress: Progress | None = None,
) -> Sensitivity:
    """Prune single weights of one module at a time.

    Args:
        model: it is as before when this returns, or raises.
        plan: module name or pattern → sparsities, such as ``{"*.dense": (0.5, 0.7, 0.9)}``.
        metric: of the model on validation data; higher is better.
        prune: (weight, sparsity) → pruned weight, of the same shape.
        progress: called with name, sparsity and metric after each step.
    Raises:
        CourseError: a plan that matches nothing, or only what must be left alone (:func:`course_lib.plan.match`).
        ValueError: no sparsities, or one outside [0, 1].
    """
    matches = match(model, plan, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d))

    @contextmanager
    def pruned(name: str, sparsity: float) -> Iterator[None]:
        weight = matches.found[name][0].weight
        before = weight.detach().clone()
        try:
            with torch.no_grad():
                weight.copy_(prune(before, sparsity))
            yield
        finally:
            with torch.no_grad():
                weight.copy_(before)

    levels = {name: chosen for name, (_, chosen) in matches.found.items()}
    return Sensitivity(*_scan(model, levels, pruned, metric, progress), matches.skipped)


def scan_units(
    model: nn.Module,
    plan: Mapping[str, Sequence[float]],
    metric: Metric,
    scores: Mapping[str, torch.Tensor] | None = None,
    groups: Sequence[CoupledGroup] | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Mask the lowest-scoring heads, neurons or channels of one layer at a time; weights are not touched.

    Args:
        model, metric, progress: as for :func:`scan_weights`.
        plan: group name or pattern → sparsities, such as ``{"*.heads": (0.25, 0.5, 0.75)}``.
        scores: group name → (units,); None takes :func:`course_lib.pruning.unit_scores.group_weight_scores`.
        groups: of the model; None takes the heads and neurons of a BERT-like one.
    Raises:
        CourseError: a plan that matches no group, or a model with masked units.
        ValueError: no sparsities, or one outside [0, 1].
    """
    require_no_gates(model, "scan_units")
    groups = encoder_groups(model) if groups is None else groups
    levels = match_groups(groups, plan)
    scores = group_weight_scores(model, groups) if scores is None else scores

    @contextmanager
    def pruned(name: str, sparsity: float) -> Iterator[None]:
        try:
            mask_units(model, {name: mask_by_sparsity(scores[name], sparsity)}, groups)
            yield
        finally:
            unmask(model)

    return Sensitivity(*_scan(model, levels, pruned, metric, progress))


def _scan(
    model: nn.Module, levels: Mapping[str, Sequence[float]], pruned: Callable, metric: Metric, progress: Progress | None
) -> tuple[float, dict[str, dict[float, float]]]:
    for name, chosen in levels.items():
        right = len(chosen) > 0 and all(0 <= s <= 1 for s in chosen)
        expect(right, f"plan[{name!r}]", chosen, "sparsities between 0 and 1, at least one")
    dense, curves = metric(model), {}
    for name, chosen in levels.items():
        curves[name] = {}
        for sparsity in sorted(set(chosen)):
            with pruned(name, sparsity):
                curves[name][sparsity] = metric(model)
            if progress:
                progress(name, sparsity, curves[name][sparsity])
    return dense, curves
