"""The greedy tree: every round takes the best single removal, decisions can be read, and a search goes on where it stopped."""

import copy
import itertools
import json

import pytest
import torch
from small_bert import inputs, layer_parameters, logits, small_bert

from course_lib.errors import CourseError
from course_lib.models.gates import gates
from course_lib.models.surgery import encoder_layers, layer_shapes
from course_lib.pruning.structure import remove_heads
from course_lib.pruning.tree import (
    Candidate,
    Node,
    candidates,
    module_tree,
    prune_tree,
    remove_node,
    without,
)
from course_lib.pruning.tree_costs import first_order_costs, measured_costs
from course_lib.pruning.unit_masks import compact, encoder_groups, mask_layers, mask_units, masks_of, visible_parameters
from course_lib.pruning.unit_scores import group_taylor_scores, group_weight_scores
from course_lib.report import parameter_count

LABELS = torch.randint(0, 3, (3, 20), generator=torch.Generator().manual_seed(2))
HEAD, NEURON = 4 * 8 * 32 + 3 * 8, 2 * 32 + 1


def loss_tensor(model) -> torch.Tensor:
    given = inputs()
    return model(**given, labels=LABELS.masked_fill(given["attention_mask"] == 0, -100)).loss


def loss(model) -> float:
    with torch.inference_mode():
        return float(loss_tensor(model))


def narrow():
    """Two heads per layer, so that everything that can be removed can be tried."""
    model = small_bert()
    remove_heads(model, [torch.tensor([0, 2]), torch.tensor([1, 3])])
    return model


def size(model, share: float) -> int:
    """Parameters of the model with this share of its layers left; the embeddings stay."""
    return parameter_count(model) - round((1 - share) * parameter_count(encoder_layers(model)))


# The tree


def test_the_tree_is_layers_blocks_and_leaves():
    tree = module_tree(small_bert(), neurons=24)
    names = [n.name.removeprefix("bert.encoder.layer.") for n in tree]
    block = ["0", "0.heads", *(f"0.heads.{i}" for i in range(4)), "0.neurons", *(f"0.neurons.{i}" for i in range(3))]
    assert names == block + [f"1{name[1:]}" for name in block]
    assert [len(n.units) for n in tree[7:10]] == [24, 24, 16]
    for group in encoder_groups(small_bert()):
        leaves = [u for n in tree if n.group == group.name and n.name != group.name for u in n.units]
        assert sorted(leaves) == list(range(group.units)), "leaves are a partition"


def test_neurons_that_do_little_share_a_leaf():
    model = small_bert()
    scores = group_weight_scores(model, encoder_groups(model))["bert.encoder.layer.0.neurons"]
    leaves = [scores[list(n.units)] for n in module_tree(model, 16) if n.name.startswith("bert.encoder.layer.0.neurons.")]
    assert all(low.max() <= high.min() for low, high in itertools.pairwise(leaves))
    given = {"bert.encoder.layer.0.neurons": torch.arange(64.0).flip(0), "bert.encoder.layer.1.neurons": torch.ones(64)}
    tree = {n.name: n.units for n in module_tree(model, 16, given)}
    assert tree["bert.encoder.layer.0.neurons.0"] == tuple(range(48, 64))
    assert tree["bert.encoder.layer.1.neurons.0"] == tuple(range(16))


def test_candidates_free_what_the_formula_says_and_what_compacting_frees():
    model = small_bert()
    tree = module_tree(model, 32)
    freed = {n.name: f for n, f in candidates(model, tree)}
    for i in range(2):
        layer = f"bert.encoder.layer.{i}"
        assert freed[layer] == layer_parameters(32, 4, 8, 64)
        assert freed[f"{layer}.heads"] == 4 * HEAD and freed[f"{layer}.neurons"] == 64 * NEURON
        assert {freed[f"{layer}.heads.{j}"] for j in range(4)} == {HEAD}
        assert {freed[f"{layer}.neurons.{j}"] for j in range(2)} == {32 * NEURON}
    for node, free in candidates(model, tree):
        small = copy.deepcopy(model)
        remove_node(small, node)
        assert visible_parameters(small) == parameter_count(model) - free
        compact(small)
        assert parameter_count(small) == parameter_count(model) - free


