"""NF4: the published levels, the nearest of them for each weight, and the scale that is the block's largest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from course_lib.granularity import spread
from course_lib.quantization.nf4 import dequantize_nf4, nf4_bytes, nf4_levels, quantize_nf4

# Dettmers et al. 2023, appendix E
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_levels_are_the_published_ones():
    """The published δ was cut to 7 digits (0.9677083 for 0.96770833…): quantiles move by 3e−8 over the density at the end,
    0.072, so by 5e−7 of the largest at most; and float32 rounds by 6e−8."""
    levels = nf4_levels()
    assert levels.dtype == torch.float32 and levels.shape == (16,)
    assert bool(((levels - torch.tensor(PUBLISHED)).abs() <= 5e-7 + 6e-8).all())
    assert levels[0] == -1 and levels[7] == 0 and levels[15] == 1
    assert bool((levels.diff() > 0).all())


@settings(deadline=None)
@given(
    arrays.arrays("float32", (2, 12), elements=st.floats(-1000, 1000, width=32)), st.sampled_from([1, 2, 3, 6, 12, "tensor"])
)
def test_each_value_gets_the_nearest_level_of_its_block_and_ends_and_zeros_come_back_exactly(values, granularity):
    x = torch.from_numpy(values)
    codes, scale = quantize_nf4(x, granularity)
    back = dequantize_nf4(codes, scale)
    block = (2, 12) if granularity == "tensor" else (1, granularity)
    size = spread(scale, x.shape, block)
    distance = (x.double()[..., None] - nf4_levels().double() * size.double()[..., None]).abs()
    # The quotient, the middle of two levels and the product are each rounded to float32: 3·u of the block's largest.
    assert bool(((back.double() - x.double()).abs() <= distance.amin(-1) + 3 * 2.0**-24 * size).all())
    assert bool((back[x == 0] == 0).all()) and bool((back[x.abs() == size] == x[x.abs() == size]).all())
    assert bool((scale > 0).all())


def test_no_value_is_farther_off_than_half_the_widest_step():
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    codes, scale = quantize_nf4(x)
    assert codes.dtype == torch.uint8 and codes.shape == x.shape and scale.shape == (64, 2)
    widest = (1 - 0.6961928) / 2 * spread(scale, x.shape, (1, 64))
    assert bool(((dequantize_nf4(codes, scale) - x).abs() <= widest * (1 + 1e-6)).all())


def test_for_normal_weights_the_levels_beat_even_steps_at_equal_bytes():
    from course_lib.quantization.affine import choose_affine, fake_quantize

    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    normal_float = (dequantize_nf4(*quantize_nf4(x)) - x).square().sum()
    assert normal_float < (fake_quantize(x, *choose_affine(x, 4, True, 64), 4) - x).square().sum()


def test_zeros_views_and_other_float_types_are_defined():
    codes, scale = quantize_nf4(torch.zeros(2, 64))
    assert codes.unique().tolist() == [7] and scale.tolist() == [[1.0], [1.0]]
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(quantize_nf4(x.t())[0], quantize_nf4(x.t().contiguous())[0])
    half = x.half()
    assert torch.equal(quantize_nf4(half.double())[1], quantize_nf4(half)[1])


def test_bytes_are_half_of_the_count_and_four_for_each_block():
    codes, scale = quantize_nf4(torch.ones(3, 64))
    assert nf4_bytes(codes.numel(), scale.numel()) == 96 + 12
    assert nf4_bytes(5, 1) == 3 + 4


@pytest.mark.oracles
def test_levels_and_codes_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    theirs = functional.get_4bit_type("nf4", device="cpu")
    assert bool(((nf4_levels() - theirs).abs() <= 5e-7 + 6e-8).all())
    x = torch.randn(32, 128, generator=torch.Generator().manual_seed(3))
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    restored = functional.dequantize_4bit(packed, state)
    codes, scale = quantize_nf4(x)
    assert torch.equal(scale.flatten(), state.absmax)
    # Where a value lies within the levels' difference of a middle, either code is right.
    shares = x / spread(scale, x.shape, (1, 64))
    middles = (nf4_levels()[1:] + nf4_levels()[:-1]) / 2
    clear = (shares[..., None] - middles).abs().amin(-1) > 1e-6
    assert bool(clear.double().mean() > 0.99)
    size = spread(scale, x.shape, (1, 64))
    assert bool(((dequantize_nf4(codes, scale) - restored).abs() <= 6e-7 * size)[clear].all())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: quantize_nf4(torch.empty(0, 64)), r"x = .*expected at least one floating-point number"),
        (lambda: quantize_nf4(torch.ones(64, dtype=torch.int8)), r"x = .*expected at least one floating-point number"),
        (lambda: quantize_nf4(torch.tensor([1.0, float("nan")]), 2), r"x = nan: expected finite numbers"),
        (lambda: quantize_nf4(torch.tensor([1.0, float("-inf")]), 2), r"x = inf: expected finite numbers"),
        (lambda: quantize_nf4(torch.ones(2, 65)), r"granularity = \(1, 64\): expected numbers that divide"),
        (lambda: dequantize_nf4(torch.full((4,), 16, dtype=torch.uint8), torch.ones(1)), r"codes = .*expected integers below 16"),
        (lambda: dequantize_nf4(torch.ones(4), torch.ones(1)), r"codes = torch.float32: expected integers"),
        (lambda: dequantize_nf4(torch.ones(4, dtype=torch.uint8), torch.ones(3)), r"scale = \(3,\): expected a scale for each"),
    ],
)  # fmt: skip
def test_what_has_no_codes_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
