"""SmoothQuant: the float output does not change where the input is divided in so many words, and does where it is folded."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.smooth import (
    InputScaledLinear,
    Smooth,
    apply_smooth,
    fold_into_layer_norm,
    layers_to_scale,
    scaled_columns,
    smooth_scale,
)


@pytest.fixture
def model():
    """Tiny in float64, with a column of the hidden states far larger than the rest, as trained encoders have."""
    model, generator = load_token_classifier(find_encoder("tiny"), ["O", "B-X"]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
        for layer in model.bert.encoder.layer:
            layer.attention.output.LayerNorm.weight[5] = 20
    return model.double().eval()


def batches() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(5, 100, (3, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": ids, "attention_mask": (torch.arange(8) < torch.tensor([[8], [5], [6]])).long()}]


def layer(seed: int = 0, r: int = 4, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(r, d, generator=g), torch.rand(d, generator=g) * 10 + 0.1


def test_half_and_half_makes_the_largest_input_and_weight_of_each_column_equal():
    w, absmax = layer()
    s = smooth_scale(absmax, w, 0.5)
    inputs, weights = absmax / s, scaled_columns(w, s).abs().amax(0)
    torch.testing.assert_close(
        inputs, weights, rtol=4 * 2**-24, atol=0
    )  # s, the product and the quotient are rounded once each
    torch.testing.assert_close(inputs, (absmax * w.abs().amax(0)).sqrt(), rtol=5 * 2**-24, atol=0)


def test_the_ends_move_everything_to_one_side():
    w, absmax = layer()
    torch.testing.assert_close(absmax / smooth_scale(absmax, w, 1.0), torch.ones(6), rtol=2 * 2**-24, atol=0)
    evened = scaled_columns(w, smooth_scale(absmax, w, 0.0)).abs().amax(0)
    torch.testing.assert_close(evened, torch.ones(6), rtol=2 * 2**-24, atol=0)


def test_dead_columns_are_left_alone():
    w, absmax = layer()
    absmax[1], w[:, 3] = 0, 0
    s = smooth_scale(absmax, w)
    assert s[1] == s[3] == 1 and (s > 0).all() and torch.isfinite(s).all()


@given(st.integers(0, 1000), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_the_float_output_stays(seed, alpha):
    """Each product ``(x/s)·(w·s)`` carries two more roundings than ``x·w``; with the D-term sums on both sides,
    ``|y' − y| ≤ (2D + 4)·2⁻²⁴·Σ|x·w|``."""
    w, absmax = layer(seed)
    x = (torch.rand(9, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * absmax
    linear, s = nn.Linear(6, 4, bias=False), smooth_scale(absmax, w, alpha)
    with torch.no_grad():
        linear.weight.copy_(scaled_columns(w, s))
        moved = InputScaledLinear(linear, s)(x)
    assert ((moved - x @ w.T).abs() <= (2 * 6 + 4) * 2**-24 * (x.abs() @ w.abs().T)).all()


def test_powers_of_two_change_no_bit_of_the_output():
    w, _ = layer()
    x, s = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), 2.0 ** torch.arange(-3, 3)
    linear = nn.Linear(6, 4)
    with torch.no_grad():
        linear.weight.copy_(w)
        before = linear(x)
        linear.weight.copy_(scaled_columns(w, s))
        assert torch.equal(InputScaledLinear(linear, s)(x), before)


def test_a_models_logits_stay_and_its_inputs_become_even(model):
    """Float64: some thousand operations with relative errors of 1e-16 each, on logits of order 1."""
    batch = batches()[0]
    with torch.no_grad():
        before = model(**batch).logits
        report = apply_smooth(model, {"*encoder*": Smooth()}, batches())
        after = model(**batch).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-11 * float(before.abs().max()))
    assert len(report.changed) == 12 and not report.skipped
    line = next(c for c in report.changed if "layer.0.intermediate" in c)
    before_ratio, after_ratio = (float(v) for v in line.rsplit("column ", 1)[1].split(" → "))
    assert after_ratio < before_ratio / 3


