"""``apply``: what a plan names is replaced, all else is left alone or named as skipped, and nothing happens by halves."""

import copy

import pytest
import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.apply import apply, empty_module, packed_class, quantized_module, quantized_modules
from course_lib.quantization.embedding import QuantizedEmbedding
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.packed_linear import CodebookLinear, Int4Linear, PackedLinear
from course_lib.quantization.scheme import Scheme, linear_bytes, weight_bytes
from course_lib.report import tensor_bytes

DYNAMIC = Scheme(activation="dynamic")
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # a layer without weights is meant


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).eval()


def logits(model) -> torch.Tensor:
    ids = torch.randint(5, 80, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(input_ids=ids).logits


def unchanged(model, before) -> bool:
    return [type(m) for m in model.modules()] == [type(m) for m in before.modules()]


def test_each_scheme_becomes_its_kind_of_layer(tiny):
    plan = {
        "*word_embeddings": Scheme(4),
        "*query": DYNAMIC,
        "*key": Scheme(4, 8),
        "*value": Scheme(3, 8),
        "*intermediate.dense": Scheme(3, "tensor", codebook="kmeans"),
        "classifier": Scheme(activation="static"),
    }
    report = apply(tiny, plan, {"classifier": (torch.tensor(-3.0), torch.tensor(3.0))})
    attention, layer = tiny.bert.encoder.layer[1].attention, tiny.bert.encoder.layer[1]
    kinds = [attention.self.query, attention.self.key, attention.self.value, layer.intermediate.dense]
    assert [type(k) for k in kinds] == [Int8Linear, Int4Linear, PackedLinear, CodebookLinear]
    assert type(tiny.bert.embeddings.word_embeddings) is QuantizedEmbedding
    assert type(tiny.classifier) is Int8Linear
    assert type(attention.output.dense) is nn.Linear
    assert len(report.changed) == 1 + 2 * 4 + 1
    assert logits(tiny).isfinite().all()


def test_the_report_counts_bytes_and_parameters(tiny):
    before = tensor_bytes(tiny)
    report = apply(tiny, {"*.query": DYNAMIC, "*word_embeddings": Scheme(4, 8)})
    vocabulary = tiny.config.vocab_size
    saved = 2 * (32 * 32 * 4 + 32 * 4 - linear_bytes((32, 32), DYNAMIC))
    saved += vocabulary * 32 * 4 - weight_bytes((vocabulary, 32), Scheme(4, 8))
    assert (report.bytes_before, report.bytes_after) == (before, before - saved)
    assert report.parameters_before == report.parameters_after
    line = (
        "bert.encoder.layer.0.attention.self.query: 4,224 → 1,280 bytes (8 bits, symmetric, per channel, int8 inputs per token)"
    )
    assert line in report.changed


def test_eight_bits_change_the_logits_little_and_two_bits_more(tiny):
    """Nothing is proved here but the order: rounding errors of 1/254 of a row's largest weight against 1/2 of it."""
    whole, off = logits(tiny), []
    for bits in (8, 4, 2):
        model = copy.deepcopy(tiny)
        apply(model, {"*.dense": Scheme(bits), "*.query": Scheme(bits)})
        off.append(float((logits(model) - whole).abs().max()))
    assert off[0] < off[1] < off[2]
    assert off[0] < 0.01 * float(whole.abs().max())


def test_excluded_layers_stay_and_the_report_says_so(tiny):
    report = apply(tiny, {"*.dense": DYNAMIC}, exclude=["*layer.0*"])
    assert all(type(m) is nn.Linear for n, m in tiny.named_modules() if n.endswith(".dense") and ".0." in n)
    assert type(tiny.bert.encoder.layer[1].output.dense) is Int8Linear
    assert "bert.encoder.layer.0.output.dense: excluded" in report.skipped


def test_excluding_everything_leaves_the_float_model(tiny):
    before, whole = copy.deepcopy(tiny), logits(tiny)
    report = apply(tiny, {"*.dense": DYNAMIC, "*embeddings": Scheme()}, exclude=["*"])
    assert report.changed == []
    assert report.bytes_before == report.bytes_after
    assert unchanged(tiny, before)
    assert torch.equal(logits(tiny), whole)


def test_the_mode_of_each_layer_is_kept(tiny):
    apply(tiny.train(), {"*.query": DYNAMIC})
    assert all(m.training for m in tiny.modules())
    apply(tiny.eval(), {"*.key": DYNAMIC})
    assert not any(m.training for m in tiny.modules())


def test_more_layers_can_be_quantized_later(tiny):
    apply(tiny, {"*.query": DYNAMIC})
    apply(tiny, {"*.key": Scheme(4, 8)})
    assert type(tiny.bert.encoder.layer[0].attention.self.query) is Int8Linear
    assert type(tiny.bert.encoder.layer[0].attention.self.key) is Int4Linear


def test_a_codebook_serves_the_important_weights_first(tiny):
    """Weighted by the square of each input, the squared error so weighted is no larger than with all counting alike."""
    name, words = "bert.encoder.layer.0.intermediate.dense", "bert.embeddings.word_embeddings"
    plan = dict.fromkeys((name, words), Scheme(2, codebook="kmeans"))
    inputs = torch.rand(32, generator=torch.Generator().manual_seed(0)).pow(4)
    w, errors = tiny.get_submodule(name).weight.detach(), []
    for importance in (None, {name: inputs, words: inputs}, {name: torch.ones(32)}):
        model = copy.deepcopy(tiny)
        apply(model, plan, importance=importance)
        errors.append(((model.get_submodule(name).weight.dequantize() - w).square() * inputs).sum())
    assert errors[1] < errors[0]
    assert errors[2] == errors[0], "weights all 1 are no weights"


@pytest.mark.parametrize("scheme", [DYNAMIC, Scheme(4, 8), Scheme(4, 8, codebook="nf4")], ids=str)
def test_importance_is_for_kmeans_codebooks_alone(tiny, scheme):
    with pytest.raises(CourseError, match=r"classifier: importance = .*expected None but for k-means codebooks"):
        apply(tiny, {"classifier": scheme}, importance={"classifier": torch.ones(32)})
    with pytest.raises(CourseError, match=r"classifier: weights = .*broadcasts to \(3, 32\)"):
        apply(tiny, {"classifier": Scheme(2, codebook="kmeans")}, importance={"classifier": torch.ones(31)})


# What has to be skipped


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Named(nn.Linear):
    """A subclass that computes as its parent does."""


def odd() -> nn.Module:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 8),
            "named": Named(8, 8),
            "doubled": Doubled(8, 8),
            "words": nn.Embedding(9, 8),
            "head": nn.Linear(8, 9, bias=False),
            "image": nn.Conv2d(1, 2, 3),
            "normed": nn.Embedding(9, 8, max_norm=1.0),
            "attention": nn.MultiheadAttention(8, 2),
            "empty": nn.Linear(0, 8),
        }
    )
    model["head"].weight = model["words"].weight
    return model


