"""Masking and shrinking are two things: a mask hides, compact removes, and the output is the same."""

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_bert import drawn_masks, inputs, layer_parameters, logits, small_bert
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.gates import gates
from course_lib.models.surgery import encoder_layers, layer_shapes
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.pruning.masks import global_masks, mask_by_sparsity
from course_lib.pruning.structure import drop_layers, remove_ffn_neurons, remove_heads
from course_lib.pruning.unit_masks import (
    compact,
    dead_units,
    encoder_groups,
    hidden_parameters,
    mask_by_plan,
    mask_layers,
    mask_units,
    masked_layers,
    masks_of,
    match_groups,
    unmask,
    visible_parameters,
)
from course_lib.pruning.unit_scores import group_weight_scores
from course_lib.report import parameter_count

# A removed unit takes zeros out of sums of at most K = 64 terms, so each sum is off by K·eps of its terms' sizes at most. Terms
# are of order 1 here and a logit sees 2 layers of 6 such sums: 2·6·64·2.2e-16 = 1.7e-13 in fp64, and ten times that for the
# LayerNorms, which divide by standard deviations above 0.1.
FP64 = 2e-12
FP32 = 1e-5  # the same expression is 1e-3 in fp32; but rounding errors are as often up as down, and √64 is a hundredth of 64·12

HEADS, NEURONS = "bert.encoder.layer.{}.heads", "bert.encoder.layer.{}.neurons"


def bools(*values: int) -> torch.Tensor:
    return torch.tensor(values).bool()


def everything_kept(model) -> dict[str, torch.Tensor]:
    return {g.name: torch.ones(g.units, dtype=torch.bool) for g in encoder_groups(model)}


# The identity


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["sdpa", "eager"]), st.sampled_from([[0], [1], [0, 1]]))
def test_compacting_a_masked_model_leaves_its_output_as_it_was(seed, attention, keep):
    """Random heads, neurons and layers at once, rows of different lengths."""
    model = small_bert(attention=attention)
    generator = torch.Generator().manual_seed(seed)
    before = logits(model)
    masks = drawn_masks(model, generator)
    mask_units(model, masks)
    mask_layers(model, keep)
    masked, visible = logits(model), visible_parameters(model)
    assume(list(gates(model)))
    assert (masked - before).abs().max() > 1e-3, "what is removed must matter"
    compact(model)
    torch.testing.assert_close(logits(model), masked, rtol=0, atol=FP64)
    assert parameter_count(model) == visible
    expected = [[int(masks[f"bert.encoder.layer.{i}.{kind}"].sum()) for i in keep] for kind in ("heads", "neurons")]
    assert list(layer_shapes(model).values()) == expected


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_fp32_too_to_the_fifth_digit(attention):
    model = small_bert(torch.float32, attention)
    for seed in range(5):
        small = copy.deepcopy(model)
        mask_units(small, drawn_masks(small, torch.Generator().manual_seed(seed)))
        masked = logits(small)
        compact(small)
        torch.testing.assert_close(logits(small), masked, rtol=0, atol=FP32)


def test_minilms_real_weights_may_lose_heads_unevenly():
    """fp32 sums of up to 1 536 terms, six layers, logits below 1: off by some 1e-7, allowed 1e-5."""
    model = load_token_classifier(find_encoder("minilm"), ["O", "B-X"]).eval()
    scores = {name: s for name, s in group_weight_scores(model, encoder_groups(model)).items() if name.endswith("heads")}
    before = logits(model)
    mask_units(model, global_masks(scores, 0.4))  # one threshold for all heads: layers keep different numbers
    masked = logits(model)
    assert (masked - before).abs().max() > 1e-2
    report = compact(model)
    torch.testing.assert_close(logits(model), masked, rtol=0, atol=1e-5)
    heads = layer_shapes(model)["heads"]
    assert sum(heads) == 72 - 29 and len(set(heads)) > 2
    assert report.parameters_before - report.parameters_after == 29 * (4 * 32 * 384 + 3 * 32)
    assert report.bytes_before - report.bytes_after == 4 * (report.parameters_before - report.parameters_after)


def test_masks_and_direct_removal_are_the_same_to_the_bit():
    generator = torch.Generator().manual_seed(5)
    masked, removed = small_bert(), small_bert()
    masks = drawn_masks(masked, generator)
    mask_units(masked, masks)
    compact(masked)
    remove_heads(removed, [masks[HEADS.format(i)].nonzero()[:, 0] for i in range(2)])
    remove_ffn_neurons(removed, [masks[NEURONS.format(i)].nonzero()[:, 0] for i in range(2)])
    assert torch.equal(logits(masked), logits(removed))
    assert masked.config.course_shapes == removed.config.course_shapes == layer_shapes(masked)


