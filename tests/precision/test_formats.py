"""Number formats: every code and every rounding is that of torch, bit for bit; the limits are those of its ``finfo``."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.precision.formats import (
    ALL,
    BF16,
    E4M3,
    E5M2,
    FP16,
    FP32,
    NumberFormat,
    all_values,
    decode,
    encode,
    rounded,
    spacing,
    written,
)

SMALL = [form for form in ALL if form.bits <= 16]
INTEGERS = {8: torch.uint8, 16: torch.int16, 32: torch.int32}
by_name = pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
small_by_name = pytest.mark.parametrize("form", SMALL, ids=lambda form: form.name)


def codes_of_torch(x: torch.Tensor, form: NumberFormat) -> torch.Tensor:
    return x.to(form.dtype).view(INTEGERS[form.bits]).long() & (2**form.bits - 1)


def values_of_torch(form: NumberFormat) -> torch.Tensor:
    codes = torch.arange(2**form.bits)
    signed = torch.where(codes >= 2 ** (form.bits - 1), codes - 2**form.bits, codes) if form.bits > 8 else codes
    return signed.to(INTEGERS[form.bits]).view(form.dtype).double()


def as_torch_overflows(form: NumberFormat) -> NumberFormat:
    """The format with the overflow rule of the installed torch: its cast to e4m3 made NaN before 2.13."""
    if form is E4M3 and torch.tensor([1e9]).to(form.dtype).float().isnan().all():
        return dataclasses.replace(form, overflow="nan")
    return form


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal as bits, so that −0 is not 0; NaN equals NaN."""
    return bool(((a.view(torch.int64) == b.view(torch.int64)) | (a.isnan() & b.isnan())).all())


# Against torch


@small_by_name
def test_every_code_stands_for_torchs_number(form):
    assert same_bits(all_values(form), values_of_torch(form))


def test_random_and_special_codes_of_fp32_stand_for_torchs_numbers():
    ends = [0, 1, 2**23 - 1, 2**23, FP32.largest_code, FP32.largest_code + 1, FP32.nan_code, 2**31, 2**32 - 1]
    codes = torch.cat([torch.tensor(ends), torch.randint(2**32, (100_000,), generator=torch.Generator().manual_seed(0))])
    theirs = torch.where(codes >= 2**31, codes - 2**32, codes).to(torch.int32).view(torch.float32).double()
    assert same_bits(decode(codes, FP32), theirs)


@small_by_name
def test_every_number_is_encoded_as_its_own_code(form):
    codes = torch.arange(2**form.bits)
    numbers = ~all_values(form).isnan()
    assert torch.equal(encode(all_values(form), form)[numbers], codes[numbers])


@by_name
def test_any_fp32_number_is_encoded_as_torch_casts_it(form):
    """Bits drawn at random: all exponents, subnormals, infinities and NaN; NaN only has to stay NaN, torch's payloads differ."""
    bits = torch.randint(2**32, (300_000,), generator=torch.Generator().manual_seed(1)) - 2**31
    x = bits.to(torch.int32).view(torch.float32)
    ours, theirs = encode(x, as_torch_overflows(form)), codes_of_torch(x, form)
    is_nan = x.isnan()
    assert is_nan.any() and (~is_nan).any() and torch.equal(ours[~is_nan], theirs[~is_nan])
    assert decode(ours, form)[is_nan].isnan().all()


@small_by_name
def test_ties_and_their_neighbours_are_encoded_as_torch_casts_them(form):
    """The middle between each two neighbours, exact in fp32, and the fp32 number to either side of it."""
    values = all_values(form)[: form.largest_code + 1]
    middles = ((values[1:] + values[:-1]) / 2).float()
    last = torch.tensor([form.largest + form.largest - float(values[-2])])  # as far above the largest as its neighbour below
    x = torch.cat([middles, last, (values[-1:].float() + last) / 2, torch.tensor([3e38, math.inf, 0.0])])
    x = torch.cat([x, torch.nextafter(x, torch.tensor(math.inf)), torch.nextafter(x, torch.tensor(-math.inf))])
    x = torch.cat([x, -x])
    assert torch.equal(encode(x, as_torch_overflows(form)), codes_of_torch(x, form))


@by_name
def test_the_limits_are_those_of_finfo(form):
    theirs = torch.finfo(form.dtype)
    assert (form.largest, form.smallest_normal, form.epsilon) == (theirs.max, theirs.tiny, theirs.eps)
    assert form.bits == theirs.bits and form.smallest_subnormal == theirs.tiny * theirs.eps
    assert 2.0**form.lowest_exponent == theirs.tiny and form.lowest_exponent == 1 - form.bias


@given(st.floats(width=64))
def test_float64_becomes_fp32_and_fp16_as_numpy_casts_it_rounding_once(x):
    with np.errstate(over="ignore", under="ignore"):
        theirs = {
            FP32: np.float64(x).astype(np.float32).view(np.uint32),
            FP16: np.float64(x).astype(np.float16).view(np.uint16),
        }
    for form, code in theirs.items():
        ours = encode(torch.tensor([x], dtype=torch.float64), form)
        assert int(ours) == int(code) or (math.isnan(x) and bool(decode(ours, form).isnan()))


