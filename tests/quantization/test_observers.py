"""Streaming collectors: the same counts for any batches in any order, and ranges that follow from them."""

import contextlib
import io
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.quantization.affine import choose_from_range, fake_quantize
from course_lib.quantization.observers import OBSERVERS, Entropy, Histogram, MinMax, MovingAverage, Mse, Percentile

BATCHES = st.lists(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20), min_size=1, max_size=6
)


def seen(observer, *batches):
    for batch in batches:
        observer.update(batch if isinstance(batch, torch.Tensor) else torch.tensor(batch))
    return observer


def heavy_tailed(seed: int, n: int = 20_000) -> torch.Tensor:
    """Normal values with a few eight times as large, as activations have them."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    x[:9] *= 8
    return x


@settings(deadline=None)
@given(BATCHES, st.randoms())
def test_counts_do_not_depend_on_batches_or_order_and_count_every_value_in_its_bin(batches, random):
    flat = [v for batch in batches for v in batch]
    streamed, at_once = seen(Histogram(16), *batches), seen(Histogram(16), flat)
    random.shuffle(flat)
    shuffled = seen(Histogram(16), flat)
    assert streamed.top == at_once.top == shuffled.top
    assert torch.equal(streamed.counts, at_once.counts) and torch.equal(streamed.counts, shuffled.counts)
    edges = streamed.edges().tolist()
    expected = [sum(a <= v < b for v in torch.tensor(flat).tolist()) for a, b in itertools.pairwise(edges)]
    assert streamed.counts.tolist() == expected
    assert sum(expected) == len(flat)


def test_the_top_is_a_power_of_two_above_every_size_and_at_most_twice_it():
    for largest in (1e-20, 0.3, 1.0, 4.0, 5.0, 3e38):
        histogram = seen(Histogram(8), [largest / 7, -largest])
        assert math.frexp(histogram.top)[0] == 0.5
        assert torch.tensor(largest) < histogram.top <= 2 * largest * (1 + 2**-23)


def test_large_batches_are_counted_whole():
    x = heavy_tailed(0, 200_001)
    histogram = seen(Histogram(), x.view(3, -1))
    assert int(histogram.counts.sum()) == 200_001
    assert torch.equal(histogram.counts, torch.histogram(x.double(), histogram.edges()).hist.long())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_count_as_their_values(dtype):
    x = heavy_tailed(1, 1000).to(dtype)
    assert torch.equal(seen(Histogram(), x).counts, seen(Histogram(), x.double()).counts)


@settings(deadline=None)
@given(BATCHES)
def test_min_max_is_that_of_all_values(batches):
    low, high = seen(MinMax(), *batches).range()
    flat = torch.tensor([v for batch in batches for v in batch])
    assert low == flat.min() and high == flat.max()
    assert low.dtype == high.dtype == torch.float32


def test_a_moving_average_starts_with_the_first_batch_and_follows_at_its_rate():
    observer = seen(MovingAverage(0.25), [-1.0, 2.0])
    assert observer.range() == (torch.tensor(-1.0), torch.tensor(2.0))
    seen(observer, [-5.0, 6.0])
    assert observer.range() == (torch.tensor(-2.0), torch.tensor(3.0))
    assert seen(MovingAverage(1.0), [7.0], [-1.0, 2.0]).range() == (torch.tensor(-1.0), torch.tensor(2.0))


def test_a_moving_average_is_that_of_torch():
    from torch.ao.quantization import MovingAverageMinMaxObserver

    ours, theirs = MovingAverage(0.01), MovingAverageMinMaxObserver(averaging_constant=0.01)
    for seed in range(5):
        x = heavy_tailed(seed, 100)
        ours.update(x)
        theirs(x)
    low, high = ours.range()  # five float32 roundings of theirs, of numbers up to the largest, against float64
    bound = 5 * 2.0**-24 * 3 * float(heavy_tailed(0, 100).abs().max())
    assert abs(low - theirs.min_val) <= bound and abs(high - theirs.max_val) <= bound


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_a_percentile_is_within_a_bin_of_the_samples_own(percentile, symmetric):
    """The sample value whose rank the running count reaches lies in the bin that is interpolated."""
    x = heavy_tailed(2)
    observer = seen(Percentile(percentile, symmetric), *x.split(999))
    low, high = observer.range()
    cut = (100 - percentile) / (100 if symmetric else 200)
    values = (x.abs() if symmetric else x).sort().values
    rank = min(len(x) - 1, max(0, math.ceil((1 - cut) * len(x)) - 1))
    assert abs(high - values[rank].clamp(max=x.max())) <= observer.width
    expected = -values[rank] if symmetric else values[max(0, math.ceil(cut * len(x)) - 1)]
    assert abs(low - expected.clamp(min=x.min())) <= observer.width
    assert x.min() <= low <= high <= x.max()


def test_the_hundredth_percentile_is_min_max():
    x = heavy_tailed(3)
    assert seen(Percentile(100.0), x).range() == seen(MinMax(), x).range()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_mse_range_has_less_error_on_the_values_themselves_than_min_max(bits, symmetric):
    x = heavy_tailed(4)

    def error(ends):
        return float((fake_quantize(x, *choose_from_range(*ends, bits, symmetric), bits, symmetric) - x).square().sum())

    assert error(seen(Mse(bits, symmetric), *x.split(3000)).range()) < error(seen(MinMax(), x).range())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_mse_range_beats_the_histogram_observer_of_torch(bits):
    """Theirs is not optimal: it counts every value of a bin as lying in one code. A measured fact, on these samples."""
    from torch.ao.quantization import HistogramObserver

    for seed in range(3):
        x = heavy_tailed(seed)
        theirs = HistogramObserver(quant_min=0, quant_max=2**bits - 1, dtype=torch.quint8)
        theirs(x)
        scale, zero_point = theirs.calculate_qparams()
        their_error = (fake_quantize(x, scale, zero_point.int(), bits, False) - x).square().sum()
        chosen = choose_from_range(*seen(Mse(bits, False), x).range(), bits, False)
        assert (fake_quantize(x, *chosen, bits, False) - x).square().sum() < their_error


def test_one_sided_values_get_one_sided_ranges():
    x = heavy_tailed(5).abs()
    for observer in (MinMax(), MovingAverage(), Percentile(99.0), Mse(8, False), Entropy(8)):
        low, high = seen(observer, x).range()
        assert 0 <= low <= 0.01 and high > 1


def test_zeros_only_have_the_range_zero_and_later_values_are_counted_as_if_first():
    for make in OBSERVERS.values():
        assert seen(make(), torch.zeros(5)).range() == (torch.tensor(0.0), torch.tensor(0.0))
    late = seen(Histogram(8), torch.zeros(5), [0.3, -0.1])
    assert torch.equal(late.counts, seen(Histogram(8), [0.3, 0.0, 0.0, 0.0, 0.0, 0.0, -0.1]).counts)


@pytest.mark.parametrize("value", [0.7, -3.0])
def test_a_constant_keeps_its_value_under_every_observer(value):
    x = torch.full((50,), value)
    for make in OBSERVERS.values():
        chosen = choose_from_range(*seen(make(), x).range())
        width = seen(Histogram(), x).width
        assert bool(((fake_quantize(x, *chosen) - x).abs() <= width + chosen[0] / 2 * (1 + 2**-10)).all())


@pytest.mark.oracles
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_is_within_a_bin_of_each_of_onnx_runtimes(symmetric):
    """Each lies in the bin of the sample's own quantile: ours inside, theirs at its left edge."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    x = heavy_tailed(6)
    theirs = calibrate.HistogramCollector("percentile", symmetric, 4096, 128, 99.0, "same")
    ours = Percentile(99.0, symmetric)
    with contextlib.redirect_stdout(io.StringIO()):
        for part in x.split(5000):
            theirs.collect({"x": part.numpy()})
            ours.update(part)
        their_low, their_high = theirs.compute_collection_result()["x"][:2]
    edges = theirs.histogram_dict["x"][1]
    low, high = ours.range()
    assert abs(float(low) - float(their_low)) <= ours.width + edges[1] - edges[0]
    assert abs(float(high) - float(their_high)) <= ours.width + edges[1] - edges[0]


