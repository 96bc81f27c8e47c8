"""The four steps of linear quantization, against the library that does them for blocks of a tensor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.quantization.affine import choose_from_range, fake_quantize, quantize
from course_lib.quantization.int_matmul import centred_matmul
from course_lib.quantization.written_out import correct_sums, error_bounds, scale_and_zero_point, to_codes

ends = st.floats(-100, 100, allow_nan=False).map(lambda v: round(v, 2))


@given(a=ends, b=ends, bits=st.integers(2, 8))
def test_zero_has_a_code_of_its_own_and_both_ends_are_within_half_a_step(a, b, bits):
    low, high = min(a, b), max(a, b)
    if low == high == 0:
        return
    scale, zero_point = scale_and_zero_point(low, high, bits)
    assert 0 <= zero_point <= 2**bits - 1
    for end in (min(low, 0.0), max(high, 0.0)):
        code = min(max(round(end / scale) + zero_point, 0), 2**bits - 1)
        # The zero point is rounded by at most half a step, and the ends with it; 1e-9 for float64.
        assert abs((code - zero_point) * scale - end) <= scale * (0.5 + 1e-9)


@given(a=ends, b=ends, bits=st.integers(2, 8))
def test_scale_and_zero_point_are_those_of_the_library(a, b, bits):
    low, high = min(a, b), max(a, b)
    if low == high == 0:
        return
    scale, zero_point = scale_and_zero_point(low, high, bits)
    theirs, zero = choose_from_range(torch.tensor([low]).double(), torch.tensor([high]).double(), bits, symmetric=False)
    assert abs(float(theirs) - scale) <= 2**-24 * scale * 2  # float32 rounds once, by 2⁻²⁴
    tie = abs((-min(low, 0.0) / scale) % 1 - 0.5) < 1e-3
    assert int(zero) == zero_point or tie  # at a tie the rounded scale decides


def test_codes_are_those_of_the_library():
    x = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    for bits in (2, 4, 8):
        theirs = quantize(x, torch.tensor([0.125]), torch.tensor([2], dtype=torch.int32), bits, symmetric=False)
        codes = to_codes(x, 0.125, 2, bits)  # a power of two: both divide without rounding
        assert codes.dtype == torch.uint8 and torch.equal(codes, theirs)


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=20), st.sampled_from([2, 3, 4, 8]), st.floats(0.25, 3))
def test_no_error_exceeds_its_bound_and_beyond_the_range_it_is_met(values, bits, clip):
    x, largest = torch.tensor(values), 2 ** (bits - 1) - 1
    scale = torch.tensor([clip / largest], dtype=torch.float32)
    error = (fake_quantize(x, scale, torch.tensor([0], dtype=torch.int32), bits) - x).abs().double()
    bound = error_bounds(x.double(), clip, bits)
    slack = 4 * 2**-22  # values up to 4; the scale, the division and the product each round by 2⁻²⁴ of at most 4
    assert bool((error <= bound + slack).all())
    outside = x.double().abs() > clip + float(scale)
    assert torch.allclose(error[outside], bound[outside], rtol=0, atol=slack)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 3), (4, 64, 7)])
def test_corrected_sums_are_the_product_of_centred_codes(shape):
    rows, inner, columns = shape
    draw = torch.Generator().manual_seed(1)
    a = torch.randint(0, 256, (rows, inner), generator=draw, dtype=torch.uint8)
    b = torch.randint(0, 256, (inner, columns), generator=draw, dtype=torch.uint8)
    b_zero = torch.randint(0, 256, (columns,), generator=draw, dtype=torch.int32)
    sums = correct_sums((a.int() @ b.int()), a.sum(1, dtype=torch.int32), b.sum(0, dtype=torch.int32), inner, 131, b_zero)
    assert torch.equal(sums, (a.int() - 131) @ (b.int() - b_zero))
    assert torch.equal(sums, centred_matmul(a, torch.tensor(131, dtype=torch.int32), b, b_zero))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: scale_and_zero_point(1.0, -1.0), r"low, high.*low ≤ high"),
        (lambda: scale_and_zero_point(float("nan"), 1.0), "finite"),
        (lambda: scale_and_zero_point(0.0, 0.0), "some width"),
        (lambda: scale_and_zero_point(0.0, 1.0, bits=9), "bits"),
        (lambda: to_codes(torch.ones(2), 0.0, 0), "scale"),
        (lambda: to_codes(torch.ones(2), 1.0, 16, bits=4), "zero_point.*from 0 to 15"),
        (lambda: to_codes(torch.ones(2), 1.0, 0, bits=16), "bits"),
        (lambda: error_bounds(torch.ones(2), -1.0), "clip"),
        (lambda: correct_sums(torch.ones(2, 3), torch.ones(3), torch.ones(3), 1, 0, torch.ones(3)), "a_sums.*2 rows"),
        (lambda: correct_sums(torch.ones(2, 3), torch.ones(2), torch.ones(2), 1, 0, torch.ones(3)), "b_sums.*3 columns"),
        (lambda: correct_sums(torch.ones(2, 3), torch.ones(2), torch.ones(3), 1, 0, torch.ones(1)), "b_zero.*3 columns"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