def test_torch_rounds_float64_twice_on_its_way_to_bf16():
    x = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert float(rounded(x, BF16)) == 1 + 2**-7, "above the middle between 1 and 1 + 2⁻⁷"
    assert float(x.to(torch.bfloat16)) == float(rounded(x.float(), BF16)) == 1.0, "in fp32 it is the middle, and 1 is even"


@pytest.mark.oracles
def test_e4m3_and_e5m2_that_do_not_saturate_are_those_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = torch.cat([torch.linspace(-500, 500, 40_001), torch.tensor([6e4, 1e9, math.inf, -math.inf])])
    for form, theirs in ((dataclasses.replace(E4M3, overflow="nan"), ml_dtypes.float8_e4m3fn), (E5M2, ml_dtypes.float8_e5m2)):
        with np.errstate(invalid="ignore", over="ignore"):
            codes = x.numpy().astype(theirs).view(np.uint8).astype(np.int64)
        assert torch.equal(encode(x, form), torch.from_numpy(codes))


# Identities


@by_name
def test_rounding_errs_by_half_a_step_at_most_and_twice_is_once(form):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5000, generator=generator, dtype=torch.float64) * 2.0 ** torch.randint(-30, 6, (5000,), generator=generator)
    near = rounded(x, form)
    assert bool(((near - x).abs() <= spacing(x, form) / 2).all()), "the difference of neighbours is exact in float64"
    assert same_bits(rounded(near, form), near)


@small_by_name
def test_the_spacing_is_the_distance_to_the_next_larger_number(form):
    values = all_values(form)[: form.largest_code + 1]
    assert torch.equal(spacing(values[:-1], form), values[1:] - values[:-1])
    assert torch.equal(spacing(-values[:-1], form), spacing(values[:-1], form))


@by_name
def test_the_spacing_doubles_at_each_power_of_two_and_stays_below_the_smallest_normal(form):
    powers = torch.tensor([form.smallest_normal, 1.0, 2.0, 4.0], dtype=torch.float64)
    assert (spacing(powers, form) / powers).tolist() == [form.epsilon] * 4
    assert float(spacing(torch.tensor([0.0]), form)) == form.smallest_subnormal == form.smallest_normal * form.epsilon


@by_name
def test_half_of_the_smallest_subnormal_is_lost_and_a_little_more_is_not(form):
    half = torch.tensor([form.smallest_subnormal / 2], dtype=torch.float64)
    assert float(rounded(half, form)) == 0.0
    assert float(rounded(half * (1 + 1e-9), form)) == form.smallest_subnormal
    assert math.copysign(1, float(rounded(-half, form))) == -1, "zero keeps the sign"


@pytest.mark.parametrize(("rule", "becomes"), [("infinity", math.inf), ("largest", 57344.0), ("nan", math.nan)])
def test_overflow_begins_half_a_step_beyond_the_largest(rule, becomes):
    form = dataclasses.replace(E5M2, overflow=rule)
    step = float(spacing(torch.tensor([form.largest]), form))
    x = torch.tensor([form.largest + step / 2 - 1, form.largest + step / 2, math.inf, 1e300], dtype=torch.float64)
    found = rounded(x, form).tolist()
    assert found[0] == form.largest
    assert all(value == becomes or (math.isnan(becomes) and math.isnan(value)) for value in found[1:])


def test_the_bits_are_parted_into_sign_exponent_and_mantissa():
    assert written(int(encode(torch.tensor([-0.15625]), FP32)), FP32) == "1 01111100 01000000000000000000000"
    assert written(E4M3.nan_code, E4M3) == "0 1111 111" and written(E5M2.nan_code, E5M2) == "0 11111 10"


# Bad input


def test_what_is_no_number_or_no_code_is_refused():
    with pytest.raises(ValueError, match=r"x\.dtype = torch\.int64: expected floating point"):
        encode(torch.tensor([1]), FP16)
    with pytest.raises(ValueError, match=r"codes\.dtype = torch\.float32: expected whole numbers"):
        decode(torch.tensor([1.0]), FP16)
    with pytest.raises(ValueError, match=r"codes = \[256\]: expected codes from 0 to 255"):
        decode(torch.tensor([256]), E4M3)
    with pytest.raises(ValueError, match=r"x = \[500.0\]: expected numbers from −448 to 448"):
        spacing(torch.tensor([500.0]), E4M3)
    with pytest.raises(ValueError, match=r"expected numbers from −448 to 448"):
        spacing(torch.tensor([math.nan]), E4M3)
    with pytest.raises(ValueError, match=r"x\.dtype"):
        spacing(torch.tensor([1]), E4M3)
    with pytest.raises(ValueError, match=r"form = 'fp32': expected a format of at most 16 bits"):
        all_values(FP32)
    with pytest.raises(ValueError, match=r"code = -1"):
        written(-1, FP16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exponent_bits": 9}, "exponent_bits = 9"),
        ({"mantissa_bits": 0}, "mantissa_bits = 0"),
        ({"overflow": "wrap"}, "overflow = 'wrap'"),
        ({"has_infinity": False}, "overflow = 'infinity': expected 'largest' or 'nan'"),
    ],
)
def test_a_format_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FP16, **change)
