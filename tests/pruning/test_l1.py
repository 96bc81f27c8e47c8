"""The soft threshold is a minimiser, ISTA ends at a lasso's optimality conditions, thresholds hit an exact rank."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.pruning.l1 import (
    ista,
    ista_step,
    lambda_max,
    lasso_gradient,
    lasso_loss,
    lasso_path,
    lasso_violation,
    norm_ratio_threshold,
    soft_threshold,
    threshold_for_sparsity,
)
from course_lib.pruning.masks import sparsity

FLOATS = st.floats(-100, 100, width=32)


def problem(n: int = 60, d: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A regression in fp64 with four true weights, correlated inputs and noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x = x + 0.5 * x.roll(1, dims=1)
    true = torch.zeros(d, dtype=torch.float64)
    true[:4] = torch.tensor([2.0, -1.5, 1.0, 0.3], dtype=torch.float64)
    return x, x @ true + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)


# The soft threshold


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1), st.floats(0, 50, width=32))
def test_the_soft_threshold_is_the_formula(numbers, t):
    """Exactly: w − t and sign(w)·(|w| − t) are the same subtraction, with the sign moved."""
    w = torch.tensor(numbers)
    assert torch.equal(soft_threshold(w, t), w.sign() * (w.abs() - t).clamp(min=0))


@settings(deadline=None)
@given(FLOATS, st.floats(0, 50), FLOATS)
def test_no_other_point_has_a_lower_proximal_objective(w, t, other):
    def objective(u):
        return 0.5 * (u - w) ** 2 + t * abs(u)

    best = float(soft_threshold(torch.tensor(w, dtype=torch.float64), t))
    # fp64: both sides are sums of three terms of at most 2·10⁴, each rounded to 1.1e-16 relative
    assert objective(best) <= objective(other) + 1e-11


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=2, max_size=2), st.floats(0, 50, width=32))
def test_two_points_never_move_apart(pair, t):
    """Proximal steps are non-expansive; one rounding of either result, half a unit of 100 in fp32, is allowed for."""
    a, b = torch.tensor(pair)
    moved = (soft_threshold(a, t) - soft_threshold(b, t)).abs()
    assert moved <= (a - b).abs() + 2 * 100 * torch.finfo(torch.float32).eps


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1))
def test_a_threshold_of_zero_changes_nothing(numbers):
    w = torch.tensor(numbers)
    torch.testing.assert_close(soft_threshold(w, 0.0), w, rtol=0, atol=0, equal_nan=True)


def test_one_threshold_per_row_and_any_layout():
    w = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    assert torch.equal(soft_threshold(w, torch.tensor([[1.0], [2.0]])), torch.tensor([[0.0, -1.0], [1.0, -2.0]]))
    assert torch.equal(soft_threshold(w.t(), 1.5), soft_threshold(w, 1.5).t())
    assert soft_threshold(w.bfloat16(), 1.5).dtype == torch.bfloat16
    assert torch.equal(w, torch.tensor([[1.0, -2.0], [3.0, -4.0]])), "the input stays"


def test_nan_stays_infinity_stays_and_nothing_is_fine():
    moved = soft_threshold(torch.tensor([math.nan, math.inf, -math.inf]), 1.0)
    assert moved[0].isnan() and moved[1:].tolist() == [math.inf, -math.inf]
    assert soft_threshold(torch.ones(0), 1.0).shape == (0,)


@pytest.mark.parametrize("threshold", [-0.1, math.nan, math.inf, torch.tensor([1.0, -1.0])])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold = .*: expected finite and at least 0"):
        soft_threshold(torch.ones(2), threshold)


def test_integer_weights_are_refused():
    with pytest.raises(ValueError, match=r"w\.dtype = torch\.int64: expected floating-point weights"):
        soft_threshold(torch.ones(2, dtype=torch.int64), 1)


# ISTA and the lasso


def test_a_step_is_a_gradient_step_and_then_a_threshold_of_step_times_lambda():
    w, gradient = torch.tensor([1.0, -1.0, 0.25]), torch.tensor([2.0, 0.0, -1.0])
    assert torch.equal(ista_step(w, gradient, step=0.5, lam=1.0), torch.tensor([0.0, -0.5, 0.25]))
    assert torch.equal(ista_step(w, gradient, step=0.5, lam=0.0), w - 0.5 * gradient)


def test_the_gradient_is_that_of_the_loss_without_the_penalty():
    x, y = problem()
    w = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    lasso_loss(x, y, w, 0.0).backward()
    torch.testing.assert_close(lasso_gradient(x, y, w.detach()), w.grad, rtol=1e-12, atol=1e-14)  # fp64, 60 terms


def test_the_objective_never_rises_at_a_step_of_one_over_the_curvature():
    x, y = problem()
    step = len(x) / float(torch.linalg.matrix_norm(x, 2)) ** 2
    w, losses = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), []
    for _ in range(200):
        losses.append(float(lasso_loss(x, y, w, 0.1)))
        w = ista_step(w, lasso_gradient(x, y, w), step, 0.1)
    assert all(b <= a * (1 + 1e-14) for a, b in itertools.pairwise(losses))


@pytest.mark.parametrize("lam", [0.0, 0.01, 0.1, 0.5])
def test_the_solution_meets_the_optimality_conditions_of_the_lasso(lam):
    x, y = problem()
    w = ista(x, y, lam, tolerance=1e-10)
    gradient, slack = lasso_gradient(x, y, w), 1e-10 * lambda_max(x, y)
    zero = w == 0
    assert (gradient[zero].abs() <= lam + slack).all()
    torch.testing.assert_close(gradient[~zero], -lam * w[~zero].sign(), rtol=0, atol=slack)
    assert lasso_violation(gradient, w, lam) <= slack
    assert bool(zero.any()) == (lam >= 0.01), "the penalty, and only the penalty, makes exact zeros"


def test_the_violation_is_the_amount_by_which_a_condition_is_missed():
    w = torch.tensor([0.0, 0.0, 2.0, -3.0])
    assert lasso_violation(torch.tensor([0.5, -0.5, -0.5, 0.5]), w, 0.5) == 0
    assert lasso_violation(torch.tensor([0.75, 0.0, -0.5, 0.5]), w, 0.5) == 0.25
    assert lasso_violation(torch.tensor([0.0, 0.0, 0.5, 0.5]), w, 0.5) == 1.0


def test_from_lambda_max_on_all_weights_are_zero_and_just_below_it_one_is_not():
    x, y = problem()
    top = lambda_max(x, y)
    assert not ista(x, y, top * (1 + 1e-12)).any()
    assert int((ista(x, y, 0.99 * top, tolerance=1e-9) != 0).sum()) == 1


def test_warm_starts_end_where_cold_ones_do():
    """Both miss the conditions by at most τ = 1e-10·λ_max; the loss is strongly convex with the smallest eigenvalue m of XᵀX/n,
    so each is within √d·τ/m of the solution, and they are within twice that of one another."""
    x, y = problem()
    lams = [lambda_max(x, y) * 0.5**i for i in range(8)]
    path = lasso_path(x, y, lams, tolerance=1e-10)
    assert path.shape == (8, 12) and not path[0].any()
    smallest = float(torch.linalg.eigvalsh(x.T @ x / len(x))[0])
    near = 2 * math.sqrt(12) * 1e-10 * lambda_max(x, y) / smallest
    for lam, w in zip(lams, path, strict=True):
        torch.testing.assert_close(w, ista(x, y, lam, tolerance=1e-10), rtol=0, atol=near)
    assert (path != 0).sum(1).tolist() == sorted((path != 0).sum(1).tolist())


@pytest.mark.oracles
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scikit_learns_lasso_finds_the_same_weights(seed):
    """Its coordinate descent stops at a duality gap of tol·‖y‖²/n; strong convexity turns both gaps into a distance."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = problem(seed=seed)
    smallest = float(torch.linalg.eigvalsh(x.T @ x / len(x))[0])
    tol = 1e-14
    theirs_off = math.sqrt(2 * tol * float(y @ y) / len(y) / smallest)
    ours_off = math.sqrt(12) * 1e-10 * lambda_max(x, y) / smallest
    for lam in (0.02, 0.1, 0.4):
        oracle = linear_model.Lasso(alpha=lam, fit_intercept=False, tol=tol, max_iter=100_000).fit(x.numpy(), y.numpy())
        ours = ista(x, y, lam, tolerance=1e-10)
        torch.testing.assert_close(ours, torch.tensor(oracle.coef_), rtol=0, atol=theirs_off + ours_off)
        assert torch.equal(ours == 0, torch.tensor(oracle.coef_ == 0))


