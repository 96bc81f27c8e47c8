"""The solver of SparseGPT and GPTQ: its factor, its identities, and the closed form it repeats column after column."""

import pytest
import torch

from course_lib.obs import checked_layer, damped, inverse_factor, output_error, sweep


def layer(r: int = 5, d: int = 12, tokens: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W, X with columns that depend on each other, and H = XᵀX/n; float64."""
    g = torch.Generator().manual_seed(seed)
    w, x, mix = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((r, d), (tokens, d), (d, d)))
    x = x @ (torch.eye(d, dtype=torch.float64) + 0.5 * mix)
    return w, x, x.T @ x / tokens


def rounded(j: int, w: torch.Tensor) -> torch.Tensor:
    return (w * 2).round() / 2


def test_the_factor_times_its_transpose_is_the_inverse():
    """Both sides err by about D·ε·κ(H) relative to the inverse's largest entry."""
    _, _, h = layer()
    factor = inverse_factor(h)
    inverse = torch.linalg.inv(h)
    bound = 12 * 2**-53 * torch.linalg.cond(h) * inverse.abs().max() * 8
    assert torch.equal(factor, factor.tril()) and (factor.diagonal() > 0).all()
    assert ((factor @ factor.T - inverse).abs() <= bound).all()
    assert ((factor - torch.linalg.cholesky(inverse)).abs() <= bound * torch.linalg.cond(h)).all()


def test_the_entries_of_the_diagonal_are_inverses_of_the_columns_still_to_come():
    """``L[j,j]² = [(H_{j:,j:})⁻¹]_00``: what GPTQ and SparseGPT need from the inverse at every column."""
    _, _, h = layer()
    due = torch.stack([torch.linalg.inv(h[j:, j:])[0, 0] for j in range(len(h))])
    bound = 100 * 12 * 2**-53 * float(torch.linalg.cond(h))
    torch.testing.assert_close(inverse_factor(h).diagonal().square(), due, rtol=bound, atol=0)


def test_what_is_left_is_the_factor_times_the_errors_and_their_squares_are_the_output_error():
    """``(W − Q)ᵀ = L·E`` and ``tr(ΔHΔᵀ) = ‖E‖²``; float64, sums of D terms, κ(H) once."""
    w, x, h = layer()
    factor = inverse_factor(h)
    q, errors = sweep(w, factor, rounded)
    bound = 100 * 12 * 2**-53 * float(torch.linalg.cond(h))
    torch.testing.assert_close((w - q).T, factor @ errors, rtol=0, atol=bound * float(w.abs().max()))
    assert output_error(w, q, h) == pytest.approx(float(errors.square().sum()), rel=bound)
    assert output_error(w, q, h) == pytest.approx(float((x @ (q - w).T).square().sum() / len(x)), rel=bound)
    assert torch.equal(q, rounded(0, q)), "every column is what was chosen for it"


@pytest.mark.parametrize("block", [1, 2, 5, 12, 100])
def test_blocks_change_the_order_of_sums_only(block):
    """Which columns are zeroed does not depend on the values here, so nothing can jump; float64."""
    w, _, h = layer()
    factor = inverse_factor(h)

    def every_third(j, column):
        return torch.zeros_like(column) if j % 3 == 0 else column

    one, _ = sweep(w, factor, every_third, block=1)
    other, _ = sweep(w, factor, every_third, block=block)
    torch.testing.assert_close(other, one, rtol=0, atol=1e3 * 2**-53 * float(one.abs().max()))


def test_columns_that_are_left_alone_stay_exactly():
    w, _, h = layer()
    q, errors = sweep(w, inverse_factor(h), lambda j, column: column)
    assert torch.equal(q, w) and not errors.any()


def test_removing_the_first_column_is_the_closed_form_of_optimal_brain_surgery():
    """``δ = −w_0/[H⁻¹]_00 · H⁻¹[:, 0]`` (Hassibi & Stork 1992), and it costs ``w_0²/[H⁻¹]_00``."""
    w, _, h = layer()
    inverse = torch.linalg.inv(h)
    q, errors = sweep(w, inverse_factor(h), lambda j, column: torch.zeros_like(column) if j == 0 else column)
    due = w - w[:, :1] / inverse[0, 0] * inverse[0]
    bound = 100 * 12 * 2**-53 * float(torch.linalg.cond(h)) * float(w.abs().max())
    torch.testing.assert_close(q, due, rtol=0, atol=bound)
    torch.testing.assert_close(errors[0].square(), w[:, 0] ** 2 / inverse[0, 0], rtol=bound, atol=0)


def test_the_start_of_a_block_sees_the_values_its_columns_have_by_then():
    w, _, h = layer()
    factor = inverse_factor(h)
    seen = {}
    sweep(w, factor, rounded, lambda first, columns: seen.update({first: columns.clone()}), block=5)
    assert list(seen) == [0, 5, 10] and [len(c) for c in seen.values()] == [5, 5, 2]
    assert torch.equal(seen[0], w[:, :5].T)
    _, before = sweep(w[:, :5], factor[:5, :5], rounded)  # the factor's corner: columns to the right change nothing on the left
    due = w[:, 5:10].T - factor[5:10, :5] @ before
    torch.testing.assert_close(seen[5], due, rtol=0, atol=1e3 * 2**-53 * float(due.abs().max()))


def test_a_dead_input_gets_the_damping_for_its_diagonal_and_moves_no_other_column():
    w, x, _ = layer()
    x[:, 4] = 0
    h = x.T @ x / len(x)
    wide = damped(h, 0.01)
    assert wide[4, 4] == 0.01 * h.diagonal().mean() and wide[4].count_nonzero() == 1
    q, _ = sweep(w, inverse_factor(wide), lambda j, column: torch.zeros_like(column) if j == 4 else column)
    others = [j for j in range(12) if j != 4]
    assert torch.equal(q[:, others], w[:, others]) and not q[:, 4].any()


def test_a_singular_hessian_is_refused_without_damping_and_solved_with_it():
    _, x, _ = layer(tokens=8)  # fewer tokens than columns
    h = x.T @ x / 8
    h[:, 0] = h[0] = 0
    with pytest.raises(ValueError, match=r"hessian = 'singular.*': expected a positive definite matrix.*higher damping"):
        inverse_factor(damped(h, 0.0))
    assert torch.isfinite(inverse_factor(damped(h, 0.01))).all()
    with pytest.raises(ValueError, match=r"singular"):
        inverse_factor(damped(torch.zeros(3, 3), 0.01))  # nothing at all came in: damping is relative


def test_damping_leaves_the_hessian_it_is_given():
    _, _, h = layer()
    before = h.clone()
    assert torch.equal(damped(h, 0.0), before) and not torch.equal(damped(h, 0.5), before) and torch.equal(h, before)
    for damping in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"damping = .*expected a fraction"):
            damped(h, damping)


@pytest.mark.parametrize(("weight", "hessian", "message"), [
    (torch.ones(3), torch.eye(3), r"weight = \(3,\): expected a matrix"),
    (torch.ones(0, 3), torch.eye(3), r"weight = \(0, 3\): expected a matrix"),
    (torch.ones(2, 3, dtype=torch.int64), torch.eye(3), "weight.dtype = torch.int64"),
    (torch.full((2, 3), float("nan")), torch.eye(3), "weight = 'NaN or infinity'"),
    (torch.ones(2, 3), torch.eye(2), r"hessian = \(2, 2\): expected \(3, 3\), the columns of weight"),
    (torch.ones(2, 3), torch.eye(3, dtype=torch.int64), "hessian.dtype = torch.int64"),
    (torch.ones(2, 3), torch.full((3, 3), float("inf")), "hessian = 'NaN or infinity'"),
    (torch.ones(2, 3), torch.ones(3, 3).triu(), "hessian = 'asymmetric by 1': expected a symmetric matrix"),
])  # fmt: skip
def test_what_is_no_layer_is_refused(weight, hessian, message):
    with pytest.raises(ValueError, match=message):
        checked_layer(weight, hessian)
