"""Removing structure: what is left computes exactly what the masked model computed, and is as small as the formula says."""

import copy
import random

import pytest
import torch
from torch import nn
from transformers import BertModel, DistilBertConfig, DistilBertModel, GPT2Config, GPT2Model

from course_lib.errors import CourseError
from course_lib.models.surgery import layer_shapes
from course_lib.models.zoo import find_encoder, load_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.pruning.structure import (
    best_units,
    checked_layers,
    drop_layers,
    encoder_layers,
    remove_ffn_neurons,
    remove_heads,
)
from course_lib.report import parameter_count

TAGS = ["O", "B-X", "I-X"]


@pytest.fixture
def tiny():
    """The tiny classifier with weights large enough for every neuron to matter (drawn ones are near 0)."""
    model, generator = load_token_classifier(find_encoder("tiny"), TAGS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def minilm():
    return load_token_classifier(find_encoder("minilm"), TAGS).eval()


def inputs(model, batch: int = 3, length: int = 20) -> dict[str, torch.Tensor]:
    """A batch whose rows have different lengths."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size, (batch, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([length - 4 * i for i in range(batch)])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def logits(model, given=None) -> torch.Tensor:
    with torch.inference_mode():
        return model(**(given or inputs(model))).logits


def drawn(model, count: int, seed: int = 0) -> list[torch.Tensor]:
    """``count`` neurons per layer, drawn at random, in random order."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randperm(layer.intermediate.dense.out_features, generator=generator)[:count] for layer in encoder_layers(model)
    ]


def masked_logits(model, keep: list[torch.Tensor]) -> torch.Tensor:
    """Logits with the activations of all other neurons set to zero by a hook."""
    handles = []
    for layer, kept in zip(encoder_layers(model), keep, strict=True):
        mask = torch.zeros(layer.intermediate.dense.out_features).index_fill_(0, kept, 1.0)
        handles.append(layer.intermediate.register_forward_hook(lambda module, args, out, mask=mask: out * mask.to(out.dtype)))
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


def layer_parameters(hidden: int, width: int) -> int:
    """Query, key, value and output of attention, two matrices of the feed-forward block, two LayerNorms; all with biases."""
    return 4 * (hidden**2 + hidden) + (2 * hidden * width + width + hidden) + 2 * 2 * hidden


# Feed-forward neurons


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_removing_neurons_equals_setting_their_activations_to_zero(tiny, dtype):
    """Only the order of the additions differs: 64 terms of size 1 are off by at most 64 eps, about 1e-5 in fp32."""
    tiny = tiny.to(dtype)
    before, keep = logits(tiny), drawn(tiny, 19)
    masked = masked_logits(tiny, keep)
    atol = 64 * torch.finfo(dtype).eps * max(1.0, float(before.abs().max()))
    assert (masked - before).abs().max() > 100 * atol, "the neurons removed must matter"
    remove_ffn_neurons(tiny, keep)
    torch.testing.assert_close(logits(tiny), masked, rtol=0, atol=atol)
    assert {p.dtype for p in tiny.parameters()} == {dtype}


def test_the_same_holds_for_minilms_real_weights(minilm):
    """fp32 sums of 384 terms, six layers, logits below 1: off by some 1e-7, allowed 1e-5; removing changes 1e-2."""
    keep = drawn(minilm, 384, seed=2)
    masked = masked_logits(minilm, keep)
    assert (masked - logits(minilm)).abs().max() > 1e-2
    small = copy.deepcopy(minilm)
    remove_ffn_neurons(small, keep)
    torch.testing.assert_close(logits(small), masked, rtol=0, atol=1e-5)
    assert parameter_count(minilm) - parameter_count(small) == 6 * (2 * 384 + 1) * (1536 - 384)


def test_keeping_all_neurons_in_any_order_changes_nothing(tiny):
    before = logits(tiny.double())
    remove_ffn_neurons(tiny, drawn(tiny, 64, seed=3))
    torch.testing.assert_close(logits(tiny), before, rtol=0, atol=1e-12)  # as above, in fp64


@pytest.mark.parametrize("count", [1, 10, 63, 64])
def test_a_neuron_costs_a_row_a_bias_and_a_column(tiny, count):
    before = parameter_count(tiny)
    report = remove_ffn_neurons(tiny, drawn(tiny, count))
    assert before - parameter_count(tiny) == 2 * (32 + 1 + 32) * (64 - count)
    assert (report.parameters_before, report.parameters_after) == (before, parameter_count(tiny))
    assert report.changed == [f"encoder.layer.{i}: 64 → {count} feed-forward neurons" for i in range(2)]
    assert report.skipped == []
    for layer in encoder_layers(tiny):
        assert layer.intermediate.dense.weight.shape == (count, 32) and layer.output.dense.weight.shape == (32, count)
        assert layer.intermediate.dense.out_features == layer.output.dense.in_features == count
    assert tiny.config.intermediate_size == count