def test_a_masked_neurons_bias_is_hidden_with_it():
    """GELU(b) would stay if only the weights were masked: here the weights are nought and the bias is all there is."""
    model = small_bert()
    first = encoder_layers(model)[0]
    with torch.no_grad():
        first.intermediate.dense.weight[7] = 0.0
        first.intermediate.dense.bias[7] = 3.0
    before = logits(model)
    mask = torch.arange(64) != 7
    mask_units(model, {NEURONS.format(0): mask})
    assert (logits(model) - before).abs().max() > 1e-3
    silent = small_bert()
    with torch.no_grad():
        encoder_layers(silent)[0].output.dense.weight[:, 7] = 0.0
    torch.testing.assert_close(logits(model), logits(silent), rtol=0, atol=FP64)


def test_a_layer_whose_branches_are_zero_is_not_a_layer_that_is_led_around():
    """Why a layer needs a gate: LayerNorm still normalises, and the output biases are still added."""
    bypassed, emptied = small_bert(), small_bert()
    mask_layers(bypassed, [1])
    mask_units(emptied, {HEADS.format(0): bools(0, 0, 0, 0), NEURONS.format(0): torch.zeros(64, dtype=torch.bool)})
    assert (logits(bypassed) - logits(emptied)).abs().max() > 0.1
    dropped = small_bert()
    drop_layers(dropped, [1])
    assert torch.equal(logits(bypassed), logits(dropped))


def test_a_block_without_units_adds_its_output_bias():
    model = small_bert()
    remove_heads(model, [torch.arange(0), torch.tensor([2])])
    block = encoder_layers(model)[0].attention
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x)[0], block.output.LayerNorm(x + block.output.dense.bias))


# Masks alone


def test_unmasking_gives_the_model_back_to_the_bit():
    model = small_bert()
    before, weights = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    mask_units(model, drawn_masks(model, torch.Generator().manual_seed(3)))
    mask_layers(model, [0])
    assert masked_layers(model) == ["bert.encoder.layer.1"]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items()), "no weight is touched"
    unmask(model)
    assert torch.equal(logits(model), before) and not list(gates(model)) and masked_layers(model) == []


def test_a_mask_changes_no_size_and_says_what_it_hides():
    model = small_bert()
    report = mask_units(model, {HEADS.format(1): bools(1, 0, 0, 1)})
    assert report.changed == ["bert.encoder.layer.1.heads: 2 of 4 units masked"]
    assert report.parameters_before == report.parameters_after and report.bytes_before == report.bytes_after
    assert mask_layers(model, [1]).changed == ["bert.encoder.layer.0: masked"]


def test_a_second_mask_of_a_group_replaces_the_first_and_leaves_the_others():
    model = small_bert()
    mask_units(model, {HEADS.format(0): bools(0, 1, 1, 1), HEADS.format(1): bools(1, 1, 1, 0)})
    mask_units(model, {HEADS.format(0): bools(1, 1, 0, 1)})
    found = masks_of(model)
    assert found[HEADS.format(0)].tolist() == [True, True, False, True]
    assert found[HEADS.format(1)].tolist() == [True, True, True, False]
    mask_units(model, {name: torch.ones_like(m) for name, m in found.items()})
    assert not list(gates(model)), "a mask that hides nothing is none"
    assert masks_of(model).keys() == everything_kept(model).keys()


def test_layers_masked_before_and_kept_now_are_back():
    model = small_bert()
    before = logits(model)
    mask_layers(model, [0])
    mask_layers(model, [0, 1])
    assert torch.equal(logits(model), before)


def test_the_masks_are_copied_with_the_model_and_are_its_own():
    model = small_bert()
    mask_units(model, {HEADS.format(0): bools(0, 1, 1, 1)})
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    unmask(twin)
    assert len(list(gates(model))) == 1 and torch.equal(logits(twin), logits(small_bert()))


def test_a_mask_does_not_follow_the_tensor_it_was_made_from():
    model, mask = small_bert(), bools(0, 1, 1, 1)
    mask_units(model, {HEADS.format(0): mask})
    mask[:] = True
    assert not masks_of(model)[HEADS.format(0)][0]


def test_what_is_masked_gets_no_gradient():
    model = small_bert()
    mask_units(model, {HEADS.format(0): bools(0, 1, 1, 1), NEURONS.format(1): torch.arange(64) >= 10})
    mask_layers(model, [0, 1])
    model(**inputs()).logits.square().sum().backward()
    first, last = encoder_layers(model)
    value, out = first.attention.self.value, first.attention.output.dense
    assert value.weight.grad[:8].eq(0).all() and value.bias.grad[:8].eq(0).all() and out.weight.grad[:, :8].eq(0).all()
    assert value.weight.grad[8:].ne(0).any(dim=1).all()
    assert last.intermediate.dense.weight.grad[:10].eq(0).all() and last.output.dense.weight.grad[:, 10:].ne(0).any()


