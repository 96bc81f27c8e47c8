"""What the numbers of a weight look like, layer by layer: how large, how uneven, of what rank. To look at before anything is compressed.

Outliers and kurtosis tell what a grid of few levels will find hard (one large number widens the range of all), the share near
zero what pruning will find easy, and the two soft ranks what low rank will: they count directions by how much is in them and
need no threshold.
"""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib.plan import match
from course_lib.redundancy.low_rank import checked, singular_values

OUTLIER, NEAR_ZERO = (
    4.0,
    0.1,
)  # in standard deviations: 1 of 16 000 normal numbers is larger than the one, 8 % are smaller than the other


@dataclass(frozen=True)
class WeightStatistics:
    """Statistics of one matrix (R, D).

    Attributes:
        norm: ``‖W‖``, Frobenius.
        std: of all entries.
        row_spread: largest norm of a row over the median one; what a scale for each row evens out.
        column_spread: the same of columns.
        outliers: share of entries more than 4 standard deviations from their mean; 6.3e-5 for normal numbers.
        near_zero: share of entries below a tenth of a standard deviation; 0.080 for normal numbers.
        kurtosis: ``E[(w − mean)⁴] / std⁴ − 3``; 0 for normal numbers, more for heavier tails.
        stable_rank: ``‖W‖² / σ₁²``, between 1 and the rank.
        effective_rank: ``exp(−Σ pᵢ·ln pᵢ)`` with ``pᵢ = σᵢ / Σσ`` (Roy and Vetterli 2007), between 1 and the rank.
        full_rank: min(R, D), to compare with.
    """

    norm: float
    std: float
    row_spread: float
    column_spread: float
    outliers: float
    near_zero: float
    kurtosis: float
    stable_rank: float
    effective_rank: float
    full_rank: int


def weight_statistics(weight: torch.Tensor) -> WeightStatistics:
    """Statistics of a matrix (R, D), worked out in float64.

    A constant matrix has neither outliers nor kurtosis (0); one of zeros has rank 0 and spread 1.

    Raises:
        ValueError: no matrix, integers, NaN or infinity.

    >>> s = weight_statistics(torch.eye(4))
    >>> s.norm, s.stable_rank, round(s.effective_rank, 6), s.row_spread
    (2.0, 4.0, 4.0, 1.0)
    """
    w = checked(weight).double()
    centred, std, sigma = w - w.mean(), w.std(correction=0), singular_values(weight)
    z = centred / std if std > 0 else torch.zeros_like(w)
    return WeightStatistics(
        norm=float(w.norm()),
        std=float(std),
        row_spread=_spread(w.norm(dim=1)),
        column_spread=_spread(w.norm(dim=0)),
        outliers=float((z.abs() > OUTLIER).double().mean()),
        near_zero=float((w.abs() <= NEAR_ZERO * std).double().mean()),
        kurtosis=float(z.pow(4).mean() - 3) if std > 0 else 0.0,
        stable_rank=stable_rank(sigma),
        effective_rank=effective_rank(sigma),
        full_rank=min(w.shape),
    )


def stable_rank(sigma: torch.Tensor) -> float:
    """``Σσᵢ² / σ₁²`` of singular values (n,), descending; 0 where all are.

    >>> stable_rank(torch.tensor([2.0, 2.0, 0.0]))
    2.0
    """
    return float(sigma.double().square().sum() / sigma[0].double().square()) if sigma[0] > 0 else 0.0


def effective_rank(sigma: torch.Tensor) -> float:
    """``exp`` of the entropy of ``σ / Σσ``, of singular values (n,) (Roy and Vetterli 2007, EUSIPCO); 0 where all are.

    >>> round(effective_rank(torch.tensor([2.0, 2.0, 0.0])), 6)
    2.0
    """
    share = sigma.double() / sigma.double().sum()
    return float(torch.special.entr(share).sum().exp()) if sigma[0] > 0 else 0.0


def model_statistics(model: nn.Module, pattern: str = "*") -> dict[str, WeightStatistics]:
    """Statistics of every linear layer that a pattern matches and that has weights left, by name.

    Raises:
        CourseError: a pattern that matches nothing.
    """
    found = match(model, {pattern: None}).found
    return {name: weight_statistics(m.weight) for name, (m, _) in found.items() if m.weight.numel()}


def _spread(norms: torch.Tensor) -> float:
    middle = float(norms.median())
    return float(norms.max()) / middle if middle > 0 else (1.0 if norms.max() == 0 else float("inf"))