def test_a_pruned_model_can_be_saved_loaded_trained_and_pruned_again(tiny, tmp_path):
    remove_ffn_neurons(tiny, drawn(tiny, 20))
    drop_layers(tiny, [1])
    save_model(tiny, load_tokenizer(find_encoder("tiny")), tmp_path)
    back = load_token_classifier(tmp_path).eval()
    assert (back.config.intermediate_size, back.config.num_hidden_layers) == (20, 1)
    assert torch.equal(logits(back), logits(tiny))
    back(**inputs(back)).logits.sum().backward()
    (layer,) = encoder_layers(back)
    assert layer.intermediate.dense.weight.grad.shape == (20, 32) and layer.output.dense.weight.grad.abs().sum() > 0
    remove_ffn_neurons(back, drawn(back, 5))
    assert encoder_layers(back)[0].output.dense.weight.shape == (32, 5)


@pytest.mark.parametrize(
    ("keep", "found", "expected"),
    [
        ([[0, 1]], r"keep = 1", "one index tensor for each of 2 layers"),
        ([[0, 1], [0, 1], [0, 1]], r"keep = 3", "one index tensor for each of 2 layers"),
        ([[], []], r"keep = \[0, 0\]", "at least one of the feed-forward neurons"),
        ([[0, 1], [0, 64]], r"keep\[1\] = \[0, 64\]", "different units of bert.encoder.layer.1.neurons between 0 and 63"),
        ([[0, 1], [-1, 3]], r"keep\[1\] = \[-1, 3\]", "different units of bert.encoder.layer.1.neurons between 0 and 63"),
        ([[3, 3], [0, 1]], r"keep\[0\] = \[3, 3\]", "different units of bert.encoder.layer.0.neurons between 0 and 63"),
    ],
)
def test_bad_neurons_are_refused_and_leave_the_model_whole(tiny, keep, found, expected):
    before = logits(tiny)
    with pytest.raises(ValueError, match=f"{found}: expected {expected}"):
        remove_ffn_neurons(tiny, [torch.tensor(k, dtype=torch.int64) for k in keep])
    assert torch.equal(logits(tiny), before) and tiny.config.intermediate_size == 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_indices_that_are_no_whole_numbers_are_refused(tiny, dtype):
    with pytest.raises(ValueError, match=r"keep\[0\] = .*: expected unit numbers, int64"):
        remove_ffn_neurons(tiny, [torch.tensor([0.0, 1.0], dtype=dtype)] * 2)


# Heads


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("keep", [[[0, 1, 3], [2]], [[3, 1], [0, 1, 2, 3]], [[], [1]], [[0], []]])
def test_removing_heads_equals_setting_what_they_put_out_to_zero(tiny, attention, keep):
    """In fp64, as for the neurons."""
    tiny.set_attn_implementation(attention)
    tiny = tiny.double()
    keep = [torch.tensor(k, dtype=torch.int64) for k in keep]
    handles = []
    for layer, kept in zip(encoder_layers(tiny), keep, strict=True):
        mask = torch.zeros(4).index_fill_(0, kept, 1.0).repeat_interleave(8)
        dense = layer.attention.output.dense
        handles.append(dense.register_forward_pre_hook(lambda module, args, mask=mask: (args[0] * mask.to(args[0].dtype),)))
    masked = logits(tiny)
    for handle in handles:
        handle.remove()
    atol = 64 * torch.finfo(torch.float64).eps * float(masked.abs().max())
    assert (masked - logits(tiny)).abs().max() > 100 * atol
    before = parameter_count(tiny)
    report = remove_heads(tiny, keep)
    torch.testing.assert_close(logits(tiny), masked, rtol=0, atol=atol)
    gone = 8 - sum(map(len, keep))
    assert before - parameter_count(tiny) == gone * (4 * 8 * 32 + 3 * 8)
    assert report.changed == [f"encoder.layer.{i}: 4 → {len(k)} attention heads" for i, k in enumerate(keep)]


