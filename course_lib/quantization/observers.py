"""Observers: look at batches as they come, and give the range of values that is worth codes.

A range that holds every value wastes codes on a few outliers; a narrower one clips them. Min-max keeps all, a moving average
follows training, and three read a histogram: a percentile cuts a stated share, MSE weighs clipping against rounding, entropy
keeps the distribution. The histogram's bins end at whole multiples of a power of two, and its range grows by doubling, when
pairs of bins become one. So its counts do not depend on how the values were cut into batches or on their order.
"""

import math

import torch

from course_lib.errors import expect
from course_lib.quantization.affine import code_range
from course_lib.quantization.ranges import entropy_range, mse_range, percentile_range

_CHUNK = 1 << 16  # entries counted at a time: they stay in the cache, and temporaries small
_SMALLEST_TOP = 2.0**-100


class MinMax:
    """The smallest and the largest value of all batches.

    >>> observer = MinMax()
    >>> observer.update(torch.tensor([-1.0, 3.0]))
    >>> observer.range()
    (tensor(-1.), tensor(3.))
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def update(self, x: torch.Tensor) -> None:
        """Take in a batch: floating point, any shape, at least one entry, finite (else ValueError)."""
        low, high = _ends(x)
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest value, float32 scalars. ValueError when no batch was seen."""
        expect(self.low <= self.high, "batches", 0, "at least one batch before the range")
        return torch.tensor(self.low), torch.tensor(self.high)


class MovingAverage(MinMax):
    """Exponential moving averages of the batches' ends: ``low ← low + rate · (min(x) − low)`` (Jacob et al. 2017, 1712.05877).

    Args:
        rate: weight of the newest batch, in (0, 1]; the first batch counts whole.
    """

    def __init__(self, rate: float = 0.01) -> None:
        expect(0 < rate <= 1, "rate", rate, "a number above 0 and at most 1")
        super().__init__()
        self.rate = rate

    def update(self, x: torch.Tensor) -> None:
        """Take in a batch of any shape, as :meth:`MinMax.update`."""
        low, high = _ends(x)
        if self.low > self.high:
            self.low, self.high = low, high
        self.low += self.rate * (low - self.low)
        self.high += self.rate * (high - self.high)


class Histogram(MinMax):
    """Counts of values in bins of equal width, and the exact ends; its range is that of :class:`MinMax`.

    Attributes:
        counts: int64 (bins,); bin i counts the values in ``[(i − bins/2) · width, (i + 1 − bins/2) · width)``.
        top: the bins cover [−top, top), a power of two above every size seen.

    >>> histogram = Histogram(bins=4)
    >>> histogram.update(torch.tensor([0.0, 0.9]))
    >>> histogram.update(torch.tensor([-1.5]))
    >>> histogram.counts.tolist(), histogram.edges().tolist()
    ([1, 0, 2, 0], [-2.0, -1.0, 0.0, 1.0, 2.0])
    """

    def __init__(self, bins: int = 4096) -> None:
        power = isinstance(bins, int) and bins >= 2 and bins & (bins - 1) == 0
        expect(power, "bins", bins, "a power of two, at least 2")
        super().__init__()
        self.counts, self.top = torch.zeros(bins, dtype=torch.int64), _SMALLEST_TOP

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2 * self.top / len(self.counts)

    def edges(self) -> torch.Tensor:
        """Ends of the bins, float64 (bins + 1,)."""
        half = len(self.counts) // 2
        return torch.arange(-half, half + 1, dtype=torch.float64) * self.width

    def update(self, x: torch.Tensor) -> None:
        """Take in a batch of any shape, as :meth:`MinMax.update`."""
        super().update(x)
        self._grow()
        half, per_width = len(self.counts) // 2, 1 / self.width
        # The product with a power of two is exact, unless it is too small for float32.
        exact = torch.promote_types(x.dtype, torch.float32 if per_width >= 1 else torch.float64)
        for part in x.detach().reshape(-1).split(_CHUNK):
            part = part.to(exact)
            places = (part * per_width).floor_().add_(half).to(torch.int32)
            self.counts += torch.bincount(places, minlength=2 * half)

    def _grow(self) -> None:
        """Double the range as often as it takes; a bin's values then lie in one bin of the wider histogram."""
        largest = max(abs(self.low), abs(self.high))
        doublings = math.frexp(largest)[1] - math.frexp(self.top)[1] + 1  # largest < 2^exponent, strictly
        if largest > 0 and doublings > 0:
            half = len(self.counts) // 2
            place = (torch.arange(-half, half) >> min(doublings, 62)) + half
            self.counts = torch.zeros_like(self.counts).index_add_(0, place, self.counts)
            self.top *= 2.0**doublings


class Percentile(Histogram):
    """The range that holds ``percentile`` per cent of the values, see :func:`course_lib.quantization.ranges.percentile_range`."""

    def __init__(self, percentile: float = 99.99, symmetric: bool = False, bins: int = 4096) -> None:
        expect(0 < percentile <= 100, "percentile", percentile, "a number above 0 and at most 100")
        super().__init__(bins)
        self.percentile, self.symmetric = percentile, symmetric

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen ends, float32 scalars."""
        ends = super().range()
        return percentile_range(self.counts, self.edges(), ends, self.percentile, self.symmetric)


class Mse(Histogram):
    """The range with the least squared error of its codes, see :func:`course_lib.quantization.ranges.mse_range`."""

    def __init__(self, bits: int = 8, symmetric: bool = True, bins: int = 4096) -> None:
        code_range(bits, symmetric)
        super().__init__(bins)
        self.bits, self.symmetric = bits, symmetric

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen ends, float32 scalars."""
        (low, high), edges, filled = super().range(), self.edges(), self.counts > 0
        # The middle of the end bins may lie outside the values seen.
        middles = ((edges[:-1] + edges[1:]) / 2).clamp(low.double(), high.double())
        return mse_range(middles[filled].float(), self.counts[filled], self.bits, self.symmetric)


class Entropy(Histogram):
    """The symmetric range that loses the least information, see :func:`course_lib.quantization.ranges.entropy_range`."""

    def __init__(self, bits: int = 8, bins: int = 4096) -> None:
        largest = code_range(bits, True)[1]
        expect(largest < bins // 2, "bins", bins, f"more than twice the {largest + 1} sizes of {bits}-bit codes")
        super().__init__(bins)
        self.bits = bits

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen ends, float32 scalars."""
        ends = super().range()
        return entropy_range(self.counts, self.edges(), ends, self.bits)


OBSERVERS = {"min-max": MinMax, "moving average": MovingAverage, "percentile": Percentile, "mse": Mse, "entropy": Entropy}


def _ends(x: torch.Tensor) -> tuple[float, float]:
    expect(x.is_floating_point(), "x", x.dtype, "a floating-point tensor")
    expect(x.numel() > 0, "x", tuple(x.shape), "at least one entry")
    low, high = (float(end) for end in x.detach().aminmax())
    expect(math.isfinite(low) and math.isfinite(high), "x", (low, high), "finite numbers")
    return low, high