@pytest.mark.parametrize("make", OBSERVERS.values())
def test_batches_without_a_range_are_refused_and_change_nothing(make):
    observer = make()
    for x, message in (
        (torch.empty(0, 3), r"x = \(0, 3\): expected at least one entry"),
        (torch.ones(3, dtype=torch.int64), r"x = torch.int64: expected a floating-point tensor"),
        (torch.tensor([1.0, float("nan")]), r"x = \(nan, nan\): expected finite numbers"),
        (torch.tensor([1.0, float("-inf")]), r"x = \(-inf, 1.0\): expected finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            observer.update(x)
    with pytest.raises(ValueError, match=r"batches = 0: expected at least one batch before the range"):
        observer.range()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Histogram(1000), r"bins = 1000: expected a power of two"),
        (lambda: Histogram(1), r"bins = 1: expected a power of two"),
        (lambda: MovingAverage(0.0), r"rate = 0.0: expected a number above 0 and at most 1"),
        (lambda: MovingAverage(1.5), r"rate = 1.5"),
        (lambda: Percentile(0.0), r"percentile = 0.0: expected a number above 0 and at most 100"),
        (lambda: Percentile(100.5), r"percentile = 100.5"),
        (lambda: Mse(9), r"bits = 9: expected a whole number from 2 to 8, or 16"),
        (lambda: Entropy(0), r"bits = 0"),
        (lambda: Entropy(8, bins=128), r"bins = 128: expected more than twice the 128 sizes of 8-bit codes"),
        (lambda: Entropy(16), r"bins = 4096: expected more than twice the 32768 sizes"),
    ],
)
def test_settings_out_of_range_are_refused_before_any_batch(make, message):
    with pytest.raises(ValueError, match=message):
        make()
