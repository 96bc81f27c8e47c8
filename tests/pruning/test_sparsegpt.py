"""SparseGPT against the closed form, the least squares per row, and its definition written as loops with an inverse a column."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.obs import damped, output_error
from course_lib.pruning.sparsegpt import choose_mask, reconstruct, sparsegpt


def layer(r: int = 6, d: int = 16, tokens: int = 100, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W, X with columns that depend on each other, and H = XᵀX/n; float64."""
    g = torch.Generator().manual_seed(seed)
    w, x, mix = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((r, d), (tokens, d), (d, d)))
    x = x @ (torch.eye(d, dtype=torch.float64) + 0.3 * mix)
    return w, x, x.T @ x / tokens


def rounding(h: torch.Tensor, damping: float = 0.0) -> float:
    """What float64 may lose here: a hundred times D·ε·κ."""
    return 100 * len(h) * 2**-53 * float(torch.linalg.cond(damped(h, damping)))


def least_squares(w: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The best weights for a mask: a regression on the inputs that stay, row by row."""
    best = torch.zeros_like(w)
    for i, kept in enumerate(mask):
        if kept.any():
            best[i, kept] = torch.linalg.lstsq(x[:, kept], (x @ w[i]).unsqueeze(1), driver="gelsd").solution.squeeze(1)
    return best


def by_definition(w, h, sparsity, damping=0.01, block=128):
    """The paper's algorithm without Cholesky or lazy updates: the inverse of what is left of H, anew at every column."""
    w, h = w.clone(), damped(h, damping)
    mask = torch.ones_like(w, dtype=torch.bool)
    step = sparsity[1] if isinstance(sparsity, tuple) else block
    for j in range(w.shape[1]):
        if j % step == 0:
            some = range(j, min(j + step, w.shape[1]))
            cost = torch.stack([torch.linalg.inv(h[k:, k:])[0, 0] for k in some])
            mask[:, some] = choose_mask(w[:, some] ** 2 / cost, sparsity)
        inverse = torch.linalg.inv(h[j:, j:])
        gone = torch.where(mask[:, j], 0.0, w[:, j])
        w[:, j:] -= gone.unsqueeze(1) / inverse[0, 0] * inverse[0]
        w[:, j] = torch.where(mask[:, j], w[:, j], 0.0)
    return w, mask


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 1.0, (2, 4), (1, 4), (4, 8), (0, 4), (4, 4)])
@pytest.mark.parametrize("block", [5, 128])
def test_it_is_the_algorithm_written_as_loops(sparsity, block):
    w, _, h = layer()
    new, mask = sparsegpt(w, h, sparsity, block=block)
    due, due_mask = by_definition(w, h, sparsity, block=block)
    assert torch.equal(mask, due_mask)
    torch.testing.assert_close(new, due, rtol=0, atol=rounding(h, 0.01) * float(w.abs().max()))
    assert not new[~mask].any()


def test_one_pruned_column_is_the_closed_form_over_the_columns_from_it_on():
    """``δ = −w_j/[P]_00 · P[:, 0]`` with ``P = (H_{j:,j:})⁻¹`` (Hassibi & Stork 1992)."""
    w, _, h = layer()
    for j in (0, 7, 15):
        mask = torch.ones_like(w, dtype=torch.bool)
        mask[:, j] = False
        inverse = torch.linalg.inv(h[j:, j:])
        due = w.clone()
        due[:, j:] -= w[:, j : j + 1] / inverse[0, 0] * inverse[0]
        due[:, j] = 0
        torch.testing.assert_close(reconstruct(w, h, mask, damping=0.0), due, rtol=0, atol=rounding(h) * float(w.abs().max()))


@given(st.integers(0, 500), st.sampled_from([0.25, 0.5, 0.8, (2, 4)]))
@settings(max_examples=25, deadline=None)
def test_the_error_is_at_least_that_of_least_squares_with_the_same_mask(seed, sparsity):
    w, x, h = layer(seed=seed)
    new, mask = sparsegpt(w, h, sparsity, damping=0.0)
    best = output_error(w, least_squares(w, x, mask), h)
    assert output_error(w, new, h) >= best * (1 - rounding(h))


