"""Static int8: ranges are those of real tokens, exclusion gives back the float model, the scan finds the layer that suffers."""

import copy

import pytest
import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.layerwise import evaluating, inputs_of
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.apply import apply
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.observers import MinMax, Mse
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.static import InputRange, Sensitivity, find_exclusions, input_ranges, sensitivity_scan, swapped

STATIC = Scheme(activation="static")
PLAN = {"*.dense": STATIC, "*.query": STATIC, "*.key": STATIC, "*.value": STATIC}


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).eval()


def batches(count: int = 3, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows of different lengths; what stands at padding is drawn too."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        ids = torch.randint(5, 80, (4, 10), generator=generator)
        mask = (torch.arange(10) < torch.randint(2, 11, (4, 1), generator=generator)).long()
        result.append({"input_ids": ids, "attention_mask": mask})
    return result


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(**b).logits[b["attention_mask"].bool()] for b in batches(seed=7)])


def nearness(model_before) -> "callable":
    """A metric: how near a model's logits are to those of the float one."""
    whole = logits(model_before)
    return lambda model: -float((logits(model) - whole).square().mean())


# Ranges


def test_a_range_is_that_of_the_real_tokens_of_all_batches(tiny):
    name = "bert.encoder.layer.1.intermediate.dense"
    found = input_ranges(tiny, [name], batches())
    seen = []
    with evaluating(tiny), inputs_of({name: tiny.get_submodule(name)}) as inputs:
        for batch in batches():
            tiny(**batch)
            seen.append(inputs[name][batch["attention_mask"].bool()])
    seen = torch.cat(seen)
    assert list(found) == [name]
    assert found[name] == (seen.min(), seen.max())


def test_ranges_do_not_depend_on_how_the_calibration_set_is_cut(tiny):
    """Inputs of the first layer are those of single tokens; a sum's order may differ with the batch: 32 terms, 32 ε."""
    whole = batches(4)
    one = {key: torch.cat([b[key] for b in whole]) for key in whole[0]}
    names = ["*layer.0*.query"]
    for observer in (MinMax, lambda: Mse(symmetric=False)):
        a, b = (next(iter(input_ranges(tiny, names, given, observer).values())) for given in (whole, [one]))
        torch.testing.assert_close(a, b, rtol=32 * torch.finfo(torch.float32).eps, atol=0)


def test_calibration_leaves_the_model_and_its_mode_alone(tiny):
    whole = logits(tiny)
    input_ranges(tiny.train(), ["*.dense"], batches())
    assert tiny.training
    assert not any(m._forward_pre_hooks for m in tiny.modules())
    assert torch.equal(logits(tiny.eval()), whole)


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "calibration set is empty"), (["text"], "a mapping with tensors"), ("text", "a list of batches")],
)
def test_a_calibration_set_that_is_none_is_an_error(tiny, given, message):
    with pytest.raises(ValueError, match=message):
        input_ranges(tiny, ["*.query"], given)


def test_patterns_that_match_nothing_are_an_error(tiny):
    with pytest.raises(CourseError, match=r"matches nothing"):
        input_ranges(tiny, ["*.quarry"], batches())
    with pytest.raises(ValueError, match=r"patterns = .*expected a list"):
        input_ranges(tiny, "*.query", batches())


# Exclusion


def test_excluding_all_nodes_is_the_float_model(tiny):
    whole, ranges = logits(tiny), input_ranges(tiny, list(PLAN), batches())
    apply(tiny, PLAN, ranges, exclude=list(ranges))
    assert torch.equal(logits(tiny), whole)


def test_calibrated_layers_clip_nothing_of_the_calibration_set(tiny):
    """Only the zero point's rounding moves a range, by half a step: no input is off by more than a step."""
    ranges = input_ranges(tiny, ["*layer.0*.query"], batches())
    name = next(iter(ranges))
    layer = Int8Linear.from_float(tiny.get_submodule(name), STATIC, ranges[name])
    with evaluating(tiny), inputs_of({name: tiny.get_submodule(name)}) as inputs:
        for batch in batches():
            tiny(**batch)
            x = inputs[name][batch["attention_mask"].bool()]
            codes, scale, zero = layer.quantize_input(x)
            assert (((codes.int() - zero) * scale - x).abs() <= scale * 1.001).all()


# The search


