"""Exact k-means: every way to cut a short list tried out, plain dynamic programming on longer ones, two other libraries."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from course_lib.quantization import exact_kmeans
from course_lib.quantization.exact_kmeans import optimal_levels, optimal_levels_of_rows
from course_lib.quantization.sorted_sums import SortedSums
from course_lib.quantization.stretches import forward, trace

NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1000, 1000, width=32))


def error_of(x: torch.Tensor, levels: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    distance = (x.double().reshape(-1, 1) - levels.double()).square().min(dim=1).values
    return float((distance if weights is None else distance * weights.double().reshape(-1)).sum())


def slack(x: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """What may be decided by rounding: 1e−13 of the scatter about the mean, and levels kept in float32 (u = 2^−24):
    a level off by u·|level| costs ``weight · (u·|level|)²``, the cross term being 0 at a mean."""
    mass = torch.ones_like(x) if weights is None else weights
    scatter = float((mass.double() * (x.double() - x.double().mean()).square()).sum())
    return 1e-12 * scatter + float((mass.double() * x.double().square().max()).sum()) * 2.0**-47


def cut_by_dynamic_programming(x: torch.Tensor, count: int, weights: torch.Tensor) -> float:
    """O(k n²), with no prefix sums: the cost of every stretch about its own mean."""
    order = x.argsort()
    v, w = x.double()[order].numpy(), weights.double()[order].numpy()
    n = len(v)
    cost = np.zeros((n + 1, n + 1))
    for start in range(n):
        for end in range(start + 1, n + 1):
            mass = w[start:end].sum()
            mean = (w[start:end] * v[start:end]).sum() / mass if mass > 0 else 0
            cost[start, end] = (w[start:end] * (v[start:end] - mean) ** 2).sum()
    best = np.full(n + 1, np.inf)
    best[0] = 0
    for _ in range(count):
        best = np.array([min(best[start] + cost[start, end] for start in range(end + 1)) for end in range(n + 1)])
    return float(best[n])


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=7), st.integers(1, 5))
def test_no_way_to_cut_the_sorted_values_is_better(values, count):
    x = torch.tensor(values)
    found = error_of(x, optimal_levels(x, count))
    ordered = x.double().sort().values
    for ends in itertools.combinations_with_replacement(range(len(values) + 1), count - 1):
        stretches = [ordered[a:b] for a, b in zip((0, *ends), (*ends, len(values)), strict=True) if b > a]
        assert found <= sum(float((s - s.mean()).square().sum()) for s in stretches) + slack(x)


@pytest.fixture(params=[1, 4, 16])
def coarseness(request, monkeypatch):
    """Cells coarse enough for several rounds even on short lists."""
    monkeypatch.setattr(exact_kmeans, "_GRID", request.param)
    monkeypatch.setattr(exact_kmeans, "_LEAST_CELLS", request.param)


def lists(generator: torch.Generator):
    """Lists of many shapes: normal, with ties, with outliers, with a long tail, in clumps."""
    for number in range(40):
        n = int(torch.randint(20, 70, (1,), generator=generator))
        x = torch.randn(n, generator=generator)
        yield (
            x,
            (x * 3).round(),
            torch.cat([x, torch.tensor([1e4])]),
            x.abs() ** 8,
            x * 0.01 + torch.randint(0, 6, (n,), generator=generator),
        )[number % 5]


def test_coarse_cells_and_plain_dynamic_programming_agree(coarseness):
    generator = torch.Generator().manual_seed(0)
    for number, x in enumerate(lists(generator)):
        count = 1 + number % 11
        ones, weights = torch.ones_like(x), torch.rand(len(x), generator=generator)
        weights[::7] = 0
        for w in (ones, weights, weights**6):
            exact = cut_by_dynamic_programming(x, count, w)
            assert abs(error_of(x, optimal_levels(x, count, w), w) - exact) <= slack(x, w)
            assert abs(error_of(x, optimal_levels_of_rows(x[None], count, w[None])[0], w) - exact) <= slack(x, w)


def test_weights_of_one_change_nothing_and_whole_weights_are_repetitions():
    x = torch.randn(500, generator=torch.Generator().manual_seed(1))
    levels = optimal_levels(x, 6)
    assert torch.equal(levels, optimal_levels(x, 6, torch.ones(500)))
    times = torch.arange(500) % 4
    repeated = error_of(x, optimal_levels(x.repeat_interleave(times), 6), times)
    assert abs(error_of(x, optimal_levels(x, 6, times.float()), times) - repeated) <= slack(x, times)


def test_levels_move_and_scale_with_the_values():
    x = torch.randn(2000, generator=torch.Generator().manual_seed(2)).double()
    levels = optimal_levels(x, 7).double()
    for scale, shift in ((-2.0, 0.0), (0.5, 8.0)):
        moved = optimal_levels(x * scale + shift, 7).double()
        expected = (levels * scale + shift).sort().values
        assert bool(((moved - expected).abs() <= 2.0**-22 * (1 + expected.abs())).all())  # float32 levels, three roundings


def test_more_levels_are_never_worse_and_each_saves_no_more_than_the_one_before():
    """The second is the convexity that the bounds of the search rest on."""
    x = torch.randn(3000, generator=torch.Generator().manual_seed(3)) ** 3
    errors = [error_of(x, optimal_levels(x, count)) for count in range(1, 12)]
    savings = [a - b for a, b in itertools.pairwise(errors)]
    assert all(s > 0 for s in savings)
    assert all(a >= b - slack(x) for a, b in itertools.pairwise(savings))


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_as_many_levels_as_distinct_values_lose_nothing(count):
    x = torch.tensor([2.5, -1.0, 2.5, 0.0, 7.0] * 3)
    levels = optimal_levels(x, count)
    assert levels.shape == (count,) and levels.dtype == torch.float32 and bool((levels.diff() >= 0).all())
    if count >= 4:
        assert levels.tolist() == [-1.0, 0.0, 2.5] + [7.0] * (count - 3)
        assert torch.equal(optimal_levels_of_rows(x.view(3, 5), count), levels.expand(3, -1))


def test_constant_tensors_single_values_and_views_are_defined():
    assert optimal_levels(torch.full((3, 4), 0.7), 2).tolist() == [torch.tensor(0.7).item()] * 2
    assert optimal_levels(torch.tensor(-3.0), 3).tolist() == [-3.0] * 3
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(4))
    for view in (x.t(), x[::2, 1::3]):
        assert torch.equal(optimal_levels(view, 5), optimal_levels(view.clone(), 5))


def test_values_of_weight_zero_have_no_say():
    x, weights = torch.tensor([0.0, 1.0, 100.0, 5.0]), torch.tensor([1.0, 3.0, 0.0, 1.0])
    assert optimal_levels(x, 2, weights).tolist() == [0.75, 5.0]
    assert optimal_levels_of_rows(x.expand(2, 4), 2, weights.expand(2, 4)).tolist() == [[0.75, 5.0]] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_have_the_levels_of_their_values(dtype):
    x = torch.randn(300, generator=torch.Generator().manual_seed(5)).to(dtype)
    assert torch.equal(optimal_levels(x, 6), optimal_levels(x.double(), 6))


def test_rows_of_several_lengths_after_weights_and_long_rows_are_solved_each_for_itself(monkeypatch):
    x = torch.randn(7, 60, generator=torch.Generator().manual_seed(6))
    weights = torch.rand(7, 60, generator=torch.Generator().manual_seed(7))
    weights[2:4, :9] = 0
    expected = torch.stack([optimal_levels(r, 5, w) for r, w in zip(x, weights, strict=True)])
    errors = [error_of(r, e, w) for r, e, w in zip(x, expected, weights, strict=True)]
    for name, value in (("_AT_ONCE", 100), ("_SHORT", 30)):
        monkeypatch.setattr(exact_kmeans, name, value)
        found = optimal_levels_of_rows(x, 5, weights)
        for r, level, w, error in zip(x, found, weights, errors, strict=True):
            assert abs(error_of(r, level, w) - error) <= slack(r, w)


def test_peak_memory_is_less_than_four_times_the_tensor():
    x = torch.randn(768, 768, generator=torch.Generator().manual_seed(8))
    optimal_levels(x, 16)
    tracemalloc.start()
    optimal_levels(x, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * x.numel() * 4


@settings(deadline=None)
@given(arrays.arrays("float32", st.integers(1, 200), elements=st.floats(-100, 100, width=32)), st.data())
def test_sums_before_any_place_are_those_of_the_sorted_values(values, data):
    x, weights = torch.from_numpy(values), torch.linspace(1, 2, len(values))
    sums = SortedSums(x, weights)
    order = np.argsort(values)
    assert np.array_equal(sums.values, values[order])
    places = np.array(data.draw(st.lists(st.integers(0, len(values)), min_size=1, max_size=10)))
    centred, mass = values[order].astype(float) - sums.centre, weights.numpy()[order].astype(float)
    for place, column in zip(places, sums.at(places).T, strict=True):
        moments = [mass[:place], mass[:place] * centred[:place], mass[:place] * centred[:place] ** 2]
        # Equal values may stand in another order with their weights, so compare up to a stretch of ties.
        if place == len(values) or values[order][place - 1] < values[order][place] or place == 0:
            assert column[0] == place
            assert np.allclose(column[1:], [m.sum() for m in moments], rtol=1e-12, atol=1e-8)


@pytest.mark.oracles
@pytest.mark.parametrize("count", [2, 4, 16])
def test_as_good_as_kmeans1d(count):
    kmeans1d = pytest.importorskip("kmeans1d")
    generator = torch.Generator().manual_seed(count)
    for x in (
        torch.randn(20_000, generator=generator),
        torch.randn(20_000, generator=generator) ** 5,
        torch.rand(5000).round(decimals=2),
    ):
        theirs = torch.tensor(kmeans1d.cluster(x.tolist(), count).centroids, dtype=torch.float64)
        assert abs(error_of(x, optimal_levels(x, count)) - error_of(x, theirs)) <= slack(x)


@pytest.mark.oracles
def test_as_good_as_ckwrap_with_weights():
    ckwrap = pytest.importorskip("ckwrap")
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(3000, generator=generator), torch.rand(3000, generator=generator) ** 4
    for count in (3, 8, 16):
        theirs = ckwrap.ckmeans(x.double().numpy(), count, weights=weights.double().numpy())
        ours = error_of(x, optimal_levels(x, count, weights), weights)
        assert abs(ours - error_of(x, torch.tensor(theirs.centers), weights)) <= slack(x, weights)


@pytest.mark.parametrize(
    "x, count, weights, message",
    [
        (torch.empty(0), 2, None, r"x = .*expected at least one floating-point number"),
        (torch.ones(3, dtype=torch.int32), 2, None, r"x = .*expected at least one floating-point number"),
        (torch.tensor([1.0, float("nan")]), 2, None, r"x = \(nan, nan\): expected finite numbers"),
        (torch.tensor([1.0, float("inf")]), 2, None, r"x = \(1.0, inf\): expected finite numbers"),
        (torch.ones(3), 0, None, r"count = 0: expected a number of levels"),
        (torch.ones(3), 2.0, None, r"count = 2.0"),
        (torch.ones(3), 2, torch.ones(2), r"weights = \(2,\): expected the shape of x, \(3,\)"),
        (torch.ones(3), 2, torch.tensor([1.0, -1.0, 0.0]), r"weights = \(-1.0, 1.0\): expected finite numbers ≥ 0, not all 0"),
        (torch.ones(3), 2, torch.zeros(3), r"weights = \(0.0, 0.0\)"),
        (torch.ones(3), 2, torch.tensor([1.0, float("nan"), 0.0]), r"weights = \(nan, nan\)"),
        (torch.ones(3), 2, torch.tensor([1.0, float("inf"), 0.0]), r"weights = \(0.0, inf\)"),
    ],
)
def test_values_and_weights_without_a_best_are_refused(x, count, weights, message):
    with pytest.raises(ValueError, match=message):
        optimal_levels(x, count, weights)


def test_rows_must_be_a_matrix_with_weights_of_its_shape():
    with pytest.raises(ValueError, match=r"rows = \(3,\): expected a matrix"):
        optimal_levels_of_rows(torch.ones(3), 2)
    with pytest.raises(ValueError, match=r"weights = \(3, 2\): expected the shape of rows, \(2, 3\)"):
        optimal_levels_of_rows(torch.ones(2, 3), 2, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"count = 0"):
        optimal_levels_of_rows(torch.ones(2, 3), 0)


def test_the_traced_ends_cut_the_values_where_the_least_cost_is():
    """0, 1, 10, 11 in two stretches: cut in the middle, each stretch ½ from its mean twice over."""
    values = np.array([0.0, 1.0, 10.0, 11.0])
    places = np.stack([np.arange(5.0), np.r_[0, values.cumsum()], np.r_[0, (values**2).cumsum()]])
    every = np.concatenate([np.arange(5.0)[None], places])[:, None]  # (4, one problem, 5 places)
    points = [every[..., :1], every, every[..., 4:]]
    costs, choices = forward(points)
    assert costs[-1].tolist() == [[1.0]]
    assert trace(points, choices).tolist() == [[0, 2, 4]]
