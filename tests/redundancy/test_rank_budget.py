"""Ranks under one budget: never over it, near the best that search finds, and never worse than one share for all."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redundant_models import batches, real_encoder, tiny

from course_lib.calibration import Hessian
from course_lib.errors import CourseError
from course_lib.layerwise import collect
from course_lib.plan import match
from course_lib.redundancy.activation_low_rank import whitened_singular_values
from course_lib.redundancy.low_rank import factor_size, largest_saving_rank, rank_for_bytes, singular_values
from course_lib.redundancy.low_rank_layers import LowRank, apply
from course_lib.redundancy.rank_budget import Spectrum, allocate_ranks, byte_cost, joint_plan, spectra, time_cost
from course_lib.redundancy.rank_latency import Latency, fit_latency, measure_latency, time_products

SHAPES = [(4, 6), (5, 5), (3, 12)]
layers_drawn = st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3).flatmap(
    lambda shapes: st.tuples(
        *(st.tuples(st.just(s), st.lists(st.floats(0, 10), min_size=min(s), max_size=min(s))) for s in shapes)
    )
)


def named(drawn) -> dict[str, Spectrum]:
    return {
        str(i): Spectrum(shape, torch.tensor(sorted(values, reverse=True), dtype=torch.float64))
        for i, (shape, values) in enumerate(drawn)
    }


def cost_and_loss(layers: dict[str, Spectrum], ranks, cost) -> tuple[float, float]:
    pairs = list(zip(layers.values(), ranks, strict=True))
    return sum(cost(layer.shape, r) for layer, r in pairs), sum(layer.lost(r) for layer, r in pairs)


@given(layers_drawn, st.floats(0.0, 1.0), st.sampled_from([byte_cost(), time_cost(Latency(3.0, 0.5, 2))]))
@settings(max_examples=60)
def test_it_keeps_the_budget_and_comes_near_the_best_of_all_ways(drawn, share, cost):
    """Greedy along the hulls: short of the best by less than one step of one hull, and a step saves at most all that rank 1 drops."""
    layers = named(drawn)
    each = [[None, *range(1, largest_saving_rank(layer.shape) + 1)] for layer in layers.values()]
    least = sum(min(cost(layer.shape, r) for r in ranks) for layer, ranks in zip(layers.values(), each, strict=True))
    whole, _ = cost_and_loss(layers, [None] * len(layers), cost)
    budget = least + share * (whole - least)
    ranks = list(allocate_ranks(layers, budget, cost).values())
    spent, lost = cost_and_loss(layers, ranks, cost)
    found = [cost_and_loss(layers, ranks, cost) for ranks in itertools.product(*each)]
    best = min(loss for spent, loss in found if spent <= budget)
    assert spent <= budget * (1 + 1e-12) and lost >= best - 1e-12
    assert lost <= best + max(layer.lost(1) for layer in layers.values()) + 1e-12


def test_milp_finds_nothing_better_than_one_step_on_real_spectra():
    """The query matrices of the encoder's first three layers at 60 % of their bytes, beside the exact solution."""
    np, optimize = pytest.importorskip("numpy"), pytest.importorskip("scipy.optimize")
    layers = spectra(real_encoder(), "encoder.layer.[012].attention.self.query")
    cost, shape = byte_cost(), (384, 384)
    budget = 0.6 * 3 * cost(shape, None)
    ranks = [None, *range(1, 192)]
    lost = np.array([layer.lost(r) for layer in layers.values() for r in ranks])
    spent = np.array([cost(shape, r) for _ in layers for r in ranks])
    one_each = np.kron(np.eye(3), np.ones(len(ranks)))
    constraints = [optimize.LinearConstraint(one_each, 1, 1), optimize.LinearConstraint(spent[None], -np.inf, budget)]
    best = optimize.milp(lost, constraints=constraints, integrality=np.ones(len(lost)), bounds=optimize.Bounds(0, 1))
    assert best.success
    ours = allocate_ranks(layers, budget, cost)
    total = sum(layer.lost(ours[name]) for name, layer in layers.items())
    relaxed = optimize.milp(lost, constraints=constraints, bounds=optimize.Bounds(0, 1)).fun
    assert best.fun - 1e-9 <= total <= best.fun * 1.02 and relaxed <= best.fun + 1e-9  # measured: nearly the best


def test_jointly_never_more_is_lost_than_with_the_same_share_of_bytes_for_all():
    """The even split is one of the ways to choose; greedy is within a step of the best, and here ahead of it: measured."""
    model = tiny(torch.float32)
    layers = spectra(model, "*encoder*", batches())
    even = {name: rank_for_bytes(layer.shape, 0.5 * 4 * layer.shape[0] * layer.shape[1]) for name, layer in layers.items()}
    budget = sum(4 * factor_size(layer.shape, even[name]) for name, layer in layers.items())
    joint = allocate_ranks(layers, budget, byte_cost())
    assert sum(layer.lost(joint[n]) for n, layer in layers.items()) < sum(layer.lost(even[n]) for n, layer in layers.items())


