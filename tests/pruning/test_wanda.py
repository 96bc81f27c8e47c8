"""Wanda: ranked per row, exact counts, and what its scores must not depend on."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.pruning.wanda import row_masks, wanda_mask, wanda_scores


def layer(r: int = 6, d: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(r, d, generator=g), torch.rand(d, generator=g) * 10


def lowest_by_sorting(scores: torch.Tensor, drop: int) -> torch.Tensor:
    """Row by row: a stable sort, the last of equals go first."""
    mask = torch.ones(scores.shape, dtype=torch.bool)
    for i, row in enumerate(scores):
        mask[i, sorted(range(len(row)), key=lambda j: (float(row[j]), -j))[:drop]] = False
    return mask


def test_the_score_squared_is_what_a_rows_output_changes_by_without_the_weight():
    """``Σ_t (w_ij·x_tj)² = (|w_ij|·‖X_j‖)²``; float64, a sum of 40 terms."""
    g = torch.Generator().manual_seed(0)
    w, x = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 5), (40, 5)))
    scores = wanda_scores(w, x.norm(dim=0))
    for i in range(3):
        for j in range(5):
            without = w[i].clone()
            without[j] = 0
            change = (x @ w[i] - x @ without).square().sum()
            assert float(scores[i, j] ** 2) == pytest.approx(float(change), rel=1e-13)


@given(st.integers(0, 1000), st.floats(0, 1), st.integers(-8, 8))
@settings(max_examples=40, deadline=None)
def test_the_mask_is_invariant_to_the_scale_of_an_output_row(seed, sparsity, power):
    """Powers of two: exact. A ranking over the whole layer would not have it."""
    w, norms = layer(seed=seed)
    scaled = w.clone()
    scaled[2] *= 2.0**power
    assert torch.equal(wanda_mask(scaled, norms, sparsity), wanda_mask(w, norms, sparsity))
    assert torch.equal(wanda_mask(scaled, norms, (2, 4)), wanda_mask(w, norms, (2, 4)))


def test_the_mask_is_invariant_to_moving_scale_between_a_column_and_its_input():
    w, norms = layer()
    moved = 2.0 ** torch.arange(-8, 8)
    assert torch.equal(wanda_mask(w * moved, norms / moved), wanda_mask(w, norms))


def test_equal_norms_are_magnitude_per_row():
    w, _ = layer()
    assert torch.equal(wanda_mask(w, torch.full((16,), 3.0)), row_masks(w.abs(), 0.5))


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
@settings(max_examples=60, deadline=None)
def test_row_masks_are_those_of_a_stable_sort_with_many_ties(values, sparsity, dtype):
    scores = torch.tensor(values, dtype=dtype)
    assert torch.equal(row_masks(scores, sparsity), lowest_by_sorting(scores, round(sparsity * 7)))


def test_every_row_has_exactly_its_share_and_masks_nest():
    w, norms = layer(20, 37)
    masks = [wanda_mask(w, norms, s / 10) for s in range(11)]
    for s, mask in enumerate(masks):
        assert ((~mask).sum(1) == round(s / 10 * 37)).all()
    assert all((a | ~b).all() for a, b in itertools.pairwise(masks)), "what is pruned stays pruned"


def test_two_of_four_keeps_the_best_two_of_every_four():
    w, norms = layer()
    scores, mask = wanda_scores(w, norms).view(-1, 4), wanda_mask(w, norms, (2, 4)).view(-1, 4)
    assert (mask.sum(1) == 2).all()
    worst_kept = scores.masked_fill(~mask, float("inf")).amin(1)
    assert (worst_kept >= scores.masked_fill(mask, -1.0).amax(1)).all()


def test_a_dead_input_goes_first():
    w, norms = layer()
    norms[[3, 7]] = 0
    mask = wanda_mask(w, norms, 2 / 16)
    assert not mask[:, [3, 7]].any() and mask.sum() == 6 * 14


def test_transposed_views_and_parameters_are_read_rightly():
    w, norms = layer(16, 6)
    assert torch.equal(wanda_mask(w.T, torch.rand(16).add(1), 0.0), torch.ones(6, 16, dtype=torch.bool))
    scores = wanda_scores(torch.nn.Parameter(w), norms)
    assert torch.equal(row_masks(scores.T, 0.5), row_masks(scores.detach().T.contiguous(), 0.5))


def test_the_mask_is_that_of_the_papers_own_lines():
    """The published code: a stable ascending sort of each row, the first indices go. Without ties the same set."""
    w, norms = layer(12, 64)
    metric = np.abs(w.numpy()) * norms.numpy()[None, :]
    index = np.argsort(metric, axis=1, kind="stable")[:, :32]
    due = np.ones_like(metric, dtype=bool)
    np.put_along_axis(due, index, False, axis=1)
    assert (wanda_mask(w, norms, 0.5).numpy() == due).all()


@pytest.mark.parametrize(("norms", "message"), [
    (torch.ones(3), r"norms = \(3,\): expected one for each of 4 columns"),
    (torch.tensor([1.0, -1.0, 1.0, 1.0]), "norms = .*expected finite numbers of at least 0"),
    (torch.tensor([1.0, float("nan"), 1.0, 1.0]), "norms = .*expected finite numbers of at least 0"),
])  # fmt: skip
def test_norms_that_are_none_are_refused(norms, message):
    with pytest.raises(ValueError, match=message):
        wanda_scores(torch.ones(2, 4), norms)


def test_other_bad_input_is_refused():
    good = torch.ones(4)
    with pytest.raises(ValueError, match=r"weight = \(4,\): expected a matrix"):
        wanda_scores(good, good)
    with pytest.raises(ValueError, match=r"weight.dtype = torch.int64"):
        wanda_scores(torch.ones(2, 4, dtype=torch.int64), good)
    for sparsity in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"sparsity = .*: expected a fraction between 0 and 1"):
            wanda_mask(torch.ones(2, 4), good, sparsity)
    with pytest.raises(ValueError, match=r"n, m"):
        wanda_mask(torch.ones(2, 4), good, (5, 4))
    with pytest.raises(ValueError, match=r"m = 3: expected a number that divides"):
        wanda_mask(torch.ones(2, 4), good, (1, 3))
    with pytest.raises(ValueError, match=r"scores = 1 NaN"):
        row_masks(torch.tensor([[float("nan"), 1.0]]), 0.5)
    with pytest.raises(ValueError, match=r"scores = \(2,\): expected a matrix"):
        row_masks(torch.ones(2), 0.5)