def test_what_is_gone_is_no_candidate_and_the_last_layer_stays():
    model = narrow()
    tree = module_tree(model, 32)
    nodes = {n.name.removeprefix("bert.encoder.layer."): n for n in tree}

    def names() -> list[str]:
        return [n.name.removeprefix("bert.encoder.layer.") for n, _ in candidates(model, tree)]

    remove_node(model, nodes["0.heads.1"])
    assert "0.heads.1" not in names() and "0.heads.0" in names()
    assert "0.heads" not in names(), "a block of one leaf is that leaf"
    remove_node(model, nodes["0.neurons"])
    assert [n for n in names() if n.startswith("0.neurons")] == []
    remove_node(model, nodes["0"])
    assert names() == ["1.heads", "1.heads.0", "1.heads.1", "1.neurons", "1.neurons.0", "1.neurons.1"]


def test_a_subtree_taken_out_for_a_while_comes_back_to_the_bit():
    model = small_bert()
    tree = module_tree(model, 32)
    remove_node(model, next(n for n in tree if n.name.endswith("0.heads.2")))
    before, masks = logits(model), masks_of(model)
    for node, _ in candidates(model, tree):
        with pytest.raises(RuntimeError, match="interrupted"), without(model, node):
            assert not torch.equal(logits(model), before)
            raise RuntimeError("interrupted")
        assert torch.equal(logits(model), before)
        assert all(torch.equal(m, masks[n]) for n, m in masks_of(model).items())


# The search


def test_each_rounds_choice_is_the_best_single_removal_of_that_round():
    """Measured apart: the model is copied and really cut for each candidate. Costs agree to rounding in fp64."""
    model = small_bert()
    rounds = prune_tree(model, tree := module_tree(model, 16), measured_costs(loss), size(model, 0.7))
    now = small_bert()
    nodes = {n.name: n for n in tree}
    for decision in rounds:
        assert {n.name for n, _ in candidates(now, tree)} == {c.name for c in decision.candidates}
        for candidate in decision.candidates:
            cut = copy.deepcopy(now)
            remove_node(cut, nodes[candidate.name])
            compact(cut)
            assert loss(cut) - loss(now) == pytest.approx(candidate.cost, abs=1e-11)
            assert visible_parameters(now) - parameter_count(cut) == candidate.freed
        chosen = min(decision.candidates, key=lambda c: c.cost / c.freed)
        assert chosen.name == decision.chosen
        assert (decision.before, decision.after) == (visible_parameters(now), visible_parameters(now) - chosen.freed)
        remove_node(now, nodes[decision.chosen])
    assert len(rounds) > 3 and torch.equal(logits(now), logits(model))
    assert rounds[-1].after <= size(small_bert(), 0.7) < rounds[-1].before


def test_trying_every_combination_is_never_worse_than_greed():
    """All sets of leaves, and all layers led around: (2⁴ + 1)² − 1 models. None of greedy's size or less may be missing."""
    model = narrow()
    tree = module_tree(model, 32)
    rounds = prune_tree(model, tree, measured_costs(loss), size(model, 0.6))
    greedy, reached = loss(model), visible_parameters(model)
    best, equal, base = float("inf"), [], narrow()
    leaves = [[n for n in tree if n.layer.endswith(str(i)) and n.group and n.name != n.group] for i in range(2)]
    choices = [[None, *itertools.product([True, False], repeat=4)] for _ in range(2)]
    for picked in itertools.product(*choices):
        layers = [i for i in range(2) if picked[i] is not None]
        if not layers:
            continue
        masks = masks_of(base)
        for i in layers:
            for keep, leaf in zip(picked[i], leaves[i], strict=True):
                masks[leaf.group][list(leaf.units)] = keep
        for i in set(range(2)) - set(layers):
            for group in (g for g in masks if f"layer.{i}." in g):
                masks[group][:] = True
        mask_units(base, masks)
        mask_layers(base, layers)
        if (left := visible_parameters(base)) <= reached:
            value = loss(base)
            best = min(best, value)
            equal += [value] * (left == reached)
        mask_layers(base, [0, 1])
    assert best <= greedy + 1e-12, "greedy's own model is among them"
    assert any(value == pytest.approx(greedy, abs=1e-12) for value in equal)
    assert len(rounds) >= 2


