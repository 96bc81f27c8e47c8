"""Channels of convolutions: what goes with a filter is what torch_pruning's tracer finds, and removing it changes nothing else."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.groups import unit_parameters
from course_lib.pruning.channels import channel_groups
from course_lib.pruning.unit_masks import compact, mask_by_plan, mask_units, unmask
from course_lib.report import parameter_count

# Sums of at most 6·9 = 54 products of order 1 in each of three layers lose their zeros: 3·54·2.2e-16 = 4e-14 at most, a
# few times that for the BatchNorms, whose variances are about 1.
FP64 = 1e-12


def network(seed: int = 0, norm: bool = True) -> nn.Sequential:
    """Two convolutions and a linear layer on 8×8 pictures, with BatchNorms whose statistics and shifts are not trivial."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5) if norm else nn.Identity(), nn.GELU()),
        nn.Flatten(),
        nn.Linear(5 * 16, 4),
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape)
    model(pictures())  # running means and variances of its own
    return model.eval()


def pictures(count: int = 7) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def output(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(pictures())


def test_a_group_says_what_belongs_to_a_channel():
    assert str(channel_groups(network())[0]).splitlines() == [
        "0.0.channels: 6 units; unit i is",
        "  row i of 0.0, with its bias",
        "  row i of 0.1, with its bias",
        "  column i of 1.0",
    ]
    assert str(channel_groups(network(norm=False))[1]).splitlines() == [
        "1.0.channels: 5 units; unit i is",
        "  row i of 1.0, with its bias",
        "  columns 16·i … 16·i+15 of 3",
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=6, max_size=6), st.lists(st.booleans(), min_size=5, max_size=5), st.booleans())
def test_compacting_masked_channels_leaves_the_output_as_it_was(first, last, norm):
    model = network(norm=norm)
    first[0], last[4], last[0] = True, True, False  # one channel stays, one goes
    masks = {"0.0.channels": torch.tensor(first), "1.0.channels": torch.tensor(last)}
    groups = channel_groups(model)
    saved, before = 0, output(model)
    mask_units(model, masks, groups)
    masked = output(model)
    assert (masked - before).abs().max() > 1e-6, "what is removed must matter"
    size = parameter_count(model)
    compact(model)
    torch.testing.assert_close(output(model), masked, rtol=0, atol=FP64)
    kept = [int(m.sum()) for m in masks.values()]
    each = 10 + 2 * norm  # 9 weights and a bias, and the norm's scale and shift
    saved = each * (6 - kept[0]) + (5 * 54 - kept[1] * 9 * kept[0]) + (1 + 2 * norm) * (5 - kept[1]) + 4 * 16 * (5 - kept[1])
    assert size - parameter_count(model) == saved
    assert (model[0][0].out_channels, model[1][0].in_channels, model[1][0].out_channels) == (kept[0], kept[0], kept[1])
    assert model[3].in_features == 16 * kept[1]


def test_a_masked_channel_hides_the_shift_of_its_batchnorm():
    """ReLU(β) would stay if only the filter were masked."""
    model = network()
    with torch.no_grad():
        model[0][0].weight[2], model[0][0].bias[2] = 0.0, 0.0
        model[0][1].bias[2] = 5.0
    before = output(model)
    mask_units(model, {"0.0.channels": torch.arange(6) != 2}, channel_groups(model))
    assert (output(model) - before).abs().max() > 1e-3
    silent = copy.deepcopy(model)
    unmask(silent)
    with torch.no_grad():
        silent[1][0].weight[:, 2] = 0.0
    torch.testing.assert_close(output(model), output(silent), rtol=0, atol=FP64)


def test_a_chain_by_name_is_the_sequence():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm, self.two, self.out = (
                nn.Conv1d(2, 4, 3),
                nn.BatchNorm1d(4),
                nn.Conv1d(4, 3, 3),
                nn.Linear(12, 2),
            )

        def forward(self, x):
            return self.out(self.two(torch.relu(self.norm(self.one(x)))).flatten(1))

    model = Named().double().eval()
    groups = channel_groups(model, ["one", "norm", "two", "out"])
    assert [(g.name, g.units, g.reader.width) for g in groups] == [("one.channels", 4, 1), ("two.channels", 3, 4)]
    mask_by_plan(model, {"*": 0.5}, groups=groups)
    x = torch.randn(2, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masked = model(x)
    compact(model)
    torch.testing.assert_close(model(x), masked, rtol=0, atol=FP64)
    assert (model.one.out_channels, model.two.out_channels) == (2, 1)  # round(1.5) = 2 of 3 go
    with pytest.raises(CourseError, match=r"Named is no nn\.Sequential; expected the chain of its modules by name"):
        channel_groups(model)


def test_a_global_pool_before_the_linear_layer_leaves_one_column_per_channel():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    (group,) = channel_groups(model)
    assert (group.units, group.reader.width) == (4, 1) and unit_parameters(model, group) == 10 + 2


def test_a_pruned_network_still_trains_with_batch_statistics():
    model = network().train()
    mask_by_plan(model, {"*": 0.5}, groups=channel_groups(model))
    compact(model)
    model(pictures()).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert model[0][1].running_mean.shape == (3,)


# Bad input


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4)),
            "1: a convolution of 4 groups; expected one that reads",
        ),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 3)), "1: GroupNorm may mix channels"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), "no convolution here is read by another layer"),
        (nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), "no convolution here is read by another layer"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(6, 2)), "2 has 6 columns, expected 4"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(3, 4, 3)), "1 has 3 columns, expected 4"),
        (nn.Linear(2, 2), r"Linear is no nn\.Sequential"),
    ],
)
def test_networks_whose_channels_are_not_plain_are_refused(model, message):
    with pytest.raises(CourseError, match=message):
        channel_groups(model)


@pytest.mark.parametrize(
    ("chain", "message"),
    [(["0.0", "nowhere"], "'nowhere' is no module of Sequential"), (["0.0", "1.0", "0.0"], "0.0: runs twice")],
)
def test_a_chain_that_cannot_be_is_refused(chain, message):
    with pytest.raises(CourseError, match=message):
        channel_groups(network(), chain)


def test_tied_filters_are_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    model[2].weight = model[0].weight
    with pytest.raises(CourseError, match="0: its weight is tied to 2"):
        channel_groups(model)


def test_a_convolution_keeps_at_least_one_channel():
    model = network()
    with pytest.raises(ValueError, match=r"masks\['1\.0\.channels'\] = 'no channel': expected at least one channel"):
        mask_units(model, {"1.0.channels": torch.zeros(5, dtype=torch.bool)}, channel_groups(model))


# Oracle


@pytest.mark.oracles
@pytest.mark.parametrize(("number", "drop"), [(0, [1, 4]), (1, [0, 2, 3])])
def test_torch_pruning_removes_the_same_rows_and_columns(number, drop):
    tp = pytest.importorskip("torch_pruning")
    ours, theirs = network(), network()
    group = channel_groups(ours)[number]
    mask_units(ours, {group.name: ~torch.isin(torch.arange(group.units), torch.tensor(drop))}, [group])
    compact(ours)
    graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=pictures(1))
    graph.get_pruning_group(theirs.get_submodule(group.parts[0].module), tp.prune_conv_out_channels, idxs=drop).prune()
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)
