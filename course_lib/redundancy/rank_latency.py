"""What a rank costs in time: a line in multiply-adds, with constants taken from the machine.

    ms(product) = overhead + tokens · multiply-adds per token · ms for each multiply-add

A layer of rank r is two products, so it pays the overhead twice: a rank can save multiply-adds and still lose time. Whatever
needs to know what a rank costs asks this model, so that a budget of milliseconds is kept as surely as one of bytes (and is as
true as the line is).
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from course_lib.errors import CourseError, expect
from course_lib.redundancy.low_rank import factor_size


@dataclass(frozen=True)
class Latency:
    """Milliseconds of linear layers for a batch of so many tokens.

    Attributes:
        overhead: ms of a product however small it is.
        per_mac: ms of one multiply-add.
        tokens: of a batch.
    """

    overhead: float
    per_mac: float
    tokens: int

    def __post_init__(self) -> None:
        expect(0 <= self.overhead < float("inf"), "overhead", self.overhead, "milliseconds, at least 0")
        expect(0 < self.per_mac < float("inf"), "per_mac", self.per_mac, "milliseconds, above 0")
        expect(self.tokens >= 1, "tokens", self.tokens, "at least 1")

    def dense(self, shape: Sequence[int]) -> float:
        """ms of a matrix (R, D).

        >>> Latency(0.01, 1e-6, 100).dense((300, 200))
        6.01
        """
        return self.overhead + self.tokens * shape[0] * shape[1] * self.per_mac

    def factored(self, shape: Sequence[int], rank: int) -> float:
        """ms of a matrix (R, D) as two factors of a rank.

        >>> Latency(0.01, 1e-6, 100).factored((300, 200), 50)
        2.52
        """
        return 2 * self.overhead + self.tokens * factor_size(shape, rank) * self.per_mac

    def rank_within(self, shape: Sequence[int], budget: float) -> int:
        """The largest rank of a matrix (R, D) that takes at most ``budget`` ms; at most min(R, D).

        Raises:
            ValueError: not even rank 1 is that fast.
        """
        expect(self.factored(shape, 1) <= budget, "milliseconds", budget, f"at least {self.factored(shape, 1):.3g}, for rank 1")
        fits = [r for r in range(1, min(shape) + 1) if self.factored(shape, r) <= budget]
        return fits[-1]


def time_products(shapes: Sequence[Sequence[int]], tokens: int, repeats: int = 15, seed: int = 0) -> list[float]:
    """Median milliseconds of ``x·Wᵀ`` for matrices (R, D) and ``tokens`` rows, in turns, after a round that does not count.

    Raises:
        ValueError: no shape, no token or no repeat.
    """
    expect(len(shapes) > 0 and tokens >= 1 and repeats >= 1, "shapes", (shapes, tokens, repeats), "shapes, tokens and repeats")
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(*shape, generator=generator) for shape in shapes]
    inputs = [torch.randn(tokens, shape[1], generator=generator) for shape in shapes]
    times: list[list[float]] = [[] for _ in shapes]
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for x, w, kept in zip(inputs, weights, times, strict=True):
                start = time.perf_counter()
                F.linear(x, w)
                if turn:
                    kept.append((time.perf_counter() - start) * 1000)
    return [statistics.median(kept) for kept in times]


def fit_latency(shapes: Sequence[Sequence[int]], milliseconds: Sequence[float], tokens: int) -> Latency:
    """The line through measured products, both constants at least 0, by least squares of the relative errors.

    Args:
        shapes: (R, D) of at least two products of different size.
        milliseconds: of each.
        tokens: rows of the input.
    Raises:
        ValueError: too few products, or times that are not above 0.
        CourseError: times that do not grow with the multiply-adds: no line goes through them.
    """
    import numpy as np
    from scipy.optimize import nnls

    sizes = [shape[0] * shape[1] for shape in shapes]
    expect(len(set(sizes)) > 1, "shapes", list(map(tuple, shapes)), "at least two products of different size")
    expect(all(ms > 0 for ms in milliseconds), "milliseconds", list(milliseconds), "a time above 0 for each product")
    largest = max(sizes) * tokens  # unknowns of like size: ms of nothing, ms of the largest
    rows = [[1 / ms, size * tokens / largest / ms] for size, ms in zip(sizes, milliseconds, strict=True)]
    (overhead, slope), _ = nnls(np.array(rows), np.ones(len(rows)))
    if slope == 0:
        raise CourseError(
            f"milliseconds = {list(milliseconds)}: they do not grow with the multiply-adds; measure again, at rest."
        )
    return Latency(float(overhead), float(slope / largest), tokens)


def measure_latency(shapes: Sequence[Sequence[int]], tokens: int, repeats: int = 15, seed: int = 0) -> Latency:
    """A latency model of this machine: products (R, D) and their factors of a few ranks are timed, and a line is fitted.

    Args:
        shapes: (R, D) of the layers; each is timed whole and as the factors of a half, a quarter and an eighth of its rank.
        tokens: rows of the input.
        repeats, seed: as of :func:`time_products`.
    """
    pieces = {tuple(shape) for shape in shapes}
    for rows, columns in list(pieces):
        for part in (2, 4, 8):
            rank = max(1, min(rows, columns) // part)
            pieces |= {(rows, rank), (rank, columns)}
    timed = sorted(pieces)
    return fit_latency(timed, time_products(timed, tokens, repeats, seed), tokens)
