"""Fake quantization for training: values are those of the codes, gradients those of LSQ."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.quantization.affine import choose_affine, fake_quantize
from course_lib.quantization.straight_through import least_squares_scale, step_gradient_factor, straight_through

EPS = torch.finfo(torch.float32).eps
ZERO = torch.tensor([0], dtype=torch.int32)
seeds = st.integers(0, 2**31)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 8), st.booleans(), seeds)
@settings(max_examples=40, deadline=None)
def test_the_value_is_exactly_that_of_fake_quantization(bits, symmetric, seed):
    x = drawn(5, 7, seed=seed)
    scale, zero = choose_affine(x / 2, bits, symmetric, "channel")  # half the range: some values are clipped
    y = straight_through(x.clone().requires_grad_(), scale, zero, bits, symmetric)
    assert torch.equal(y, fake_quantize(x, scale, zero, bits, symmetric))


@given(st.integers(2, 8), st.booleans(), seeds)
@settings(max_examples=40, deadline=None)
def test_the_gradients_are_those_of_the_definition(bits, symmetric, seed):
    """Written out with autograd: v = x/s, clipped; round(v) = v + constant. float64 sums of float32 products: 3 ε a term."""
    x, scale = drawn(5, 7, seed=seed).requires_grad_(), (0.1 + torch.rand(5, 1) / 4).requires_grad_()
    zero = torch.zeros(5, 1, dtype=torch.int32) if symmetric else torch.full((5, 1), 2 ** (bits - 1), dtype=torch.int32)
    low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    upstream = drawn(5, 7, seed=seed + 1)
    straight_through(x, scale, zero, bits, symmetric).backward(upstream)

    x2, scale2 = x.detach().double().requires_grad_(), scale.detach().double().requires_grad_()
    v = x2 / scale2
    codes = v + ((x.detach() / scale.detach()).round().double() - v).detach() + zero
    (((codes.clamp(low, high)) - zero) * scale2).backward(upstream.double())
    assert torch.equal(x.grad.double(), x2.grad)
    terms = (upstream.double().abs() * 2**bits).sum(1, keepdim=True)
    assert ((scale.grad.double() - scale2.grad).abs() <= 4 * EPS * terms).all()


def test_the_scales_gradient_is_the_change_of_the_quantized_values_beyond_the_rounding():
    """The mean over a cell of round(x/s) − x/s is 0: with many values the gradient is that of clipping alone."""
    scale = torch.tensor([0.1], requires_grad=True)
    x = torch.linspace(-0.7499, 0.7499, 150_001)  # whole cells: −7.5 … 7.5 steps, ends inside
    straight_through(x, scale, ZERO, bits=4).mean().backward()
    assert abs(scale.grad.item()) < 1e-3  # half a cell's share at each end, of opposite signs
    scale.grad = None
    straight_through(torch.full((10,), 9.0), scale, ZERO, bits=4).sum().backward()
    assert scale.grad.item() == 70.0


def test_the_gradient_factor_multiplies_the_scales_gradient_alone():
    grads = []
    for factor in (1.0, 0.25):
        x, scale = drawn(9).requires_grad_(), torch.tensor([0.3], requires_grad=True)
        straight_through(x, scale, ZERO, 4, gradient_factor=factor).sum().backward()
        grads.append((x.grad, scale.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1] * 0.25, grads[1][1])


def test_a_number_without_dimensions_is_a_scale_too():
    x, scale = drawn(3, 4).requires_grad_(), torch.tensor(0.3, requires_grad=True)
    straight_through(x, scale, torch.tensor(100, dtype=torch.int32), symmetric=False).sum().backward()
    assert scale.grad.shape == ()


def test_no_gradient_is_computed_where_none_is_asked_for():
    x = drawn(3, 4)
    y = straight_through(x, torch.tensor([0.3], requires_grad=True), ZERO)
    y.sum().backward()
    assert x.grad is None
    assert not straight_through(x, torch.tensor([0.3]), ZERO).requires_grad


@pytest.mark.oracles
@given(st.integers(2, 8), st.booleans(), seeds)
@settings(max_examples=40, deadline=None)
def test_torchs_learnable_fake_quantization_has_the_same_gradients(bits, symmetric, seed):
    """Theirs multiplies by 1/s where ours divides: values whose code could differ (nearer than 4 ulp to a tie) are moved away.
    The scale's gradient is a float32 sum of n terms there: n·ε of the terms' size."""
    scale_value, zero_value = 0.0837, 0 if symmetric else 2 ** (bits - 1)
    low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    x = drawn(60, seed=seed)
    near = ((x / scale_value - (x / scale_value).floor()) - 0.5).abs() < 1e-4
    x = torch.where(near, x + 0.1 * scale_value, x)
    upstream = drawn(60, seed=seed + 1)

    ours, scale = x.clone().requires_grad_(), torch.tensor([scale_value], requires_grad=True)
    y = straight_through(ours, scale, torch.tensor([zero_value], dtype=torch.int32), bits, symmetric, gradient_factor=0.37)
    y.backward(upstream)
    theirs, their_scale = x.clone().requires_grad_(), torch.tensor([scale_value], requires_grad=True)
    z = torch._fake_quantize_learnable_per_tensor_affine(
        theirs, their_scale, torch.tensor([float(zero_value)], requires_grad=True), low, high, 0.37
    )
    z.backward(upstream)
    torch.testing.assert_close(y, z, rtol=2 * EPS, atol=0)
    assert torch.equal(ours.grad, theirs.grad)
    terms = 0.37 * (upstream.abs() * 2**bits).sum()
    assert (scale.grad - their_scale.grad).abs() <= 64 * EPS * terms


def test_the_gradient_factor_is_that_of_the_paper():
    assert step_gradient_factor(100, 8) == 1 / (100 * 127) ** 0.5
    assert step_gradient_factor(9, 2, symmetric=False) == 1 / 27**0.5
    with pytest.raises(ValueError, match=r"count = 0"):
        step_gradient_factor(0, 8)


@given(st.integers(2, 8), seeds)
@settings(max_examples=20, deadline=None)
def test_the_least_squares_scale_is_the_best_of_those_tried_for_each_row(bits, seed):
    x = drawn(4, 50, seed=seed) * torch.tensor([[1.0], [10.0], [0.01], [0.0]])
    best = least_squares_scale(x, bits)
    widest, zero = choose_affine(x, bits, granularity="channel")
    errors = torch.stack([(fake_quantize(x, widest * (i / 40), zero, bits) - x).square().sum(1) for i in range(1, 41)])
    assert torch.equal((fake_quantize(x, best, zero, bits) - x).square().sum(1), errors.amin(0))
    assert best.shape == (4, 1)
    assert (best > 0).all()


def test_bad_input_is_that_of_quantize():
    with pytest.raises(ValueError, match=r"NaN"):
        straight_through(torch.tensor([float("nan")]), torch.tensor([1.0]), ZERO)
    with pytest.raises(ValueError, match=r"bits = 9"):
        straight_through(torch.ones(1), torch.tensor([1.0]), ZERO, 9)
