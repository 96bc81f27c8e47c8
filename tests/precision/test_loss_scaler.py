"""The loss scaler follows ``torch.amp.GradScaler`` step for step, changes nothing when it skips, and does not skip for ever."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.errors import CourseError
from course_lib.precision.loss_scaler import (
    LossScaler,
    ScalerSettings,
    ScalerState,
    clipped_step,
    is_finite,
    next_state,
    unscale,
)

NEVER_STOPS = {"most_skips": 10**6, "smallest": 1e-45}


def one_weight(value: float = 1.0) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.full((3,), value))
    return weight, torch.optim.AdamW([weight], lr=0.1)


@pytest.mark.oracles
@given(
    overflows=st.lists(st.sampled_from([None, math.inf, -math.inf, math.nan]), min_size=1, max_size=40),
    first=st.floats(2**-10, 2.0**127, width=32),
    growth=st.sampled_from([2.0, 1.5, 7.3]),
    backoff=st.sampled_from([0.5, 0.3, 0.9]),
    interval=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_scale_tracker_weights_and_gradients_are_those_of_gradscaler_at_every_step(
    overflows, first, growth, backoff, interval, seed
):
    ours = LossScaler(ScalerSettings(first, growth, backoff, interval, **NEVER_STOPS))
    theirs = torch.amp.GradScaler("cpu", first, growth, backoff, interval)
    (a, optimizer_a), (b, optimizer_b) = one_weight(), one_weight()
    generator = torch.Generator().manual_seed(seed)
    for bad in overflows:
        factor = torch.randn(3, generator=generator) / first
        factor[1] = factor[1] if bad is None else bad
        optimizer_a.zero_grad()
        optimizer_b.zero_grad()
        ours.scaled((factor * a).sum()).backward()
        theirs.scale((factor * b).sum()).backward()
        assert torch.equal(a.grad.nan_to_num(), b.grad.nan_to_num())
        ours.step(optimizer_a)
        theirs.step(optimizer_b)
        theirs.update()
        state = theirs.state_dict()
        assert (ours.state.scale, ours.state.good) == (state["scale"], state["_growth_tracker"])
        assert torch.equal(a, b) and torch.equal(a.grad.nan_to_num(), b.grad.nan_to_num())


@given(st.integers(-10, 60), st.integers(0, 1000))
def test_scaling_by_a_power_of_two_and_unscaling_is_exact_where_nothing_overflows(power, seed):
    """Gradients of 2⁻⁶⁰ to 2³⁰: scaled they lie within 2⁻⁷⁰ and 2⁹⁰, all normal in fp32, so only exponents change."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(50, generator=generator).clamp(min=0.01) * 2.0 ** torch.randint(-50, 28, (50,), generator=generator)
    plain, scaled = (torch.nn.Parameter(torch.ones(50)) for _ in range(2))
    (factor * plain).sum().backward()
    ((factor * scaled).sum() * 2.0**power).backward()
    assert unscale([scaled.grad], 2.0**power)
    assert torch.equal(scaled.grad, plain.grad)


def test_a_gradient_that_becomes_subnormal_in_fp16_loses_bits_and_with_a_scale_it_does_not():
    tiny = torch.tensor([1.2345e-7, 3e-9])
    lost = tiny.half().float()
    scaler = 2.0**16
    kept = (tiny * scaler).half().float()
    assert unscale([kept], scaler)
    assert lost[1] == 0 and abs(lost[0] / tiny[0] - 1) > 2**-11, "beyond fp16's rounding of normal numbers"
    assert bool(((kept / tiny - 1).abs() <= 2**-11).all())


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_skipped_step_changes_no_weight_and_nothing_of_the_optimizer(bad):
    weight, optimizer = one_weight()
    scaler = LossScaler()
    scaler.scaled(weight.sum()).backward()
    assert scaler.step(optimizer), "so that there is a state to be kept"
    weights, state = weight.detach().clone(), copy.deepcopy(optimizer.state_dict())
    weight.grad = torch.tensor([1.0, bad, 1.0])
    assert not scaler.step(optimizer, clip=1.0)
    assert torch.equal(weight, weights)
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    assert all(torch.equal(after["state"][0][key], value) for key, value in state["state"][0].items())
    assert scaler.state == ScalerState(2.0**15, 0, 1)


