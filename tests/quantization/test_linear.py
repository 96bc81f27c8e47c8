"""The integer linear layer: codes and sums exact, outputs within the rounding of float32 of fake quantization, errors bounded."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.errors import CourseError
from course_lib.layerwise import evaluating, inputs_of
from course_lib.models.zoo import find_encoder, load_encoder, load_tokenizer
from course_lib.quantization.affine import choose_affine, choose_from_range, dequantize, quantize
from course_lib.quantization.int_matmul import centred_matmul
from course_lib.quantization.linear import CHUNK, Int8Linear, quantize_tokens
from course_lib.quantization.scheme import Scheme

DYNAMIC, STATIC = Scheme(activation="dynamic"), Scheme(activation="static")
EPS = torch.finfo(torch.float32).eps


def drawn(out: int = 24, inner: int = 40, bias: bool = True, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inner, out, bias)


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    """Rows of very different sizes, as tokens are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * torch.rand(*shape[:-1], 1, generator=generator).mul(8).exp()


def ends(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.amin(), x.amax()


def layer(linear: nn.Linear, scheme: Scheme, x: torch.Tensor) -> Int8Linear:
    return Int8Linear.from_float(linear, scheme, ends(x) if scheme.activation == "static" else None)


schemes = st.builds(
    Scheme,
    bits=st.integers(2, 8),
    granularity=st.sampled_from(["channel", "tensor"]),
    symmetric=st.booleans(),
    activation=st.sampled_from(["dynamic", "static"]),
)


# Codes and sums


@given(rows=st.integers(1, 9), inner=st.integers(1, 30), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_token_codes_and_scales_are_those_of_affine_quantization_per_row(rows, inner, seed):
    x = tokens(rows, inner, seed=seed)
    x[seed % rows] *= 0  # a token of zeros
    x[0, 0] += 1e-42  # a subnormal number, or one that changes nothing
    codes, scale = quantize_tokens(x)
    expected_scale, zero_point = choose_affine(x, granularity="channel")
    assert torch.equal(scale, expected_scale)
    assert torch.equal(codes, quantize(x, expected_scale, zero_point))


@given(schemes, st.integers(1, 20), st.integers(1, 40), st.integers(1, 20), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_sums_equal_the_float64_product_and_outputs_those_of_fake_quantization(scheme, m, inner, out, bias, seed):
    """With u = ε/2, K terms and the exact Y = Σ x̂ŵ: fake quantization rounds x̂, ŵ, each product and K additions, the last with
    the bias: |error| ≤ (K + 3)·u·(Σ|x̂ŵ| + |b|). The integer layer rounds the sum, two products and one addition:
    ≤ 4·u·(|Y| + |b|). Both together are at most (K + 7)·u ≤ K·ε·(Σ|x̂ŵ| + |b|) from K = 7 on; below, K is taken as 7.
    A factor 1 + 2⁻¹⁰ covers the terms in u². With static activations Σ runs over (q_x − z_x)(q_w − z_w), which are x̂ŵ too."""
    linear, x = drawn(out, inner, bias, seed), tokens(m, inner, seed=seed + 1)
    int8 = layer(linear, scheme, x)

    weight_scale, weight_zero = choose_affine(linear.weight.detach(), scheme.bits, scheme.symmetric, scheme.granularity)
    weight_codes = quantize(linear.weight.detach(), weight_scale, weight_zero, scheme.bits, scheme.symmetric)
    assert torch.equal(int8.codes, weight_codes)
    if scheme.activation == "dynamic":
        scale, zero = choose_affine(x, granularity="channel")
        codes = quantize(x, scale, zero)
    else:
        scale, zero = choose_from_range(*ends(x), 8, symmetric=False)
        codes = quantize(x, scale, zero, symmetric=False)
    assert torch.equal(int8.quantize_input(x)[0], codes)

    sums = int8.integer_sums(*int8.quantize_input(x)[::2])
    exact = (codes.double() - zero) @ (weight_codes.double() - weight_zero).t()
    assert sums.dtype == torch.int32
    assert torch.equal(sums.double(), exact)

    fake_x, fake_w = dequantize(codes, scale, zero), dequantize(weight_codes, weight_scale, weight_zero)
    assert torch.equal(int8.dequantize(), fake_w)
    fake = F.linear(fake_x, fake_w, linear.bias)
    size = F.linear(fake_x.abs().double(), fake_w.abs().double(), None if linear.bias is None else linear.bias.abs().double())
    assert ((int8(x).double() - fake.double()).abs() <= max(inner, 7) * EPS * (1 + 2**-10) * size).all()


@given(schemes, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_output_is_as_near_to_the_float_layers_as_the_scales_say(scheme, seed):
    """|Σ x̂ŵ − Σ xw| ≤ Σ |x̂ − x||ŵ| + |x||ŵ − w|, and |x̂ − x| ≤ s_x/2, |ŵ − w| ≤ s_w/2 inside the ranges (an asymmetric end may
    lie a rounding of the zero point outside: s/2 more, so s is taken throughout); float32 adds K·ε of the sums' size."""
    linear, x = drawn(seed=seed), tokens(7, 40, seed=seed + 1)
    int8 = layer(linear, scheme, x)
    w, fake = linear.weight.detach().double(), int8.dequantize().double()
    scale = int8.quantize_input(x)[1].double()
    bound = scale * fake.abs().sum(1) + x.double().abs() @ int8.scale.double().expand_as(w).t()
    size = F.linear(x.double().abs(), w.abs(), linear.bias.double().abs())
    off = (int8(x).double() - F.linear(x.double(), w, linear.bias.double())).abs()
    assert (off <= bound + 2 * 40 * EPS * (size + bound)).all()


@pytest.mark.parametrize("scheme", [DYNAMIC, STATIC, Scheme(symmetric=False, activation="static")], ids=str)
def test_tokens_in_pieces_give_what_they_give_at_once(scheme):
    linear, x = drawn(), tokens(2 * CHUNK + 5, 40)
    int8 = layer(linear, scheme, x)
    assert torch.equal(int8(x), torch.cat([int8(row) for row in x.split(1)]))


@pytest.mark.parametrize("scheme", [DYNAMIC, STATIC], ids=str)
def test_any_leading_shape_and_any_floating_type_are_taken(scheme):
    x = tokens(2, 3, 40)
    int8 = layer(drawn(), scheme, x)
    flat = int8(x.view(6, 40))
    assert torch.equal(int8(x), flat.view(2, 3, 24))
    assert torch.equal(int8(x[0, 0]), flat[0])
    assert int8(x[:0]).shape == (0, 3, 24)
    assert torch.equal(int8(x.transpose(0, 1)), int8(x).transpose(0, 1)), "a view that is not contiguous"
    for dtype in (torch.float64, torch.bfloat16):
        out = int8(x.to(dtype))
        assert out.dtype == dtype
        assert torch.equal(out, int8(x.to(dtype).float()).to(dtype))


def test_static_inputs_outside_the_range_get_its_ends():
    linear, x = drawn(), tokens(5, 40)
    int8 = Int8Linear.from_float(linear, STATIC, (torch.tensor(-1.0), torch.tensor(1.0)))
    low, high = dequantize(torch.tensor([0, 255], dtype=torch.uint8), int8.input_scale, int8.input_zero_point.int())
    assert torch.equal(int8(x), int8(x.clamp(low, high)))


@pytest.mark.parametrize("scheme", [DYNAMIC, STATIC], ids=str)
def test_zero_in_gives_the_bias_out(scheme):
    linear = drawn()
    int8 = layer(linear, scheme, tokens(5, 40))
    assert torch.equal(int8(torch.zeros(1, 40)), linear.bias.detach().view(1, -1))


def test_non_contiguous_weights_are_taken():
    linear = drawn()
    turned = drawn()
    turned.weight = nn.Parameter(linear.weight.detach().t().contiguous().t())
    assert not turned.weight.is_contiguous()
    assert torch.equal(Int8Linear.from_float(turned, DYNAMIC).codes, Int8Linear.from_float(linear, DYNAMIC).codes)


# State


@pytest.mark.parametrize("scheme", [DYNAMIC, STATIC, Scheme(symmetric=False, activation="static")], ids=str)
def test_a_state_dict_carries_all_of_it(scheme):
    x = tokens(9, 40)
    int8 = layer(drawn(), scheme, x)
    other = Int8Linear(40, 24, scheme)
    other.load_state_dict(int8.state_dict())
    assert torch.equal(other(x), int8(x))
    assert torch.equal(copy.deepcopy(other)(x), int8(x))
    assert "row_sums" not in int8.state_dict()


def test_new_codes_bring_their_own_sums():
    x = tokens(9, 40)
    int8, other = layer(drawn(), STATIC, x), layer(drawn(seed=5), STATIC, x)
    int8.store(other.codes)
    int8.scale.copy_(other.scale)
    int8.bias.data.copy_(other.bias)
    assert torch.equal(int8(x), other(x))


def test_zero_codes_stand_for_zeros():
    for scheme in (DYNAMIC, Scheme(symmetric=False, activation="dynamic")):
        int8 = Int8Linear.from_float(drawn(), scheme)
        int8.store(int8.zero_codes())
        assert torch.equal(int8.dequantize(), torch.zeros(24, 40))


def test_it_prints_its_scheme():
    assert "in_features=40, out_features=24, 8 bits, symmetric, per channel, int8 inputs per token" in repr(
        Int8Linear.from_float(drawn(), DYNAMIC)
    )


# Oracle


@pytest.mark.oracles
class TestAgainstTorchsDynamicQuantization:
    """``torch.ao.quantization.quantize_dynamic``: one scale for the weight and one for all tokens, of 7 bits (reduce_range)."""

    @pytest.fixture
    def pair(self):
        linear = drawn(64, 96)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)[0]
        return linear, theirs

    def test_our_sums_of_their_codes_give_their_output(self, pair):
        """They round the sum, the product of the scales, the product with it and the addition: 4 u each of ours and theirs."""
        linear, theirs = pair
        x = torch.randn(33, 96, generator=torch.Generator().manual_seed(2))
        weight = theirs.weight()
        scale, zero = torch._choose_qparams_per_tensor(x, True)  # reduce_range
        codes = torch.quantize_per_tensor(x, scale, zero, torch.quint8).int_repr()
        sums = centred_matmul(codes, torch.tensor(zero), weight.int_repr().t(), None)
        ours = sums.double() * scale * weight.q_scale() + linear.bias.detach().double()
        off = (theirs(x).double() - ours).abs()
        assert (off <= 4 * EPS * (sums.double().abs() * scale * weight.q_scale() + linear.bias.detach().abs())).all()

    def test_both_are_within_the_errors_of_their_scales(self, pair):
        """Each errs by at most Σ |x̂ − x||ŵ| + |x||ŵ − w| with half a step each: the difference by the sum of both. (In float64;
        float32 sums add K·ε of their size.)"""
        linear, theirs = pair
        x, w = tokens(33, 96), linear.weight.detach()
        ours = Int8Linear.from_float(linear, Scheme(granularity="tensor", activation="dynamic"))
        their_scale, _ = torch._choose_qparams_per_tensor(x, True)
        bounds = [
            (s_x / 2) * (w.abs().double().sum(1) + 96 * s_w / 2) + x.abs().double().sum(1, keepdim=True) * s_w / 2
            for s_x, s_w in (
                (quantize_tokens(x)[1].double(), ours.scale.double().item()),
                (their_scale, theirs.weight().q_scale()),
            )
        ]
        size = F.linear(x.abs().double(), w.abs().double(), linear.bias.detach().abs().double())
        assert ((ours(x) - theirs(x)).abs() <= sum(bounds) + 2 * 96 * EPS * (size + sum(bounds))).all()

    def test_a_scale_per_token_and_channel_and_the_eighth_bit_err_less(self, pair):
        linear, theirs = pair
        x = tokens(200, 96)
        whole = linear(x).detach()
        ours = Int8Linear.from_float(linear, DYNAMIC)
        assert (ours(x) - whole).square().sum() < (theirs(x) - whole).square().sum()


# Bad input


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_token_that_is_not_finite_makes_its_own_output_not_finite_and_no_others(value):
    x = tokens(4, 40)
    int8 = Int8Linear.from_float(drawn(), DYNAMIC)
    good = int8(x)
    x[2, 3] = value
    out = int8(x)
    assert not out[2].isfinite().any()
    assert torch.equal(out[[0, 1, 3]], good[[0, 1, 3]])


def test_static_inputs_of_nan_are_an_error():
    int8 = layer(drawn(), STATIC, tokens(4, 40))
    with pytest.raises(ValueError, match=r"x = 'NaN'"):
        int8(torch.full((1, 40), float("nan")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error(value):
    linear = drawn()
    linear.weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"finite"):
        Int8Linear.from_float(linear, DYNAMIC)


def test_a_static_layer_needs_a_range():
    with pytest.raises(ValueError, match=r"input_range = None: expected .* by calibration"):
        Int8Linear.from_float(drawn(), STATIC)


def test_a_scheme_with_float_activations_is_refused():
    with pytest.raises(ValueError, match=r"scheme = .*float inputs.*expected dynamic or static"):
        Int8Linear(4, 4, Scheme())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.zeros(24, 40)}, "codes = torch.float32: expected torch.int8"),
        ({"codes": torch.zeros(24, dtype=torch.int8)}, r"codes = \(24,\): expected a matrix"),
        ({"scale": torch.ones(23, 1)}, r"scale = \(23, 1\): expected \(24, 1\)"),
        ({"bias": torch.ones(23)}, r"bias = \(23,\): expected \(24,\)"),
        ({"input_scale": torch.tensor(1.0)}, r"input_scale = \(\): expected None"),
    ],
)
def test_codes_and_scales_that_do_not_fit_are_named(change, message):
    good = {"codes": torch.zeros(24, 40, dtype=torch.int8), "scale": torch.ones(24, 1), "zero_point": None, "bias": None}
    with pytest.raises(ValueError, match=message):
        Int8Linear.from_codes(**{**good, "scheme": DYNAMIC, **change})


