"""Exact k-means of numbers: k levels with the least squared error, proved best, not merely a local optimum.

In one dimension clusters are stretches of the sorted values, so dynamic programming over where they end finds the best
(:mod:`course_lib.quantization.stretches`; Wang & Song 2011, R Journal 3/2). Over millions of values only a few places can be
ends, so they are first looked for among the edges of coarse cells. Move all ends of the best solution to an edge of their
cells, but keep its levels. A value x that thereby changes sides costs ``2·gap·|x − middle|``, with gap the distance of the
two levels beside the end: all of a cell moved down cost at most ``2·gap·weight·(mean − left)``, all moved up
``2·gap·weight·(right − mean)``, and the smaller of the two at most ``gap·weight·width``. Call A the sum over ends of the most
that any of their cells can cost so. Then

- the best solution among edges costs at most A more than the best of all, and
- an end lies in a cell only if the best solution among edges *through one of its edges* costs at most A more than the best.

All other cells are dropped, the rest split, until each holds one value. Ties below 1e−13 of the values' scatter are decided by
rounding. The time grows with the number of levels, hardly with that of the values: sorting them is much of it.
"""

import numpy as np
import torch

from course_lib.errors import expect
from course_lib.quantization.sorted_sums import SortedSums
from course_lib.quantization.stretches import forward, trace

_GRID = 16  # coarse cells of equal count for each level, and as many of equal width
_LEAST_CELLS = 256
_SPLIT = 4  # into how many parts the dearest cells are split
_SHORT = 4096  # rows up to this length are solved whole, many at once …
_AT_ONCE = 1 << 15  # … with up to so many values


