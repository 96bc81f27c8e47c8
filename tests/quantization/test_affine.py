"""Affine quantization: within half a step inside the range, zero exact, and what no range, NaN or other bits do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from course_lib.granularity import block_size, grid, spread
from course_lib.quantization.affine import (
    BITS,
    choose_affine,
    choose_from_range,
    code_dtype,
    code_range,
    dequantize,
    error_bound,
    fake_quantize,
    quantize,
)

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)  # subnormal numbers and both zeros included


@st.composite
def tensors(draw):
    """A tensor of wildly different sizes, and a block size that divides it."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    block = draw(st.lists(st.integers(1, 4), min_size=len(counts), max_size=len(counts)))
    shape = tuple(c * b for c, b in zip(counts, block, strict=True))
    return torch.from_numpy(draw(arrays.arrays("float32", shape, elements=FLOATS))), tuple(block)


@settings(deadline=None)
@given(tensors(), st.sampled_from(BITS), st.booleans())
def test_every_value_comes_back_within_half_a_step_and_zero_exactly(case, bits, symmetric):
    x, block = case
    scale, zero_point = choose_affine(x, bits, symmetric, block)
    codes = quantize(x, scale, zero_point, bits, symmetric)
    low, high = code_range(bits, symmetric)
    assert codes.dtype == code_dtype(bits, symmetric) and codes.shape == x.shape
    assert low <= int(codes.min()) and int(codes.max()) <= high
    assert scale.dtype == torch.float32 and zero_point.dtype == torch.int32
    assert tuple(scale.shape) == tuple(zero_point.shape) == grid(x.shape, block)
    assert bool((scale > 0).all()) and low <= int(zero_point.min()) and int(zero_point.max()) <= high
    back = dequantize(codes, scale, zero_point)
    bound = spread(error_bound(scale, bits), x.shape, block)
    assert bool(((x.double() - back.double()).abs() <= bound).all())
    assert bool((back[x == 0] == 0).all())


@settings(deadline=None)
@given(tensors(), st.sampled_from(BITS), st.booleans())
def test_what_is_on_the_grid_stays_where_it_is(case, bits, symmetric):
    """Codes of dequantized codes are the codes: x̂/scale is within Q·u < 1/2 of a whole number."""
    x, block = case
    scale, zero_point = choose_affine(x, bits, symmetric, block)
    codes = quantize(x, scale, zero_point, bits, symmetric)
    assert torch.equal(quantize(dequantize(codes, scale, zero_point), scale, zero_point, bits, symmetric), codes)


@settings(deadline=None)
@given(tensors(), st.sampled_from(BITS))
def test_symmetric_codes_of_the_negated_tensor_are_the_negated_codes(case, bits):
    x, block = case
    scale, zero_point = choose_affine(x, bits, True, block)
    other, _ = choose_affine(-x, bits, True, block)
    assert torch.equal(scale, other)
    assert torch.equal(quantize(-x, scale, zero_point, bits), -quantize(x, scale, zero_point, bits))


@settings(deadline=None)
@given(tensors(), st.sampled_from(BITS), st.booleans())
def test_a_finer_granularity_has_no_larger_scale_anywhere(case, bits, symmetric):
    x, block = case
    fine, _ = choose_affine(x, bits, symmetric, block)
    coarse, _ = choose_affine(x, bits, symmetric)
    moving = spread(fine, x.shape, block)[x != 0]  # a block of zeros has the scale 1
    assert bool((moving <= coarse.flatten()).all())


def test_codes_and_scales_of_a_worked_example():
    x = torch.tensor([[-0.875, 0.0, 0.6, 1.75], [0.0, 0.0, 0.0, 0.0]])
    scale, zero_point = choose_affine(x, 4, True, "channel")
    assert scale.tolist() == [[0.25], [1.0]] and zero_point.tolist() == [[0], [0]]
    assert quantize(x, scale, zero_point, 4).tolist() == [[-4, 0, 2, 7], [0, 0, 0, 0]]  # −3.5 goes to even
    scale, zero_point = choose_affine(x, 4, False, "channel")  # a step of 2.625 / 15
    assert zero_point.tolist() == [[5], [0]]
    assert quantize(x, scale, zero_point, 4, False).tolist() == [[0, 5, 8, 15], [0, 0, 0, 0]]


@pytest.mark.parametrize("value", [0.0, -0.0, 3.0, -3.0, 1e-45, -1e-40, 1e38, -1e38])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_constant_tensors_survive(value, symmetric, bits):
    x = torch.full((3, 4), value)
    scale, zero_point = choose_affine(x, bits, symmetric)
    back = fake_quantize(x, scale, zero_point, bits, symmetric)
    if abs(value) > 1e-30:  # the end of the range is a code, but for the rounding of scale and product
        assert bool(((back - x).abs() <= abs(value) * 2**-22).all())
    else:  # a number below the smallest scale is nearer to 0 than to the first step
        assert bool((back == 0).all())