def test_what_cannot_be_quantized_is_named_with_its_reason():
    model = odd()
    report = apply(model, {"*": Scheme(4, 8)})
    assert [line.split(":")[0] for line in report.changed] == ["plain", "named"]
    reasons = dict(line.split(": ", 1) for line in report.skipped)
    assert reasons == {
        "doubled": "Doubled is a Linear with a forward of its own",
        "words": "its weight is tied to head",
        "head": "its weight is tied to words",
        "image": "convolutions have no integer product here",
        "normed": "max_norm rewrites rows as they are read",
        "attention.out_proj": "its parent reads the weight without calling it",
        "empty": "it has no weights",
    }
    assert model["head"].weight is model["words"].weight


@pytest.mark.parametrize("pattern", ["image", "normed", "attention.out_proj", "empty"])
def test_a_pattern_by_which_nothing_could_be_done_is_an_error(pattern):
    with pytest.raises(CourseError, match=f"'{pattern}' matches only modules that must stay in float"):
        apply(odd(), {pattern: Scheme(), "plain": Scheme()})


# Bad input, and nothing by halves


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "plan"),
        ({"*.quarry": DYNAMIC}, "matches nothing .*expected a name like"),
        ({"*.query": DYNAMIC, "*layer.0*": DYNAMIC}, r"matched by '\*.query' and by '\*layer.0\*'"),
        ({"*.query": 8}, r"plan\['\*.query'\] = 8: expected a Scheme"),
        ({"*.key": DYNAMIC, "*.query": Scheme(4, 7)}, "query: granularity = .*divide the shape .*Nothing was changed"),
        ({"*.key": DYNAMIC, "*.query": Scheme(activation="static")}, "query: input_range = None.*calibration"),
        ({"*.query": DYNAMIC, "*word_embeddings": DYNAMIC}, "word_embeddings: scheme = .*an embedding reads ids"),
        ({"bert.embeddings.LayerNorm": DYNAMIC}, "matches no Linear or Embedding or Conv2d; what it matches is a LayerNorm"),
    ],
)
def test_a_wrong_plan_is_an_error_and_changes_nothing(tiny, plan, message):
    before = copy.deepcopy(tiny)
    with pytest.raises((CourseError, ValueError), match=message):
        apply(tiny, plan)
    assert unchanged(tiny, before)


