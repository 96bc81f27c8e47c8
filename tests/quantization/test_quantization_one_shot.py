"""GPTQ and AWQ on an encoder: what is stored is what was solved for, layer by layer."""

import copy

import pytest
import torch
from torch import nn

from course_lib.calibration import Hessian
from course_lib.errors import CourseError
from course_lib.layerwise import collect
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.affine import choose_affine, dequantize
from course_lib.quantization.gptq import gptq
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.one_shot import Awq, Gptq, apply_awq, apply_gptq, quantized_layer
from course_lib.quantization.packed_linear import Int4Linear, PackedLinear
from course_lib.quantization.scheme import Scheme, linear_bytes
from course_lib.quantization.smooth import InputScaledLinear, Smooth, apply_smooth
from course_lib.quantization.storage import from_stored, to_stored

FOUR = Scheme(bits=4, granularity=16)
NAME = "bert.encoder.layer.{}.intermediate.dense"


@pytest.fixture
def model():
    model, generator = load_token_classifier(find_encoder("tiny"), ["O", "B-X"]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return model.eval()


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(12) < torch.tensor([[12], [7], [9], [12]])).long()
    return [{"input_ids": torch.randint(5, 100, (4, 12), generator=generator), "attention_mask": mask} for _ in range(2)]


def errors_of(line: str) -> tuple[float, float]:
    ours, nearest = line.rsplit("output error ", 1)[1].split(", rounding to nearest ")
    return float(ours), float(nearest)


@pytest.mark.parametrize(("scheme", "kind"), [
    (FOUR, Int4Linear),
    (Scheme(bits=4, granularity=16, symmetric=False), Int4Linear),
    (Scheme(bits=3, granularity="channel"), PackedLinear),
    (Scheme(bits=8, activation="dynamic"), Int8Linear),
])  # fmt: skip
def test_gptq_stores_the_codes_of_the_solve_on_what_the_layers_before_put_out(model, scheme, kind):
    original = copy.deepcopy(model)
    report = apply_gptq(model, {NAME.format("?"): Gptq(scheme)}, batches())
    for number in (0, 1):
        seen = copy.deepcopy(original)  # the layers before are quantized, this one is not yet
        for before in range(number):
            seen.bert.encoder.layer[before].intermediate.dense = model.bert.encoder.layer[before].intermediate.dense
        name = NAME.format(number)
        linear = seen.get_submodule(name)
        hessian = collect(seen, {name: linear}, batches(), Hessian)[name].matrix()
        scale, zero_point = choose_affine(linear.weight.detach(), scheme.bits, scheme.symmetric, scheme.granularity)
        codes = gptq(linear.weight.detach(), hessian, scale, zero_point, scheme.bits, scheme.symmetric)
        stored = model.get_submodule(name)
        assert type(stored) is kind and stored.scheme == scheme
        assert torch.equal(stored.codes if kind is Int8Linear else stored.weight.codes(), codes)
        assert torch.equal(stored.bias, linear.bias)
        if kind is not Int8Linear:
            assert torch.equal(stored.weight.dequantize(), dequantize(codes, scale, zero_point))
    assert len(report.changed) == 2 and str(scheme) in report.changed[0]
    saved = 2 * (4 * (64 * 32 + 64) - linear_bytes((64, 32), scheme))
    assert report.bytes_before - report.bytes_after == saved


def test_gptq_is_closer_than_rounding_in_every_layer_of_this_model(model):
    """Measured on the calibration set, not a theorem."""
    report = apply_gptq(model, {"*encoder*": Gptq(Scheme(bits=3, granularity=16))}, batches())
    assert len(report.changed) == 12
    for line in report.changed:
        ours, nearest = errors_of(line)
        assert ours < nearest


def test_awq_is_never_worse_than_rounding_and_stands_behind_a_division(model):
    report = apply_awq(model, {"*encoder*": Awq(Scheme(bits=3, granularity=16))}, batches())
    assert len(report.changed) == 12
    for line in report.changed:
        ours, nearest = errors_of(line)
        assert ours <= nearest
    layer = model.get_submodule(NAME.format(1))
    assert type(layer) is InputScaledLinear and type(layer.linear) is PackedLinear
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        due = (x / layer.input_scale) @ layer.linear.weight.dequantize().T + layer.linear.bias
        size = (x / layer.input_scale).abs() @ layer.linear.weight.dequantize().abs().T + layer.linear.bias.abs()
        assert ((layer(x) - due).abs() <= 2 * 33 * 2**-24 * size).all()  # two sums of 32 products and a bias


def test_awq_with_even_inputs_stores_what_rounding_stores(model):
    """All inputs of one size: every exponent gives the scale 1. Here the inputs are those of a LayerNorm with weight 0."""
    with torch.no_grad():
        norm = model.bert.encoder.layer[0].attention.output.LayerNorm
        norm.weight.zero_()
        norm.bias.fill_(1.0)
    linear = copy.deepcopy(model.get_submodule(NAME.format(0)))
    apply_awq(model, {NAME.format(0): Awq(FOUR)}, batches())
    stored = model.get_submodule(NAME.format(0))
    assert torch.equal(stored.input_scale, torch.ones(32))
    assert torch.equal(stored.linear.weight.dequantize(), Int4Linear.from_float(linear, FOUR).weight.dequantize())


