"""Budgets: the sparsity a size asks for, which matrices may go, and which units go first."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.models.groups import unit_parameters
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.pruning.apply import Prune, apply
from course_lib.pruning.budgets import encoder_masks, sparsity_for_target, units_within
from course_lib.pruning.scores import magnitude_scores
from course_lib.pruning.unit_masks import compact, encoder_groups, mask_units
from course_lib.report import parameter_count


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=5), st.integers(0, 500), st.floats(0, 1))
def test_what_is_left_after_that_sparsity_is_the_target(layers, fixed, share):
    sizes = {"words": fixed} | {f"layer {i}": n for i, n in enumerate(layers)}
    target = fixed + round(share * sum(layers))
    sparsity = sparsity_for_target(sizes, list(sizes)[1:], target)
    # the sparsity is a float: its relative error of 2⁻⁵³ moves at most 5000 parameters by far less than one half
    assert 0 <= sparsity <= 1 and fixed + round((1 - sparsity) * sum(layers)) == target


def test_a_model_that_is_small_enough_already_loses_nothing():
    assert sparsity_for_target({"words": 60, "layers": 40}, ["layers"], 200) == 0
    assert sparsity_for_target({"words": 60}, [], 60) == 0


def test_a_target_below_what_cannot_be_pruned_and_an_unknown_name_are_refused():
    with pytest.raises(ValueError, match="target = 59: expected at least 60, which cannot be pruned"):
        sparsity_for_target({"words": 60, "layers": 40}, ["layers"], 59)
    with pytest.raises(ValueError, match=r"prunable = \['layer'\]: expected names among"):
        sparsity_for_target({"words": 60, "layers": 40}, ["layer"], 80)


def test_encoder_masks_are_those_of_the_plan_with_one_threshold():
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-PER"], seed=0)
    masks = encoder_masks({name: magnitude_scores(p) for name, p in model.named_parameters()}, 0.5)
    expected, _ = apply(model, {"*encoder.layer.*": Prune(0.5, scope="global")})
    assert masks.keys() == expected.keys() and all(torch.equal(masks[name], expected[name]) for name in masks)
    assert all("encoder.layer" in name and m.dim() == 2 for name, m in masks.items())


def test_a_model_without_encoder_matrices_is_refused():
    with pytest.raises(ValueError, match="at least one tensor"):
        encoder_masks({"words": torch.ones(2, 2)}, 0.5)


groups = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 6), st.integers(1, 50)), min_size=1)


@given(groups, st.floats(0, 1), st.integers(0, 2**16))
def test_units_go_by_score_for_each_parameter_and_no_further_than_needed(shapes, share, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(units, generator=draw) for name, (units, _) in shapes.items()}
    costs = {name: cost for name, (_, cost) in shapes.items()}
    budget = round(share * sum(len(scores[name]) * costs[name] for name in scores))
    masks = units_within(scores, costs, budget)
    rows = [(float(s / costs[n]), costs[n], bool(k)) for n in scores for s, k in zip(scores[n], masks[n], strict=True)]
    gone, kept = [r for r in rows if not r[2]], [r for r in rows if r[2]]
    removed = sum(cost for _, cost, _ in gone)
    assert removed >= budget
    if gone:
        assert removed - max(gone)[1] < budget  # without the last one it would be too little
        assert not kept or max(gone)[0] <= min(kept)[0]


def test_so_many_parameters_are_really_gone():
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-PER"], seed=0)
    groups, before = encoder_groups(model), parameter_count(model)
    costs = {g.name: unit_parameters(model, g) for g in groups}
    scores = {g.name: torch.arange(1.0, g.units + 1) for g in groups}
    masks = units_within(scores, costs, 500)
    removed = sum(int((~m).sum()) * costs[name] for name, m in masks.items())
    mask_units(model, masks)
    compact(model)
    assert removed >= 500 and before - parameter_count(model) == removed


def test_a_budget_out_of_range_and_a_group_without_a_cost_are_refused():
    scores = {"heads": torch.ones(2)}
    for budget in (-1, 21):
        with pytest.raises(ValueError, match=f"budget = {budget}: expected between 0 and 20"):
            units_within(scores, {"heads": 10}, budget)
    with pytest.raises(ValueError, match=r"a cost for each of \['heads'\]"):
        units_within(scores, {"neurons": 10}, 5)