def test_ranges_of_only_one_sign_are_widened_to_hold_zero():
    scale, zero_point = choose_from_range(torch.tensor([5.0, -20.0]), torch.tensor([10.0, -5.0]), 2, False)
    assert zero_point.tolist() == [0, 3]
    assert torch.allclose(scale, torch.tensor([10 / 3, 20 / 3]), rtol=2**-23, atol=0)


def test_values_outside_the_range_get_the_end_codes():
    scale, zero_point = choose_from_range(torch.tensor([-1.0]), torch.tensor([1.0]), 8, False)
    x = torch.tensor([-float("inf"), -9.0, 9.0, float("inf")])
    assert quantize(x, scale, zero_point, 8, False).tolist() == [0, 0, 255, 255]
    scale, zero_point = choose_from_range(torch.tensor([-1.0]), torch.tensor([1.0]))
    assert quantize(x, scale, zero_point).tolist() == [-127, -127, 127, 127]


def test_the_widest_range_of_float32_does_not_overflow():
    end = torch.finfo(torch.float32).max
    for symmetric in (True, False):
        scale, zero_point = choose_from_range(torch.tensor([-end]), torch.tensor([end]), 8, symmetric)
        codes = quantize(torch.tensor([-end, 0.0, end]), scale, zero_point, 8, symmetric)
        assert codes.tolist() in ([-127, 0, 127], [0, 128, 255])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_are_quantized_as_their_float32_values(dtype):
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    scale, zero_point = choose_affine(x, 8, True, 4)
    exact, _ = choose_affine(x.float(), 8, True, 4)
    assert torch.allclose(scale, exact, rtol=2**-23, atol=0)
    codes = quantize(x, scale, zero_point)
    assert torch.equal(codes, quantize(x.float(), scale, zero_point)) or dtype == torch.float64
    assert bool(((x.double() / spread(scale, x.shape, (1, 4)).double() - codes.double()).abs() <= 0.5 + 2**-15).all())
    assert fake_quantize(x, scale, zero_point).dtype == dtype


def test_views_give_what_their_copies_give_and_are_left_as_they_were():
    base = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    for x in (base.t(), base[::2, 1::2], base[:1].expand(4, 12)):
        before = x.clone()
        for granularity in ("tensor", "channel", 2):
            chosen = choose_affine(x, 8, False, granularity)
            copied = choose_affine(before, 8, False, granularity)
            assert torch.equal(chosen[0], copied[0]) and torch.equal(chosen[1], copied[1])
            assert torch.equal(quantize(x, *chosen, 8, False), quantize(before, *chosen, 8, False))
        assert torch.equal(x, before)


def test_one_scale_serves_tensors_of_any_shape():
    scale, zero_point = choose_from_range(torch.tensor(-1.0), torch.tensor(1.0))
    assert quantize(torch.ones(2, 3, 4), scale, zero_point).shape == (2, 3, 4)
    assert quantize(torch.tensor(1.0), scale, zero_point).item() == 127
    assert quantize(torch.empty(0, 5), scale, zero_point).shape == (0, 5)
    assert choose_affine(torch.tensor(254.0))[0].tolist() == [2.0]


def test_flat_scales_are_read_in_the_order_of_the_blocks_of_a_given_size():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    scale, zero_point = choose_affine(x, 4, False, (2, 3))
    codes = quantize(x, scale, zero_point, 4, False)
    flat = quantize(x, scale.flatten(), zero_point.flatten(), 4, False, block=(2, 3))
    assert torch.equal(codes, flat)
    assert torch.equal(dequantize(codes, scale, zero_point), dequantize(codes, scale.flatten(), zero_point.flatten(), (2, 3)))


def test_a_learnt_scale_gets_its_gradient_through_dequantization():
    scale = torch.tensor([[0.5]], requires_grad=True)
    zero_point = torch.tensor([[1]], dtype=torch.int32)
    dequantize(torch.tensor([[0, 3]], dtype=torch.uint8), scale, zero_point).sum().backward()
    assert scale.grad.tolist() == [[1.0]]  # (0 − 1) + (3 − 1)


@pytest.mark.oracles
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel", 8])
def test_codes_are_those_of_torchao_at_equal_scale(bits, symmetric, granularity):
    """It multiplies by a rounded 1/scale, so where x/scale is within 2·Q·u of a tie its code may be one off."""
    ao = pytest.importorskip("torchao.quantization.quant_primitives")
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(bits))
    block = block_size(x.shape, granularity)
    scale, zero_point = choose_affine(x, bits, symmetric, granularity)
    low, high = code_range(bits, symmetric)
    theirs = ao.quantize_affine(x, list(block), scale, zero_point, torch.int32, low, high)
    codes = quantize(x, scale, zero_point, bits, symmetric)
    steps = x.double() / spread(scale, x.shape, block).double()
    near_tie = ((steps - steps.floor()) - 0.5).abs() <= 2.0 ** (bits - 23)
    assert torch.equal(codes.int()[~near_tie], theirs[~near_tie])
    assert int((codes.int() - theirs).abs().max()) <= 1
    values = ao.dequantize_affine(codes.int(), list(block), scale, zero_point, torch.int32, low, high)
    assert torch.equal(dequantize(codes, scale, zero_point), values)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_fake_quantization_is_that_of_torch_at_equal_scale(bits):
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(bits))
    scale, zero_point = choose_affine(x, bits, False, "channel")
    theirs = torch.fake_quantize_per_channel_affine(x, scale.flatten(), zero_point.flatten(), 0, 0, 2**bits - 1)
    steps = x.double() / scale.double()
    near_tie = ((steps - steps.floor()) - 0.5).abs() <= 2.0 ** (bits - 23)
    ours = fake_quantize(x, scale, zero_point, bits, False)
    assert torch.equal(ours[~near_tie], theirs[~near_tie])