def test_a_scan_measures_each_layer_alone_and_leaves_the_model_as_it_was(tiny):
    whole, before = logits(tiny), [id(m) for m in tiny.modules()]
    metric, ranges = nearness(tiny), input_ranges(tiny, list(PLAN), batches())
    seen = []
    scan = sensitivity_scan(tiny, PLAN, metric, ranges, seen.append)
    assert [id(m) for m in tiny.modules()] == before
    assert torch.equal(logits(tiny), whole)
    assert sorted(s.name for s in scan) == sorted(ranges)
    assert [s.drop for s in scan] == sorted((s.drop for s in scan), reverse=True)
    assert sorted(seen, key=lambda s: -s.drop) == scan
    for s in scan[:2]:
        alone = copy.deepcopy(tiny)
        apply(alone, {s.name: STATIC}, ranges)
        assert metric(alone) == s.metric
        assert s.drop == 0.0 - s.metric


def spoil(model, name: str = "bert.encoder.layer.0.output.dense") -> str:
    """One input of a layer a thousand times the others, with no weight on it: nothing changes but the range."""
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.intermediate.dense.bias[0] = 1000.0
        layer.output.dense.weight[:, 0] = 0.0
    return name


def test_the_scan_finds_the_layer_with_outliers_and_leaving_it_in_float_cures_the_model(tiny):
    name = spoil(tiny)
    metric, ranges = nearness(tiny), input_ranges(tiny, list(PLAN), batches())
    scan = sensitivity_scan(tiny, PLAN, metric, ranges)
    assert scan[0].name == name
    assert scan[0].drop > 10 * scan[1].drop
    everything, cured = copy.deepcopy(tiny), copy.deepcopy(tiny)
    apply(everything, PLAN, ranges)
    apply(cured, PLAN, ranges, exclude=[name])
    assert metric(everything) < 10 * metric(cured)
    assert find_exclusions(tiny, PLAN, metric, scan, -2 * metric(cured), ranges) == [name]


def test_as_few_layers_as_the_budget_asks_for_are_excluded(tiny):
    metric, ranges = nearness(tiny), input_ranges(tiny, list(PLAN), batches())
    scan = sensitivity_scan(tiny, PLAN, metric, ranges)
    assert find_exclusions(tiny, PLAN, metric, scan, float("inf"), ranges) == []
    assert find_exclusions(tiny, PLAN, metric, scan, 0.0, ranges) == [s.name for s in scan]
    order, budget = [s.name for s in scan], -metric(copy.deepcopy(tiny)) + scan[0].drop
    chosen = find_exclusions(tiny, PLAN, metric, scan, budget, ranges)
    assert chosen == order[: len(chosen)]
    values = []
    for exclude in (chosen, chosen[:-1]):
        model = copy.deepcopy(tiny)
        apply(model, PLAN, ranges, exclude)
        values.append(metric(model))
    assert values[0] >= -budget > values[1]


def test_a_metric_that_fails_leaves_the_model_as_it_was(tiny):
    def fails(model):
        if any(isinstance(m, Int8Linear) for m in model.modules()):
            raise RuntimeError("no validation data")
        return 1.0

    with pytest.raises(RuntimeError, match=r"no validation data"):
        sensitivity_scan(tiny, PLAN, fails, input_ranges(tiny, list(PLAN), batches()))
    assert not any(isinstance(m, Int8Linear) for m in tiny.modules())


def test_modules_are_swapped_and_come_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    own, other = model[0], nn.Identity()
    with swapped(model, {"0": other}):
        assert model[0] is other
    assert model[0] is own


def test_a_scan_of_other_layers_or_a_negative_budget_is_refused(tiny):
    metric, ranges = nearness(tiny), input_ranges(tiny, list(PLAN), batches())
    with pytest.raises(ValueError, match=r"scan = .*expected a scan of the 12 layers"):
        find_exclusions(tiny, PLAN, metric, [Sensitivity("bert.pooler", 0.0, 0.0)], 0.1, ranges)
    with pytest.raises(ValueError, match=r"budget = -0.1"):
        find_exclusions(tiny, PLAN, metric, [], -0.1, ranges)


def test_an_input_range_is_its_observers():
    found = InputRange(2, MinMax())
    found.add(torch.tensor([[1.0, -2.0], [0.0, 5.0]]))
    found.add(torch.tensor([[3.0, -4.0]]))
    assert found.rows == 3 and tuple(map(float, found.observer.range())) == (-4.0, 5.0)