@given(st.integers(0, 500), st.integers(1, 15))
@settings(max_examples=25, deadline=None)
def test_it_is_the_least_squares_when_all_pruned_columns_come_first(seed, count):
    """Then every weight that stays may still be corrected, so nothing is lost by going from left to right."""
    w, x, h = layer(seed=seed)
    mask = torch.ones_like(w, dtype=torch.bool)
    mask[:, :count] = False
    best = least_squares(w, x, mask)
    torch.testing.assert_close(
        reconstruct(w, h, mask, damping=0.0), best, rtol=0, atol=rounding(h) * float(best.abs().max() + 1)
    )


def test_an_equal_mask_reproduces_the_weights():
    w, _, h = layer()
    for sparsity, block in ((0.5, 128), (0.5, 4), ((2, 4), 128)):
        new, mask = sparsegpt(w, h, sparsity, block=block)
        again = reconstruct(w, h, mask)
        torch.testing.assert_close(again, new, rtol=0, atol=rounding(h, 0.01) * float(w.abs().max()))  # sums in another order


def test_the_scale_of_the_inputs_does_not_matter():
    """Damping is relative. A factor of 4 is exact: the factor of the inverse halves."""
    w, _, h = layer()
    one, other = sparsegpt(w, h), sparsegpt(w, 4 * h)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_inputs_that_do_not_depend_on_each_other_make_it_wanda_on_a_block():
    """A diagonal H: nothing to correct, and ``w²/[H⁻¹]_jj = w²·‖X_j‖²/n``."""
    w, _, _ = layer()
    norms = torch.rand(16, dtype=torch.float64) + 0.1
    new, mask = sparsegpt(w, torch.diag(norms**2), 0.5, damping=0.0)
    assert torch.equal(mask, choose_mask(w.abs() * norms, 0.5))
    assert torch.equal(new, torch.where(mask, w, 0.0))


@pytest.mark.parametrize("block", [1, 3, 7, 16, 99])
def test_every_block_has_its_share_of_zeros(block):
    w, _, h = layer(9, 20)
    _, mask = sparsegpt(w, h, 0.4, block=block)
    for part in mask.split(block, dim=1):
        assert int((~part).sum()) == round(0.4 * part.numel())


def test_dead_inputs_are_the_first_to_go_and_move_nothing():
    w, x, _ = layer()
    x[:, [2, 9]] = 0
    h = x.T @ x / len(x)
    new, mask = sparsegpt(w, h, 2 / 16)
    assert not mask[:, [2, 9]].any() and mask.sum() == 6 * 14
    assert torch.equal(new[mask], w[mask])


def test_float32_and_half_weights_keep_their_dtype():
    w, _, h = layer()
    for dtype, digits in ((torch.float32, 2**-23), (torch.bfloat16, 2**-8)):
        new, mask = sparsegpt(w.to(dtype), h.float(), 0.5)
        assert new.dtype == dtype and not new[~mask].any()
        close = reconstruct(w, h, mask)
        # The weight's own rounding and those of D updates, each amplified by at most the condition of the factor.
        bound = 16 * digits * float(torch.linalg.cond(damped(h, 0.01))) ** 0.5 * float(w.abs().max())
        torch.testing.assert_close(new.double(), close, rtol=0, atol=bound)


def test_the_arguments_are_left_as_they_are():
    w, _, h = layer()
    before = w.clone(), h.clone()
    sparsegpt(w, h)
    assert torch.equal(w, before[0]) and torch.equal(h, before[1])
    assert torch.equal(sparsegpt(w.T.contiguous().T, h)[0], sparsegpt(w, h)[0]), "a transposed view is read rightly"


def test_bad_input_is_refused():
    w, _, h = layer()
    for sparsity in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"sparsity = .*: expected a fraction between 0 and 1"):
            sparsegpt(w, h, sparsity)
    with pytest.raises(ValueError, match=r"n, m"):
        sparsegpt(w, h, (5, 4))
    with pytest.raises(ValueError, match=r"m = 3: expected a number that divides the last dimension, 16"):
        sparsegpt(w, h, (1, 3))
    with pytest.raises(ValueError, match=r"block = 0"):
        sparsegpt(w, h, block=0)
    with pytest.raises(ValueError, match=r"hessian = \(15, 15\): expected \(16, 16\)"):
        sparsegpt(w, h[1:, 1:])
    with pytest.raises(ValueError, match=r"hessian = 'singular"):
        sparsegpt(w, torch.zeros_like(h))
    with pytest.raises(ValueError, match=r"weight = 'NaN or infinity'"):
        sparsegpt(w * float("nan"), h)
    for mask in (torch.ones_like(w), torch.ones(6, 15, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"mask = .*expected torch.bool of the shape"):
            reconstruct(w, h, mask)
