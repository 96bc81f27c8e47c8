"""Removing units tensor by tensor: what the library does for modules, and no more than masking them would do."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bert import small_bert

from course_lib.models.digits import digits_cnn
from course_lib.models.groups import keep_units
from course_lib.models.surgery import encoder_layers, head_groups, head_size, layer_names
from course_lib.pruning.channels import channel_groups
from course_lib.pruning.tree import candidates, module_tree, prune_tree
from course_lib.pruning.written_out import leaf_parameters, masked_block, next_to_go, remove_attention_heads, remove_units
from course_lib.report import parameter_count


@pytest.mark.parametrize("group, maker, reader", [(0, "0", "2"), (1, "2", "6")])  # read by a convolution; flattened and read
def test_channels_are_those_that_the_library_keeps(group, maker, reader):
    model, keep = digits_cnn(seed=0), torch.tensor([0, 3, 11])
    before = [model.get_submodule(n) for n in (maker, maker, reader)]
    cut = remove_units(before[0].weight, before[1].bias, before[2].weight, keep)
    keep_units(model, channel_groups(model)[group], keep)
    after = [model.get_submodule(maker).weight, model.get_submodule(maker).bias, model.get_submodule(reader).weight]
    assert all(torch.equal(a, b) for a, b in zip(cut, after, strict=True))


def test_heads_are_those_that_the_library_keeps():
    model = small_bert()
    group, keep = head_groups(model)[0], torch.tensor([1, 3])
    attention = encoder_layers(model)[0].attention
    made = [getattr(attention.self, part) for part in ("query", "key", "value")]
    qkv, biases = torch.stack([m.weight for m in made]), torch.stack([m.bias for m in made])
    cut = remove_attention_heads(qkv, biases, attention.output.dense.weight, keep, head_size(model))
    keep_units(model, group, keep)
    made = [getattr(attention.self, part) for part in ("query", "key", "value")]
    assert torch.equal(cut[0], torch.stack([m.weight for m in made]))
    assert torch.equal(cut[1], torch.stack([m.bias for m in made]))
    assert torch.equal(cut[2], attention.output.dense.weight)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 12))
def test_a_masked_block_puts_out_what_the_smaller_one_does(seed, width, neurons):
    generator = torch.Generator().manual_seed(seed)
    x, w1, b1, w2, b2 = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in [(3, width), (neurons, width), (neurons,), (width, neurons), (width,)]
    )
    mask = torch.rand(neurons, generator=generator) < 0.5
    small = remove_units(w1, b1, w2, mask.nonzero()[:, 0])
    everything = torch.ones(int(mask.sum()), dtype=torch.bool)
    # Sums of at most 8 and 12 terms below 5·5·√8·5 ≈ 400 each, in another order: 20 · 400 · 2.2e-16 = 2e-12.
    torch.testing.assert_close(
        masked_block(x, w1, b1, w2, b2, mask), masked_block(x, *small, b2, everything), rtol=0, atol=2e-12
    )


def test_a_masked_block_is_the_library_s_when_nothing_is_masked_or_all():
    layer = encoder_layers(small_bert())[0]
    first, second = layer.intermediate.dense, layer.output.dense
    x, all_of = torch.randn(2, first.in_features, dtype=first.weight.dtype), torch.ones(first.out_features, dtype=torch.bool)
    parts = first.weight, first.bias, second.weight, second.bias
    # The same operations in another order: sums of 64 terms whose sizes add up to less than 100: 64 · 100 · 2.2e-16 = 1.4e-12.
    torch.testing.assert_close(masked_block(x, *parts, all_of), second(layer.intermediate(x)), rtol=0, atol=1.4e-12)
    assert torch.equal(masked_block(x, *parts, ~all_of), second.bias.expand(2, -1))


@pytest.mark.parametrize("neurons", [16, 24])
def test_the_leaves_of_a_tree_hold_every_parameter_of_the_layers_once(neurons):
    model = small_bert()
    for tree in (module_tree(model, neurons), [n for n in module_tree(model, neurons) if n.group in (None, n.name)]):
        found = leaf_parameters(model, tree)
        assert sum(found.values()) == parameter_count(encoder_layers(model))
        freed = {node.name: count for node, count in candidates(model, tree)}
        assert all(sum(n for leaf, n in found.items() if f"{leaf}.".startswith(f"{name}.")) == freed[name] for name in freed)


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_decisions_are_those_of_the_library_s_search(seed):
    model, drawn = small_bert(), torch.Generator().manual_seed(seed)
    tree = [n for n in module_tree(model, neurons=64) if n.group in (None, n.name)]  # layers and blocks
    parameters, gone, asked = leaf_parameters(model, tree), [], []

    def costs(_, nodes):
        prices = torch.randn(len(nodes), generator=drawn).tolist()
        asked.append(dict(zip([n.name for n in nodes], prices, strict=True)))
        return prices

    rounds = prune_tree(
        copy.deepcopy(model), tree, costs, parameter_count(model) - parameters[f"{layer_names(model)[0]}.neurons"] - 1
    )
    for made, prices in zip(rounds, asked, strict=True):
        assert next_to_go(prices, parameters, gone) == made.chosen
        gone += [leaf for leaf in parameters if f"{leaf}.".startswith(f"{made.chosen}.")]


def test_what_is_gone_frees_nothing_and_a_negative_cost_is_taken_first():
    parameters = {"a.1": 10, "a.1.x": 10, "a.10": 500}
    assert next_to_go({"a.1": 1.0, "a.10": 60.0}, parameters, []) == "a.1"  # 20 freed, not 520
    assert next_to_go({"a.1": 1.0, "a.10": 40.0}, parameters, ["a.1"]) == "a.10"
    assert next_to_go({"a.1": -1.0, "a.10": 0.0}, parameters, []) == "a.1"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: remove_units(torch.ones(4, 2), torch.ones(4), torch.ones(3, 6), torch.tensor([0])), r"multiple of 4 columns"),
        (lambda: remove_units(torch.ones(4, 2), torch.ones(4), torch.ones(3, 4), torch.tensor([4])), r"between 0 and 3"),
        (lambda: remove_attention_heads(torch.ones(3, 6, 6), torch.ones(3, 6), torch.ones(6, 6), torch.tensor([0]), 4), r"divisor"),
        (lambda: remove_attention_heads(torch.ones(3, 6, 6), torch.ones(3, 6), torch.ones(6, 6), torch.tensor([3]), 2), r"heads"),
        (lambda: masked_block(*[torch.ones(1, 1)] * 2, torch.ones(1), torch.ones(1, 1), torch.ones(1), torch.ones(1)), r"bool \(1,\)"),
        (lambda: next_to_go({"a": 1.0}, {"a": 3}, ["a"]), r"something left to free"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
