"""Bits under a budget: never over it, near the exact knapsack by a proven margin, exact where steps are all alike."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.errors import CourseError
from course_lib.quantization.affine import choose_affine, fake_quantize
from course_lib.quantization.bits import Choice, allocate_bits, measured_choices
from course_lib.quantization.packing import packed_bytes

LAYER = st.lists(st.builds(Choice, st.integers(2, 8), st.integers(0, 50), st.floats(-5, 100)), min_size=1, max_size=5)
LAYERS = st.dictionaries(st.sampled_from("abcdefg"), LAYER, min_size=1, max_size=5)


def totals(chosen) -> tuple[int, float]:
    return sum(c.size for c in chosen.values()), sum(c.loss for c in chosen.values())


def best_of_all(layers, budget) -> float:
    """Every combination."""
    combinations = itertools.product(*layers.values())
    return min(
        (sum(c.loss for c in some) for some in combinations if sum(c.size for c in some) <= budget), default=float("inf")
    )


@settings(deadline=None)
@given(LAYERS, st.integers(0, 250))
def test_never_over_budget_and_refused_only_when_nothing_fits(layers, budget):
    smallest = sum(min(c.size for c in options) for options in layers.values())
    if smallest > budget:
        with pytest.raises(CourseError, match=rf"budget = {budget}: expected at least {smallest} bytes"):
            allocate_bits(layers, budget)
        return
    chosen = allocate_bits(layers, budget)
    assert list(chosen) == list(layers) and all(chosen[name] in layers[name] for name in layers)
    assert totals(chosen)[0] <= budget


@settings(deadline=None)
@given(LAYERS, st.integers(0, 250))
def test_the_loss_exceeds_the_best_by_less_than_the_step_that_did_not_fit(layers, budget):
    """Before that step the greedy solution is optimal for the bytes it uses; a step saves at most what the layer's worst
    and best choices differ by."""
    if sum(min(c.size for c in options) for options in layers.values()) > budget:
        return
    margin = max(max(c.loss for c in options) - min(c.loss for c in options) for options in layers.values())
    assert totals(allocate_bits(layers, budget))[1] <= best_of_all(layers, budget) + margin + 1e-9


@settings(deadline=None)
@given(LAYERS)
def test_an_ample_budget_buys_the_least_loss_of_every_layer(layers):
    chosen = allocate_bits(layers, 10_000)
    assert all(chosen[name].loss == min(c.loss for c in options) for name, options in layers.items())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 10), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 16))
def test_layers_of_one_size_whose_savings_fall_are_allocated_exactly(savings, affordable):
    """Every step costs 8 bytes and savings fall, so taking the largest first is exact."""
    layers = {}
    for number, falls in enumerate(savings):
        losses = [30 - sum(sorted(falls, reverse=True)[:i]) for i in range(4)]
        layers[str(number)] = [Choice(2 + i, 8 + 8 * i, loss) for i, loss in enumerate(losses)]
    budget = 8 * (len(layers) + affordable)
    assert abs(totals(allocate_bits(layers, budget))[1] - best_of_all(layers, budget)) <= 1e-9


def exact_knapsack(layers, budget) -> float:
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [(name, choice) for name, options in layers.items() for choice in options]
    one_each = np.array([[float(name == layer) for name, _ in flat] for layer in layers])
    solved = milp(
        [choice.loss for _, choice in flat],
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint([[c.size for _, c in flat]], ub=budget)],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
    )
    assert solved.success
    return float(solved.fun)


@pytest.mark.oracles
def test_close_to_the_exact_knapsack_on_an_encoder_of_many_layers():
    """36 matrices, losses that fall fourfold a bit as rounding errors do: one step is a small part of the whole."""
    pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for number in range(36):
        weights = 384 * (1536 if number % 6 > 3 else 384)
        sensitivity = float(torch.rand(1, generator=generator) ** 4)
        layers[f"layer.{number}"] = [Choice(b, packed_bytes(weights, b), sensitivity * 4.0**-b) for b in (2, 3, 4, 6, 8)]
    smallest = sum(options[0].size for options in layers.values())
    for factor in (1.01, 1.2, 1.5, 2.0, 3.0):
        budget = int(smallest * factor)
        size, loss = totals(allocate_bits(layers, budget))
        best = exact_knapsack(layers, budget)
        step = max(a.loss - b.loss for options in layers.values() for a, b in itertools.pairwise(options))
        assert size <= budget and best - 1e-9 <= loss <= best + step
        assert loss <= 1.05 * best, "measured: within five per cent at every budget"


def test_dominated_choices_are_never_bought():
    layers = {"a": [Choice(2, 10, 5.0), Choice(3, 20, 6.0), Choice(4, 30, 1.0), Choice(4, 30, 2.0)]}
    assert allocate_bits(layers, 29)["a"] == Choice(2, 10, 5.0)
    assert allocate_bits(layers, 30)["a"] == Choice(4, 30, 1.0)


def test_bytes_left_over_buy_what_is_off_the_hull():
    """The hull goes from 10 to 40 bytes at once; with 25 to spend, the choice below that line is still worth having."""
    layers = {"a": [Choice(2, 10, 9.0), Choice(3, 25, 8.0), Choice(4, 40, 0.0)], "b": [Choice(2, 10, 1.0)]}
    assert [c.bits for c in allocate_bits(layers, 35).values()] == [3, 2]
    assert [c.bits for c in allocate_bits(layers, 50).values()] == [4, 2]


@pytest.mark.parametrize(
    "layers, message",
    [
        ({}, r"choices = {}: expected at least one layer"),
        ({"a": []}, r"choices = 'a': expected at least one choice for each layer"),
        ({"a": [Choice(2, -1, 0.0)]}, r"expected sizes of at least 0 and finite losses"),
        ({"a": [Choice(2, 1, float("nan"))]}, r"finite losses"),
        ({"a": [Choice(2, 1, float("inf"))]}, r"finite losses"),
    ],
)
def test_choices_that_are_none_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        allocate_bits(layers, 100)


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    return fake_quantize(weight, *choose_affine(weight, bits, True, "channel"), bits)


def model_and_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    target = model(x).detach()
    return model, lambda m: float((m(x).detach() - target).square().mean())


def test_measured_choices_are_the_loss_of_each_layer_quantized_alone_and_leave_the_model_as_it_was():
    model, loss = model_and_loss()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    choices = measured_choices(model, ["0", "2"], [2, 4, 8], loss, rounded, lambda shape, b: packed_bytes(shape.numel(), b))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [c.bits for c in choices["0"]] == [2, 4, 8] and [c.size for c in choices["2"]] == [16, 32, 64]
    with torch.no_grad():
        model[2].weight.copy_(rounded(before["2.weight"], 4))
    assert choices["2"][1].loss == loss(model)
    chosen = allocate_bits(choices, 200)
    assert sum(c.size for c in chosen.values()) <= 200


def test_a_measurement_that_fails_leaves_the_model_as_it_was():
    model, loss = model_and_loss()
    before = model[0].weight.clone()

    def failing(weight, bits):
        if bits == 4:
            raise RuntimeError("stopped")
        return weight * 0

    with pytest.raises(RuntimeError, match="stopped"):
        measured_choices(model, ["0"], [2, 4], loss, failing, lambda shape, b: 1)
    assert torch.equal(model[0].weight, before)


def test_nothing_to_measure_is_refused():
    model, loss = model_and_loss()
    for names, bits, message in (([], [2], r"names = \[\]"), (["0"], [], r"bits = \[\]")):
        with pytest.raises(ValueError, match=message):
            measured_choices(model, names, bits, loss, rounded, lambda shape, b: 1)
    with pytest.raises(AttributeError):
        measured_choices(model, ["9"], [2], loss, rounded, lambda shape, b: 1)
