"""Pruning a model: the asked sparsity in the asked places, what is zero stays zero, and nothing changes when a plan is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune as torch_prune

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.pruning.apply import Prune, apply
from course_lib.pruning.masks import global_masks, mask_by_sparsity, n_m_mask, sparsity
from course_lib.pruning.scores import fisher_scores, gradient_scores, magnitude_scores, taylor_scores

TAGS = ["O", "B-X", "I-X"]
FFN = "*.intermediate.dense"


@pytest.fixture
def model():
    """The tiny classifier with weights far from 0, its padding row aside."""
    model, generator = load_token_classifier(find_encoder("tiny"), TAGS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return model.train()


def loss_of(model, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids, labels = torch.randint(5, 100, (2, 7), generator=generator), torch.randint(3, (2, 7), generator=generator)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def losses(model, count: int = 3):
    return (loss_of(model, seed) for seed in range(count))


def values(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_matched_weights_are_pruned_exactly_and_nothing_else_changes(model):
    before = values(model)
    masks, report = apply(model, {FFN: Prune(0.5), "*.word_embeddings": Prune(0.25), "classifier": Prune(1.0)})
    assert list(masks) == [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
        "bert.encoder.layer.1.intermediate.dense.weight",
        "classifier.weight",
    ]
    asked = [0.25, 0.5, 0.5, 1.0]
    for (name, mask), s in zip(masks.items(), asked, strict=True):
        assert sparsity(mask) == s
        assert torch.equal(mask, mask_by_sparsity(magnitude_scores(before[name]), s))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name] * masks[name] if name in masks else before[name])
    assert report.parameters_after == report.parameters_before and report.bytes_after == report.bytes_before
    assert report.changed[1] == (
        "bert.encoder.layer.0.intermediate.dense: 50.0% of 2,048 weights are zero (magnitude, 50.0% asked for it)"
    )
    assert model.training


@pytest.mark.parametrize("granularity, axis, norm", [("channel", 0, 2), ("channel", 1, 1), (8, 0, 1), ((4, 4), 0, 2)])
def test_blocks_go_whole(model, granularity, axis, norm):
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    expected = mask_by_sparsity(magnitude_scores(weight, norm), 0.5, granularity, axis)
    masks, _ = apply(model, {FFN: Prune(0.5, granularity=granularity, axis=axis, norm=norm)})
    assert torch.equal(masks["bert.encoder.layer.0.intermediate.dense.weight"], expected)
    assert torch.equal(weight != 0, expected)


def test_one_threshold_for_all_modules_of_a_configuration(model):
    before = values(model)
    masks, report = apply(model, {FFN: Prune(0.7, scope="global"), "*.output.dense": Prune(0.2)})
    names = [f"bert.encoder.layer.{i}.intermediate.dense.weight" for i in (0, 1)]
    expected = global_masks({name: magnitude_scores(before[name]) for name in names}, 0.7)
    assert all(torch.equal(masks[name], expected[name]) for name in names)
    assert "70.0% asked for all together" in report.changed[1]
    assert sparsity(masks["bert.encoder.layer.0.attention.output.dense.weight"]) == round(0.2 * 1024) / 1024


@pytest.mark.parametrize(
    "score, function", [("gradient", gradient_scores), ("taylor", taylor_scores), ("fisher", fisher_scores)]
)
def test_scores_from_losses_rank_the_weights_without_dropout(model, score, function):
    twin = copy.deepcopy(model).eval()
    weights = {n: p for n, p in twin.named_parameters() if n.endswith("intermediate.dense.weight")}
    expected = function(weights, losses(twin))
    masks, _ = apply(model, {FFN: Prune(0.6, score=score), "classifier": Prune(0.5)}, losses(model))
    for name, scores in expected.items():
        assert torch.equal(masks[name], mask_by_sparsity(scores, 0.6))
    assert model.training and all(p.grad is None for p in model.parameters())


def test_two_of_four_along_the_rows_of_linear_and_convolution_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 5))
    before = values(model)
    masks, report = apply(model, {"[02]": Prune((2, 4))})
    assert torch.equal(masks["2.weight"], n_m_mask(before["2.weight"].abs(), 2, 4))
    assert torch.equal(masks["0.weight"].flatten(1), n_m_mask(before["0.weight"].abs().flatten(1), 2, 4))
    assert report.changed[0] == "0: 50.0% of 108 weights are zero (magnitude, 2:4 asked for it)"


# What is masked already


@pytest.mark.parametrize(
    "config",
    [Prune(0.5), Prune(0.5, granularity="channel"), Prune((2, 4)), Prune(0.5, scope="global"), Prune(0.5, score="taylor")],
)
def test_a_second_time_changes_nothing(model, config):
    def call():
        return apply(model, {FFN: config}, losses(model) if config.score == "taylor" else None)

    first, _ = call()
    once = values(model)
    second, _ = call()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert all(torch.equal(p, once[n]) for n, p in model.named_parameters())


def test_zeros_stay_zero_and_count_towards_the_asked_sparsity_whatever_the_score(model):
    """A gradient score knows nothing of a weight's size, and would keep zeros and prune others instead."""
    apply(model, {FFN: Prune(0.5)})
    zeros = {n: p == 0 for n, p in values(model).items()}
    masks, _ = apply(model, {FFN: Prune(0.75, score="gradient")}, losses(model))
    for name, mask in masks.items():
        assert sparsity(mask) == 0.75 and not mask[zeros[name]].any()
    masks, report = apply(model, {FFN: Prune(0.25)})
    assert masks.sparsity == 0.75
    assert "75.0% of 2,048 weights are zero (magnitude, 25.0% asked for it)" in report.changed[0]


