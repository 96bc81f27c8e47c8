"""GPTQ against naive OBQ in float64: the inverse of what is left of H, anew at every column."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from course_lib.granularity import block_size, grid, spread
from course_lib.obs import damped, output_error
from course_lib.quantization.affine import choose_affine, code_range, dequantize, quantize
from course_lib.quantization.gptq import gptq


def layer(r: int = 6, d: int = 16, tokens: int = 100, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """W and H = XᵀX/n of inputs whose columns depend on each other and differ in size; float64."""
    g = torch.Generator().manual_seed(seed)
    w, x, mix = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((r, d), (tokens, d), (d, d)))
    x = x @ (torch.eye(d, dtype=torch.float64) + 0.3 * mix) * torch.linspace(0.3, 3, d, dtype=torch.float64)
    return w, x.T @ x / tokens


def naive_obq(w, h, scale, zero_point, bits, symmetric, granularity, damping, act_order) -> tuple[torch.Tensor, float]:
    """Codes, and how near any value came to a tie between two codes (in steps)."""
    low, high = code_range(bits, symmetric)
    block = block_size(w.shape, granularity)
    s, z = (spread(t, w.shape, block).double() for t in (scale, zero_point))
    order = sorted(range(w.shape[1]), key=lambda j: -float(h[j, j])) if act_order else list(range(w.shape[1]))
    w, h = w[:, order].clone(), damped(h, damping)[order][:, order]
    codes, margin = torch.zeros(w.shape, dtype=torch.int64), 1.0
    for j in range(len(order)):
        sj, zj = s[:, order[j]], z[:, order[j]]
        steps = w[:, j] / sj
        margin = min(margin, float(((steps - steps.floor()) - 0.5).abs().min()))
        code = (steps.round() + zj).clamp(low, high)
        codes[:, order[j]] = code.long()
        inverse = torch.linalg.inv(h[j:, j:])
        error = w[:, j] - (code - zj) * sj
        w[:, j:] -= (error / inverse[0, 0]).unsqueeze(1) * inverse[0]
    return codes, margin


@given(
    st.integers(0, 10_000), st.sampled_from([2, 3, 4, 8]), st.booleans(), st.sampled_from(["tensor", "channel", 4, 8, (2, 8)]),
    st.sampled_from([0.0, 0.01, 0.3]), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_codes_are_those_of_naive_obq(seed, bits, symmetric, granularity, damping, act_order):
    """Same column order and damping, away from ties: float64 loses about 100·D·ε·κ, far less than 1e-7 of a step here."""
    w, h = layer(seed=seed)
    scale, zero_point = choose_affine(w, bits, symmetric, granularity)
    due, margin = naive_obq(w, h, scale, zero_point, bits, symmetric, granularity, damping, act_order)
    assume(margin > 1e-7)
    codes = gptq(
        w, h, scale, zero_point, bits, symmetric, block_size(w.shape, granularity), damping=damping, act_order=act_order
    )
    assert torch.equal(codes.long(), due)


def test_the_block_is_read_from_the_shape_of_the_scales():
    w, h = layer()
    for granularity in ("tensor", "channel", 4):
        scale, zero_point = choose_affine(w, 4, True, granularity)
        assert scale.shape == grid(w.shape, block_size(w.shape, granularity))
        with_block = gptq(w, h, scale, zero_point, block=block_size(w.shape, granularity))
        assert torch.equal(gptq(w, h, scale, zero_point), with_block)


def test_inputs_that_do_not_depend_on_each_other_make_it_rounding_to_nearest():
    """A diagonal H has nothing to make up for anything with."""
    w, h = layer()
    scale, zero_point = choose_affine(w, 4, True, "channel")
    for act_order in (False, True):
        codes = gptq(w, torch.diag(h.diagonal()), scale, zero_point, act_order=act_order)
        assert torch.equal(codes, quantize(w, scale, zero_point, 4))


def test_damping_without_end_makes_it_rounding_to_nearest():
    """Corrections shrink as 1/λ: at 1e12 they are below 1e-9 of a step, and no value is that near a tie."""
    w, h = layer()
    scale, zero_point = choose_affine(w, 4, True, "channel")
    steps = w / scale
    assert ((steps - steps.floor()) - 0.5).abs().min() > 1e-6
    assert torch.equal(gptq(w, h, scale, zero_point, damping=1e12), quantize(w, scale, zero_point, 4))


def test_the_output_error_is_below_that_of_rounding_on_these_layers():
    """Measured, not a theorem: 20 drawn layers."""
    for seed in range(20):
        w, h = layer(32, 64, 300, seed)
        scale, zero_point = choose_affine(w, 3, True, "channel")
        codes = gptq(w, h, scale, zero_point, 3), quantize(w, scale, zero_point, 3)
        errors = [output_error(w, dequantize(c, scale, zero_point).double(), h) for c in codes]
        assert errors[0] < errors[1]


def test_weights_on_the_grid_keep_their_codes():
    """No error, nothing to correct; scales that are powers of two, so that the values are exact."""
    _, h = layer()
    codes = torch.randint(-7, 8, (6, 16), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    scale, zero_point = 2.0 ** torch.arange(-3, 3).view(6, 1), torch.zeros(6, 1, dtype=torch.int32)
    assert torch.equal(gptq(dequantize(codes, scale, zero_point), h, scale, zero_point), codes)


def test_codes_have_the_type_and_range_of_affine_codes():
    w, h = layer()
    for bits, symmetric, dtype in (
        (4, True, torch.int8),
        (4, False, torch.uint8),
        (2, True, torch.int8),
        (8, False, torch.uint8),
    ):
        scale, zero_point = choose_affine(w, bits, symmetric, "channel")
        codes = gptq(w, h, scale, zero_point, bits, symmetric)
        low, high = code_range(bits, symmetric)
        assert codes.dtype == dtype and codes.shape == w.shape and codes.min() >= low and codes.max() <= high


def test_a_dead_input_is_rounded_to_nearest_and_disturbs_nothing():
    w, h = layer()
    h[3] = h[:, 3] = 0
    scale, zero_point = choose_affine(w, 4, True, "channel")
    codes = gptq(w, h, scale, zero_point)
    assert torch.equal(codes[:, 3], quantize(w, scale, zero_point, 4)[:, 3])
    moved = w.clone()
    moved[:, 3] *= 0.5
    others = [j for j in range(16) if j != 3]
    assert torch.equal(gptq(moved, h, scale, zero_point)[:, others], codes[:, others])


def test_half_precision_and_transposed_weights_are_read_rightly():
    w, h = layer()
    scale, zero_point = choose_affine(w, 4, True, "channel")
    assert torch.equal(gptq(w.T.contiguous().T, h, scale, zero_point), gptq(w, h, scale, zero_point))
    half = w.bfloat16()
    assert torch.equal(gptq(half, h, scale, zero_point), gptq(half.float(), h, scale, zero_point))


def test_bad_input_is_refused():
    w, h = layer()
    scale, zero_point = choose_affine(w, 4, True, "channel")
    with pytest.raises(ValueError, match=r"hessian = \(15, 15\): expected \(16, 16\)"):
        gptq(w, h[1:, 1:], scale, zero_point)
    with pytest.raises(ValueError, match=r"hessian = 'singular"):
        gptq(w, torch.zeros_like(h), scale, zero_point)
    with pytest.raises(ValueError, match=r"weight = 'NaN or infinity'"):
        gptq(w / 0, h, scale, zero_point)
    with pytest.raises(ValueError, match=r"bits = 9"):
        gptq(w, h, scale, zero_point, bits=9)
    with pytest.raises(ValueError, match=r"scale = \(5, 1\): expected a scale for each block"):
        gptq(w, h, scale[:5], zero_point[:5])
    with pytest.raises(ValueError, match=r"granularity = .*numbers that divide"):
        gptq(w, h, scale, zero_point, block=(1, 5))
    with pytest.raises(ValueError, match=r"damping = -1"):
        gptq(w, h, scale, zero_point, damping=-1)