def test_infinities_of_a_masked_unit_do_not_come_through():
    model = small_bert()
    with torch.no_grad():
        encoder_layers(model)[0].intermediate.dense.bias[3] = float("inf")
    mask_units(model, {NEURONS.format(0): torch.arange(64) != 3})
    assert logits(model).isfinite().all()


# By a plan


def test_a_plan_masks_the_lowest_scores_of_each_group():
    model = small_bert()
    report = mask_by_plan(model, {"*.heads": 0.5, "*.1.neurons": 0.25})
    masks, scores = masks_of(model), group_weight_scores(model, encoder_groups(model))
    assert [int(m.sum()) for m in masks.values()] == [2, 64, 2, 48]
    assert len(report.changed) == 3
    for name, mask in masks.items():
        if not mask.all():
            assert scores[name][mask].min() >= scores[name][~mask].max()


def test_a_plan_takes_scores_from_elsewhere():
    model = small_bert()
    mask_by_plan(model, {"*.0.heads": 0.25}, scores={HEADS.format(0): torch.tensor([2.0, 1.0, 0.0, 3.0])})
    assert masks_of(model)[HEADS.format(0)].tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({}, ValueError, "plan = {}: expected at least one group name or pattern"),
        ({"*.head": 0.5}, CourseError, r"'\*\.head' is no group of this model; expected a name like bert.encoder.layer"),
        (
            {"*.heads": 0.5, "*.0.*": 0.5},
            CourseError,
            r"bert.encoder.layer.0.heads is matched by '\*\.heads' and by '\*\.0\.\*'",
        ),
        ({"*.heads": 1.5}, ValueError, "sparsity = 1.5: expected a fraction between 0 and 1"),
        ({"*.heads": -0.1}, ValueError, "sparsity = -0.1: expected a fraction between 0 and 1"),
    ],
)
def test_a_bad_plan_is_refused(plan, error, message):
    model = small_bert()
    with pytest.raises(error, match=message):
        mask_by_plan(model, plan)
    assert not list(gates(model))


def test_a_group_without_scores_is_named():
    with pytest.raises(ValueError, match=r"scores = \[\]: expected scores of bert.encoder.layer.0.heads"):
        mask_by_plan(small_bert(), {"*.0.heads": 0.5}, scores={})


# From masks on weights


def prune_weight(weight: torch.Tensor, sparsity: float, granularity, axis: int = 0) -> None:
    with torch.no_grad():
        weight *= mask_by_sparsity(weight.abs(), sparsity, granularity, axis)


def test_units_whose_columns_were_pruned_go_without_a_change():
    """Columns as blocks, then heads and neurons that nothing reads: the weights' masks become smaller matrices."""
    model = small_bert()
    for layer in encoder_layers(model):
        prune_weight(layer.output.dense.weight, 0.25, "channel", axis=1)
    prune_weight(encoder_layers(model)[1].attention.output.dense.weight, 0.5, (32, 8))  # blocks as wide as a head
    before, found = logits(model), dead_units(model)
    assert {n: int(m.sum()) for n, m in found.items()} == {NEURONS.format(0): 48, HEADS.format(1): 2, NEURONS.format(1): 48}
    mask_units(model, found)
    compact(model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=FP64)
    assert layer_shapes(model) == {"heads": [4, 2], "ffn": [48, 48]} and dead_units(model) == {}


def test_zeroed_rows_alone_make_no_unit_dead():
    model = small_bert()
    prune_weight(encoder_layers(model)[0].intermediate.dense.weight, 0.5, "channel")
    assert dead_units(model) == {}


# Again, and on


def test_a_compacted_model_can_be_masked_and_compacted_again():
    model, generator = small_bert(), torch.Generator().manual_seed(8)
    for _ in range(3):
        mask_units(model, drawn_masks(model, generator, share=0.3))
        masked = logits(model)
        compact(model)
        torch.testing.assert_close(logits(model), masked, rtol=0, atol=FP64)


def test_old_masks_do_not_fit_a_compacted_model():
    model = small_bert()
    mask_units(model, {HEADS.format(0): bools(0, 1, 1, 1)})
    compact(model)
    with pytest.raises(ValueError, match=r"heads'\] = 'torch.bool \(4,\)': expected bool \(3,\)"):
        mask_units(model, {HEADS.format(0): bools(0, 1, 1, 1)})


