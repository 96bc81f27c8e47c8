"""Coupled groups: what they print is what is cut, and what is cut leaves the rest as it was."""

import random

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from course_lib.errors import CourseError
from course_lib.models.groups import CoupledGroup, Part, check_groups, check_units, keep_units, shrink, unit_parameters
from course_lib.models.surgery import head_groups, neuron_groups
from course_lib.models.zoo import find_encoder, load_encoder, load_token_classifier
from course_lib.report import parameter_count


class Doubled(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def pair() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()


GROUP = CoupledGroup("0.units", 4, (Part("0", "rows"), Part("2", "columns")))


# Printing


def test_a_group_says_which_rows_go_with_which_columns():
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-X"])
    assert str(head_groups(model)[1]).splitlines() == [
        "bert.encoder.layer.1.heads: 4 units; unit i is",
        "  rows 8·i … 8·i+7 of bert.encoder.layer.1.attention.self.query, with their biases",
        "  rows 8·i … 8·i+7 of bert.encoder.layer.1.attention.self.key, with their biases",
        "  rows 8·i … 8·i+7 of bert.encoder.layer.1.attention.self.value, with their biases",
        "  columns 8·i … 8·i+7 of bert.encoder.layer.1.attention.output.dense",
    ]
    assert str(neuron_groups(load_encoder("tiny"))[0]).splitlines() == [
        "encoder.layer.0.neurons: 64 units; unit i is",
        "  row i of encoder.layer.0.intermediate.dense, with its bias",
        "  column i of encoder.layer.0.output.dense",
    ]


def test_a_unit_costs_its_rows_biases_and_columns():
    model = load_encoder("minilm")
    assert {unit_parameters(model, g) for g in head_groups(model)} == {4 * 32 * 384 + 3 * 32}
    assert {unit_parameters(model, g) for g in neuron_groups(model)} == {2 * 384 + 1}
    norm = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 4, 5))
    group = CoupledGroup("0.channels", 6, (Part("0", "rows"), Part("1", "rows"), Part("3", "columns", 4)))
    assert unit_parameters(norm, group) == (9 + 1) + 2 + 4 * 5


# Cutting


def test_keeping_units_removes_as_many_parameters_as_it_says():
    model = pair()
    each, before = unit_parameters(model, GROUP), parameter_count(model)
    keep_units(model, GROUP, torch.tensor([2, 0]))
    assert before - parameter_count(model) == 2 * each == 2 * (3 + 1 + 2)
    old = pair()
    assert torch.equal(model[0].weight, old[0].weight[[2, 0]]) and torch.equal(model[0].bias, old[0].bias[[2, 0]])
    assert torch.equal(model[2].weight, old[2].weight[:, [2, 0]]) and torch.equal(model[2].bias, old[2].bias)


