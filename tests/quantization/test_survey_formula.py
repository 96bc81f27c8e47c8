"""The surveys' formula: half a step everywhere, and the zeros it loses, which an integer zero point keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from course_lib.quantization.affine import BITS, choose_affine, fake_quantize
from course_lib.quantization.survey_formula import dequantize_by_formula, quantize_by_formula

TENSORS = arrays.arrays("float32", st.integers(1, 40), elements=st.floats(-1000, 1000, width=32))


@settings(deadline=None)
@given(TENSORS, st.sampled_from(BITS))
def test_values_come_back_within_half_a_step_and_the_smallest_exactly(values, bits):
    """All but the result is float64 (2^−30 of a step covers it); rounding the result to float32 costs u·1000."""
    w = torch.from_numpy(values)
    codes, low, high = quantize_by_formula(w, bits)
    back = dequantize_by_formula(codes, low, high, bits)
    step = (high.double() - low.double()) / (2**bits - 1)
    assert bool(((back.double() - w.double()).abs() <= step / 2 + step * 2.0**-30 + 1000 * 2.0**-24).all())
    assert int(codes.min()) >= 0 and int(codes.max()) <= 2**bits - 1
    assert torch.equal(back[w == w.min()], w[w == w.min()])


def test_pruned_weights_come_back_as_other_numbers_and_with_an_integer_zero_point_as_zeros():
    """A half-pruned tensor on [−1, 1.6]: in 2 bits 0 lies 0.15 of a step from the nearest code, so every zero moves."""
    w = torch.linspace(-1, 1.6, 100)
    w[1:99:2] = 0
    codes, low, high = quantize_by_formula(w, 2)
    lost = dequantize_by_formula(codes, low, high, 2)[w == 0]
    step = 2.6 / 3
    assert bool((lost.abs() > 0.1 * step).all()), "no zero is left"
    assert lost.unique().numel() == 1, "and all moved in one direction: a bias, not noise"
    scale, zero_point = choose_affine(w, 2, symmetric=False)
    assert bool((fake_quantize(w, scale, zero_point, 2, False)[w == 0] == 0).all())


def test_values_of_one_sign_get_the_finer_step_the_formula_is_good_for():
    w = torch.linspace(10, 11, 50)
    codes, low, high = quantize_by_formula(w, 4)
    formula = (dequantize_by_formula(codes, low, high, 4) - w).abs().max()
    affine = (fake_quantize(w, *choose_affine(w, 4, False), 4, False) - w).abs().max()
    assert formula <= 1 / 15 / 2 + 1e-6 and affine > 5 * formula


def test_a_constant_tensor_survives():
    w = torch.full((2, 3), 0.7)
    codes, low, high = quantize_by_formula(w, 3)
    assert codes.tolist() == [[0] * 3] * 2
    assert torch.equal(dequantize_by_formula(codes, low, high, 3), w)


@pytest.mark.parametrize("bits", [0, 1, 9, 17])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=rf"bits = {bits}"):
        quantize_by_formula(torch.ones(2), bits)
    with pytest.raises(ValueError, match=rf"bits = {bits}"):
        dequantize_by_formula(torch.ones(2, dtype=torch.int32), torch.tensor(0.0), torch.tensor(1.0), bits)


@pytest.mark.parametrize("w", [torch.empty(0), torch.ones(2, dtype=torch.int32)])
def test_empty_and_integer_tensors_are_refused(w):
    with pytest.raises(ValueError, match=r"w = .*expected at least one floating-point number"):
        quantize_by_formula(w)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match=r"w = .*expected finite numbers"):
        quantize_by_formula(torch.tensor([1.0, value]))
