"""Sizes against brute force: every matrix product of a real forward pass, counted."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForTokenClassification

from course_lib.measure.size import effective_parameters, macs_per_token, stored_parameters
from course_lib.models.zoo import find_encoder, load_encoder, load_token_classifier
from course_lib.pruning.structure import drop_layers, encoder_layers, remove_ffn_neurons, remove_heads


@pytest.fixture(scope="module")
def minilm():
    """With attention written out as matrix products, so that they can be seen."""
    labels = {i: f"T{i}" for i in range(9)}
    return AutoModelForTokenClassification.from_pretrained(
        find_encoder("minilm"), attn_implementation="eager", id2label=labels, dtype="float32"
    ).eval()


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"])


def counted_by_hooks(model, length: int) -> int:
    """Multiply-adds of one sentence: hooks on every linear layer, plus the two products of each attention head."""
    total, handles = 0, []

    def linear(module, inputs, output):
        nonlocal total
        total += inputs[0].numel() // module.in_features * module.in_features * module.out_features

    def attention(module, inputs, output):
        nonlocal total
        heads = model.config.num_attention_heads
        size = model.config.hidden_size // heads
        total += heads * (length * size * length)  # scores: (L, size) · (size, L)
        total += heads * (length * length * size)  # weighted sum: (L, L) · (L, size)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(linear))
        elif type(module).__name__ == "BertSelfAttention":
            handles.append(module.register_forward_hook(attention))
    with torch.inference_mode():
        model(input_ids=torch.full((1, length), 7), attention_mask=torch.ones(1, length, dtype=torch.int64))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("length", [1, 16, 100])
def test_multiply_adds_are_those_of_a_forward_pass_of_minilm(minilm, length):
    by_hooks = counted_by_hooks(minilm, length)
    assert by_hooks == length * macs_per_token(minilm, length)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        minilm(input_ids=torch.full((1, length), 7), attention_mask=torch.ones(1, length, dtype=torch.int64))
    assert counter.get_total_flops() == 2 * by_hooks  # a multiplication and an addition each


def test_multiply_adds_of_minilm_by_hand(minilm):
    """Six layers of 4 D² + 2 D F and 2 L D; nine tags."""
    d, f = 384, 1536
    assert macs_per_token(minilm, 20) == 6 * (4 * d * d + 2 * d * f + 2 * 20 * d) + 9 * d
    assert macs_per_token(minilm, 20.5) - macs_per_token(minilm, 20) == 6 * d


def test_the_pooler_is_left_out_it_runs_once_per_sentence():
    encoder = load_encoder("minilm")
    assert encoder.pooler.dense.weight.numel() == 384**2
    assert macs_per_token(encoder, 0) == 6 * (4 * 384**2 + 2 * 384 * 1536)


def test_pruning_saves_the_multiply_adds_it_should(tiny):
    before = macs_per_token(tiny, 12)
    remove_ffn_neurons(tiny, [torch.arange(10), torch.arange(10, 20)])
    assert before - macs_per_token(tiny, 12) == 2 * 2 * 32 * (64 - 10)
    before = macs_per_token(tiny, 12)
    drop_layers(tiny, [0])
    assert before - macs_per_token(tiny, 12) == 4 * 32**2 + 2 * 32 * 10 + 2 * 12 * 32


def test_a_head_removed_saves_its_projections_and_its_attention(tiny):
    before = macs_per_token(tiny, 12)
    remove_heads(tiny, [torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64)])
    assert before - macs_per_token(tiny, 12) == 6 * 8 * (4 * 32 + 2 * 12)


def test_minilm_stores_22_7_million_parameters_half_of_them_embeddings():
    encoder = load_encoder("minilm")
    layer = 4 * (384**2 + 384) + (2 * 384 * 1536 + 1536 + 384) + 4 * 384
    embeddings = (30522 + 512 + 2) * 384 + 2 * 384
    assert stored_parameters(encoder) == embeddings + 6 * layer + 384**2 + 384 == 22_713_216
    assert sum(p.numel() for p in encoder.embeddings.parameters()) == embeddings > 0.5 * 22_713_216


def test_zeros_are_stored_but_not_effective(tiny):
    with torch.no_grad():
        for p in tiny.parameters():
            p.fill_(0.5)
    assert effective_parameters(tiny) == stored_parameters(tiny)
    with torch.no_grad():
        for layer in encoder_layers(tiny):
            layer.output.dense.weight[:, ::2] = 0
        tiny.classifier.bias[0] = -0.0
    assert stored_parameters(tiny) - effective_parameters(tiny) == 2 * 32 * 32 + 1


def test_tied_parameters_count_once():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    pair = nn.Sequential(a, b)
    with torch.no_grad():
        for p in pair.parameters():
            p.fill_(1.0)
        a.weight[0] = 0
    assert (stored_parameters(pair), effective_parameters(pair)) == (16 + 4 + 4, 12 + 4 + 4)
