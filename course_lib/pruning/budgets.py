"""Budgets of parameters: how sparse an encoder must become for a size, which of its weights may go, which units to take first.

Sizes count whole models: what a method may not prune counts too, and in a small encoder that is half (Blalock et al. 2020, 2003.03033,
on compression ratios that leave it out).
"""

from collections.abc import Collection, Mapping

import torch

from course_lib.errors import expect
from course_lib.pruning.masks import global_masks

ENCODER = ".encoder.layer."


def sparsity_for_target(sizes: Mapping[str, int], prunable: Collection[str], target: int) -> float:
    """The share of the prunable parameters that must go so that a model keeps ``target`` parameters in all.

    ``(Σ sizes − target) / Σ prunable sizes``; what is not prunable stays.

    Args:
        sizes: name → number of parameters.
        prunable: the names that may be pruned.
        target: parameters that are left, of the whole model.
    Returns:
        A fraction from 0 to 1; 0 where the model is small enough already.
    Raises:
        ValueError: a name without a size, or a target below what cannot be pruned.

    >>> sparsity_for_target({"words": 60, "layers": 40}, ["layers"], target=80)
    0.5
    """
    expect(set(prunable) <= set(sizes), "prunable", sorted(prunable), f"names among {sorted(sizes)}")
    total, able = sum(sizes.values()), sum(sizes[name] for name in set(prunable))
    expect(target >= total - able, "target", target, f"at least {total - able}, which cannot be pruned")
    return max(0.0, (total - target) / able) if able else 0.0


def encoder_masks(scores: Mapping[str, torch.Tensor], sparsity: float) -> dict[str, torch.Tensor]:
    """Masks with one threshold for the matrices of the encoder's layers, and for nothing else.

    Embeddings, the classifier, biases and the gains of LayerNorm get no mask: a gain of zero switches a dimension off for good.

    Args:
        scores: parameter name → scores of the parameter's shape, of the whole model.
        sparsity: the fraction of the entries of these matrices together.
    Returns:
        Parameter name → bool mask, for names with ``.encoder.layer.`` and two dimensions.
    Raises:
        ValueError: no such matrix, or a sparsity outside [0, 1].
    """
    return global_masks({name: s for name, s in scores.items() if ENCODER in name and s.dim() == 2}, sparsity)


def units_within(scores: Mapping[str, torch.Tensor], costs: Mapping[str, int], budget: int) -> dict[str, torch.Tensor]:
    """Take units out, the lowest score for each parameter first, until at least ``budget`` parameters are gone.

    Heads and neurons compete: a head of size d costs ``4·d·D + 3·d`` parameters, a neuron ``2·D + 1``, so scores are compared for each
    parameter that is saved.

    Args:
        scores: group name → (units,), higher means keep.
        costs: group name → parameters of one of its units.
        budget: parameters to remove.
    Returns:
        Group name → bool mask (units,), True where a unit stays, for :func:`course_lib.pruning.unit_masks.mask_units`.
    Raises:
        ValueError: a group without a cost, or a budget below 0 or above what all units have.

    >>> units_within({"heads": torch.tensor([9.0, 30.0]), "neurons": torch.tensor([1.0, 4.0, 2.0])}, {"heads": 10, "neurons": 2}, 12)
    {'heads': tensor([False,  True]), 'neurons': tensor([False,  True,  True])}
    """
    expect(set(scores) <= set(costs), "costs", sorted(costs), f"a cost for each of {sorted(scores)}")
    cost = torch.cat([torch.full(s.shape, costs[name]) for name, s in scores.items()])
    expect(0 <= budget <= int(cost.sum()), "budget", budget, f"between 0 and {int(cost.sum())}")
    order = torch.cat([s.flatten() / costs[name] for name, s in scores.items()]).argsort(stable=True)
    before = cost[order].cumsum(0) - cost[order]  # gone already when it is a unit's turn
    stays = torch.ones(len(cost), dtype=torch.bool)
    stays[order[before < budget]] = False
    return dict(zip(scores, stays.split([len(s) for s in scores.values()]), strict=True))