def test_the_attention_of_a_layer_knows_its_heads(tiny):
    remove_heads(tiny, [torch.tensor([3, 1]), torch.tensor([], dtype=torch.int64)])
    first, last = (layer.attention.self for layer in encoder_layers(tiny))
    assert (first.num_attention_heads, first.attention_head_size, first.all_head_size) == (2, 8, 16)
    assert (last.num_attention_heads, last.all_head_size) == (0, 0)
    assert first.query.out_features == 16 and tuple(first.query.weight.shape) == (16, 32)
    assert tiny.config.num_attention_heads == 4, "the size of a head follows from it"
    assert tiny.config.course_shapes == layer_shapes(tiny) == {"heads": [2, 0], "ffn": [64, 64]}


def test_attention_maps_are_those_of_the_heads_kept(tiny):
    tiny.set_attn_implementation("eager")
    given = inputs(tiny)
    with torch.inference_mode():
        before = tiny(**given, output_attentions=True).attentions[0]
        remove_heads(tiny, [torch.tensor([2, 0]), torch.arange(4)])
        after = tiny(**given, output_attentions=True).attentions[0]
    torch.testing.assert_close(after, before[:, [2, 0]], rtol=0, atol=1e-6)  # one softmax of sums of 8 products


def test_heads_and_neurons_go_on_from_an_empty_block(tiny):
    empty = torch.tensor([], dtype=torch.int64)
    remove_heads(tiny, [empty, torch.arange(3)])
    remove_ffn_neurons(tiny, [torch.arange(9), empty])
    report = remove_heads(tiny, [empty, torch.arange(2)])
    assert report.changed == ["encoder.layer.1: 3 → 2 attention heads"]
    assert layer_shapes(tiny) == {"heads": [0, 2], "ffn": [9, 0]}
    with pytest.raises(ValueError, match=r"keep\[0\] = \[0\]: expected nothing: the layer has no attention heads left"):
        remove_heads(tiny, [torch.tensor([0]), torch.arange(2)])
    drop_layers(tiny, [1])
    assert tiny.config.course_shapes == {"heads": [2], "ffn": [0]} and logits(tiny).isfinite().all()


@pytest.mark.parametrize(
    ("keep", "found", "expected"),
    [
        ([[0, 1]], r"keep = 1", "one index tensor for each of 2 layers"),
        ([[], []], r"keep = \[0, 0\]", "at least one of the attention heads"),
        ([[0, 1], [0, 4]], r"keep\[1\] = \[0, 4\]", "different units of bert.encoder.layer.1.heads between 0 and 3"),
        ([[0, 0], [1]], r"keep\[0\] = \[0, 0\]", "different units of bert.encoder.layer.0.heads between 0 and 3"),
    ],
)
def test_bad_heads_are_refused_and_leave_the_model_whole(tiny, keep, found, expected):
    before = logits(tiny)
    with pytest.raises(ValueError, match=f"{found}: expected {expected}"):
        remove_heads(tiny, [torch.tensor(k, dtype=torch.int64) for k in keep])
    assert torch.equal(logits(tiny), before) and not hasattr(tiny.config, "course_shapes")


# Layers


@pytest.mark.parametrize("depth", [1, 3, 5, 6])
def test_the_first_layers_give_the_hidden_states_they_always_gave(depth):
    encoder = load_encoder("minilm")
    given = inputs(encoder)
    with torch.inference_mode():
        states = encoder(**given, output_hidden_states=True).hidden_states
        drop_layers(encoder, range(depth))
        assert torch.equal(encoder(**given).last_hidden_state, states[depth])
        assert len(encoder(**given, output_hidden_states=True).hidden_states) == depth + 1


@pytest.mark.parametrize("keep", [[0, 2, 5], [5], [1, 3]])
def test_the_kept_layers_run_in_their_order(keep):
    """Against transformers' own model of that depth, filled with the weights of these layers."""
    encoder = load_encoder("minilm")
    config = copy.deepcopy(encoder.config)
    config.num_hidden_layers = len(keep)
    oracle = BertModel(config).eval()
    weights = {}
    for name, tensor in encoder.state_dict().items():
        if not name.startswith("encoder.layer."):
            weights[name] = tensor
            continue
        number, rest = name.removeprefix("encoder.layer.").split(".", 1)
        if int(number) in keep:
            weights[f"encoder.layer.{keep.index(int(number))}.{rest}"] = tensor
    oracle.load_state_dict(weights)
    drop_layers(encoder, keep)
    given = inputs(encoder)
    with torch.inference_mode():
        assert torch.equal(encoder(**given).last_hidden_state, oracle(**given).last_hidden_state)
    assert encoder.state_dict().keys() == oracle.state_dict().keys()