def test_the_scale_is_stored_with_the_model(model):
    apply_smooth(model, {"classifier": Smooth()}, batches())
    assert model.state_dict()["classifier.input_scale"].shape == (32,)
    assert (model.classifier.in_features, model.classifier.out_features) == (32, 2)
    assert not any(m.training for m in model.modules())


def folded(norm: nn.LayerNorm, linear: nn.Linear, s: torch.Tensor) -> None:
    fold_into_layer_norm(norm, s)
    with torch.no_grad():
        linear.weight.copy_(scaled_columns(linear.weight, s))


def test_folding_into_a_layer_norm_is_exact_where_nobody_else_reads_it():
    g = torch.Generator().manual_seed(0)
    norm, linear = nn.LayerNorm(6).double(), nn.Linear(6, 4).double()
    x, s = torch.randn(9, 6, generator=g).double(), torch.rand(6, generator=g).double() + 0.5
    with torch.no_grad():
        norm.bias.copy_(torch.randn(6, generator=g))
        before = linear(norm(x))
        folded(norm, linear, s)
        torch.testing.assert_close(linear(norm(x)), before, rtol=0, atol=1e-14)  # float64, sums of 6 terms of order 1


def test_folding_into_berts_layer_norm_changes_the_model_because_the_residual_reads_it_too(model):
    """The same scales, once as a division of their own and once folded: the first keeps the logits, the second does not."""
    batch, reference = batches()[0], copy.deepcopy(model)
    apply_smooth(model, {"*layer.0.intermediate.dense": Smooth()}, batches())
    wrapped = model.bert.encoder.layer[0].intermediate.dense
    layer = reference.bert.encoder.layer[0]
    with torch.no_grad():
        before = reference(**batch).logits
        folded(layer.attention.output.LayerNorm, layer.intermediate.dense, wrapped.input_scale)
        torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=1e-11 * float(before.abs().max()))
        change = (reference(**batch).logits - before).abs().max() / before.abs().max()
    assert change > 1e-2, "nine orders of magnitude above rounding"


def test_an_input_that_is_scaled_already_is_refused(model):
    apply_smooth(model, {"*intermediate.dense": Smooth()}, batches())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CourseError, match=r"the input of .*intermediate\.dense\.linear is scaled already"):
        apply_smooth(model, {"*": Smooth()}, batches())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bad_input_is_refused_before_anything_changes(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for plan, data, kind, message in (
        ({}, batches(), ValueError, "plan = {}"),
        ({"nothing": Smooth()}, batches(), CourseError, "'nothing' matches nothing"),
        ({"classifier": 0.5}, batches(), ValueError, "expected a Smooth"),
        ({"classifier": Smooth()}, [], ValueError, "the calibration set is empty"),
        ({"classifier": Smooth()}, "text", ValueError, "batches = 'str'"),
    ):
        with pytest.raises(kind, match=message):
            apply_smooth(model, plan, data)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    w, absmax = layer()
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"alpha = .*expected a number between 0 and 1"):
            smooth_scale(absmax, w, alpha)
        with pytest.raises(ValueError, match=r"alpha = "):
            Smooth(alpha)
    with pytest.raises(ValueError, match=r"absmax = \(5,\): expected one for each of 6 columns"):
        smooth_scale(absmax[:5], w)
    with pytest.raises(ValueError, match=r"absmax = .*finite numbers of at least 0"):
        smooth_scale(-absmax, w)
    with pytest.raises(ValueError, match=r"weight = .*a finite matrix"):
        smooth_scale(absmax, w * float("nan"))
    with pytest.raises(ValueError, match=r"input_scale = \(3,\): expected one for each of 6 columns"):
        scaled_columns(w, torch.ones(3))
    with pytest.raises(ValueError, match=r"input_scale = .*finite numbers above 0"):
        InputScaledLinear(nn.Linear(2, 2), torch.tensor([1.0, 0.0]))


def test_layers_to_scale_are_the_plans_linear_layers(model):
    matches = layers_to_scale(model, {"*.query": Smooth()}, Smooth)
    assert list(matches.found) == [f"bert.encoder.layer.{i}.attention.self.query" for i in range(2)]
    with pytest.raises(ValueError, match="Smooth"):
        layers_to_scale(model, {"*.query": 0.5}, Smooth)
