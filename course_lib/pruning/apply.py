"""Unstructured, block and n:m pruning of a model: score → mask → apply.

Weights become zeros and are stored as before, so neither file nor latency changes by itself: store the result sparsely
(:mod:`course_lib.pruning.storage`) or remove whole units (:mod:`course_lib.pruning.structure`).

**A model that is already masked** keeps its zeros: they count towards the asked sparsity and go first, whatever the score, so
applying a plan twice changes nothing; where more was zero than is asked for, the report says so. A weight that is zero by chance
counts as pruned too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.granularity import Granularity, block_size, spread
from course_lib.plan import match
from course_lib.pruning import scores as score_functions
from course_lib.pruning.masks import Masks, block_scores, global_masks, n_m_mask
from course_lib.pruning.rank import require_rankable
from course_lib.report import Report, Reporting

KINDS = (nn.Linear, nn.Embedding, nn.Conv2d)
GRADIENT_SCORES = {
    "gradient": score_functions.gradient_scores,
    "taylor": score_functions.taylor_scores,
    "fisher": score_functions.fisher_scores,
}


@dataclass(frozen=True)
class Prune:
    """How to prune a module's weight.

    Attributes:
        sparsity: fraction of its blocks to prune; or ``(n, m)``: n of every m neighbours in a row stay.
        score: ``"magnitude"``, or ``"gradient"``, ``"taylor"``, ``"fisher"``, which need losses.
        granularity, axis: what goes as a whole, see :func:`course_lib.pruning.masks.block_scores`.
        norm: 1 or 2, the norm by which blocks are ranked when the score is their magnitude.
        scope: ``"layer"``: the sparsity holds in each module; ``"global"``: one threshold for all modules of this very configuration.
    """

    sparsity: float | tuple[int, int]
    score: str = "magnitude"
    granularity: Granularity = "weight"
    axis: int = 0
    norm: int = 1
    scope: str = "layer"

    def __post_init__(self) -> None:
        known = ("magnitude", *GRADIENT_SCORES)
        expect(self.score in known, "score", self.score, " or ".join(known))
        expect(self.norm in (1, 2), "norm", self.norm, "1 or 2")
        expect(self.scope in ("layer", "global"), "scope", self.scope, "'layer' or 'global'")
        if isinstance(self.sparsity, tuple):
            fits = len(self.sparsity) == 2 and 0 <= self.sparsity[0] <= self.sparsity[1] >= 1
            expect(fits, "sparsity", self.sparsity, "(n, m) with 0 ≤ n ≤ m")
            alone = self.granularity == "weight" and self.scope == "layer"
            expect(alone, "granularity, scope", (self.granularity, self.scope), "'weight' and 'layer' with (n, m)")
        else:
            expect(0 <= self.sparsity <= 1, "sparsity", self.sparsity, "a fraction between 0 and 1, or (n, m)")


def apply(model: nn.Module, plan: Mapping[str, Prune], losses: Iterable[torch.Tensor] | None = None) -> tuple[Masks, Report]:
    """Prune the weights of linear, embedding and convolution layers, in place.

    Args:
        model: dropout is switched off while scoring.
        plan: module name or pattern → :class:`Prune`. Rows of a convolution's weight are its output channels, and n:m groups run
            along what is left when it is flattened to a matrix.
        losses: for scores that need gradients, a lazy iterable of scalars just computed with ``model``.
    Returns:
        The masks, to train on with (:meth:`course_lib.pruning.masks.Masks.keep`) or to store by, and what was changed.
    Raises:
        CourseError: a plan that matches nothing or a module twice, losses missing or not needed, a weight that is computed from
            others; nothing is changed.
        ValueError: weights or scores that cannot be ranked, blocks that do not divide a weight.
    """
    matches, count = match(model, plan, KINDS), Reporting(model)
    for name, (module, _) in matches.found.items():
        if not isinstance(module._parameters.get("weight"), nn.Parameter):
            raise CourseError(
                f"plan: the weight of {name} is computed from other parameters (a parametrization); bake it in first."
            )
        require_rankable(f"{name}.weight", module.weight)
    found = {name: (module.weight, config) for name, (module, config) in matches.found.items()}
    scores = _scores(model, found, losses)
    masks = {}
    for config in dict.fromkeys(config for _, config in found.values()):
        names = [name for name, (_, c) in found.items() if c == config]
        groups = [names] if config.scope == "global" else [[name] for name in names]
        for group in groups:
            masks |= _masks({name: found[name][0].detach() for name in group}, {n: scores[n] for n in group}, config)
    masks = {name: masks[name] for name in found}
    changed = [_line(name, masks[name], config) for name, (_, config) in found.items()]
    result = Masks({f"{name}.weight": mask for name, mask in masks.items()})
    result.apply(model)
    return result, count.report(changed, matches.skipped)


def _scores(
    model: nn.Module, found: Mapping[str, tuple[torch.Tensor, Prune]], losses: Iterable[torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """A score per weight of each module."""
    kinds = {config.score for _, config in found.values()} - {"magnitude"}
    if len(kinds) > 1:
        raise CourseError(
            f"plan: {', '.join(sorted(kinds))} cannot be computed from the same losses in one go; expected one of them."
        )
    if bool(kinds) != (losses is not None):
        given = "none were given" if losses is None else "no module's score needs them"
        raise CourseError(f"losses: {given}; expected losses if, and only if, a score is one of {', '.join(GRADIENT_SCORES)}.")
    scores = {
        name: score_functions.magnitude_scores(w, config.norm)
        for name, (w, config) in found.items()
        if config.score not in kinds
    }
    if kinds:
        weights = {name: w for name, (w, config) in found.items() if config.score in kinds}
        training = model.training
        model.eval()
        try:
            scores |= GRADIENT_SCORES[kinds.pop()](weights, losses)
        finally:
            model.train(training)
    return scores


def _masks(weights: Mapping[str, torch.Tensor], scores: Mapping[str, torch.Tensor], config: Prune) -> dict[str, torch.Tensor]:
    """Masks of modules that share a threshold; what is zero goes first and stays zero."""
    if isinstance(config.sparsity, tuple):
        return {
            name: n_m_mask(scores[name].masked_fill(w == 0, -torch.inf).flatten(1), *config.sparsity).view(w.shape) & (w != 0)
            for name, w in weights.items()
        }
    units = {}
    for name, w in weights.items():
        alive = block_scores((w != 0).float(), config.granularity, config.axis) > 0
        units[name] = block_scores(scores[name], config.granularity, config.axis).masked_fill(~alive, -torch.inf)
    masks = global_masks(units, config.sparsity)
    if config.granularity != "weight":
        masks = {
            n: spread(m, weights[n].shape, block_size(weights[n].shape, config.granularity, config.axis))
            for n, m in masks.items()
        }
    return {name: mask & (weights[name] != 0) for name, mask in masks.items()}


def _line(name: str, mask: torch.Tensor, config: Prune) -> str:
    pruned, entries = mask.numel() - int(mask.sum()), mask.numel()
    asked = f"{config.sparsity[0]}:{config.sparsity[1]}" if isinstance(config.sparsity, tuple) else f"{config.sparsity:.1%}"
    how = f"{config.score}, {asked} asked for {'all together' if config.scope == 'global' else 'it'}"
    return f"{name}: {pruned / entries:.1%} of {entries:,} weights are zero ({how})"
