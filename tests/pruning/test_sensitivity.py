"""The sensitivity scan: dense where nothing is pruned, the model put back to the bit, each layer for itself."""

import copy

import pytest
import torch
from small_bert import logits, small_bert
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.gates import gates
from course_lib.pruning.sensitivity import Sensitivity, prune_smallest, scan_units, scan_weights
from course_lib.pruning.unit_masks import mask_by_plan

LEVELS = (0.0, 0.5, 0.9)


def metric(model) -> float:
    """Sensitive to the last bit."""
    return float(logits(model).square().mean())


@pytest.fixture
def model():
    return small_bert(torch.float32)


def state(model) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.state_dict().items()}


# Weights


def test_nothing_pruned_gives_the_dense_metric_exactly(model):
    result = scan_weights(model, {"*.dense": LEVELS, "*.value": [0.0]}, metric)
    assert result.dense == metric(model)
    assert len(result.curves) == 8 and all(curve[0.0] == result.dense for curve in result.curves.values())
    assert all(curve[0.9] != result.dense for curve in result.curves.values() if 0.9 in curve)


def test_the_model_is_put_back_to_the_bit(model):
    with torch.no_grad():
        model.classifier.weight[0, 0] = -0.0  # equal to 0, and other bits
    before = state(model)
    scan_weights(model, {"*.dense": LEVELS, "classifier": LEVELS, "*.word_embeddings": [0.5]}, metric)
    scan_units(model, {"*": [0.5]}, metric)
    assert state(model) == before and not list(gates(model))


def test_it_is_put_back_when_the_metric_fails(model):
    before, calls = state(model), iter([1.0, 1.0])
    with pytest.raises(StopIteration):
        scan_weights(model, {"*.dense": LEVELS}, lambda m: next(calls))
    calls = iter([1.0, 1.0])
    with pytest.raises(StopIteration):
        scan_units(model, {"*": LEVELS}, lambda m: next(calls))
    assert state(model) == before and not list(gates(model))


def test_each_point_is_the_metric_of_the_model_with_that_layer_pruned_alone(model):
    result = scan_weights(model, {"*.intermediate.dense": (0.3, 0.8)}, metric)
    for name, curve in result.curves.items():
        for sparsity, value in curve.items():
            pruned = copy.deepcopy(model)
            weight = pruned.get_submodule(name).weight
            with torch.no_grad():
                smallest = weight.abs().flatten().argsort()[: round(sparsity * weight.numel())]
                weight.view(-1)[smallest] = 0.0
            assert metric(pruned) == value


def test_pruning_may_be_given(model):
    result = scan_weights(model, {"classifier": (0.5,)}, metric, prune=lambda w, s: w * (1 - s))
    halved = copy.deepcopy(model)
    with torch.no_grad():
        halved.classifier.weight /= 2
    assert result.curves["classifier"][0.5] == metric(halved)


def test_sparsities_come_in_order_and_once_and_progress_is_told(model):
    seen = []
    result = scan_weights(model, {"classifier": [0.9, 0.1, 0.9]}, metric, progress=lambda *step: seen.append(step))
    assert list(result.curves["classifier"]) == [0.1, 0.9]
    assert seen == [("classifier", s, result.curves["classifier"][s]) for s in (0.1, 0.9)]


def test_tied_weights_are_named_and_left_out():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    result = scan_weights(net, {"*": (0.5,)}, lambda m: m[2].weight.detach().abs().sum().item())
    assert list(result.curves) == ["2"]
    assert result.skipped == ["0: its weight is tied to 1", "1: its weight is tied to 0"]


def test_the_smallest_weights_are_set_to_zero():
    w = torch.tensor([[3.0, -1.0], [2.0, -4.0]])
    assert prune_smallest(w, 0.5).tolist() == [[3.0, 0.0], [0.0, -4.0]]
    assert prune_smallest(w, 0.0).equal(w) and prune_smallest(w, 1.0).eq(0).all()


# Units


def test_each_point_of_units_is_the_metric_with_that_group_masked_alone(model):
    result = scan_units(model, {"*.heads": (0.0, 0.25, 1.0), "*.1.neurons": (0.5,)}, metric)
    assert list(result.curves) == [f"bert.encoder.layer.{n}" for n in ("0.heads", "1.heads", "1.neurons")]
    for name, curve in result.curves.items():
        for sparsity, value in curve.items():
            masked = copy.deepcopy(model)
            mask_by_plan(masked, {name: sparsity})
            assert metric(masked) == value
        assert curve.get(0.0, result.dense) == result.dense


def test_units_take_scores_from_elsewhere(model):
    name = "bert.encoder.layer.0.heads"
    ways = [scan_units(model, {name: (0.25,)}, metric, {name: s}).curves[name][0.25] for s in -torch.eye(4)[:2]]
    assert ways[0] != ways[1]


# What a scan tells


def test_tolerated_is_the_last_level_before_the_first_that_loses_too_much():
    curves = {"a": {0.1: 0.9, 0.5: 0.8, 0.9: 0.9}, "b": {0.1: 0.5, 0.5: 0.9}, "c": {0.5: 0.95, 0.9: 0.85}}
    assert Sensitivity(0.9, curves).tolerated(0.06) == {"a": 0.1, "b": 0.0, "c": 0.9}
    with pytest.raises(ValueError, match=r"loss = -0.1: expected a drop of the metric, at least 0"):
        Sensitivity(0.9, curves).tolerated(-0.1)


# Bad input


@pytest.mark.parametrize("scan", [scan_weights, scan_units])
@pytest.mark.parametrize(
    ("levels", "message"),
    [([], "expected sparsities between 0 and 1, at least one"), ([0.5, 1.1], r"\[0.5, 1.1\]"), ([-0.5], r"\[-0.5\]")],
)
def test_bad_sparsities_are_refused_before_anything_is_measured(model, scan, levels, message):
    with pytest.raises(ValueError, match=message):
        scan(model, {"*": levels}, lambda m: pytest.fail("measured"))


def test_a_plan_that_matches_nothing_is_refused(model):
    with pytest.raises(CourseError, match="'nothing' matches nothing in BertForTokenClassification"):
        scan_weights(model, {"nothing": (0.5,)}, metric)
    with pytest.raises(CourseError, match="'nothing' is no group of this model"):
        scan_units(model, {"nothing": (0.5,)}, metric)


def test_a_masked_model_is_refused(model):
    mask_by_plan(model, {"*.heads": 0.5})
    with pytest.raises(CourseError, match="scan_units: units of the model are masked"):
        scan_units(model, {"*.heads": (0.5,)}, metric)
    assert len(list(gates(model))) == 2
