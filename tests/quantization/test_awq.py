"""AWQ: never worse than rounding on the inputs it sees, and the search is the formula tried at every exponent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.quantization.affine import choose_affine, dequantize, quantize
from course_lib.quantization.awq import awq, awq_scale, expect_uniform, on_grid
from course_lib.quantization.scheme import Scheme

GROUPS = Scheme(bits=3, granularity=8)


def layer(seed: int = 0, r: int = 12, d: int = 16, tokens: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """W and inputs a few columns of which are far larger than the rest."""
    g = torch.Generator().manual_seed(seed)
    w, x = torch.randn(r, d, generator=g), torch.randn(tokens, d, generator=g)
    x[:, torch.randperm(d, generator=g)[:2]] *= 30
    return w, x


def test_scales_are_powers_of_the_inputs_sizes_and_centred_on_one():
    absmean = torch.tensor([8.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    s = awq_scale(absmean, 1.0)
    assert torch.equal(s, torch.tensor([4.0, 1.0, 0.25, 0.25])), "a dead column counts as the smallest"
    assert torch.equal(awq_scale(absmean, 0.0), torch.ones(4))
    half = awq_scale(absmean, 0.5)
    torch.testing.assert_close(half.square(), s, rtol=4 * 2**-24, atol=0)
    assert half.dtype == torch.float32


@given(st.integers(0, 1000), st.sampled_from([GROUPS, Scheme(bits=4), Scheme(bits=2, granularity=4, symmetric=False)]))
@settings(max_examples=25, deadline=None)
def test_it_is_never_worse_than_rounding_on_the_inputs_it_is_judged_by(seed, scheme):
    w, x = layer(seed)
    s, errors = awq(w, x, scheme)
    assert len(errors) == 21 and errors.min() <= errors[0]
    nearest = (x @ (on_grid(w, scheme) - w).T).square().sum(dtype=torch.float64) / len(x)
    assert float(errors[0]) == float(nearest), "exponent 0 is rounding to nearest"
    assert torch.equal(s, awq_scale(x.abs().mean(0, dtype=torch.float64), int(errors.argmin()) / 20))


def test_the_search_is_the_formula_tried_at_every_exponent():
    """Codes and all, as a quantized module behind a division of its input would compute; float64, sums of 40·12 terms."""
    w, x = (t.double() for t in layer())
    _, errors = awq(w, x, GROUPS, steps=5)
    for step in range(6):
        s = awq_scale(x.abs().mean(0), step / 5).double()
        scale, zero_point = choose_affine(w * s, 3, True, 8)
        stored = dequantize(quantize(w * s, scale, zero_point, 3), scale, zero_point).double()
        due = float(((x / s) @ stored.T - x @ w.T).square().sum(1).mean())
        assert float(errors[step]) == pytest.approx(due, rel=1e-9)


def test_uneven_inputs_are_worth_a_scale_and_even_ones_are_not():
    """Measured, not a theorem: with a few large columns the error falls by a third; with equal ones no scale but 1 exists."""
    w, x = layer()
    _, errors = awq(w, x, GROUPS)
    assert errors.min() < 2 / 3 * errors[0]
    s, errors = awq(w, x.sign(), GROUPS)
    assert torch.equal(s, torch.ones(16)) and (errors == errors[0]).all()


def test_scaling_all_inputs_changes_no_choice():
    w, x = layer()
    one, other = awq(w, x, GROUPS), awq(w, 4 * x, GROUPS)
    assert torch.equal(one[0], other[0]) and torch.equal(16 * one[1], other[1])  # a power of two: exact


def test_bad_input_is_refused():
    w, x = layer()
    for inputs, message in (
        (x[:, :5], r"inputs = \(40, 5\): expected rows of 16 numbers"),
        (x[:0], r"inputs = \(0, 16\): expected rows"),
        (x * float("nan"), "inputs = 'NaN or infinity'"),
        (x * 0, "absmean = .*not all 0"),
    ):
        with pytest.raises(ValueError, match=message):
            awq(w, inputs, GROUPS)
    with pytest.raises(ValueError, match=r"weight = .*expected floats"):
        awq(w.long(), x, GROUPS)
    with pytest.raises(ValueError, match=r"steps = 0"):
        awq(w, x, GROUPS, steps=0)
    with pytest.raises(ValueError, match=r"scheme = .*without a codebook"):
        awq(w, x, Scheme(bits=4, codebook="nf4", granularity=8))
    with pytest.raises(ValueError, match=r"granularity = .*numbers that divide"):
        awq(w, x, Scheme(bits=4, granularity=5))
    with pytest.raises(ValueError, match=r"exponent = 2"):
        awq_scale(torch.ones(3), 2)


def test_codebooks_have_no_uniform_grid():
    expect_uniform(Scheme(3))
    with pytest.raises(ValueError, match=r"scheme = .*expected a uniform grid, without a codebook"):
        expect_uniform(Scheme(3, codebook="kmeans"))