def test_a_compacted_model_is_trained_like_any_other():
    model = small_bert(torch.float32)
    mask_units(model, {HEADS.format(0): bools(0, 1, 0, 0), NEURONS.format(0): torch.zeros(64, dtype=torch.bool)})
    mask_units(model, {HEADS.format(1): bools(0, 0, 0, 0), NEURONS.format(1): torch.arange(64) < 5})
    compact(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    labels = torch.zeros(3, 20, dtype=torch.long)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model.train()(**inputs(), labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert layer_shapes(model) == {"heads": [1, 0], "ffn": [0, 5]}


def test_a_masked_model_is_not_saved_as_if_it_were_not(tmp_path):
    model, tokenizer = small_bert(), load_tokenizer(find_encoder("tiny"))
    mask_layers(model, [1])
    with pytest.raises(CourseError, match=r"save_model: units of the model are masked \(bert.encoder.layer.0\)\. Call compact"):
        save_model(model, tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())
    for call in (lambda m: drop_layers(m, [0]), lambda m: remove_heads(m, [torch.tensor([0])] * 2)):
        with pytest.raises(CourseError, match="units of the model are masked"):
            call(model)


# Sizes


@pytest.mark.parametrize(("heads", "neurons"), [(3, 64), (1, 10), (0, 64), (4, 0), (0, 0)])
def test_sizes_fall_by_the_formula(heads, neurons):
    model = small_bert(torch.float32)
    before = parameter_count(model)
    mask_units(model, {HEADS.format(0): torch.arange(4) < heads, NEURONS.format(0): torch.arange(64) < neurons})
    report = compact(model)
    saved = layer_parameters(32, 4, 8, 64) - layer_parameters(32, heads, 8, neurons)
    assert before - parameter_count(model) == saved == report.parameters_before - report.parameters_after
    assert report.bytes_before - report.bytes_after == 4 * saved


# Bad input


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({}, ValueError, "masks = {}: expected at least one group's mask"),
        ({"bert.encoder.layer.2.heads": bools(1)}, CourseError, "'bert.encoder.layer.2.heads' is no group of this model"),
        ({HEADS.format(0): bools(1, 0, 1)}, ValueError, r"'torch.bool \(3,\)': expected bool \(4,\)"),
        ({HEADS.format(0): torch.tensor([1, 0, 1, 1])}, ValueError, r"'torch.int64 \(4,\)': expected bool \(4,\)"),
    ],
)
def test_bad_masks_are_refused(masks, error, message):
    model = small_bert()
    with pytest.raises(error, match=message):
        mask_units(model, masks)
    assert not list(gates(model))


def test_nothing_masked_is_nothing_to_compact():
    with pytest.raises(CourseError, match="compact: no unit or layer of this model is masked"):
        compact(small_bert())


def test_masks_made_through_a_larger_model_are_compacted_through_it():
    model = small_bert()
    mask_units(model, {HEADS.format(0): bools(0, 1, 1, 1)})
    with pytest.raises(CourseError, match=r"was masked as bert.encoder.layer.0.attention.output.dense"):
        compact(model.base_model)


@pytest.mark.parametrize("keep", [[], [1, 0], [2]])
def test_bad_layers_are_refused(keep):
    with pytest.raises(ValueError, match="expected ascending layer numbers between 0 and 1, at least one"):
        mask_layers(small_bert(), keep)


def test_a_model_not_built_like_bert_is_refused():
    for call in (encoder_groups, lambda m: mask_layers(m, [0]), visible_parameters):
        with pytest.raises(CourseError, match="Linear: expected a BERT-like encoder"):
            call(nn.Linear(2, 2))


def test_what_masks_hide_in_a_layer_is_units_times_their_parameters_and_all_of_a_layer_led_around():
    """A head: 8 rows of 32 for query, key and value, their biases, 8 columns of 32; a neuron: a row, its bias, a column."""
    model = small_bert()
    groups = encoder_groups(model)
    assert hidden_parameters(model, "bert.encoder.layer.0", groups) == 0
    neurons = torch.ones(next(g.units for g in groups if g.name.endswith("0.neurons")), dtype=torch.bool)
    neurons[:3] = False
    mask_units(model, {HEADS.format(0): bools(1, 0, 1, 1), NEURONS.format(0): neurons})
    assert hidden_parameters(model, "bert.encoder.layer.0", groups) == 4 * 8 * 32 + 3 * 8 + 3 * (2 * 32 + 1)
    assert hidden_parameters(model, "bert.encoder.layer.1", groups) == 0
    mask_layers(model, [0])
    whole = parameter_count(encoder_layers(model)[1])
    assert hidden_parameters(model, "bert.encoder.layer.1", groups) == whole


def test_a_plan_is_matched_to_groups_in_their_order():
    groups = encoder_groups(small_bert())
    assert match_groups(groups, {"*1.heads": 0.5, "*0.heads": 0.25}) == {HEADS.format(0): 0.25, HEADS.format(1): 0.5}
    with pytest.raises(CourseError, match=r"0\.heads is matched by '\*0\.heads' and by '\*heads'; expected one pattern"):
        match_groups(groups, {"*0.heads": 0.5, "*heads": 0.5})
