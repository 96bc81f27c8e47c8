"""Codebooks: the nearest level for each value, errors in the order the methods promise, every byte counted."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from course_lib.quantization.codebooks import (
    codebook_bytes,
    dequantize_codebook,
    lloyd_levels,
    nearest_codes,
    quantize_codebook,
    uniform_levels,
)
from course_lib.quantization.packing import pack

VALUES = arrays.arrays("float32", st.integers(1, 60), elements=st.floats(-100, 100, width=32))
# Levels kept in float32 move each by u·100 at most, and the nearest level of a value with them.
ROUNDING = 60 * 2 * 200 * 100 * 2.0**-24


def error_of(x, levels, weights=None) -> float:
    codes = nearest_codes(x, levels)
    distance = (x.double() - levels.double()[codes.long()]).square()
    return float((distance if weights is None else distance * weights.double()).sum())


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(VALUES, st.integers(1, 4))
def test_exact_is_at_least_as_good_as_lloyd_and_lloyd_as_the_uniform_levels_it_starts_from(values, bits):
    x = torch.from_numpy(values)
    errors = {}
    for method in ("exact", "lloyd", "uniform"):
        codes, levels = quantize_codebook(x, bits, method=method)
        errors[method] = float((dequantize_codebook(codes, levels).double() - x.double()).square().sum())
    assert errors["exact"] <= errors["lloyd"] + ROUNDING
    assert errors["lloyd"] <= errors["uniform"] + ROUNDING


def test_no_step_of_lloyd_raises_the_error_and_it_ends_where_levels_are_means():
    x, weights = normal(5000), torch.rand(5000, generator=torch.Generator().manual_seed(1)) ** 3
    for w in (None, weights):
        levels, errors = uniform_levels(x, 8), []
        for _ in range(60):
            errors.append(error_of(x, levels, w))
            levels = lloyd_levels(x, levels, w, iterations=1)
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(errors))
        end = lloyd_levels(x, uniform_levels(x, 8), w, iterations=1000)
        codes, mass = nearest_codes(x, end).long(), (torch.ones_like(x) if w is None else w).double()
        means = torch.zeros(8).double().index_add_(0, codes, mass * x.double()) / torch.zeros(8).double().index_add_(
            0, codes, mass
        )
        assert bool(((end - means).abs() <= 2.0**-23 * means.abs()).all())


def test_a_level_without_values_stays_where_it_is():
    x = torch.tensor([0.0, 0.1, 10.0])
    assert lloyd_levels(x, torch.tensor([0.0, 5.0, 10.0])).tolist() == [torch.tensor(0.05).item(), 5.0, 10.0]
    assert lloyd_levels(x, torch.tensor([0.0, 5.0, 10.0]), iterations=0).tolist() == [0.0, 5.0, 10.0]


@settings(deadline=None)
@given(VALUES, st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9))
def test_no_level_is_nearer_than_the_one_of_the_code(values, levels):
    """Middles are rounded to float32: a value within u·100 of one may go to either side, at 2·u·100 more distance."""
    x, levels = torch.from_numpy(values), torch.tensor(sorted(levels))
    distances = (x.double()[:, None] - levels.double()).abs()
    chosen = distances.gather(1, nearest_codes(x, levels).long()[:, None])[:, 0]
    assert bool((chosen <= distances.min(dim=1).values + 2 * 100 * 2.0**-24).all())


@pytest.mark.parametrize("granularity, grid", [("tensor", (1, 1)), ("channel", (6, 1)), (4, (6, 3)), ((2, 12), (3, 1))])
@pytest.mark.parametrize("method", ["exact", "lloyd", "uniform"])
def test_each_block_has_the_levels_of_its_own_entries(granularity, grid, method):
    x = normal(6, 12)
    codes, levels = quantize_codebook(x, 2, granularity, method=method)
    assert codes.dtype == torch.uint8 and codes.shape == x.shape
    assert levels.shape == (*grid, 4) and levels.dtype == torch.float32
    back = dequantize_codebook(codes, levels)
    rows, columns = 6 // grid[0], 12 // grid[1]
    for i in range(grid[0]):
        for j in range(grid[1]):
            part = x[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            own_codes, own = quantize_codebook(part, 2, method=method)
            assert torch.allclose(own[0, 0], levels[i, j], rtol=2**-22, atol=0)
            expected = dequantize_codebook(own_codes, own)
            got = back[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            assert torch.allclose(got, expected, rtol=2**-22, atol=0)


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_as_many_levels_as_distinct_values_come_back_exactly(bits):
    x = normal(2**bits).repeat(3).view(3, -1)
    codes, levels = quantize_codebook(x, bits)
    assert torch.equal(dequantize_codebook(codes, levels), x)


def test_importance_lowers_the_error_where_it_lies_and_all_alike_changes_nothing():
    x = normal(32, 64)
    importance = torch.logspace(-3, 3, 64)  # of each input of the layer
    plain, weighted = quantize_codebook(x, 2), quantize_codebook(x, 2, weights=importance)
    error = {name: (dequantize_codebook(*pair) - x).square() for name, pair in (("plain", plain), ("weighted", weighted))}
    assert (error["weighted"] * importance).sum() < (error["plain"] * importance).sum()
    assert error["weighted"].sum() > error["plain"].sum(), "and that costs the others"
    same = quantize_codebook(x, 2, weights=torch.full((64,), 0.25))
    assert torch.equal(same[0], plain[0]) and torch.allclose(same[1], plain[1], rtol=2**-22, atol=0)


def test_importance_of_each_entry_goes_with_its_block():
    x, importance = normal(4, 10), torch.rand(4, 10, generator=torch.Generator().manual_seed(2))
    _, levels = quantize_codebook(x, 1, "channel", weights=importance)
    for row, weights, own in zip(x, importance, levels[:, 0], strict=True):
        assert torch.allclose(quantize_codebook(row, 1, weights=weights)[1][0], own, rtol=2**-22, atol=0)


def test_views_and_other_float_types_give_what_their_copies_give():
    x = normal(8, 6)
    for view in (x.t(), x[::2, 1::2], x.half(), x.double()):
        codes, levels = quantize_codebook(view, 2, "channel")
        copied, copied_levels = quantize_codebook(view.clone().float(), 2, "channel")
        assert torch.equal(codes, copied) and torch.equal(levels, copied_levels)


def test_bytes_are_those_of_the_packed_codes_and_the_float32_levels():
    x = normal(5, 7)
    for bits in range(1, 9):
        codes, levels = quantize_codebook(x, bits, "channel", method="uniform")
        assert codebook_bytes(35, bits, codebooks=5) == pack(codes, bits).numel() + levels.numel() * levels.element_size()


def test_constant_tensors_come_back_exactly():
    for method in ("exact", "lloyd", "uniform"):
        x = torch.full((3, 4), -0.3)
        assert torch.equal(dequantize_codebook(*quantize_codebook(x, 2, method=method)), x)
        zero = torch.zeros(3)
        assert torch.equal(dequantize_codebook(*quantize_codebook(zero, 2, method=method)), zero)


def test_uniform_levels_are_even_and_end_at_the_ends():
    levels = uniform_levels(normal(100), 16)
    assert levels[0] == normal(100).min() and levels[-1] == normal(100).max()
    steps = levels.double().diff()
    assert bool(((steps - steps.mean()).abs() <= 2 * 2.0**-24 * levels.abs().max()).all())  # two levels in float32
    assert uniform_levels(torch.tensor([3.0, 4.0]), 1).tolist() == [3.0]
    assert uniform_levels(torch.tensor([-3e38, 3e38]), 2).tolist() == torch.tensor([-3e38, 3e38]).tolist()


@pytest.mark.oracles
def test_lloyd_is_that_of_scikit_learn_from_the_same_start():
    cluster = pytest.importorskip("sklearn.cluster")
    x = normal(4000).double()
    start = uniform_levels(x, 8)
    theirs = cluster.KMeans(8, init=start.double().view(-1, 1).numpy(), n_init=1, max_iter=15, tol=0, algorithm="lloyd")
    theirs.fit(x.view(-1, 1).numpy())
    expected = torch.from_numpy(theirs.cluster_centers_[:, 0]).sort().values
    # Both take float64 means of the same sets; ours are rounded to float32 at the end.
    assert torch.allclose(lloyd_levels(x, start, iterations=15).double(), expected, rtol=2**-23, atol=1e-12)


@pytest.mark.parametrize("bits", [0, 9, 17, True])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=r"bits = .*: expected a whole number from 1 to 8"):
        quantize_codebook(torch.ones(4), bits)
    with pytest.raises(ValueError, match=r"bits = "):
        codebook_bytes(4, bits)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: quantize_codebook(x, 2, method="best"), r"method = 'best': expected one of exact, lloyd, uniform"),
        (lambda x: quantize_codebook(x, 2, 5), r"granularity = \(1, 5\): expected numbers that divide"),
        (lambda x: quantize_codebook(x, 2, weights=torch.ones(3)), r"weights = \(3,\): expected a shape that broadcasts"),
        (lambda x: quantize_codebook(x, 2, "channel", weights=-x.abs()), r"weights = .*expected finite numbers ≥ 0"),
        (lambda x: quantize_codebook(x, 2, method="uniform", weights=x), r"weights = 'given': expected None for uniform"),
        (lambda x: quantize_codebook(x.long(), 2), r"x = .*expected at least one floating-point number"),
        (lambda x: quantize_codebook(x[:0], 2), r"x = .*\(0, 4\).*expected at least one floating-point number"),
        (lambda x: quantize_codebook(x * float("nan"), 2), r"expected finite numbers"),
        (lambda x: quantize_codebook(x * float("inf"), 2, method="uniform"), r"expected finite numbers"),
        (lambda x: quantize_codebook(x * float("nan"), 2, "channel", method="lloyd"), r"expected finite numbers"),
        (lambda x: uniform_levels(x, 0), r"count = 0"),
        (lambda x: uniform_levels(x.int(), 2), r"x = .*expected at least one floating-point number"),
        (lambda x: lloyd_levels(x, torch.ones(0)), r"levels = \(0,\): expected a list of at least one level"),
        (lambda x: lloyd_levels(x, torch.ones(2), iterations=-1), r"iterations = -1"),
        (lambda x: lloyd_levels(x, torch.tensor([2.0, 1.0])), r"levels = \[2.0, 1.0\]: expected levels in ascending order"),
        (lambda x: nearest_codes(x, torch.tensor([2.0, 1.0])), r"levels = \[2.0, 1.0\]: expected levels in ascending order"),
        (lambda x: nearest_codes(x, torch.ones(257)), r"levels = \(257,\): expected a list of 1 to 256 levels"),
        (lambda x: nearest_codes(x * float("nan"), torch.ones(2)), r"x = 'NaN': expected numbers"),
        (lambda x: dequantize_codebook(x, torch.ones(1, 1, 4)), r"codes = torch.float32: expected an integer tensor"),
        (lambda x: dequantize_codebook(x.byte() + 4, torch.ones(1, 1, 4)), r"codes = 4: expected numbers below 4"),
        (lambda x: dequantize_codebook(x.byte(), torch.ones(4)), r"levels = \(4,\): expected a list of levels for each block"),
        (lambda x: dequantize_codebook(x.byte(), torch.ones(3, 1, 4)), r"levels = \(3, 1, 4\)"),
    ],
)  # fmt: skip
def test_what_has_no_codebook_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.linspace(0.1, 0.9, 8).view(2, 4))
