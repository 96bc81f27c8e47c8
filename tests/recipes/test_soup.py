"""Soups: the average of equal models is the model, torch's own averaging agrees, and greed never loses on validation."""

import copy

import pytest
import torch
from torch import nn

from course_lib.recipes.soup import average, greedy_soup


def model(seed, width=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def test_a_soup_of_equal_models_is_the_model_to_the_bit():
    one = model(0)
    for name, tensor in average([one, copy.deepcopy(one), copy.deepcopy(one)]).state_dict().items():
        assert torch.equal(tensor, one.state_dict()[name]), name


def test_every_weight_is_the_mean_as_torchs_swa_has_it():
    models = [model(seed) for seed in range(3)]
    swa = torch.optim.swa_utils.AveragedModel(models[0], use_buffers=False)
    for m in models:
        swa.update_parameters(m)
    before = [copy.deepcopy(m.state_dict()) for m in models]
    soup = average(models)
    for (name, ours), theirs in zip(soup.named_parameters(), swa.module.parameters(), strict=True):
        # torch adds up in fp32: two updates, each rounded three times (difference, product, sum), values below 1: 6·2^-24
        torch.testing.assert_close(ours, theirs, atol=6 * 2**-24, rtol=0, msg=name)
    for m, state in zip(models, before, strict=True):
        assert all(torch.equal(t, state[k]) for k, t in m.state_dict().items()), "the models are left alone"


def test_integers_are_the_first_models_own():
    a, b = model(0), model(1)
    b[1].num_batches_tracked += 7
    assert average([a, b])[1].num_batches_tracked.item() == 0


def test_greed_keeps_only_what_does_not_hurt():
    """Models are points on a line, the best place is 1.2: from 1 and 1.5, with 9 the average gets worse."""

    def point(x):
        m = nn.Linear(1, 1, bias=False)
        nn.init.constant_(m.weight, x)
        return m

    soup, log = greedy_soup([point(9.0), point(1.5), point(1.0)], lambda m: -abs(m.weight.item() - 1.2))
    assert [(row["members"], row["kept"]) for row in log] == [([2], True), ([2, 1], True), ([2, 1, 0], False)]
    assert soup.weight.item() == 1.25


def test_the_soup_is_never_worse_than_the_best_model():
    models = [model(seed) for seed in range(4)]
    validate = lambda m: -m[0].weight.square().sum().item() + m[2].weight.sum().item()  # noqa: E731
    soup, log = greedy_soup(models, validate)
    assert validate(soup) >= max(map(validate, models)) == log[0]["validation_f1"]


def test_models_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"models = 0: expected at least one"):
        average([])
    with pytest.raises(ValueError, match=r"models = 0: expected at least one"):
        greedy_soup([], lambda m: 0.0)
    with pytest.raises(ValueError, match=r"models\[1\] = \['0\.bias'"):
        average([model(0), model(0, width=6)])