def test_a_search_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    whole = small_bert()
    tree, target = module_tree(whole, 16), size(whole, 0.65)
    due = prune_tree(whole, tree, measured_costs(loss), target, tmp_path / "whole.json")

    def stop(decision):
        if decision.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_tree(small_bert(), tree, measured_costs(loss), target, tmp_path / "log.json", stop)
    calls, model = [], small_bert()

    def counted(model, nodes):
        calls.append(len(nodes))
        return measured_costs(loss)(model, nodes)

    assert prune_tree(model, tree, counted, target, tmp_path / "log.json") == due
    assert calls == [len(r.candidates) for r in due[2:]], "the first two rounds are not measured again"
    assert torch.equal(logits(model), logits(whole))
    assert (tmp_path / "log.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_the_log_holds_every_decision(tmp_path):
    model = small_bert()
    seen = []
    rounds = prune_tree(
        model, module_tree(model, 32), measured_costs(loss), size(model, 0.8), tmp_path / "log.json", seen.append
    )
    stored = json.loads((tmp_path / "log.json").read_text())["rounds"]
    assert seen == rounds and [r["chosen"] for r in stored] == [r.chosen for r in rounds]
    assert stored[0]["candidates"][0] == {
        "name": "bert.encoder.layer.0",
        "freed": layer_parameters(32, 4, 8, 64),
        "cost": rounds[0].candidates[0].cost,
    }
    assert str(rounds[0]).startswith(f"1. {rounds[0].chosen}: −") and f"best of {len(rounds[0].candidates)}" in str(rounds[0])


def test_a_log_serves_a_larger_and_a_smaller_target(tmp_path):
    tree = module_tree(small_bert(), 32)
    long = prune_tree(small_bert(), tree, measured_costs(loss), size(small_bert(), 0.6), tmp_path / "log.json")
    model = small_bert()
    short = prune_tree(model, tree, measured_costs(loss), long[0].after, tmp_path / "log.json")
    assert short == long[:1] and visible_parameters(model) == long[0].after


def test_the_log_of_another_model_or_tree_is_refused(tmp_path):
    tree, target = module_tree(small_bert(), 32), size(small_bert(), 0.8)
    prune_tree(small_bert(), tree, measured_costs(loss), target, tmp_path / "log.json")
    other = small_bert()
    with torch.no_grad():
        other.classifier.bias += 1
    for model, nodes in ((other, tree), (small_bert(), module_tree(small_bert(), 16))):
        with pytest.raises(CourseError, match=r"log\.json: its decisions are of another model or tree"):
            prune_tree(model, nodes, measured_costs(loss), target, tmp_path / "log.json")
        assert not list(gates(model))


def test_a_tree_removed_can_be_compacted():
    model = small_bert()
    prune_tree(model, module_tree(model, 16), measured_costs(loss), size(model, 0.5))
    masked, visible = logits(model), visible_parameters(model)
    compact(model)
    torch.testing.assert_close(logits(model), masked, rtol=0, atol=2e-12)  # as derived in test_unit_masks
    assert parameter_count(model) == visible and sum(layer_shapes(model)["ffn"]) < 128


# First order


@pytest.mark.parametrize("kind", ["signed", "absolute"])
def test_first_order_costs_are_sums_over_the_units_that_are_left(kind):
    """fp32 sums of at most 68 scores: 68·6e-8 of their sizes."""
    model = small_bert()
    tree = module_tree(model, 32)
    remove_node(model, next(n for n in tree if n.name.endswith("0.heads.2")))
    nodes = [n for n, _ in candidates(model, tree)]
    prices = first_order_costs(lambda m: (loss_tensor(m) for _ in range(1)), signed=kind == "signed")(model, nodes)
    costs = dict(zip((n.name for n in nodes), prices, strict=True))
    scores = getattr(group_taylor_scores(model, (loss_tensor(model) for _ in range(1)), encoder_groups(model)), kind)
    layer = "bert.encoder.layer.0"
    assert costs[f"{layer}.heads.1"] == float(scores[f"{layer}.heads"][1])
    total = sum(float(s.abs().sum()) for s in scores.values())
    parts = [costs[f"{layer}.heads.{i}"] for i in (0, 1, 3)]
    assert costs[f"{layer}.heads"] == pytest.approx(sum(parts), abs=1e-5 * total)
    assert costs[layer] == pytest.approx(costs[f"{layer}.heads"] + costs[f"{layer}.neurons"], abs=1e-5 * total)
    assert f"{layer}.heads.2" not in costs


def test_first_order_costs_drive_the_search_alike():
    costs = first_order_costs(lambda m: (loss_tensor(m) for _ in range(1)))
    models = [small_bert(), small_bert()]
    one, two = (prune_tree(m, module_tree(m, 16), costs, size(m, 0.8)) for m in models)
    assert one == two
    assert all(r.chosen == min(r.candidates, key=lambda c: c.cost / c.freed).name for r in one)


# Bad input


def test_sizes_out_of_reach_are_refused_before_anything_is_removed():
    model = small_bert()
    tree, whole = module_tree(model, 32), parameter_count(model)
    least = whole - 2 * layer_parameters(32, 4, 8, 64) + layer_parameters(32, 0, 8, 0)
    for wrong in (whole, whole + 1, least - 1, 0):
        with pytest.raises(ValueError, match=f"parameters = {wrong}: expected a number from {least} up to {whole - 1}"):
            prune_tree(model, tree, measured_costs(loss), wrong)
    assert not list(gates(model))
    prune_tree(model, tree, measured_costs(loss), least)
    assert visible_parameters(model) == least


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -float("inf")])
def test_costs_that_are_no_numbers_are_refused(cost):
    model = small_bert()
    with pytest.raises(ValueError, match=r"cost of bert\.encoder\.layer\.0 = (nan|inf|-inf): expected a finite number"):
        prune_tree(model, module_tree(model, 32), lambda m, nodes: [cost] * len(nodes), size(model, 0.8))
    assert not list(gates(model))


