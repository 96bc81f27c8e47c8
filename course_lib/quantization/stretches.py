"""Cutting sorted values into stretches of least squared error, by dynamic programming.

``F_j(r) = min over c ≤ r of F_{j−1}(c) + cost(c, r)`` is the least cost of the values before place r in j stretches, and
cost(c, r) that of one stretch: the squared distances from its mean, ``Σ w·v² − (Σ w·v)² / Σ w``. The best c moves to the right
with r (the cost is Monge), so the rows of a layer are solved in rounds, each between the choices of neighbours already solved:
O(n log n) for a layer instead of O(n²) (Grønlund et al. 2017, 1701.07204). Several problems of one size are solved at once.

A *point* is a place with the sums of weights, values and squares before it, as of
:meth:`course_lib.quantization.sorted_sums.SortedSums.at`; points are float64 (4, problems, places).
"""

import itertools
import math

import numpy as np


def forward(points: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """F_j at the places where end j may lie, and which place of end j − 1 is best for each.

    Args:
        points: for j = 0 … k the places of end j, ascending, (4, P, n_j); the one of end 0 is 0.
    Returns:
        Costs, k + 1 arrays (P, n_j), Inf where no place of the end before is at or below; and k arrays of numbers (P, n_j).
    """
    costs, choices = [np.zeros(points[0].shape[1:])], []
    for before, here in itertools.pairwise(points):
        cost, choice = _layer(here, before, costs[-1])
        costs.append(cost)
        choices.append(choice)
    return costs, choices


def trace(points: list[np.ndarray], choices: list[np.ndarray]) -> np.ndarray:
    """The best ends, (P, k + 1) places: from the last place of the last end back."""
    problems = np.arange(points[0].shape[1])
    number = np.full(len(problems), points[-1].shape[2] - 1)
    ends = [points[-1][0, problems, number]]
    for point, choice in zip(reversed(points[:-1]), reversed(choices), strict=True):
        number = choice[problems, number]
        ends.append(point[0, problems, number])
    return np.stack(ends[::-1], axis=1).astype(np.int64)


def _layer(rows: np.ndarray, columns: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``min over columns c ≤ row r of base[c] + cost(c, r)`` and the first c that attains it, both (P, rows)."""
    _, problems, n = rows.shape
    m = columns.shape[2]
    rows, columns, base = rows.reshape(4, -1), columns.reshape(4, -1), base.ravel()
    best, choice = np.empty((problems, n)), np.zeros((problems, n + 2), dtype=np.int64)
    choice[:, n + 1] = m - 1
    # More rows at a time are fewer rounds with more columns to look at: worth it while the arrays are short.
    fan = 8 if problems * n < 4096 else 2
    step = fan ** math.ceil(math.log(n + 1, fan))
    while step > 1:
        wide, step = step, step // fan
        i = np.arange(step, n + 1, step)  # rows counted from 1 …
        i = i[i % wide > 0]  # … without those already solved
        solved = choice[:, [i - i % wide, np.minimum(i - i % wide + wide, n + 1)]]  # (P, 2, rows); ties may swap the two
        first, length = solved.min(axis=1).ravel(), np.ptp(solved, axis=1).ravel() + 1
        start = length.cumsum() - length
        owner = np.repeat(np.arange(len(length)), length)
        problem = np.repeat(np.arange(problems), len(i))
        column = np.arange(len(owner)) + (first - start + problem * m)[owner]
        row = problem * n + np.tile(i - 1, problems)
        place, weight, value, square = rows.take(row[owner], axis=1) - columns.take(column, axis=1)
        cost = square - value * value / np.where(weight > 0, weight, 1)
        cost = np.where(place >= 0, np.maximum(cost, 0) + base[column], np.inf)
        least = np.minimum.reduceat(cost, start)
        hits = np.flatnonzero(cost == least[owner])[::-1]
        chosen = np.empty(len(length), dtype=np.int64)
        chosen[owner[hits]] = column[hits]  # the last written is the first hit
        choice[:, i] = (chosen - problem * m).reshape(problems, -1)
        best[:, i - 1] = least.reshape(problems, -1)
    return best, choice[:, 1:-1]