def optimal_levels(x: torch.Tensor, count: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The levels with the least ``Σ w · min over levels of (x − level)²``.

    Args:
        x: floating point, any shape, finite, at least one entry.
        count: how many levels, at least 1.
        weights: importance of each entry, ≥ 0, finite, of the shape of ``x``; all 1 when None.
    Returns:
        float32 (``count``,), ascending. Where ``x`` has fewer distinct values (of weight above 0), these are the levels,
        and the largest is repeated.
    Raises:
        ValueError: an empty, integer, NaN or Inf tensor, no level, or weights that are negative, all 0 or of another shape.

    >>> optimal_levels(torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]), 2)
    tensor([ 0.5000, 11.0000])
    """
    expect(isinstance(count, int) and count >= 1, "count", count, "a number of levels, at least 1")
    sums = SortedSums(x, weights)
    if np.count_nonzero(sums.values[1:] != sums.values[:-1]) < count:
        return torch.from_numpy(_distinct(sums.values, count))
    return torch.from_numpy(sums.means(_best_ends(sums, count)).astype(np.float32))


def optimal_levels_of_rows(rows: torch.Tensor, count: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The :func:`optimal_levels` of each row of a matrix; short rows are solved many at once.

    Args:
        rows: (R, n), as there; ``weights``: (R, n), no row all 0.
    Returns:
        float32 (R, ``count``).

    >>> optimal_levels_of_rows(torch.tensor([[0.0, 1.0, 9.0], [4.0, 4.0, 4.0]]), 2)
    tensor([[0.5000, 9.0000],
            [4.0000, 4.0000]])
    """
    expect(isinstance(count, int) and count >= 1, "count", count, "a number of levels, at least 1")
    expect(rows.dim() == 2 and rows.numel() > 0, "rows", tuple(rows.shape), "a matrix of at least one entry")
    given = rows.shape if weights is None else weights.shape
    expect(given == rows.shape, "weights", tuple(given), f"the shape of rows, {tuple(rows.shape)}")
    importance = [None] * len(rows) if weights is None else weights
    if rows.shape[1] > _SHORT or count == 1:
        return torch.stack([optimal_levels(row, count, w) for row, w in zip(rows, importance, strict=True)])
    sums = [SortedSums(row, w) for row, w in zip(rows, importance, strict=True)]
    levels = np.empty((len(rows), count), dtype=np.float32)
    alike: dict[int, list[int]] = {}  # rows by how many values have a weight above 0
    for r, s in enumerate(sums):
        if np.count_nonzero(s.values[1:] != s.values[:-1]) < count:
            levels[r] = _distinct(s.values, count)
        else:
            alike.setdefault(len(s.values), []).append(r)
    for n, same in alike.items():
        size = max(1, _AT_ONCE // n)
        for some in (same[i : i + size] for i in range(0, len(same), size)):
            every = np.stack([sums[r].at(np.arange(n + 1)) for r in some], axis=1)  # (4, rows, places)
            points = [every[:, :, :1], *[every] * (count - 1), every[:, :, -1:]]
            for r, ends in zip(some, trace(points, forward(points)[1]), strict=True):
                levels[r] = sums[r].means(ends)
    return torch.from_numpy(levels)


def _distinct(values: np.ndarray, count: int) -> np.ndarray:
    """The distinct values, no more than ``count``, the last one repeated."""
    distinct = np.unique(values)
    return np.pad(distinct, (0, count - len(distinct)), mode="edge").astype(np.float32)


def _best_ends(sums: SortedSums, count: int) -> np.ndarray:
    """Where the stretches of the best solution end: (count + 1,) places, from 0 to the number of values."""
    n, values = len(sums.values), sums.values
    ends = sums.at(np.array([0, n]))[:, None]  # (4, 1, 2)
    coarse = max(_LEAST_CELLS, _GRID * count)
    even = np.linspace(0, n, min(n, coarse) + 1).astype(np.int64)
    wide = np.searchsorted(values, np.linspace(values[0], values[-1], coarse, dtype=np.float64).astype(values.dtype))
    grid = np.unique(np.concatenate([even, wide]))
    places = [grid] * (count - 1)  # of each end: where it may lie …
    cells = [np.ones(len(grid) - 1, dtype=bool)] * (count - 1)  # … and whether also between a place and the next
    fewer, floor = None, 0.0  # upper bounds of the cost of 1, 2, … levels; a lower bound of that of ``count``
    while True:
        cells = [c & (values[p[1:] - 1] > values[p[:-1]]) for p, c in zip(places, cells, strict=True)]
        points = [ends[:, :, :1], *(sums.at(p)[:, None] for p in places), ends[:, :, 1:]]
        costs, choices = forward(points)
        if not any(c.any() for c in cells):
            return trace(points, choices)[0]
        rest = [c[0, ::-1] for c in reversed(forward([(ends[:, :, 1:] - p)[:, :, ::-1] for p in reversed(points)])[0])]
        cost, rounding = costs[-1][0, 0], 1e-13 * ends[3, 0, 1]
        fewer = np.array([c[0, -1] for c in costs[1:-1]]) if fewer is None else fewer
        # The least cost is convex in the number of levels, so one level more saves at most what each of the last ones did.
        saved = min(cost, ((fewer - floor) / np.arange(count - 1, 0, -1)).min(initial=np.inf)) + rounding
        gaps = _gaps(sums, sums.at(grid), saved)
        prices = _prices(sums, [p[:, 0] for p in points], cells, grid, gaps)
        dearest = [p.max(initial=0) for p in prices]
        floor = max(floor, cost - sum(dearest) - rounding)
        for j in range(count - 1):
            through = costs[j + 1][0] + rest[j + 1] <= cost + sum(dearest) + rounding
            places[j], cells[j] = _refine(places[j], cells[j], through, np.sqrt(prices[j] / max(dearest)))


def _gaps(sums: SortedSums, grid: np.ndarray, saved: float) -> np.ndarray:
    """For each coarse cell a bound on the gap of two levels whose middle lies in it.

    A further level at the middle would save at least gap²/8 for every value within gap/8 of it: 3/8 of the gap from its
    level, it would be 1/8 from the new one. That is no more than ``saved`` in all.
    """
    place = grid[0].astype(np.int64)
    left, right = sums.values[place[:-1]].astype(np.float64), sums.values[place[1:] - 1].astype(np.float64)
    bound = np.full(len(left), float(sums.values[-1]) - float(sums.values[0]))
    while True:
        trial = bound * 0.75
        # Whole cells that lie within trial/8 of every place of this cell.
        first, last = np.searchsorted(left, right - trial / 8), np.searchsorted(right, left + trial / 8, side="right")
        weight = np.where(last > first, grid[1, last] - grid[1, first], 0)
        smaller = weight * trial**2 / 8 > saved
        if not smaller.any():
            return bound
        bound = np.where(smaller, trial, bound)


def _prices(
    sums: SortedSums, points: list[np.ndarray], cells: list[np.ndarray], grid: np.ndarray, gaps: np.ndarray
) -> list[np.ndarray]:
    """For each end and cell: the most that moving that end to an edge of the cell adds, ``gap · weight · width``."""
    lowest, highest = (np.stack([p[:, i] for p in points]) for i in (0, -1))  # (ends, 4)
    prices = []
    for j, (point, cell) in enumerate(zip(points[1:-1], cells, strict=True), start=1):
        place = point[0].astype(np.int64)
        width = sums.values[place[1:] - 1].astype(np.float64) - sums.values[place[:-1]]
        # A level moves up with both ends of its stretch: the lowest ends bound the level below, the highest that above.
        gap = _mean(sums, highest[j], highest[j + 1], -1) - _mean(sums, lowest[j - 1], lowest[j], 0)
        gap = np.minimum(gap, gaps[np.searchsorted(grid, place[:-1], side="right") - 1])
        price = gap * np.diff(point[1]) * width
        prices.append(np.where(cell, np.maximum(price, np.finfo(float).tiny), 0))
    return prices


def _mean(sums: SortedSums, start: np.ndarray, end: np.ndarray, side: int) -> float:
    if end[0] > start[0]:
        return (end[2] - start[2]) / (end[1] - start[1])
    return float(sums.values[int(start[0]) + side]) - sums.centre  # an empty stretch: its nearest value


def _refine(places: np.ndarray, cells: np.ndarray, through: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the places that pass and the cells next to them, and split those cells, the dear ones into more parts."""
    cells = cells & (through[1:] | through[:-1])
    start, size, parts = places[:-1][cells], np.diff(places)[cells], np.ceil(_SPLIT * share[cells]).astype(np.int64)
    owner = np.repeat(np.arange(len(start)), parts + 1)
    step = np.arange(len(owner)) - np.repeat((parts + 1).cumsum() - parts - 1, parts + 1)
    inner = start[owner] + size[owner] * step // parts[owner]  # both edges of each cell, and the places between
    kept = np.unique(np.concatenate([places[through], inner]))
    which = np.searchsorted(start, kept[:-1], side="right") - 1  # the split cell that may hold the next stretch
    inside = (which >= 0) & (kept[1:] <= (start + size)[which]) if len(start) else np.zeros(len(kept) - 1, dtype=bool)
    return kept, inside