def test_weights_that_are_not_finite_are_named_and_nothing_is_changed(tiny):
    tiny.bert.encoder.layer[1].attention.self.query.weight.data[0, 0] = float("nan")
    before = copy.deepcopy(tiny)
    with pytest.raises(CourseError, match=r"layer.1.attention.self.query: .*finite"):
        apply(tiny, {"*.query": DYNAMIC})
    assert unchanged(tiny, before)


def test_a_model_quantized_already_is_an_error(tiny):
    apply(tiny, {"*.query": DYNAMIC})
    before = copy.deepcopy(tiny)
    with pytest.raises(CourseError, match=r"'\*self\*' matches .*query, which is quantized already \(Int8Linear"):
        apply(tiny, {"*self*": Scheme(4, 8)})
    assert unchanged(tiny, before)


def test_an_exclusion_that_matches_nothing_is_an_error(tiny):
    with pytest.raises(CourseError, match=r"exclude: '\*.quarry' matches none of the modules that the plan names"):
        apply(tiny, {"*.query": DYNAMIC}, exclude=["*.quarry"])
    with pytest.raises(CourseError, match=r"exclude: '\*.key' matches none"):
        apply(tiny, {"*.query": DYNAMIC}, exclude=["*.query", "*.key"])
    with pytest.raises(ValueError, match=r"exclude = .*expected a list of names"):
        apply(tiny, {"*.query": DYNAMIC}, exclude="*.query")


def test_layers_are_made_without_touching_the_model(tiny):
    before = copy.deepcopy(tiny)
    new, skipped = quantized_modules(tiny, {"*.query": DYNAMIC, "*.key": Scheme(4)}, exclude=["*1.*.query"])
    assert [type(m) for m in new.values()] == [Int8Linear, Int4Linear, Int4Linear]
    assert skipped == ["bert.encoder.layer.1.attention.self.query: excluded"]
    assert unchanged(tiny, before) and torch.equal(logits(tiny), logits(before))


@pytest.mark.parametrize(
    ("scheme", "kind"), [(Scheme(4), Int4Linear), (Scheme(3), PackedLinear), (Scheme(4, codebook="nf4"), CodebookLinear)]
)
def test_the_class_of_packed_weights_follows_from_the_scheme_and_an_empty_layer_is_filled_by_a_state(scheme, kind):
    linear = nn.Linear(8, 4)
    assert packed_class(scheme) is kind
    full, empty = quantized_module("a", linear, scheme), empty_module(linear, scheme)
    assert type(full) is type(empty) is kind
    empty.load_state_dict(full.state_dict())
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(empty(x), full(x))


def test_a_layer_that_cannot_be_made_is_named():
    with pytest.raises(CourseError, match=r"^here: .*Nothing was changed"):
        quantized_module("here", nn.Linear(8, 4), Scheme(4, 3))
    with pytest.raises(ValueError, match="module = 'ReLU': expected a linear layer or an embedding"):
        empty_module(nn.ReLU(), Scheme(4))