def test_the_tree_of_another_model_is_refused():
    tree = module_tree(small_bert().base_model, 32)
    with pytest.raises(CourseError, match=r"tree: encoder\.layer\.0 is no part of this model"):
        prune_tree(small_bert(), tree, measured_costs(loss), size(small_bert(), 0.8))


def test_leaves_without_neurons_are_refused():
    with pytest.raises(ValueError, match="neurons = 0: expected at least 1 neuron in a leaf"):
        module_tree(small_bert(), 0)


def test_nodes_and_candidates_say_what_they_are():
    """A layer has no group; a block is its group with all its units."""
    layer, block = module_tree(small_bert(), 16)[:2]
    assert layer == Node("bert.encoder.layer.0", "bert.encoder.layer.0")
    assert block == Node("bert.encoder.layer.0.heads", layer.name, "bert.encoder.layer.0.heads", (0, 1, 2, 3))
    model, tree = small_bert(), module_tree(small_bert(), 16)
    (first, *_) = prune_tree(model, tree, measured_costs(loss), size(model, 0.9))
    chosen = next(c for c in first.candidates if c.name == first.chosen)
    assert isinstance(chosen, Candidate) and first.before - first.after == chosen.freed
    assert chosen.cost / chosen.freed == min(c.cost / c.freed for c in first.candidates)
