"""Ranges chosen from a histogram, against brute force: every threshold with its definition written out."""

import contextlib
import io
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.quantization.affine import choose_from_range, fake_quantize
from course_lib.quantization.ranges import entropy_range, mse_range, percentile_range, squared_error

COUNTS = st.lists(st.integers(0, 50), min_size=16, max_size=48).filter(lambda c: sum(c) > 0 and len(c) % 2 == 0)
EVERYTHING = (torch.tensor(-1e9), torch.tensor(1e9))


def edges_of(counts) -> torch.Tensor:
    half = len(counts) // 2
    return torch.arange(-half, half + 1, dtype=torch.float64)


def brute_force_error(values, counts, low, high, bits, symmetric) -> float:
    chosen = choose_from_range(torch.tensor(low), torch.tensor(high), bits, symmetric)
    restored = fake_quantize(values, *chosen, bits, symmetric)
    return sum(c * (float(r) - float(v)) ** 2 for v, c, r in zip(values, counts.tolist(), restored, strict=True))


@pytest.mark.parametrize("bits, symmetric", [(2, True), (4, True), (8, True), (2, False), (4, False)])
def test_the_mse_range_is_the_best_of_a_brute_force_grid(bits, symmetric):
    generator = torch.Generator().manual_seed(bits)
    values = torch.randn(60, generator=generator) + (0 if symmetric else 2)
    values[0] *= 20
    counts = torch.randint(0, 100, (60,), generator=generator)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if symmetric:
        top = max(-low, high)
        grid = [(-top * i / 40, top * i / 40) for i in range(1, 41)]
    else:
        grid = [(low * i / 20, high * j / 20) for i in range(1, 21) for j in range(1, 21)]
    errors = {ends: brute_force_error(values, counts, *ends, bits, symmetric) for ends in grid}
    chosen = mse_range(values, counts, bits, symmetric, steps=40)
    assert brute_force_error(values, counts, *map(float, chosen), bits, symmetric) <= min(errors.values()) * (1 + 1e-6)
    assert any(abs(float(chosen[0]) - a) + abs(float(chosen[1]) - b) < 1e-5 for a, b in grid), "it is one of the grid"


@settings(deadline=None)
@given(COUNTS, st.sampled_from([2, 3, 4, 8]), st.booleans())
def test_the_mse_range_is_never_worse_than_the_widest(counts, bits, symmetric):
    counts = torch.tensor(counts)
    values = (edges_of(counts)[:-1] + 0.5).float()
    low, high = mse_range(values, counts, bits, symmetric, steps=10)
    chosen, widest = (
        squared_error(values, counts, a.reshape(1), b.reshape(1), bits, symmetric)
        for a, b in ((low, high), (values.min(), values.max()))
    )
    assert chosen <= widest


def test_errors_of_several_ranges_are_those_of_each():
    values, counts = torch.linspace(-3, 3, 50), torch.arange(50)
    lows, highs = torch.tensor([-1.0, -3.0, 0.0]), torch.tensor([2.0, 3.0, 0.5])
    errors = squared_error(values, counts, lows, highs, 3, False)
    for error, low, high in zip(errors, lows.tolist(), highs.tolist(), strict=True):
        assert abs(float(error) - brute_force_error(values, counts, low, high, 3, False)) <= 1e-12 * float(error)


def kl_by_definition(sizes: list[int], kept: int, groups: int) -> float:
    """P and Q written out bin by bin (Migacz 2017)."""
    p = [float(s) for s in sizes[:kept]]
    p[-1] += sum(sizes[kept:])
    q = [0.0] * kept
    for g in range(groups):
        start, end = kept * g // groups, kept * (g + 1) // groups
        filled = [i for i in range(start, end) if p[i] > 0]
        for i in filled:
            q[i] = sum(sizes[start:end]) / len(filled)
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    return sum(a / sum(p) * math.log(a / sum(p) * sum(q) / b) for a, b in zip(p, q, strict=True) if a > 0)