@pytest.mark.oracles
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 10.0])
def test_torchaos_proximal_map_is_the_soft_threshold(t):
    """It multiplies by max(1 − t/|w|, 0): three roundings of numbers of at most |w|, so 3·eps/2·|w| off, and eps/2·|w| is ours."""
    lasso = pytest.importorskip("torchao.prototype.pat.optim.lasso")
    w = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = w.clone()
    zeros, _ = lasso.ProxLasso(reg_lambda=t / 2).apply_(theirs, gamma=2.0)  # its threshold is λ·γ
    ours = soft_threshold(w, t)
    assert int((ours == 0).sum()) == int(zeros)
    assert ((ours - theirs).abs() <= 2 * torch.finfo(w.dtype).eps * w.abs()).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.ones(3)}, r"x = \(3,\): expected a matrix"),
        ({"y": torch.ones(5)}, r"y = \(5,\): expected the shape \(60,\)"),
        ({"x": torch.full((60, 2), math.nan)}, "x, y = 'NaN or infinity': expected finite"),
        ({"x": torch.zeros(60, 2)}, "x = 'all zero': expected a column that is not zero"),
        ({"lam": -1.0}, r"lam = -1.0: expected a finite number of at least 0"),
    ],
)
def test_a_lasso_that_is_none_is_refused(change, message):
    x, y = problem()
    with pytest.raises(ValueError, match=message):
        ista(**({"x": x, "y": y, "lam": 0.1} | change))


