"""Scores of units: what removing one really does, to first order; and the norm of the map that goes through it."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bert import inputs, small_bert
from torch import nn

from course_lib.models.gates import gates
from course_lib.models.surgery import encoder_layers, layer_names
from course_lib.pruning.channels import channel_groups
from course_lib.pruning.scores import ffn_taylor_scores, taylor_scores, weight_unit_scores
from course_lib.pruning.unit_masks import encoder_groups, mask_layers, mask_units, unmask
from course_lib.pruning.unit_scores import TaylorScores, group_taylor_scores, group_weight_scores

LABELS = torch.randint(0, 3, (3, 20), generator=torch.Generator().manual_seed(2))


def loss_of(model) -> torch.Tensor:
    """Cross-entropy at real tokens."""
    given = inputs()
    return model(**given, labels=LABELS.masked_fill(given["attention_mask"] == 0, -100)).loss


def value(model) -> float:
    with torch.inference_mode():
        return loss_of(model).item()


def losses(model, count: int = 1):
    for _ in range(count):
        yield loss_of(model)


def scaled(model, group, units, factor: float):
    """A copy in which what these units put out counts ``factor`` times."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_submodule(group.reader.module).weight[:, group.reader.indices(torch.tensor(units))] *= factor
    return twin


@pytest.fixture(scope="module")
def model():
    return small_bert()


# Taylor


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3))
def test_a_signed_score_is_the_derivative_of_the_loss_at_the_gate(model, which, unit):
    """Central difference with h = 1e-5: its own error is h²·L'''/6, about 1e-10, and eps·L/h = 1e-11; allowed 1e-7."""
    group, h = encoder_groups(model)[which], 1e-5
    signed = group_taylor_scores(model, losses(model), [group]).signed[group.name]
    up, down = (value(scaled(model, group, [unit], 1 + s * h)) for s in (1, -1))
    assert (down - up) / (2 * h) == pytest.approx(float(signed[unit]), abs=1e-7)


@pytest.mark.parametrize("which", range(4))
def test_the_real_change_over_the_signed_sum_goes_to_one_as_the_units_shrink(model, which):
    """Removing units of scale s changes the loss by s·(first order) + s²·(second order): the ratio is 1 + O(s)."""
    group, units, ratios = encoder_groups(model)[which], [0, 2, 3], []
    for scale in (1e-1, 1e-2, 1e-3, 1e-4):
        faint = scaled(model, group, units, scale)
        signed = group_taylor_scores(faint, losses(faint), [group]).signed[group.name][units].sum()
        ratios.append((value(scaled(faint, group, units, 0.0)) - value(faint)) / float(signed))
    errors = [abs(r - 1) for r in ratios]
    assert errors[-1] < 0.01 and all(b < a for a, b in itertools.pairwise(errors)), ratios


def test_a_signed_score_is_the_signed_sum_of_the_weights_that_read_the_unit(model):
    """∂L/∂g = Σ w·∂L/∂w over the unit's columns, since the gate scales them all: two ways to one number, in fp64."""
    groups = encoder_groups(model)
    signed = group_taylor_scores(model, losses(model), groups).signed
    readers = {g.name: model.get_submodule(g.reader.module).weight for g in groups}
    weights = taylor_scores(readers, losses(model), signed=True)
    for group in groups:
        due = weights[group.name].sum(dim=0).view(group.units, -1).sum(dim=1)
        torch.testing.assert_close(signed[group.name].double(), due, rtol=1e-6, atol=1e-9)  # ours is stored in fp32


def test_a_layers_score_is_the_derivative_between_the_layer_and_its_bypass(model):
    """Central difference, as above."""
    h = 1e-5
    signed = group_taylor_scores(model, losses(model), [], layers=True).signed
    assert list(signed) == layer_names(model)
    for name, layer in zip(layer_names(model), encoder_layers(model), strict=True):
        values = []
        for gate in (1 + h, 1 - h):
            hook = layer.register_forward_hook(lambda module, args, out, gate=gate: gate * out + (1 - gate) * args[0])
            values.append(value(model))
            hook.remove()
        assert (values[1] - values[0]) / (2 * h) == pytest.approx(float(signed[name]), abs=1e-7)