def test_a_static_layer_from_codes_needs_its_input_scale():
    with pytest.raises(ValueError, match=r"input_scale = None: expected \(\)"):
        Int8Linear.from_codes(torch.zeros(2, 4, dtype=torch.int8), torch.ones(2, 1), None, None, STATIC)


def test_training_through_it_is_an_error_and_evaluating_is_not():
    int8, x = Int8Linear.from_float(drawn(), DYNAMIC), tokens(3, 40).requires_grad_()
    with pytest.raises(CourseError, match=r"prepare_qat"):
        int8(x)
    assert not int8.eval()(x).requires_grad
    assert int8.train()(x.detach()).shape == (3, 24)


def test_on_minilms_own_activations_every_layer_is_within_the_bound():
    """The bound of above, K·ε·(Σ|x̂ŵ| + |b|), for all 36 linear layers of a real encoder on real text."""
    encoder, tokenizer = load_encoder("minilm"), load_tokenizer(find_encoder("minilm"))
    ids = torch.tensor([tokenizer.encode("Angela Merkel met the mayor of New York in Berlin on Tuesday .").ids])
    layers = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and "encoder" in n}
    assert len(layers) == 36
    with evaluating(encoder), inputs_of(layers) as inputs:
        encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    for name, linear in layers.items():
        int8, x = Int8Linear.from_float(linear, DYNAMIC), inputs[name][0]
        codes, scale, _ = int8.quantize_input(x)
        fake_x, fake_w = codes * scale, int8.dequantize()
        fake = F.linear(fake_x, fake_w, linear.bias.detach())
        size = F.linear(fake_x.abs().double(), fake_w.abs().double(), linear.bias.detach().abs().double())
        assert ((int8(x) - fake).abs().double() <= linear.in_features * EPS * (1 + 2**-10) * size).all()
        assert torch.equal(int8.integer_sums(codes, None).double(), codes.double() @ int8.codes.double().t())


def test_scaled_sums_are_the_integer_sums_times_the_scales_of_the_rows():
    """One product in fp32: at most two roundings of 2⁻²⁴ each (the sum to fp32, the product)."""
    made = layer(drawn(), DYNAMIC, tokens(5, 40))
    codes = torch.randint(-128, 128, (5, 40), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    exact = made.integer_sums(codes, None).double() * made.scale.view(-1).double()
    torch.testing.assert_close(made.scaled_sums(codes, None).double(), exact, rtol=2 * 2**-23, atol=0)
    assert made.extra_repr() == f"in_features=40, out_features=24, {DYNAMIC}"
