"""Values in ascending order and sums over any stretch of them, in little memory."""

import numpy as np
import torch

from course_lib.errors import expect

BLOCK = 32  # sums are kept for every so many values
_CHUNK = 1 << 16


class SortedSums:
    """The values in order, and the sums of weights, values and squares of the first i, for any i asked for.

    Sums are kept for every 32nd place only, so they cost less memory than the values. They are of values less their mean,
    in float64, lest squares cancel.

    Args:
        x: floating point, any shape, finite, at least one entry.
        weights: of the shape of ``x``, ≥ 0, finite, not all 0; all 1 when None. Values of weight 0 are left out.
    Attributes:
        values: float32 (float64 if ``x`` is), ascending; ``weights``: theirs, or None.
        centre: what was subtracted.

    >>> sums = SortedSums(torch.tensor([5.0, 1.0, 2.0]))
    >>> sums.means(np.array([0, 2, 3])).tolist()
    [1.5, 5.0]
    """

    def __init__(self, x: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        expect(x.is_floating_point() and x.numel() > 0, "x", (x.dtype, tuple(x.shape)), "at least one floating-point number")
        values = x.detach().to(torch.promote_types(x.dtype, torch.float32)).reshape(-1).numpy()
        ends = float(values.min()), float(values.max())
        expect(bool(np.isfinite(ends).all()), "x", ends, "finite numbers")
        if weights is None:
            self.values, self.weights = np.sort(values), None
        else:
            self.values, self.weights = _sort_by(values, weights, x.shape)
        self.centre = float(self.values.mean(dtype=np.float64))
        whole = len(self.values) // BLOCK * BLOCK
        parts = [np.zeros((3, 1))]
        for start in range(0, whole, _CHUNK):
            parts.append(self._moments(slice(start, min(start + _CHUNK, whole))).reshape(3, -1, BLOCK).sum(axis=2))
        self.base = np.concatenate(parts, axis=1).cumsum(axis=1)  # (weights, values, squares; blocks + 1)

    def _moments(self, places: slice | np.ndarray) -> np.ndarray:
        centred = self.values[places].astype(np.float64) - self.centre
        mass = np.ones_like(centred) if self.weights is None else self.weights[places]
        return np.stack([mass, mass * centred, mass * centred * centred])

    def at(self, places: np.ndarray) -> np.ndarray:
        """Place, and sums of weights, values and squares of the values before it: float64 (4, places)."""
        out = np.empty((4, len(places)))
        for start in range(0, len(places), _CHUNK // BLOCK):
            some = places[start : start + _CHUNK // BLOCK]
            block = some // BLOCK
            inside = block[:, None] * BLOCK + np.arange(BLOCK)  # (places, 32)
            moments = self._moments(np.minimum(inside, len(self.values) - 1)) * (inside < some[:, None])
            out[0, start : start + len(some)] = some
            out[1:, start : start + len(some)] = self.base[:, block] + moments.sum(axis=2)
        return out

    def means(self, ends: np.ndarray) -> np.ndarray:
        """The mean of each stretch between neighbouring ends; NaN where it is empty."""
        weight, value = np.diff(self.at(ends)[1:3])
        return np.divide(value, weight, out=np.full(len(weight), np.nan), where=weight > 0) + self.centre


def _sort_by(values: np.ndarray, weights: torch.Tensor, shape: torch.Size) -> tuple[np.ndarray, np.ndarray]:
    expect(weights.shape == shape, "weights", tuple(weights.shape), f"the shape of x, {tuple(shape)}")
    mass = weights.detach().float().reshape(-1).numpy()
    ends = float(mass.min()), float(mass.max())
    expect(ends[0] >= 0 and 0 < ends[1] < np.inf, "weights", ends, "finite numbers ≥ 0, not all 0")
    order = np.argsort(values)
    order = order[mass[order] > 0] if ends[0] == 0 else order
    return values[order], mass[order]