@settings(deadline=None)
@given(COUNTS.filter(lambda c: len(c) >= 16))
def test_the_entropy_range_has_the_least_divergence_of_all_thresholds(counts):
    half, groups = len(counts) // 2, 4  # 3 bits
    sizes = [a + b for a, b in zip(counts[half:], counts[:half][::-1], strict=True)]
    low, high = entropy_range(torch.tensor(counts), edges_of(counts), EVERYTHING, bits=3)
    assert low == -high
    divergences = {kept: kl_by_definition(sizes, kept, groups) for kept in range(groups, half + 1)}
    # Sums of at most 24 terms of size log 1200 in float64, so 1e-12 is far above rounding.
    assert divergences[int(high)] <= min(divergences.values()) + 1e-12


def test_entropy_clips_a_far_outlier_and_keeps_an_even_spread_whole():
    spread = torch.full((4096,), 7)
    assert entropy_range(spread, edges_of(spread), EVERYTHING)[1] == 2048
    sizes = torch.exp(-0.5 * (edges_of(spread)[:-1] / 100) ** 2).mul(1000).long()
    sizes[-1] = 1
    assert entropy_range(sizes, edges_of(sizes), EVERYTHING)[1] < 600


@pytest.mark.oracles
def test_entropy_and_onnx_runtime_cut_the_same_tail():
    """Not the same threshold: theirs drops what is left of ``bins / levels`` from Q and cuts Q to whole numbers, so that in
    effect only multiples of the levels compete. Both leave out the outliers and keep all but one value in a thousand."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    x[:3] = torch.tensor([30.0, -25.0, 28.0])
    theirs = calibrate.HistogramCollector("entropy", True, 2048, 128, 99.99, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.collect({"x": x.numpy()})
        found = theirs.compute_collection_result()["x"][:2]
    counts, edges = (torch.from_numpy(a) for a in theirs.histogram_dict["x"][:2])
    ours = entropy_range(counts, edges.double(), (x.min(), x.max()))
    for low, high in (ours, found):
        share = float(((x >= float(low)) & (x <= float(high))).double().mean())
        assert 0.999 <= share < 1 and float(high) < 20


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_of_evenly_spread_values_is_linear(symmetric):
    counts = torch.full((100,), 10)
    for percentile in (10.0, 33.0, 90.0, 100.0):
        low, high = percentile_range(counts, edges_of(counts), EVERYTHING, percentile, symmetric)
        assert abs(high - percentile / 2) < 1e-5 and abs(low + percentile / 2) < 1e-5  # float32 of numbers up to 50


def test_percentiles_are_nested():
    counts = torch.randint(0, 9, (64,), generator=torch.Generator().manual_seed(1))
    ranges = [percentile_range(counts, edges_of(counts), EVERYTHING, p) for p in (10, 50, 90, 99, 99.99, 100)]
    for (low, high), (wider_low, wider_high) in itertools.pairwise(ranges):
        assert wider_low <= low <= high <= wider_high


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda c, e: percentile_range(c, e, EVERYTHING, 0), r"percentile = 0"),
        (lambda c, e: percentile_range(c * 0, e, EVERYTHING), r"counts = 0: expected counts ≥ 0 of at least one value"),
        (lambda c, e: percentile_range(c - 5, e, EVERYTHING), r"counts = -32"),
        (lambda c, e: mse_range(e[1:].float(), c * 0), r"counts = 0"),
        (lambda c, e: mse_range(e.float(), c), r"values = \(9,\): expected one value for each count"),
        (lambda c, e: mse_range(e[1:].float(), c, steps=0), r"steps = 0: expected a number of ranges"),
        (lambda c, e: mse_range(e[1:].float(), c, bits=17), r"bits = 17"),
        (lambda c, e: entropy_range(c, e, EVERYTHING, 4), r"counts = 8: expected at least 16 bins for 4 bits"),
        (lambda c, e: entropy_range(c * 0, e, EVERYTHING, 2), r"counts = 0"),
        (lambda c, e: entropy_range(c, e, EVERYTHING, 0), r"bits = 0"),
    ],
)
def test_histograms_that_do_not_serve_are_refused(call, message):
    counts = torch.ones(8, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        call(counts, edges_of(counts))