def test_the_norm_is_clipped_after_unscaling():
    (a, optimizer_a), (b, optimizer_b) = one_weight(), one_weight()
    scaler = LossScaler()
    scaler.scaled((5 * a).sum()).backward()
    (5 * b).sum().backward()
    assert scaler.step(optimizer_a, clip=0.5)
    clipped_step(optimizer_b, clip=0.5)
    assert torch.equal(a.grad, b.grad) and float(a.grad.norm()) == pytest.approx(0.5, rel=1e-5)  # torch divides by norm + 1e-6
    assert torch.equal(a, b)


def test_overflow_at_every_step_stops_after_the_stated_skips():
    scaler = LossScaler(ScalerSettings(most_skips=5))
    weight, optimizer = one_weight()
    for skipped in range(1, 6):
        weight.grad = torch.full((3,), math.nan)
        assert not scaler.step(optimizer) and scaler.state.skips == skipped
    weight.grad = torch.full((3,), math.nan)
    with pytest.raises(CourseError, match=r"infinite or NaN in 6 steps in a row.*within 5 skips"):
        scaler.step(optimizer)
    assert torch.equal(weight, torch.ones(3))


def test_overflow_at_every_step_stops_when_the_scale_underflows_first():
    settings = ScalerSettings(first=4.0, smallest=1.0, most_skips=100)
    state = next_state(next_state(ScalerState(4.0), True, settings), True, settings)
    assert state.scale == 1.0
    with pytest.raises(CourseError, match=r"3 steps in a row, down to a loss scale of 1: .* at a scale of 1 or more"):
        next_state(state, True, settings)


@pytest.mark.parametrize(
    ("values", "finite"), [([], True), ([1e38, -1e38], True), ([1, math.nan, 2], False), ([-math.inf, 1], False)]
)
def test_finite_means_no_infinity_and_no_nan(values, finite):
    assert is_finite(torch.tensor(values, dtype=torch.float32)) is finite, "also where their sum would overflow"


def test_a_good_step_ends_the_count_of_skips():
    settings = ScalerSettings(most_skips=2)
    state = ScalerState(2.0**16)
    for overflow in (True, True, False, True, True):
        state = next_state(state, overflow, settings)
    assert state == ScalerState(2.0**12, 0, 2)


def test_a_scale_that_cannot_grow_in_fp32_stays():
    assert next_state(ScalerState(3e38), False, ScalerSettings(interval=1)).scale == 3e38


def test_a_loss_in_half_precision_is_scaled_in_fp32():
    scaled = LossScaler().scaled(torch.tensor(3.0, dtype=torch.float16))
    assert scaled.dtype == torch.float32 and float(scaled) == 3 * 2.0**16 and math.isinf(float(scaled.half()))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("first", 0.0), ("first", math.inf), ("growth", 1.0), ("backoff", 1.0), ("backoff", 0.0), ("interval", 0)]
    + [("most_skips", -1), ("smallest", 0.0), ("smallest", 1e9), ("first", math.nan)],
)
def test_settings_that_make_no_scaler_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} = "):
        ScalerSettings(**{argument: value})


def test_bad_gradients_and_losses_are_refused_before_anything_changes():
    with pytest.raises(ValueError, match=r"gradients = 0: expected at least one gradient"):
        LossScaler().step(one_weight()[1])
    gradients = [torch.ones(2), torch.ones(2, dtype=torch.float16)]
    with pytest.raises(ValueError, match=r"gradient\.dtype = torch\.float16: expected float32 or float64"):
        unscale(gradients, 2.0)
    assert torch.equal(gradients[0], torch.ones(2))
    with pytest.raises(ValueError, match=r"scale = inf"):
        unscale([torch.ones(2)], math.inf)
    with pytest.raises(ValueError, match=r"loss = \(2,\): expected a scalar"):
        LossScaler().scaled(torch.ones(2))
    with pytest.raises(ValueError, match=r"clip = 0"):
        clipped_step(one_weight()[1], clip=0)