def test_too_few_steps_are_an_error_and_not_a_bad_answer():
    with pytest.raises(ValueError, match=r"max_steps = 3: expected more; the conditions are still missed by"):
        ista(*problem(), 0.1, max_steps=3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"gradient": torch.ones(3)}, r"gradient = \(3,\): expected the shape of w, \(2,\)"),
        ({"step": 0.0}, "step = 0.0: expected a finite number above 0"),
        ({"step": math.nan}, "step = nan"),
        ({"lam": -0.5}, "lam = -0.5: expected a finite number of at least 0"),
    ],
)
def test_a_step_with_bad_arguments_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ista_step(**({"w": torch.ones(2), "gradient": torch.ones(2), "step": 0.1, "lam": 0.1} | arguments))


def test_a_path_without_lambdas_is_refused():
    with pytest.raises(ValueError, match=r"lams = \[\]: expected at least one"):
        lasso_path(*problem(), [])


# Thresholds


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=30), st.floats(0, 1))
def test_a_threshold_reaches_the_asked_sparsity_and_is_the_smallest_that_does(numbers, asked):
    w = torch.tensor(numbers)
    t, k = threshold_for_sparsity(w, asked), round(asked * len(w))
    assert int((w.abs() <= t).sum()) >= k
    assert int((w.abs() < t).sum()) < max(k, 1)
    assert sparsity(soft_threshold(w, t)) >= k / len(w)


def test_without_ties_the_sparsity_is_exact_also_where_torch_quantile_refuses():
    w = torch.arange(17_000_000, dtype=torch.float64).view(1000, 17_000).t() - 100  # 100 of them tie with their negatives
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(w, 0.9)
    assert int((w.abs() <= threshold_for_sparsity(w, 0.9)).sum()) == 15_300_000


def test_sparsity_0_is_the_threshold_that_changes_nothing_and_1_leaves_nothing():
    w = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert threshold_for_sparsity(w, 0) == 0
    assert not soft_threshold(w, threshold_for_sparsity(w, 1)).any()


def test_norm_times_ratio_prunes_nearly_everything():
    """For n normal weights of size s the norm is s·√n (±1 % at this n), so half of it is 384 s here: no weight is that large."""
    w = 0.04 * torch.randn(768, 768, generator=torch.Generator().manual_seed(0))
    t = norm_ratio_threshold(w, 0.5)
    assert abs(t / (0.04 * 384) - 1) < 0.01
    assert sparsity(w * (w.abs() > t)) == 1.0
    assert sparsity(w * (w.abs() > threshold_for_sparsity(w, 0.5))) == 0.5


@pytest.mark.parametrize("asked", [-0.1, 1.1, math.nan])
def test_a_sparsity_outside_0_to_1_is_refused(asked):
    with pytest.raises(ValueError, match=r"sparsity = .*: expected a fraction between 0 and 1"):
        threshold_for_sparsity(torch.ones(3), asked)


def test_weights_that_cannot_be_ranked_are_refused():
    with pytest.raises(ValueError, match="w = 1 NaN"):
        threshold_for_sparsity(torch.tensor([1.0, math.nan]), 0.5)