def test_a_joint_plan_is_carried_out_within_its_budget():
    model = tiny(torch.float32)
    layers = spectra(model, "*encoder*", batches())
    assert list(layers) == list(match(model, {"*encoder*": None}).found)
    whole = sum(4 * layer.shape[0] * layer.shape[1] for layer in layers.values())
    plan = joint_plan(layers, 0.5 * whole, byte_cost())
    assert plan and all(isinstance(config, LowRank) for config in plan.values())
    report = apply(model, plan, batches())
    assert report.bytes_before - report.bytes_after >= 0.5 * whole and not report.skipped
    latency = Latency(0.001, 1e-6, 32)
    layers = spectra(tiny(), "*intermediate*")
    slow = sum(time_cost(latency)(layer.shape, None) for layer in layers.values())
    ranks = allocate_ranks(layers, 0.7 * slow, time_cost(latency), "ms")
    assert sum(time_cost(latency)(layers[n].shape, r) for n, r in ranks.items()) <= 0.7 * slow
    with pytest.raises(CourseError, match=r"budget = 0.001 ms: expected at least 0.0101"):
        allocate_ranks(layers, 0.001, time_cost(latency), "ms")


def test_spectra_are_those_of_the_weights_or_of_the_weights_on_their_inputs():
    model = tiny()
    name = "bert.encoder.layer.0.output.dense"
    linear = model.get_submodule(name)
    assert torch.equal(spectra(model, name)[name].sigma, singular_values(linear.weight))
    moment = collect(model, {name: linear}, batches(), Hessian)[name].matrix()
    due = whitened_singular_values(linear.weight, moment, 1e-4)
    found = spectra(model, name, batches(), 1e-4)[name]
    torch.testing.assert_close(found.sigma, due, rtol=1e-9, atol=1e-12)  # the same sums by other batches of rows
    assert found.shape == (32, 64) and found.lost(None) == 0.0 and found.lost(32) == 0.0
    assert Spectrum((2, 2), torch.zeros(2)).lost(1) == 0.0


def test_overheads_are_paid_twice_and_the_largest_rank_that_fits_is_found():
    latency = Latency(0.5, 0.25, 4)
    assert latency.dense((3, 5)) == 0.5 + 15.0 and latency.factored((3, 5), 2) == 1.0 + 16.0
    assert latency.rank_within((3, 5), 17.0) == 2 and latency.rank_within((3, 5), 16.9) == 1
    assert latency.rank_within((3, 5), 1e9) == 3
    with pytest.raises(ValueError, match=r"milliseconds = 8.9: expected at least 9, for rank 1"):
        latency.rank_within((3, 5), 8.9)


@given(st.floats(0, 1), st.floats(1e-9, 1e-6), st.integers(1, 512))
def test_a_line_is_found_again_from_the_times_it_gives(overhead, per_mac, tokens):
    truth, shapes = Latency(overhead, per_mac, tokens), [(8, 8), (64, 32), (384, 384), (1536, 384)]
    found = fit_latency(shapes, [truth.dense(s) for s in shapes], tokens)
    for shape in shapes:  # relative errors are what is made small; 1e-9 is far above the rounding of a fit of two numbers
        assert found.dense(shape) == pytest.approx(truth.dense(shape), rel=1e-9)


def test_products_are_measured_and_give_a_line():
    assert all(ms > 0 for ms in time_products([(8, 8), (64, 64)], tokens=16, repeats=2))
    latency = measure_latency([(256, 256), (1024, 256)], tokens=64, repeats=3)
    assert latency.tokens == 64 and latency.per_mac > 0


def test_bad_input_is_refused():
    layers = {"a": Spectrum((4, 4), torch.tensor([1.0, 0.5, 0.2, 0.1]))}
    with pytest.raises(CourseError, match=r"budget = 31 bytes: expected at least 32, what rank 1 of every layer takes"):
        allocate_ranks(layers, 31, byte_cost())
    with pytest.raises(ValueError, match=r"budget = 64: expected less than the 64 bytes that the layers take now"):
        joint_plan(layers, 64, byte_cost())
    with pytest.raises(ValueError, match=r"choices = {}: expected at least one layer"):
        allocate_ranks({}, 10, byte_cost())
    with pytest.raises(CourseError, match=r"'nothing' matches nothing"):
        spectra(tiny(), "nothing")
    for fields, message in (((-1, 1, 1), "overhead = -1"), ((0, 0, 1), "per_mac = 0"), ((0, 1, 0), "tokens = 0")):
        with pytest.raises(ValueError, match=message):
            Latency(*fields)
    with pytest.raises(ValueError, match=r"shapes = .*expected shapes, tokens and repeats"):
        time_products([], 4)
    with pytest.raises(ValueError, match=r"shapes = .*at least two products of different size"):
        fit_latency([(2, 3), (3, 2)], [1.0, 1.0], 4)
    with pytest.raises(ValueError, match=r"milliseconds = .*a time above 0"):
        fit_latency([(2, 3), (3, 3)], [1.0, 0.0], 4)
    with pytest.raises(CourseError, match=r"do not grow with the multiply-adds"):
        fit_latency([(2, 3), (30, 30)], [2.0, 1.0], 4)
