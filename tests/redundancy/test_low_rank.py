"""Low rank: the error is what was dropped, no matrix of that rank is nearer, budgets are kept to the number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redundant_models import EPS64, real_encoder

from course_lib.redundancy.low_rank import (
    check_rank,
    checked,
    checked_spectrum,
    dropped_energy,
    factor_size,
    largest_saving_rank,
    rank_for_bytes,
    rank_for_energy,
    singular_values,
    svd_factors,
)


def matrix(seed: int, rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.data())
@settings(max_examples=40)
def test_the_squared_error_is_the_sum_of_the_dropped_squares(seed, rows, columns, data):
    w, rank = matrix(seed, rows, columns), data.draw(st.integers(1, min(rows, columns)))
    left, right = svd_factors(w, rank)
    assert left.shape == (rows, rank) and right.shape == (rank, columns)
    error = (w - left @ right).square().sum()
    # The SVD is backward stable: its U·Σ·Vᵀ is W to within a small multiple of ε·‖W‖ (here 8·(R + D)); the product adds r·ε·‖W‖.
    wrong = (8 * (rows + columns) + rank) * EPS64 * w.norm()
    due = dropped_energy(singular_values(w))[rank]
    assert (error.sqrt() - due.sqrt()).abs() <= wrong


def test_at_full_rank_the_matrix_comes_back_and_its_rank_is_what_is_asked():
    w = matrix(0, 7, 5)
    left, right = svd_factors(w, 5)
    assert (left @ right - w).abs().max() <= (8 * 12 + 5) * EPS64 * w.norm()
    for rank in range(1, 6):
        left, right = svd_factors(w, rank)
        assert torch.linalg.matrix_rank(left @ right) == rank
        assert torch.allclose(left.norm(dim=0), right.norm(dim=1), rtol=64 * EPS64), "σ is shared out evenly"


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_no_other_factors_of_that_rank_come_nearer(seed):
    w, other = matrix(seed, 6, 8), matrix(seed + 1000, 6, 2)
    least_squares = other @ torch.linalg.lstsq(other, w).solution  # the nearest matrix with that column space
    left, right = svd_factors(w, 2)
    assert (w - left @ right).norm() <= (w - least_squares).norm() * (1 + 1e-12)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_the_rank_for_a_share_of_energy_is_the_smallest_that_keeps_it(values, share):
    sigma = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank, squares = rank_for_energy(sigma, share), sigma.square()
    enough = (1 - 1e-12) * share * squares.sum()  # sums of at most 12 terms, and the comparison's own allowance
    assert squares[:rank].sum() >= enough and (rank == 1 or squares[: rank - 1].sum() < (1 + 1e-12) * share * squares.sum())


def test_shares_that_are_met_exactly_are_met():
    sigma = torch.tensor([3.0, 1.0])  # energies 9 and 1
    assert rank_for_energy(sigma, 0.9) == 1 and rank_for_energy(sigma, 0.9000001) == 2
    assert rank_for_energy(torch.zeros(4), 1.0) == 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4))
def test_budgets_and_break_even_are_exact(rows, columns, size):
    saving = largest_saving_rank((rows, columns))
    assert saving == 0 or factor_size((rows, columns), saving) < rows * columns
    assert saving == min(rows, columns) or (saving + 1) * (rows + columns) >= rows * columns
    budget = 3 * (rows + columns) * size - 1
    rank = rank_for_bytes((rows, columns), budget, size)
    assert factor_size((rows, columns), rank) * size <= budget
    assert rank == min(rows, columns) or (rank + 1) * (rows + columns) * size > budget


def test_a_real_weight_is_nowhere_near_low_rank():
    """The encoder's feed-forward matrix: half of its 384 ranks hold less than 85 % of its energy; measured, not a theorem."""
    w = real_encoder().encoder.layer[3].intermediate.dense.weight
    left, right = svd_factors(w, 192)
    sigma = singular_values(w)
    error = (w.detach().double() - left.double() @ right.double()).square().sum()
    # Both factors are rounded to float32: an error of at most 2·2⁻²⁴·(1 + 2⁻²⁴) of |left|·|right|, entry by entry.
    rounding = 2.1 * 2**-24 * (left.abs().double() @ right.abs().double()).norm()
    assert (error.sqrt() - dropped_energy(sigma)[192].sqrt()).abs() <= rounding
    assert rank_for_energy(sigma, 0.85) > 192


def test_what_cannot_be_is_refused():
    w = matrix(0, 3, 5)
    for rank in (0, 4, True, 2.0):
        with pytest.raises(ValueError, match=rf"rank = {rank}: expected a whole number between 1 and 3, as \(3, 5\) has"):
            svd_factors(w, rank)
    check_rank(3, (3, 5))
    assert checked(w) is not w and checked(w).data_ptr() == w.data_ptr()
    for bad, message in (
        (w[0], r"weight = .*a floating-point matrix"),
        (w.long(), "weight = .*matrix"),
        (w / 0, "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            singular_values(bad)
    for share in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"share = .*expected a share of the energy, above 0 and at most 1"):
            rank_for_energy(torch.ones(2), share)
    for sigma in (torch.tensor([1.0, 2.0]), torch.tensor([-1.0]), torch.tensor([]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match=r"sigma = .*descending"):
            checked_spectrum(sigma)
    with pytest.raises(ValueError, match=r"budget = 31: expected at least 32 bytes, which rank 1 of \(3, 5\) takes"):
        rank_for_bytes((3, 5), 31)
