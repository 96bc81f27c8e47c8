"""Every node through 8 bits: each exactly as its range says, all but the excluded ones, one at a time in a scan."""

import copy

import pytest
import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.affine import choose_from_range, fake_quantize
from course_lib.quantization.nodes import QuantizedNode, node_ranges, node_scan, quantize_nodes


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).eval()


def batches() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(5, 80, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [2]])).long()
    return [{"input_ids": i, "attention_mask": mask} for i in ids]


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(**b).logits[b["attention_mask"].bool()] for b in batches()])


def test_all_that_is_read_and_put_out_has_a_range_of_its_real_tokens(tiny):
    ranges = node_ranges(tiny, batches())
    layer = "bert.encoder.layer.1"
    for node in (f"{layer}.output.LayerNorm:input", f"{layer}.attention.self.query:output", "bert.embeddings.word_embeddings:output",
                 f"{layer}.intermediate.intermediate_act_fn:input", "classifier:output", "bert.embeddings.position_embeddings:output"):  # fmt: skip
        assert node in ranges
    assert "bert.embeddings.word_embeddings:input" not in ranges, "ids are no activations"
    assert not any("dropout" in node for node in ranges)
    whole = logits(tiny)
    assert ranges["classifier:output"] == (whole.min(), whole.max())
    assert not any(m._forward_hooks for m in tiny.modules())


def test_a_node_goes_through_exactly_the_codes_of_its_ranges():
    linear, x = nn.Linear(4, 3), torch.randn(5, 4)
    ends = {"input": (torch.tensor(-1.0), torch.tensor(2.0)), "output": (torch.tensor(-0.5), torch.tensor(0.5))}
    coded = {side: lambda v, e=e: fake_quantize(v, *choose_from_range(*e, 8, symmetric=False), symmetric=False) for side, e in ends.items()}  # fmt: skip
    assert torch.equal(QuantizedNode(linear, ends)(x), coded["output"](linear(coded["input"](x))))
    assert torch.equal(QuantizedNode(linear, {"input": ends["input"]})(x), linear(coded["input"](x)))
    assert torch.equal(QuantizedNode(linear, {})(x), linear(x))


def test_excluding_all_nodes_is_the_float_model_and_8_bits_are_near_it(tiny):
    ranges, whole = node_ranges(tiny, batches()), logits(tiny)
    left = copy.deepcopy(tiny)
    report = quantize_nodes(left, ranges, exclude=["*"])
    assert report.changed == []
    assert len(report.skipped) == len(ranges)
    assert torch.equal(logits(left), whole)
    off = []
    for bits in (8, 4):
        model = copy.deepcopy(tiny)
        quantize_nodes(model, ranges, bits)
        off.append((logits(model) - whole).square().mean())
    assert 0 < off[0] < off[1]


def test_the_report_names_what_is_left(tiny):
    report = quantize_nodes(tiny, node_ranges(tiny, batches()), exclude=["*LayerNorm:input"])
    assert "bert.encoder.layer.0.output.LayerNorm: output of 8 bits" in report.changed
    assert "bert.encoder.layer.0.output.LayerNorm:input: excluded" in report.skipped
    assert "classifier: input and output of 8 bits" in report.changed


def test_a_scan_finds_the_residual_sum_with_an_outlier(tiny):
    """A hundred on one column of a residual sum: LayerNorm copes with it, one scale for all columns does not."""
    with torch.no_grad():
        tiny.bert.encoder.layer[1].output.dense.bias[3] = 100.0
        tiny.bert.encoder.layer[1].output.LayerNorm.weight *= 10
    whole, ranges = logits(tiny), node_ranges(tiny, batches())
    scan = node_scan(tiny, ranges, lambda m: -float((logits(m) - whole).square().mean()))
    assert {s.name for s in scan} == set(ranges)
    assert "bert.encoder.layer.1.output.LayerNorm:input" in [s.name for s in scan[:2]]
    assert torch.equal(logits(tiny), whole)
    assert not any(isinstance(m, QuantizedNode) for m in tiny.modules())


def test_wrong_patterns_nodes_and_calibration_sets_are_errors(tiny):
    ranges = node_ranges(tiny, batches())
    with pytest.raises(CourseError, match=r"exclude: 'nothing' matches none of the"):
        quantize_nodes(tiny, ranges, exclude=["nothing"])
    with pytest.raises(ValueError, match=r"exclude = .*not one string"):
        quantize_nodes(tiny, ranges, exclude="*")
    with pytest.raises(CourseError, match=r"the model has no module 'bert.nowhere'"):
        quantize_nodes(tiny, {"bert.nowhere:input": ranges["classifier:input"]})
    with pytest.raises(ValueError, match=r"ranges = .*expected 'input' and 'output'"):
        quantize_nodes(tiny, {"classifier:middle": ranges["classifier:input"]})
    with pytest.raises(ValueError, match=r"calibration set is empty"):
        node_ranges(tiny, [])
    assert not any(isinstance(m, QuantizedNode) for m in tiny.modules())