def test_an_untouched_row_is_pruned_before_rows_with_a_few_zeros_in_them():
    model = nn.Sequential(nn.Linear(2, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[9.0, 0.0], [1.0, 1.0], [0.0, 0.0], [5.0, 5.0]]))
    masks, _ = apply(model, {"0": Prune(0.5, granularity="channel")})
    assert masks["0.weight"].tolist() == [[True, False], [False, False], [False, False], [True, True]]


# What is refused


@pytest.mark.parametrize(
    "plan, message",
    [
        ({"*.nothing": Prune(0.5)}, r"'\*\.nothing' matches nothing"),
        ({FFN: Prune(0.5), "*.0.*.dense": Prune(0.5)}, "is matched by"),
        ({FFN: Prune(0.5, score="taylor")}, "losses: none were given; expected losses if, and only if"),
        (
            {FFN: Prune(0.5, score="taylor"), "classifier": Prune(0.5, score="fisher")},
            "fisher, taylor cannot be computed from the same losses in one go",
        ),
    ],
)
def test_a_plan_that_cannot_be_meant_changes_nothing(model, plan, message):
    before = values(model)
    with pytest.raises(CourseError, match=message):
        apply(model, plan)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_losses_nobody_needs_are_refused(model):
    with pytest.raises(CourseError, match="losses: no module's score needs them"):
        apply(model, {FFN: Prune(0.5)}, losses(model))


def test_a_failing_loss_leaves_the_model_as_it_was(model):
    before = values(model)

    def failing():
        yield loss_of(model, 0)
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        apply(model, {FFN: Prune(0.5, score="taylor")}, failing())
    assert model.training and all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_nan_weights_and_blocks_that_do_not_fit_are_refused_before_anything_changes(model):
    before = values(model)
    with pytest.raises(ValueError, match=r"granularity = \(1, 5\): expected numbers that divide the shape \(64, 32\)"):
        apply(model, {"*.word_embeddings": Prune(0.5), FFN: Prune(0.5, granularity=5)})
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"bert\.encoder\.layer\.1\.intermediate\.dense\.weight = 1 NaN"):
        apply(model, {"*.word_embeddings": Prune(0.5), FFN: Prune(0.5)})
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before["bert.embeddings.word_embeddings.weight"])


def test_integer_weights_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"0\.weight\.dtype = torch\.int8: expected a floating-point tensor"):
        apply(model, {"0": Prune(0.5)})


def test_a_weight_that_torchs_pruning_computes_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(CourseError, match="the weight of 0 is computed from other parameters"):
        apply(model, {"0": Prune(0.5)})
    torch_prune.remove(model[0], "weight")
    masks, _ = apply(model, {"0": Prune(0.25)})
    assert masks.sparsity == 0.5


def test_tied_weights_and_subclasses_with_their_own_forward_are_named_as_skipped():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Plain(nn.Linear):
        pass

    model = nn.Sequential(nn.Embedding(6, 4), Scaled(4, 4), Plain(4, 4), nn.Linear(4, 6, bias=False))
    model[3].weight = model[0].weight
    before = values(model)
    masks, report = apply(model, {"*": Prune(0.5)})
    assert list(masks) == ["2.weight"]
    assert [line.split(": ", 1)[0] for line in report.skipped] == ["0", "1", "3"]
    assert "tied to 3" in report.skipped[0] and "forward of its own" in report.skipped[1]
    assert torch.equal(model[0].weight, before["0.weight"]) and torch.equal(model[1].weight, before["1.weight"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sparsity": 1.5}, r"sparsity = 1\.5: expected a fraction between 0 and 1, or \(n, m\)"),
        ({"sparsity": (3, 2)}, r"sparsity = \(3, 2\): expected \(n, m\) with 0 ≤ n ≤ m"),
        ({"sparsity": (2, 4), "granularity": "channel"}, r"granularity, scope = \('channel', 'layer'\): expected 'weight'"),
        ({"sparsity": 0.5, "score": "size"}, "score = 'size': expected magnitude or gradient"),
        ({"sparsity": 0.5, "norm": 3}, "norm = 3: expected 1 or 2"),
        ({"sparsity": 0.5, "scope": "model"}, "scope = 'model': expected 'layer' or 'global'"),
    ],
)
def test_a_configuration_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prune(**arguments)


def test_groups_of_m_that_do_not_divide_a_row_are_refused(model):
    with pytest.raises(ValueError, match="m = 5: expected a number that divides the last dimension, 32"):
        apply(model, {FFN: Prune((2, 5))})