def test_a_shrunk_linear_gives_the_rows_of_the_result_where_dropped_inputs_are_zero():
    """fp64: at most 12 products and their sum, each off by one part in 1e16."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(50):
        fan_in, fan_out = random.Random(trial).choices(range(1, 13), k=2)
        linear = nn.Linear(fan_in, fan_out, bias=trial % 2 == 0, dtype=torch.float64)
        rows = torch.randperm(fan_out, generator=generator)[: 1 + trial % fan_out]
        columns = torch.randperm(fan_in, generator=generator)[: 1 + trial % fan_in]
        x = torch.randn(5, fan_in, generator=generator, dtype=torch.float64)
        sparse = torch.zeros_like(x)
        sparse[:, columns] = x[:, columns]
        small = shrink(linear, rows, columns)
        assert (small.out_features, small.in_features) == tuple(small.weight.shape) == (len(rows), len(columns))
        assert (small.bias is None) == (linear.bias is None)
        torch.testing.assert_close(small(x[:, columns]), linear(sparse)[:, rows], rtol=0, atol=1e-13)
        torch.testing.assert_close(shrink(linear, rows=rows)(x), linear(x)[:, rows], rtol=0, atol=1e-13)
        assert torch.equal(shrink(linear).weight, linear.weight)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d])
def test_a_shrunk_convolution_gives_the_channels_of_the_result(kind):
    """fp64: 4 channels of 9 products at most."""
    conv = kind(4, 6, 3, stride=2, padding=1, padding_mode="reflect").double()
    x = torch.randn(
        2, 4, *[9] * (2 if kind is nn.Conv2d else 1), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    sparse = x.clone()
    sparse[:, [0, 2]] = 0
    small = shrink(conv, torch.tensor([5, 1]), torch.tensor([1, 3]))
    assert (small.out_channels, small.in_channels) == tuple(small.weight.shape[:2]) == (2, 2)
    torch.testing.assert_close(small(x[:, [1, 3]]), conv(sparse)[:, [5, 1]], rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_a_shrunk_batchnorm_gives_the_features_of_the_result(options):
    norm = nn.BatchNorm1d(5, **options).double()
    x = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm(x)  # running statistics of its own
    small = shrink(norm.eval(), rows=torch.tensor([4, 0]))
    assert small.num_features == 2 and not small.training
    assert torch.equal(small(x[:, [4, 0]]), norm(x)[:, [4, 0]])


@pytest.mark.parametrize("module", [nn.Linear(3, 3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)])
def test_a_shrunk_module_shares_no_memory_with_the_old_one(module):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    for small in (shrink(module), shrink(module, rows=torch.arange(3))):
        with torch.no_grad():
            for tensor in (*small.parameters(), *small.buffers()):
                tensor.zero_()
        assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
        assert all(p.requires_grad for p in small.parameters())


def test_frozen_weights_stay_frozen_and_types_stay_types():
    linear = nn.Linear(3, 4, dtype=torch.bfloat16)
    linear.weight.requires_grad_(False)
    small = shrink(linear, rows=torch.tensor([1]))
    assert (small.weight.requires_grad, small.bias.requires_grad) == (False, True)
    assert small.weight.dtype == small.bias.dtype == torch.bfloat16


# Bad input


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(4, 4, 1, groups=2), "groups = 2: expected a convolution of one group"),
        (nn.LayerNorm(4), "module = 'LayerNorm': expected Linear or Conv1d or Conv2d or BatchNorm1d or BatchNorm2d"),
    ],
)
def test_what_cannot_be_cut_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        shrink(module, rows=torch.tensor([0]))


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def parametrized():
    model = pair()
    parametrize.register_parametrization(model[2], "weight", nn.Identity())
    return model


def torch_pruned():
    model = pair()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tied(), "0: its weight is tied to 2"),
        (parametrized(), "2: its weight is computed from a mask or another parametrization"),
        (torch_pruned(), "0: its weight is computed from a mask or another parametrization"),
        (nn.Sequential(Doubled(3, 4), nn.ReLU(), nn.Linear(4, 2)), "0: Doubled is a Linear with a forward of its own"),
        (
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Bilinear(4, 4, 2)),
            "'2' matches no Linear .*; what it matches is a Bilinear",
        ),
        (nn.Sequential(nn.Linear(3, 4)), "'2' matches nothing in Sequential"),
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(4, 2)), "0 has 5 rows, expected 4: 4 units of 1 in 0.units"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(8, 2)), "2 has 8 columns, expected 4: 4 units of 1 in 0.units"),
    ],
    ids="tied parametrized pruned subclass class missing rows columns".split(),
)
def test_groups_with_modules_that_cannot_be_cut_are_refused(model, message):
    with pytest.raises(CourseError, match=message):
        check_groups(model, [GROUP])


def test_a_subclass_that_computes_as_its_parent_does_can_be_cut():
    class Named(nn.Linear):
        pass

    model = nn.Sequential(Named(3, 4), nn.ReLU(), nn.Linear(4, 2))
    check_groups(model, [GROUP])
    keep_units(model, GROUP, torch.tensor([3]))
    assert type(model[0]) is Named and model[0].out_features == 1


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.tensor([0, 4]), r"keep = \[0, 4\]: expected different units of 0.units between 0 and 3"),
        (torch.tensor([-1]), r"keep = \[-1\]"),
        (torch.tensor([1, 1]), r"keep = \[1, 1\]"),
        (torch.tensor([0.5]), "unit numbers, int64"),
        (torch.tensor([[0]]), "unit numbers, int64"),
        (torch.tensor([True, False, True, True]), "unit numbers, int64"),
    ],
)
def test_indices_that_are_no_units_are_refused(keep, message):
    with pytest.raises(ValueError, match=message):
        check_units(GROUP, keep)
