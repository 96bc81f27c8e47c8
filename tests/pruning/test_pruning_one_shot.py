"""Wanda and SparseGPT on an encoder, layer by layer."""

import copy

import pytest
import torch
from torch import nn

from course_lib.calibration import Channels, Hessian
from course_lib.errors import CourseError
from course_lib.layerwise import collect
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.pruning.one_shot import SparseGpt, Wanda, apply_sparsegpt, apply_wanda
from course_lib.pruning.sparsegpt import sparsegpt
from course_lib.pruning.wanda import wanda_mask

NAME = "bert.encoder.layer.{}.output.dense"


@pytest.fixture
def model():
    model, generator = load_token_classifier(find_encoder("tiny"), ["O", "B-X"]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return model.train()


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(12) < torch.tensor([[12], [7], [9], [12]])).long()
    return [{"input_ids": torch.randint(5, 100, (4, 12), generator=generator), "attention_mask": mask} for _ in range(2)]


def before(original, model, number: int):
    """A copy in which the layers before ``number`` are those already pruned."""
    seen = copy.deepcopy(original)
    for i in range(number):
        seen.bert.encoder.layer[i].load_state_dict(model.bert.encoder.layer[i].state_dict())
    return seen, seen.get_submodule(NAME.format(number))


@pytest.mark.parametrize("sparsity", [0.6, (2, 4)])
def test_wanda_prunes_by_the_inputs_that_the_pruned_layers_before_put_out(model, sparsity):
    original = copy.deepcopy(model)
    masks, report = apply_wanda(model, {NAME.format("?"): Wanda(sparsity)}, batches())
    for number in (0, 1):
        seen, linear = before(original, model, number)
        norms = collect(seen, {"it": linear}, batches(), Channels)["it"].norms()
        mask = masks[f"{NAME.format(number)}.weight"]
        assert torch.equal(mask, wanda_mask(linear.weight.detach(), norms, sparsity))
        assert torch.equal(model.get_submodule(NAME.format(number)).weight, linear.weight.masked_fill(~mask, 0))
    assert len(masks) == len(report.changed) == 2 and report.parameters_before == report.parameters_after


@pytest.mark.parametrize("config", [SparseGpt(0.6), SparseGpt((2, 4)), SparseGpt(0.5, damping=0.1, block=16)])
def test_sparsegpt_solves_for_the_inputs_that_the_pruned_layers_before_put_out(model, config):
    original = copy.deepcopy(model)
    masks, report = apply_sparsegpt(model, {NAME.format("?"): config}, batches())
    for number in (0, 1):
        seen, linear = before(original, model, number)
        hessian = collect(seen, {"it": linear}, batches(), Hessian)["it"].matrix()
        new, mask = sparsegpt(linear.weight.detach(), hessian, config.sparsity, config.damping, config.block)
        assert torch.equal(masks[f"{NAME.format(number)}.weight"], mask)
        assert torch.equal(model.get_submodule(NAME.format(number)).weight, new)
        assert not new[~mask].any()
    assert len(report.changed) == 2


def test_sparsegpt_is_closer_than_magnitude_in_every_layer_of_this_model(model):
    """Measured on the calibration set, not a theorem."""
    _, report = apply_sparsegpt(model, {"*encoder*": SparseGpt(0.5)}, batches())
    assert len(report.changed) == 12
    for line in report.changed:
        ours, smallest = line.rsplit("output error ", 1)[1].split(", by magnitude ")
        assert float(ours) < float(smallest)


@pytest.mark.parametrize(("apply", "config"), [(apply_wanda, Wanda()), (apply_sparsegpt, SparseGpt())])
def test_masks_name_parameters_and_hold_for_training_on(model, apply, config):
    masks, _ = apply(model, {"*encoder*": config}, batches())
    assert masks.sparsity == pytest.approx(0.5, abs=1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    masks.keep(model, optimizer)
    model(**batches()[0]).logits.sum().backward()
    optimizer.step()
    parameters = dict(model.named_parameters())
    assert all(not parameters[name][~mask].any() for name, mask in masks.items())
    assert all(m.training for m in model.modules())


def test_pruning_nothing_changes_nothing_and_pruning_all_leaves_biases(model):
    original = copy.deepcopy(model.state_dict())
    for apply, kind in ((apply_wanda, Wanda), (apply_sparsegpt, SparseGpt)):
        apply(model, {"*encoder*": kind(0.0)}, batches())
        assert all(torch.equal(v, original[k]) for k, v in model.state_dict().items())
    apply_wanda(model, {"classifier": Wanda(1.0)}, batches())
    assert not model.classifier.weight.any() and torch.equal(model.classifier.bias, original["classifier.bias"])


@pytest.mark.parametrize(("apply", "kind"), [(apply_wanda, Wanda), (apply_sparsegpt, SparseGpt)])
def test_bad_input_is_refused_before_anything_changes(model, apply, kind):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for plan, data, error, message in (
        ({}, batches(), ValueError, "plan = {}"),
        ({"nothing": kind()}, batches(), CourseError, "'nothing' matches nothing"),
        ({"bert.embeddings.word_embeddings": kind()}, batches(), CourseError, "what it matches is a Embedding"),
        ({"*": kind(), "classifier": kind()}, batches(), CourseError, "matched by"),
        ({"*": 0.5}, batches(), ValueError, f"expected a {kind.__name__}"),
        ({"*encoder*": kind((1, 5))}, batches(), ValueError, "m = 5: expected a number that divides the last dimension, 32"),
        ({"*": kind()}, [], ValueError, "the calibration set is empty"),
        ({"*": kind()}, ["a sentence"], ValueError, r"batches\[0\] = 'str'"),
    ):
        with pytest.raises(error, match=message):
            apply(model, plan, data)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(CourseError, match=r"expected a BERT-like encoder"):
        apply(nn.Sequential(nn.Linear(4, 2)), {"0": kind()}, batches())


def test_tied_layers_are_left_alone_and_named(model):
    model.bert.encoder.layer[1].output.dense.weight = model.bert.encoder.layer[0].output.dense.weight
    _, report = apply_wanda(model, {"*encoder*": Wanda()}, batches())
    assert len(report.changed) == 10
    assert [s.split(":")[0] for s in report.skipped] == [NAME.format(0), NAME.format(1)]


@pytest.mark.parametrize("kind", [Wanda, SparseGpt])
@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan"), (5, 4), (2, 0), (-1, 4), (2, 4, 8), (0.5, 4)])
def test_a_sparsity_that_cannot_be_is_refused(kind, sparsity):
    with pytest.raises(ValueError, match=r"sparsity = "):
        kind(sparsity)


def test_other_configurations_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"damping = -1"):
        SparseGpt(damping=-1)
    with pytest.raises(ValueError, match=r"block = 0"):
        SparseGpt(block=0)
