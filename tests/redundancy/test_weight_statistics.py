"""Statistics of weights: known numbers for normal weights, invariances, and agreement with scipy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from redundant_models import real_encoder, tiny

from course_lib.errors import CourseError
from course_lib.pruning.structure import remove_ffn_neurons
from course_lib.redundancy.low_rank import singular_values
from course_lib.redundancy.weight_statistics import (
    NEAR_ZERO,
    OUTLIER,
    WeightStatistics,
    effective_rank,
    model_statistics,
    stable_rank,
    weight_statistics,
)


def drawn(seed: int, rows: int = 40, columns: int = 30) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_normal_numbers_have_the_shares_that_the_normal_distribution_has():
    """400 000 numbers: a share p is found to within 5 standard errors √(p(1 − p)/n), the kurtosis to within 5·√(24/n)."""
    n, s = 400_000, weight_statistics(drawn(0, 1000, 400))
    for found, p in ((s.outliers, math.erfc(OUTLIER / 2**0.5)), (s.near_zero, math.erf(NEAR_ZERO / 2**0.5))):
        assert abs(found - p) <= 5 * math.sqrt(p * (1 - p) / n)
    assert abs(s.kurtosis) <= 5 * math.sqrt(24 / n)
    assert s.full_rank == 400 and 1 < s.row_spread < 1.5


@pytest.mark.oracles
def test_kurtosis_is_scipys():
    scipy_stats = pytest.importorskip("scipy.stats")
    w = drawn(1).pow(3)
    assert weight_statistics(w).kurtosis == pytest.approx(scipy_stats.kurtosis(w.flatten().numpy()), rel=1e-12)


@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_all_but_norm_and_std_are_free_of_scale_and_order(seed, scale):
    w = drawn(seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    one, other = vars(weight_statistics(w)), vars(weight_statistics(scale * w[order]))
    for name, value in one.items():  # float64 sums of 1200 numbers
        due = value * scale if name in ("norm", "std") else value
        assert other[name] == pytest.approx(due, rel=1e-9)


@given(st.integers(0, 99), st.integers(1, 6))
def test_soft_ranks_lie_between_one_and_the_rank_and_reach_both(seed, rank):
    sigma = singular_values(drawn(seed, 8, rank) @ drawn(seed + 1, rank, 7))
    for soft in (stable_rank, effective_rank):
        assert 1 - 1e-9 <= soft(sigma) <= rank + 1e-4  # √ε of the dropped σ's share, times ln of it, counts as rank
    equal = torch.cat([torch.ones(rank), torch.zeros(3)])
    assert stable_rank(equal) == rank and effective_rank(equal) == pytest.approx(rank, rel=1e-12)


def test_constant_and_empty_handed_matrices_have_no_outliers():
    zeros, ones = weight_statistics(torch.zeros(3, 4)), weight_statistics(torch.ones(3, 4))
    assert (zeros.stable_rank, zeros.effective_rank, zeros.row_spread, zeros.near_zero, zeros.kurtosis) == (0, 0, 1, 1, 0)
    assert (ones.outliers, ones.kurtosis, ones.near_zero) == (0, 0, 0) and ones.stable_rank == pytest.approx(1)
    one_row = torch.zeros(3, 4)
    one_row[0, 0] = 1
    assert weight_statistics(one_row).row_spread == float("inf")


def test_the_real_encoders_matrices_are_near_full_rank_and_heavier_tailed_than_normal():
    """Measured: what low rank and coarse grids find hard."""
    found = model_statistics(real_encoder(), "encoder.layer.[05].*")
    assert len(found) == 12 and all(isinstance(s, WeightStatistics) for s in found.values())
    assert all(s.effective_rank > 0.6 * s.full_rank for s in found.values())
    assert sum(s.kurtosis > 0 for s in found.values()) >= 10


def test_what_cannot_be_is_refused_and_empty_layers_are_left_out():
    model = tiny(torch.float32)
    remove_ffn_neurons(model, [torch.arange(0), torch.arange(64)])
    assert len(model_statistics(model, "*.dense")) == 4
    with pytest.raises(CourseError, match=r"'nothing' matches nothing"):
        model_statistics(model, "nothing")
    with pytest.raises(ValueError, match=r"weight = 'NaN or infinity'"):
        weight_statistics(torch.full((2, 2), torch.nan))
