"""Low rank in a model: linear layers replaced by two thinner ones, each with a rank of its own.

A layer becomes ``up(down(x))``, two plain linear layers, so that everything that works on linear layers (counting
multiply-adds, pruning, quantizing, export) works on them. Where the factors would be no smaller than the matrix, the layer is
left as it is and the report says so.

A trained encoder has no low rank to find, only directions that its inputs seldom take: with half the bytes of its matrices, the
same share of each, a fine-tuned encoder (F1 .844 on validation) kept .604 by the plain SVD and .788 by the activation-aware
one, half of the multiply-adds, and 1.5 times its speed. The word embeddings, half of its bytes, are not touched by this.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.calibration import Batch, Hessian
from course_lib.errors import CourseError, expect
from course_lib.layerwise import layer_by_layer, linear_layers
from course_lib.plan import replace_module
from course_lib.redundancy.activation_low_rank import DAMPING, activation_factors, whitened_singular_values
from course_lib.redundancy.low_rank import (
    check_rank,
    dropped_energy,
    factor_size,
    largest_saving_rank,
    rank_for_bytes,
    rank_for_energy,
    singular_values,
    svd_factors,
)
from course_lib.redundancy.rank_latency import Latency
from course_lib.report import Report, Reporting


class LowRankLinear(nn.Module):
    """``y = up(down(x)) = x·rightᵀ·leftᵀ + bias``: a linear layer (R, D) of rank r.

    Args:
        in_features, out_features: D and R.
        rank: r, between 1 and the smaller of them.
        bias: whether there is one.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        check_rank(rank, (out_features, in_features))
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    @classmethod
    def from_factors(cls, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> "LowRankLinear":
        """A layer of given factors, left (R, r) and right (r, D), and bias (R,)."""
        layer = cls(right.shape[1], left.shape[0], right.shape[0], bias is not None).to(left.device, left.dtype)
        with torch.no_grad():
            layer.down.weight.copy_(right)
            layer.up.weight.copy_(left)
            if bias is not None:
                layer.up.bias.copy_(bias)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) → (…, R)"""
        return self.up(self.down(x))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


@dataclass(frozen=True)
class LowRank:
    """The rank of a layer; exactly one of these.

    Attributes:
        rank: itself.
        energy: the smallest rank that keeps this share of ``Σ σᵢ²``.
        bytes: the largest rank whose two factors take no more.
        milliseconds: the largest rank that a latency model says takes no longer.
    """

    rank: int | None = None
    energy: float | None = None
    bytes: float | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in vars(self).items() if v is not None}
        expect(len(given) == 1, "LowRank", given, "exactly one of rank, energy, bytes, milliseconds")
        expect(self.energy is None or 0 < self.energy <= 1, "energy", self.energy, "a share above 0 and at most 1")

    def __str__(self) -> str:
        return next(f"{k} {v:g}" for k, v in vars(self).items() if v is not None)

    def fixed(self, weight: torch.Tensor, latency: Latency | None) -> int | None:
        """The rank for a weight (R, D) where its numbers do not matter; None where they do (energy).

        Raises:
            ValueError: a rank above the matrix's, a budget that not even rank 1 keeps, or milliseconds without a latency model.
        """
        if self.rank is not None:
            check_rank(self.rank, weight.shape)
            return self.rank
        if self.bytes is not None:
            return rank_for_bytes(weight.shape, self.bytes, weight.element_size())
        if self.milliseconds is not None:
            expect(latency is not None, "latency", latency, "a Latency, to tell how long a rank takes")
            return latency.rank_within(weight.shape, self.milliseconds)
        return None


def apply(
    model: nn.Module,
    plan: Mapping[str, LowRank],
    batches: Iterable[Batch] | None = None,
    latency: Latency | None = None,
    damping: float = DAMPING,
) -> Report:
    """Replace linear layers by two factors each, in place.

    Args:
        model: changed in place; with ``batches``, one that is built like BERT.
        plan: module name or pattern → :class:`LowRank`.
        batches: the calibration set, tensors (B, L), for factors that spare each layer's output on the inputs that the layers before it,
            already replaced, put out. None: the nearest matrices, whatever the inputs.
        latency: what milliseconds are reckoned with (:mod:`course_lib.redundancy.rank_latency`).
        damping: of the second moments of the inputs.
    Returns:
        Rank and share of energy kept of each layer, and which layers were skipped because two factors would be no smaller.
    Raises:
        CourseError: a plan that matches nothing, or layers of which none would become smaller.
        ValueError: a rank that a layer cannot have, a budget too small for rank 1, or a calibration set that is empty or bad.
    """
    matches = linear_layers(model, plan, LowRank)
    fixed = {name: _fixed(name, linear, config, latency) for name, (linear, config) in matches.found.items()}
    count, changed, skipped = Reporting(model), [], list(matches.skipped)
    ready = {}
    for name, (linear, _) in matches.found.items():  # what is known to save nothing needs no statistics
        reason = _saves_nothing(linear.weight, fixed[name])
        if reason:
            skipped.append(f"{name}: {reason}")
        else:
            ready[name] = linear

    def solve(name: str, statistic: Hessian | None) -> None:
        linear, config = matches.found[name]
        moment = None if statistic is None else statistic.matrix()
        sigma = _spectrum(linear.weight, moment, damping)
        rank = fixed[name] or rank_for_energy(sigma, config.energy)
        reason = _saves_nothing(linear.weight, rank)
        if reason:
            skipped.append(f"{name}: {reason}")
            return
        weight, left = linear.weight.detach(), dropped_energy(sigma)
        factors = svd_factors(weight, rank) if moment is None else activation_factors(weight, moment, rank, damping)
        replace_module(model, name, LowRankLinear.from_factors(*factors, linear.bias).train(linear.training))
        kept = 1 - float(left[rank] / left[0]) if left[0] > 0 else 1.0
        changed.append(f"{name}: rank {rank} of {min(weight.shape)} keeps {kept:.1%} of the energy ({config})")

    if batches is None:
        for name in ready:
            solve(name, None)
    elif ready:
        layer_by_layer(model, ready, batches, Hessian, solve)
    if not changed:
        raise CourseError(f"plan: no layer would become smaller ({'; '.join(skipped[:3])}). Nothing was changed.")
    return count.report(changed, skipped)


def _fixed(name: str, linear: nn.Linear, config: LowRank, latency: Latency | None) -> int | None:
    if linear.weight.numel() == 0:
        return None
    try:
        return config.fixed(linear.weight, latency)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _saves_nothing(weight: torch.Tensor, rank: int | None) -> str | None:
    """Why two factors of this rank would be no smaller than the weight; a rank of None may turn out to be any."""
    if weight.numel() == 0:
        return "it has no weights left"
    if (rank or 1) <= largest_saving_rank(weight.shape):
        return None
    size = factor_size(weight.shape, rank or 1)
    return f"two factors of rank {rank or 1} have {size:,} numbers, the matrix {weight.numel():,}"


def _spectrum(weight: torch.Tensor, moment: torch.Tensor | None, damping: float) -> torch.Tensor:
    return singular_values(weight) if moment is None else whitened_singular_values(weight, moment, damping)