def test_absolute_scores_of_neurons_are_those_from_activations(model):
    """fp32 sums of 20 products for each of 3 sentences, in another order: off by 60·6e-8 = 4e-6 of their size at most."""
    model = small_bert(torch.float32)
    groups = [g for g in encoder_groups(model) if g.name.endswith("neurons")]
    ours = group_taylor_scores(model, losses(model, 2), groups).absolute
    for mine, other in zip(ours.values(), ffn_taylor_scores(model, losses(model, 2)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=4e-6 * float(other.max()))


def test_sentences_cancel_in_signed_scores_and_not_in_absolute_ones(model):
    groups = encoder_groups(model)
    scores = group_taylor_scores(model, losses(model), groups)
    for name in scores.signed:
        assert (scores.absolute[name] >= scores.signed[name].abs() * (1 - 1e-5)).all()
    assert any((scores.absolute[n] > 1.01 * scores.signed[n].abs()).any() for n in scores.signed)
    twice = group_taylor_scores(model, losses(model, 2), groups)
    for name in scores.signed:
        assert torch.equal(twice.absolute[name], 2 * scores.absolute[name])
        assert torch.equal(twice.signed[name], 2 * scores.signed[name])


def test_padding_does_not_count(model):
    """Padded by 10 more: what is added to the sums is 0, and softmax's sums differ in their last bits."""
    groups, given = encoder_groups(model), inputs()
    plain = group_taylor_scores(model, losses(model), groups, layers=True).absolute
    wide = {k: nn.functional.pad(v, (0, 10)) for k, v in given.items()}
    labels = nn.functional.pad(LABELS.masked_fill(given["attention_mask"] == 0, -100), (0, 10), value=-100)
    padded = group_taylor_scores(model, (model(**wide, labels=labels).loss for _ in range(1)), groups, layers=True).absolute
    for name in plain:
        torch.testing.assert_close(padded[name], plain[name], rtol=1e-6, atol=1e-9)


def test_what_is_masked_scores_nought():
    model = small_bert()
    groups = encoder_groups(model)
    mask_units(model, {groups[0].name: torch.tensor([True, False, True, True])})
    scores = group_taylor_scores(model, losses(model), groups).absolute
    assert scores[groups[0].name][1] == 0 and scores[groups[0].name].count_nonzero() == 3
    mask_layers(model, [0])
    scores = group_taylor_scores(model, losses(model), groups, layers=True).absolute
    assert scores["bert.encoder.layer.1"] == 0 and scores[groups[2].name].eq(0).all() and scores[groups[3].name].eq(0).all()
    assert scores["bert.encoder.layer.0"] > 0


def test_channels_are_scored_by_the_same_gates():
    """Central difference at the convolution and, behind a flatten, at the linear layer that read the channels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 4, 2)).double()
    x, groups, h = torch.randn(4, 1, 6, 6, dtype=torch.float64), channel_groups(net), 1e-5
    signed = group_taylor_scores(net, (net(x).square().mean() for _ in range(1)), groups).signed
    for group in groups:
        for unit in range(group.units):
            up, down = (scaled(net, group, [unit], 1 + s * h)(x).square().mean().item() for s in (1, -1))
            assert (down - up) / (2 * h) == pytest.approx(float(signed[group.name][unit]), abs=1e-7)


def test_scoring_leaves_the_model_as_it_was():
    model = small_bert().train()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    model.classifier.bias.grad = torch.ones_like(model.classifier.bias)
    mask_units(model, {"bert.encoder.layer.0.heads": torch.tensor([True, True, True, False])})
    group_taylor_scores(model, losses(model), encoder_groups(model), layers=True)
    assert model.training and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {"classifier.bias"}
    assert len(list(gates(model))) == 1, "gates stay, probes go"
    unmask(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_frozen_model_is_scored_too(model):
    frozen = copy.deepcopy(model).requires_grad_(False)
    groups = encoder_groups(model)
    ours, theirs = (group_taylor_scores(m, losses(m), groups).signed for m in (frozen, model))
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: [loss_of(m), loss_of(m)], "expected a generator that computes each loss when asked for it"),
        (lambda m: [], "losses = 0: expected at least one loss"),
        (lambda m: (m(**inputs()).logits for _ in range(1)), r"losses\[0\] = .*: expected a finite scalar"),
        (lambda m: (loss_of(m) * float("nan") for _ in range(1)), r"losses\[0\] = .*nan.*: expected a finite scalar"),
    ],
)
def test_bad_losses_are_refused_and_leave_no_probe(make, message):
    model = small_bert().train()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        group_taylor_scores(model, make(model), encoder_groups(model), layers=True)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# Weights


def test_a_weight_score_is_the_norm_of_the_map_through_the_unit(model):
    """fp64; ‖OV‖² by traces of d×d matrices instead: 32·8 products each."""
    scores = group_weight_scores(model, encoder_groups(model))
    for i, layer in enumerate(encoder_layers(model)):
        value, out = layer.attention.self.value.weight, layer.attention.output.dense.weight
        due = torch.stack([(out[:, h : h + 8] @ value[h : h + 8]).norm() for h in range(0, 32, 8)])
        torch.testing.assert_close(scores[f"bert.encoder.layer.{i}.heads"], due, rtol=1e-12, atol=0)
        due = weight_unit_scores(layer.intermediate.dense.weight, layer.output.dense.weight)
        torch.testing.assert_close(scores[f"bert.encoder.layer.{i}.neurons"], due, rtol=1e-12, atol=0)


@pytest.mark.parametrize("affine", [True, False])
def test_a_batchnorm_on_the_way_counts_with_its_scale(affine):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=affine), nn.ReLU(), nn.Conv2d(3, 4, 3)).double()
    with torch.no_grad():
        net[1].running_var += torch.rand(3)
        if affine:
            net[1].weight[0] = -2.0
    (score,) = group_weight_scores(net, channel_groups(net)).values()
    scale = (net[1].weight.abs() if affine else 1.0) / (net[1].running_var + net[1].eps).sqrt()
    due = scale * net[0].weight.flatten(1).norm(dim=1) * net[3].weight.transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(score, due.detach(), rtol=1e-12, atol=0)


def test_scores_come_signed_and_absolute_and_no_sum_exceeds_the_sum_of_sizes():
    model = small_bert()
    found = group_taylor_scores(model, (loss_of(model) for _ in range(2)), encoder_groups(model))
    assert isinstance(found, TaylorScores) and found.signed.keys() == found.absolute.keys()
    for name, absolute in found.absolute.items():
        assert (found.signed[name].abs() <= absolute * (1 + 2**-22)).all()  # two sums of two, in fp32
