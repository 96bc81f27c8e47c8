"""Ranks of many layers under one budget: where a rank is worth most for what it costs.

Each layer may have any rank that saves something, or stay whole. What a layer loses is the share of its energy that is
dropped (of its output's, where there are calibration sentences), what it costs are bytes or milliseconds, and the budget is
for all of them together. The solver is that of bits for layers, greedy by error per byte along each layer's convex hull
(:mod:`course_lib.quantization.bits`; Dantzig 1957). The hull matters: a square matrix at half its rank costs as much as
whole, and whole it loses nothing, so just below that no rank pays.

Losses that are added up must be of one kind, and shares of energy are not quite. On a fine-tuned encoder (F1 .844 on
validation), with three quarters of the bytes of its matrices, these ranks gave .833 and one share of bytes for all .822; with
half of them .758 and .788, and after a short training .772 and .800. Where little is left, they take nearly everything from the
matrices out of the feed-forward blocks, where a single direction can hold 98 % of the energy, and the rest, which the tags hang
on, looks like nothing. Weighing each layer by the loss it was measured to cost alone was worse still: alone, most cost less than
the noise. So compare with an even split before trusting a joint one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.calibration import Batch, Hessian
from course_lib.errors import CourseError, expect
from course_lib.layerwise import layer_by_layer
from course_lib.plan import match
from course_lib.quantization.bits import Choice, allocate_bits
from course_lib.redundancy.activation_low_rank import DAMPING, whitened_singular_values
from course_lib.redundancy.low_rank import dropped_energy, factor_size, largest_saving_rank, singular_values
from course_lib.redundancy.low_rank_layers import LowRank
from course_lib.redundancy.rank_latency import Latency

Cost = Callable[[tuple[int, int], int | None], float]  # of a matrix of this shape at a rank; None: whole


@dataclass(frozen=True)
class Spectrum:
    """What a layer's ranks are worth.

    Attributes:
        shape: (R, D).
        sigma: (min(R, D),), descending.
    """

    shape: tuple[int, int]
    sigma: torch.Tensor

    def lost(self, rank: int | None) -> float:
        """The share of the energy ``Σ σᵢ²`` that a rank drops; None is the whole matrix."""
        left = dropped_energy(self.sigma)
        return 0.0 if rank is None or left[0] == 0 else float(left[rank] / left[0])


def byte_cost(value_bytes: int = 4) -> Cost:
    """Bytes of a matrix (R, D), whole or as factors."""
    return lambda shape, rank: value_bytes * (shape[0] * shape[1] if rank is None else factor_size(shape, rank))


def time_cost(latency: Latency) -> Cost:
    """Milliseconds of a matrix (R, D), whole or as factors."""
    return lambda shape, rank: latency.dense(shape) if rank is None else latency.factored(shape, rank)


def spectra(
    model: nn.Module, pattern: str, batches: Iterable[Batch] | None = None, damping: float = DAMPING
) -> dict[str, Spectrum]:
    """Singular values of the linear layers that a pattern matches, of W or, with a calibration set (B, L), of W·S.

    Raises:
        CourseError: a pattern that matches nothing.
    """
    found = {name: m for name, (m, _) in match(model, {pattern: None}).found.items() if m.weight.numel()}
    shapes = {name: tuple(m.weight.shape) for name, m in found.items()}
    if batches is None:
        return {name: Spectrum(shapes[name], singular_values(m.weight)) for name, m in found.items()}
    gathered = {}

    def note(name: str, statistic: Hessian) -> None:
        sigma = whitened_singular_values(found[name].weight, statistic.matrix(), damping)
        gathered[name] = Spectrum(shapes[name], sigma)

    layer_by_layer(model, found, batches, Hessian, note)
    return {name: gathered[name] for name in found}


def allocate_ranks(layers: Mapping[str, Spectrum], budget: float, cost: Cost, unit: str = "bytes") -> dict[str, int | None]:
    """A rank for each layer, or None to leave it whole, of little total loss and at most ``budget`` in all.

    Args:
        layers: name → spectrum, at least one.
        budget: what all the layers together may cost.
        cost: of a matrix at a rank, such as :func:`byte_cost`.
        unit: of the budget, for messages.
    Raises:
        ValueError: no layer.
        CourseError: not even rank 1 everywhere fits.

    >>> layers = {"flat": Spectrum((4, 4), torch.ones(4)), "steep": Spectrum((4, 4), torch.tensor([9.0, 1.0, 0.0, 0.0]))}
    >>> allocate_ranks(layers, 4 * (16 + 8), byte_cost())
    {'flat': None, 'steep': 1}
    """
    options = {name: _options(layer, cost) for name, layer in layers.items()}
    least = sum(min(choice.size for choice in choices) for choices in options.values())
    if least > budget:
        raise CourseError(f"budget = {budget:g} {unit}: expected at least {least:g}, what rank 1 of every layer takes.")
    chosen = allocate_bits(options, budget)
    return {name: choice.bits or None for name, choice in chosen.items()}


def joint_plan(layers: Mapping[str, Spectrum], budget: float, cost: Cost, unit: str = "bytes") -> dict[str, LowRank]:
    """:func:`allocate_ranks` as a plan for :func:`course_lib.redundancy.low_rank_layers.apply`; whole layers are not in it.

    Raises:
        ValueError: a budget that the layers keep as they are.
        CourseError: as of :func:`allocate_ranks`.
    """
    whole = sum(cost(layer.shape, None) for layer in layers.values())
    expect(budget < whole, "budget", budget, f"less than the {whole:g} {unit} that the layers take now")
    ranks = allocate_ranks(layers, budget, cost, unit)
    return {name: LowRank(rank=rank) for name, rank in ranks.items() if rank is not None}


def _options(layer: Spectrum, cost: Cost) -> list[Choice]:
    """Whole, and every rank that costs less; where the solver has the bits of a choice, this one has its rank, 0 for whole."""
    whole, left = cost(layer.shape, None), dropped_energy(layer.sigma)
    share = (left / left[0] if left[0] > 0 else left).tolist()
    ranks = range(1, largest_saving_rank(layer.shape) + 1)
    saving = [Choice(r, cost(layer.shape, r), share[r]) for r in ranks if cost(layer.shape, r) < whole]
    return [Choice(0, whole, 0.0), *saving]
