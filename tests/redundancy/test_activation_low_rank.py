"""Activation-aware low rank: the output error on the inputs is the dropped energy, and less than that of the plain SVD."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redundant_models import EPS64, real_batches, real_encoder

from course_lib.calibration import Hessian
from course_lib.layerwise import collect
from course_lib.obs import output_error
from course_lib.redundancy.activation_low_rank import DAMPING, activation_factors, whitened_singular_values, whitening
from course_lib.redundancy.low_rank import dropped_energy, svd_factors


def layer(seed: int, rows: int = 6, columns: int = 8, tokens: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """W and X, in which some directions are far larger than others."""
    g = torch.Generator().manual_seed(seed)
    w, x = (torch.randn(n, columns, dtype=torch.float64, generator=g) for n in (rows, tokens))
    return w, x * torch.logspace(-1, 1, columns, dtype=torch.float64)


def moment(x: torch.Tensor) -> torch.Tensor:
    statistic = Hessian(x.shape[1])
    for part in x.split(7):  # streamed
        statistic.add(part)
    return statistic.matrix()


@given(st.integers(0, 99), st.integers(1, 6))
@settings(max_examples=30)
def test_the_output_error_on_the_inputs_is_the_sum_of_the_dropped_squares(seed, rank):
    w, x = layer(seed)
    h = moment(x)
    left, right = activation_factors(w, h, rank, damping=0)
    error = (x @ (w - left @ right).T).square().sum() / len(x)
    due = dropped_energy(whitened_singular_values(w, h, damping=0))[rank]
    # Errors of H, S and the SVD are small multiples of (tokens + D)·ε of the output's size; going back through S⁻¹ and forward through X
    # multiplies by the condition of S, here below 1e3.
    size = (x @ w.T).norm() / len(x) ** 0.5
    assert (error.sqrt() - due.sqrt()).abs() <= 1e3 * 100 * EPS64 * size


@given(st.integers(0, 99), st.integers(1, 5))
@settings(max_examples=20)
def test_it_changes_the_output_no_more_than_the_plain_svd_or_any_other_factors(seed, rank):
    w, x = layer(seed)
    h = moment(x)
    left, right = activation_factors(w, h, rank, damping=0)
    ours = output_error(w, left @ right, h)
    assert ours <= output_error(w, torch.matmul(*svd_factors(w, rank)), h) * (1 + 1e-9)
    other = torch.randn(6, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    outputs = other @ torch.linalg.lstsq(other, w @ x.T).solution  # the best outputs within a column space drawn at random
    assert ours <= float((w @ x.T - outputs).square().sum()) / len(x) * (1 + 1e-9)


def test_white_inputs_leave_the_plain_svd():
    w, _ = layer(0)
    ours, plain = activation_factors(w, 3 * torch.eye(8), 2, damping=0), svd_factors(w, 2)
    # σ of W·√3·I are √3 of W's; the factors come apart differently, their product does not: sums of R + D terms.
    assert (torch.matmul(*ours) - torch.matmul(*plain)).abs().max() <= 16 * 14 * EPS64 * w.norm()


def test_dead_and_repeated_inputs_need_damping_and_the_bound_says_what_it_costs():
    w, x = layer(1)
    x[:, 3], x[:, 4] = 0, x[:, 5]
    h = moment(x)
    with pytest.raises(ValueError, match=r"moment = 'singular, rank < 8': expected a positive definite second moment"):
        whitening(h, damping=0)
    left, right = activation_factors(w, h, 3, damping=1e-4)
    change, lam = w - left @ right, 1e-4 * h.diagonal().mean()
    both = output_error(w, left @ right, h) + lam * change.square().sum()
    due = dropped_energy(whitened_singular_values(w, h, damping=1e-4))[3]
    assert abs(float(both - due)) <= 1e-9 * float(due)  # √ of the condition of H + λI is 1e2 here, times 1e4·ε


def test_on_the_real_encoder_it_halves_the_output_error_at_the_least():
    """Measured on sentences, not a theorem: inputs of a real layer are far from white."""
    encoder = real_encoder()
    name = "encoder.layer.3.intermediate.dense"
    linear = encoder.get_submodule(name)
    h = collect(encoder, {name: linear}, real_batches(), Hessian)[name].matrix()
    w = linear.weight.detach()
    ours, plain = activation_factors(w, h, 96), svd_factors(w, 96)
    errors = [output_error(w.double(), left.double() @ right.double(), h) for left, right in (ours, plain)]
    assert errors[0] <= 0.5 * errors[1]
    change = w.double() - ours[0].double() @ ours[1].double()
    promised = errors[0] + DAMPING * h.diagonal().mean() * change.square().sum()
    # Factors rounded to float32 move the error by 2⁻²³ of |left|·|right|, which is some 10² times what is left of the weight: 1e-5 and less.
    assert float(promised) == pytest.approx(float(dropped_energy(whitened_singular_values(w, h))[96]), rel=1e-5)


def test_what_cannot_be_is_refused():
    w, x = layer(0)
    h = moment(x)
    with pytest.raises(ValueError, match=r"rank = 7: expected a whole number between 1 and 6"):
        activation_factors(w, h, 7)
    with pytest.raises(ValueError, match=r"hessian = \(7, 7\): expected \(8, 8\)"):
        activation_factors(w, h[:7, :7], 2)
    with pytest.raises(ValueError, match=r"hessian = .*NaN or infinity"):
        whitened_singular_values(w, h * float("nan"))
    with pytest.raises(ValueError, match=r"damping = -1"):
        whitening(h, -1)