def test_a_dropped_layer_saves_what_the_formula_says(tiny, minilm):
    for model, hidden, width in ((tiny, 32, 64), (copy.deepcopy(minilm), 384, 1536)):
        before, depth = parameter_count(model), len(encoder_layers(model))
        report = drop_layers(model, range(1, depth))
        assert before - parameter_count(model) == layer_parameters(hidden, width)
        assert (report.parameters_before, report.parameters_after) == (before, parameter_count(model))
        assert report.changed == ["encoder.layer.0: dropped"]
        assert model.config.num_hidden_layers == len(encoder_layers(model)) == depth - 1


def test_keeping_every_layer_changes_nothing(tiny):
    before = logits(tiny)
    report = drop_layers(tiny, [0, 1])
    assert torch.equal(logits(tiny), before)
    assert report.changed == [] and report.parameters_before == report.parameters_after


@pytest.mark.parametrize("keep", [[], [1, 0], [0, 0], [-1], [0, 2], [2]])
def test_bad_layers_are_refused_and_leave_the_model_whole(tiny, keep):
    before = logits(tiny)
    with pytest.raises(ValueError, match=r"keep = .*: expected ascending layer numbers between 0 and 1, at least one"):
        drop_layers(tiny, keep)
    assert torch.equal(logits(tiny), before) and tiny.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 2),
        GPT2Model(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2)),
        DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, hidden_dim=8, n_layers=1, n_heads=2)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_not_built_like_bert_are_refused_by_name(model):
    removals = (lambda m: remove_ffn_neurons(m, [torch.arange(4)]), lambda m: remove_heads(m, [torch.arange(1)]))
    for call in (encoder_layers, lambda m: drop_layers(m, [0]), *removals):
        with pytest.raises(CourseError, match=rf"{type(model).__name__}: expected a BERT-like encoder \(base_model\.encoder"):
            call(model)


def test_the_layers_of_an_encoder_and_of_a_classifier_are_found(tiny):
    assert len(encoder_layers(tiny)) == len(encoder_layers(tiny.base_model)) == 2
    assert encoder_layers(tiny) is tiny.base_model.encoder.layer


# Parts


def test_best_units_equals_sorting_by_score_then_index():
    rng = random.Random(0)
    for _ in range(300):
        scores = [float(rng.randint(0, 4)) for _ in range(rng.randint(1, 12))]
        count = rng.randint(1, len(scores))
        expected = sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])
        assert best_units(torch.tensor(scores), count).tolist() == expected


@pytest.mark.parametrize("count", [0, -1, 4])
def test_best_units_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match=f"count = {count}: expected between 1 and 3 units"):
        best_units(torch.ones(3), count)


def test_tied_parameters_are_counted_once():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    assert parameter_count(nn.Sequential(a, b)) == 40
    b.weight = a.weight
    assert parameter_count(nn.Sequential(a, b)) == 24


# Oracle


@pytest.mark.oracles
def test_torch_pruning_removes_the_same_rows_and_columns(tiny):
    """It is asked for rows of the first matrix; its tracer finds the rest."""
    tp = pytest.importorskip("torch_pruning")
    theirs, drop = copy.deepcopy(tiny), [0, 7, 63]
    graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=inputs(theirs))
    for layer in encoder_layers(theirs):
        graph.get_pruning_group(layer.intermediate.dense, tp.prune_linear_out_channels, idxs=drop).prune()
    remove_ffn_neurons(tiny, [torch.tensor([i for i in range(64) if i not in drop])] * 2)
    mine, other = tiny.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


@pytest.mark.oracles
def test_torch_pruning_finds_the_same_four_matrices_for_a_head(tiny):
    """It is asked for rows of the value matrix; fused attention leads its tracer to query, key and output."""
    tp = pytest.importorskip("torch_pruning")
    theirs, drop = copy.deepcopy(tiny), list(range(8, 16))  # the second head
    graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=inputs(theirs))
    for layer in encoder_layers(theirs):
        graph.get_pruning_group(layer.attention.self.value, tp.prune_linear_out_channels, idxs=drop).prune()
    remove_heads(tiny, [torch.tensor([0, 2, 3])] * 2)
    mine, other = tiny.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def test_layers_to_keep_are_checked_before_anything_is_done(tiny):
    assert checked_layers(tiny, (0, 1)) == [0, 1] and checked_layers(tiny, [1]) == [1]
    for keep in ([], [1, 0], [0, 0], [-1], [2]):
        with pytest.raises(ValueError, match=r"keep = .*expected ascending layer numbers between 0 and 1, at least one"):
            checked_layers(tiny, keep)