def test_the_sample_awq_is_judged_by_follows_its_seed(model):
    reports = [
        apply_awq(copy.deepcopy(model), {"*encoder*": Awq(FOUR)}, batches(), rows=6, seed=seed).changed for seed in (0, 0, 1)
    ]
    assert reports[0] == reports[1] != reports[2]


def test_a_smoothed_model_is_quantized_inside_its_divisions(model):
    apply_smooth(model, {"*intermediate.dense": Smooth()}, batches())
    report = apply_gptq(model, {"*intermediate.dense.linear": Gptq(Scheme(activation="dynamic"))}, batches())
    assert len(report.changed) == 2
    layer = model.get_submodule(NAME.format(0))
    assert type(layer) is InputScaledLinear and type(layer.linear) is Int8Linear


def test_awq_does_not_scale_an_input_twice(model):
    apply_smooth(model, {"*intermediate.dense": Smooth()}, batches())
    with pytest.raises(CourseError, match=r"is scaled already"):
        apply_awq(model, {"*": Awq(FOUR)}, batches())


@pytest.mark.parametrize(("apply", "config"), [(apply_gptq, Gptq(FOUR)), (apply_awq, Awq(FOUR)), (apply_smooth, Smooth())])
def test_what_is_stored_loads_without_the_float_model(model, apply, config):
    apply(model, {"*encoder*": config}, batches())
    again = from_stored(to_stored(model), model.config)
    with torch.no_grad():
        assert torch.equal(again(**batches()[0]).logits, model(**batches()[0]).logits)


def test_a_module_quantized_already_is_no_linear_layer_any_more(model):
    apply_gptq(model, {"classifier": Gptq(FOUR)}, batches())
    with pytest.raises(CourseError, match=r"matches no Linear; what it matches is a Int4Linear"):
        apply_gptq(model, {"classifier": Gptq(FOUR)}, batches())


def test_bad_input_is_refused_before_anything_changes(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    good = {"*encoder*": Gptq(FOUR)}
    for plan, data, kind, message in (
        ({}, batches(), ValueError, "plan = {}"),
        ({"nothing": Gptq(FOUR)}, batches(), CourseError, "'nothing' matches nothing"),
        ({"*": Gptq(FOUR), "classifier": Gptq(FOUR)}, batches(), CourseError, "matched by"),
        ({"*": FOUR}, batches(), ValueError, "expected a Gptq"),
        ({"*encoder*": Gptq(Scheme(bits=4, granularity=5))}, batches(), ValueError, "granularity = .*numbers that divide"),
        (good, [], ValueError, "the calibration set is empty"),
        (good, [torch.ones(2, 3)], ValueError, r"batches\[0\] = 'Tensor'"),
    ):
        with pytest.raises(kind, match=message):
            apply_gptq(model, plan, data)
    with pytest.raises(ValueError, match=r"granularity = .*numbers that divide"):
        apply_awq(model, {"*encoder*": Awq(Scheme(bits=4, granularity=5))}, batches())
    with pytest.raises(ValueError, match=r"size = 0"):
        apply_awq(model, {"*encoder*": Awq(FOUR)}, batches(), rows=0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(CourseError, match=r"expected a BERT-like encoder"):
        apply_gptq(nn.Sequential(nn.Linear(16, 2)), {"0": Gptq(FOUR)}, batches())


@pytest.mark.parametrize("kind", [Gptq, Awq])
def test_schemes_that_cannot_be_solved_for_are_refused(kind):
    with pytest.raises(ValueError, match=r"without a codebook"):
        kind(Scheme(bits=4, codebook="kmeans"))
    with pytest.raises(ValueError, match=r"activations in float or dynamic"):
        kind(Scheme(activation="static"))
    with pytest.raises(ValueError, match=r"scheme = 4: expected a Scheme"):
        kind(4)


def test_other_configurations_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"damping = -1"):
        Gptq(FOUR, damping=-1)
    with pytest.raises(ValueError, match=r"steps = 0"):
        Awq(FOUR, steps=0)


def test_a_layer_of_given_codes_computes_with_what_they_stand_for():
    linear = nn.Linear(16, 3)
    scale, zero_point = choose_affine(linear.weight.detach(), 2, False, 4)
    codes = gptq(linear.weight.detach(), torch.eye(16), scale, zero_point, 2, False)
    layer = quantized_layer(codes, scale, zero_point, linear.bias, Scheme(bits=2, granularity=4, symmetric=False))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight = dequantize(codes, scale, zero_point)
        size = x.abs() @ weight.abs().T + linear.bias.abs()
        assert ((layer(x) - (x @ weight.T + linear.bias)).abs() <= 2 * 17 * 2**-24 * size).all()  # two sums of 17 terms