@pytest.mark.parametrize("bits", [0, 1, 9, 15, 17, 32, True])
def test_other_bits_are_refused_everywhere(bits):
    x, one = torch.ones(2, 2), torch.ones(1, 1)
    zero = torch.zeros(1, 1, dtype=torch.int32)
    for call in (
        lambda: choose_affine(x, bits),
        lambda: choose_from_range(one, one, bits),
        lambda: quantize(x, one, zero, bits),
        lambda: fake_quantize(x, one, zero, bits),
        lambda: error_bound(one, bits),
        lambda: code_dtype(bits, False),
    ):
        with pytest.raises(ValueError, match=r"bits = .*: expected a whole number from 2 to 8, or 16"):
            call()


@pytest.mark.parametrize(
    "x, granularity, message",
    [
        (torch.ones(2, 2, dtype=torch.int64), "tensor", r"x = torch.int64: expected a floating-point tensor"),
        (torch.empty(0, 4), "tensor", r"x = \(0, 4\): expected at least one entry"),
        (torch.tensor([1.0, float("nan")]), "tensor", r"low, high = \(nan, nan\): expected finite numbers"),
        (torch.tensor([1.0, float("inf")]), "tensor", r"low, high = \(1.0, inf\): expected finite numbers"),
        (torch.tensor([[1.0], [float("nan")]]), "channel", r"expected finite numbers"),
        (torch.ones(4, 6), 4, r"granularity = \(1, 4\): expected numbers that divide"),
        (torch.tensor([1e300], dtype=torch.float64), "tensor", r"expected a range that float32 can hold"),
    ],
)
def test_tensors_without_a_range_are_refused(x, granularity, message):
    with pytest.raises(ValueError, match=message):
        choose_affine(x, 8, True, granularity)


def test_ranges_that_are_none_are_refused():
    one = torch.ones(2)
    with pytest.raises(ValueError, match=r"low, high = \(1.0, 0.0\): expected low ≤ high"):
        choose_from_range(one, torch.tensor([2.0, 0.0]))
    with pytest.raises(ValueError, match=r"high = \(3,\): expected the shape of low, \(2,\)"):
        choose_from_range(one, torch.ones(3))


@pytest.mark.parametrize(
    "x, scale, zero_point, block, message",
    [
        (torch.ones(4), [1.0], [1], None, r"zero_point = 1: expected 0 for symmetric codes"),
        (torch.tensor([float("nan")]), [1.0], [0], None, r"x = 'NaN': expected numbers"),
        (torch.ones(4), [1.0, 1.0, 1.0], [0, 0, 0], None, r"scale = \(3,\): expected a scale for each block of \(4,\)"),
        (torch.ones(4, 4), [1.0, 1.0], [0, 0], None, r"scale = \(2,\): expected a scale for each block of \(4, 4\)"),
        (torch.ones(4, 4), [1.0, 1.0], [0, 0], (1, 4), r"scale = \(2,\): expected a scale for each block"),
        (torch.ones(4), [1.0], [0, 0], None, r"zero_point = \(2,\): expected the shape of scale"),
        (torch.ones(4), [0.0], [0], None, r"scale = 0.0: expected numbers above 0"),
        (torch.ones(4), [float("nan")], [0], None, r"scale = nan: expected numbers above 0"),
        (torch.ones(4, dtype=torch.int8), [1.0], [0], None, r"x = torch.int8: expected a floating-point tensor"),
        (torch.ones(4), [1], [0], None, r"scale = torch.int64: expected torch.float32"),
        (torch.ones(4), [1.0], [0.0], None, r"zero_point = torch.float32: expected an integer tensor"),
    ],
)
def test_scales_that_do_not_fit_are_refused(x, scale, zero_point, block, message):
    with pytest.raises(ValueError, match=message):
        quantize(x, torch.tensor(scale), torch.tensor(zero_point), 8, True, block)


@pytest.mark.parametrize("codes", [torch.ones(2), torch.ones(2, dtype=torch.bool)])
def test_codes_must_be_integers(codes):
    with pytest.raises(ValueError, match=r"codes = torch\.\w+: expected an integer tensor"):
        dequantize(codes, torch.ones(1), torch.zeros(1, dtype=torch.int32))


def test_infinities_of_both_signs_are_not_taken_for_nan():
    x = torch.tensor([float("inf"), -float("inf")])
    assert quantize(x, torch.ones(1), torch.zeros(1, dtype=torch.int32)).tolist() == [127, -127]
