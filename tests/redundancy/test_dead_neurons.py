"""Dead neurons: removing them moves outputs by no more than the bound says, constant ones go into the bias, padding has no say."""

import copy

import pytest
import torch
from redundant_models import EPS64, batches, logits, real_batches, real_encoder, tiny
from torch import nn

from course_lib.errors import CourseError
from course_lib.layerwise import inputs_of
from course_lib.models.surgery import encoder_layers, layer_shapes
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.redundancy.dead_neurons import Activity, neuron_activity, remove_dead

DEAD, CONSTANT = [3, 10], [20]


def with_dead_neurons(dtype=torch.float64):
    """The tiny model in whose first layer two neurons never fire and one always puts out the same."""
    model = tiny(dtype)
    dense = encoder_layers(model)[0].intermediate.dense
    with torch.no_grad():
        dense.weight[DEAD + CONSTANT] = 0
        dense.bias[DEAD], dense.bias[CONSTANT] = -40.0, 1.5  # GELU(−40) is 0 in floats
    return model


def test_neurons_that_never_fire_go_without_a_change():
    model = with_dead_neurons()
    before, activity = logits(model), neuron_activity(model, batches())
    assert activity[0].dead(0).tolist() == DEAD and activity[1].dead(0).tolist() == []
    report = remove_dead(model, activity, 0.0, fold=False)
    assert layer_shapes(model)["ffn"] == [62, 64]
    # Sums of 62 instead of 64 terms, two of which were 0: the same but for their order, through one more layer.
    assert (logits(model) - before).abs().max() <= 1e-10
    assert report.parameters_before - report.parameters_after == 2 * (32 + 1 + 32)


def test_constant_neurons_go_into_the_bias_without_a_change(tmp_path):
    model = with_dead_neurons(torch.float32)
    activity = neuron_activity(model, batches())
    assert activity[0].constant(0).tolist() == [*DEAD, *CONSTANT]
    before = logits(model)
    remove_dead(model, activity, 0.0)
    assert layer_shapes(model)["ffn"] == [61, 64]
    exact = logits(with_dead_neurons())
    assert (logits(model) - exact).abs().max() <= 8 * (before - exact).abs().max()  # as near the exact logits as before
    save_model(model, load_tokenizer(find_encoder("tiny")), tmp_path)
    assert torch.equal(logits(load_token_classifier(tmp_path).eval()), logits(model))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("fold", [False, True])
def test_the_layers_output_moves_by_no_more_than_the_threshold_times_the_columns(threshold, fold):
    model = tiny()
    activity = neuron_activity(model, batches())
    second, cut = encoder_layers(model)[0].output.dense, copy.deepcopy(model)
    gone = activity[0].constant(threshold) if fold else activity[0].dead(threshold)
    keep = sorted(set(range(64)) - set(gone.tolist()))
    remove_dead(cut, activity, threshold, fold)
    smaller = encoder_layers(cut)[0].output.dense
    bound = threshold * second.weight[:, gone].norm(dim=0).sum()
    assert len(gone) and smaller.in_features == len(keep)
    with torch.no_grad(), inputs_of({"a": second}) as inputs:
        for batch in batches():
            model(**batch)
            a = inputs["a"][batch["attention_mask"] == 1]
            moved = (second(a) - smaller(a[:, keep])).norm(dim=1).max()
            assert moved <= bound + 100 * EPS64 * second(a).abs().max() * 32


def test_activity_is_that_of_real_tokens_whole_or_in_parts():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    whole, parts = Activity(7), Activity(7)
    whole.add(x)
    for part in (*x.split(9), x[:0]):
        parts.add(part)
    for activity in (whole, parts):
        assert torch.equal(activity.largest(), x.abs().amax(0))
        assert torch.equal(activity.middle(), (x.amin(0) + x.amax(0)) / 2)
        assert torch.equal(activity.positive(), (x > 0).double().mean(0))
    model, data = tiny(), batches()
    other = [b | {"input_ids": torch.where(b["attention_mask"] == 1, b["input_ids"], 9)} for b in data]
    for one, two in zip(neuron_activity(model, data), neuron_activity(model, other), strict=True):
        assert torch.allclose(one.largest(), two.largest(), rtol=1e-5) and one.rows == 80


def test_relu_neurons_are_dead_at_a_threshold_of_zero():
    activity = Activity(3)
    activity.add(nn.functional.relu(torch.tensor([[-1.0, 2.0, -3.0], [-2.0, -2.0, 0.5]])))
    assert activity.dead(0).tolist() == [0]


def test_the_real_encoder_has_no_neuron_that_is_dead_for_good():
    """Measured on sentences: each neuron puts out more than 0.05 somewhere; some hundred never rise out of GELU's dip of 0.17."""
    activity = neuron_activity(real_encoder(), real_batches())
    assert [len(a.dead(0.05)) for a in activity] == [0] * 6
    assert 50 < sum(len(a.dead(0.17)) for a in activity) < 500
    with pytest.raises(CourseError, match=r"threshold = 0.001: no neuron of 9216 stays within it. Nothing was changed"):
        remove_dead(real_encoder(), activity)


def test_bad_input_is_refused_before_anything_changes():
    model = tiny()
    activity, before = neuron_activity(model, batches()), logits(model)
    for threshold in (-1, float("nan")):
        with pytest.raises(ValueError, match=r"threshold = .*expected a number of at least 0"):
            remove_dead(model, activity, threshold)
        with pytest.raises(ValueError, match=r"threshold = .*expected a number of at least 0"):
            activity[0].dead(threshold)
    with pytest.raises(CourseError, match=r"threshold = 1000.0: all 128 neurons stay within it; expected a smaller one"):
        remove_dead(model, activity, 1e3)
    with pytest.raises(ValueError, match=r"activity = \[64\]: expected neurons of each layer, \[64, 64\]"):
        remove_dead(model, activity[:1])
    with pytest.raises(ValueError, match=r"rows = 0: expected at least one row"):
        Activity(3).largest()
    assert torch.equal(logits(model), before)
