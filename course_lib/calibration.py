"""Calibration: what a one-shot method needs to know about a linear layer's input, gathered apart from the solve.

A statistic is streamed: rows of the input ``X`` (tokens, D) are added batch by batch. :mod:`course_lib.layerwise` takes
them out of a model, real tokens only.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch

from course_lib.data.align import Window, collate
from course_lib.errors import expect

Batch = Mapping[str, torch.Tensor]


class Statistic(ABC):
    """Something summed up over the rows of an input.

    Args:
        features: D, the columns of the input.
    """

    def __init__(self, features: int) -> None:
        expect(features >= 1, "features", features, "at least one column")
        self.features, self.rows = features, 0

    def add(self, x: torch.Tensor) -> None:
        """Take in rows ``x`` (n, D), floating point.

        Raises:
            ValueError: another number of columns, integers, NaN or infinity.
        """
        expect(x.dim() == 2 and x.shape[1] == self.features, "x", tuple(x.shape), f"rows of {self.features} numbers")
        expect(x.is_floating_point(), "x", x.dtype, "a floating-point type")
        expect(bool(torch.isfinite(x).all()), "x", "NaN or infinity", "finite inputs; look at the layers before this one")
        self._add(x.detach().to(torch.promote_types(x.dtype, torch.float32)))
        self.rows += len(x)

    @abstractmethod
    def _add(self, x: torch.Tensor) -> None:
        """Take in rows that were found good, float32 or float64."""

    def _seen(self) -> int:
        expect(self.rows > 0, "rows", self.rows, "at least one row added; the calibration set has no real token")
        return self.rows


class Channels(Statistic):
    """Norms, largest and mean absolute values of each column: O(D) memory.

    >>> channels = Channels(2)
    >>> channels.add(torch.tensor([[3.0, 0.0], [-4.0, 1.0]]))
    >>> channels.norms(), channels.absmax(), channels.absmean()
    (tensor([5., 1.], dtype=torch.float64), tensor([4., 1.]), tensor([3.5000, 0.5000], dtype=torch.float64))
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self._squares, self._sums = torch.zeros(2, features, dtype=torch.float64)
        self._largest = torch.zeros(features)

    def _add(self, x: torch.Tensor) -> None:
        size = x.abs()
        self._squares += size.double().square().sum(0)
        self._sums += size.sum(0, dtype=torch.float64)
        self._largest = torch.maximum(self._largest, size.amax(0)) if len(x) else self._largest

    def norms(self) -> torch.Tensor:
        """``‖X_j‖₂`` of each column over all rows, float64 (D,)."""
        self._seen()
        return self._squares.sqrt()

    def absmax(self) -> torch.Tensor:
        """``max_t |X_tj|`` (D,)."""
        self._seen()
        return self._largest

    def absmean(self) -> torch.Tensor:
        """``mean_t |X_tj|``, float64 (D,)."""
        return self._sums / self._seen()


class Hessian(Statistic):
    """``H = XᵀX / n``: half the Hessian of a row's squared output error per token, the same for every row of the weight.

    The products of one batch are in the input's precision (fp32: its error, at most n·2⁻²⁴ of ``|X|ᵀ|X|``, is far below
    the damping), the sums over batches in float64, so that the error does not grow with their number: what is built on H
    is an inverse, which multiplies its errors by the condition number. Memory: 8·D² bytes and one batch's product.

    >>> hessian = Hessian(2)
    >>> hessian.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> hessian.matrix()
    tensor([[5., 1.],
            [1., 2.]], dtype=torch.float64)
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self._sum = torch.zeros(features, features, dtype=torch.float64)

    def _add(self, x: torch.Tensor) -> None:
        self._sum += x.T @ x

    def matrix(self) -> torch.Tensor:
        """H, float64 (D, D), symmetric."""
        mean = self._sum / self._seen()
        return (mean + mean.T) / 2  # a matrix product need not round both halves alike


class Sample(Statistic):
    """At most ``size`` rows, each set of them as likely as any other: those with the smallest of random keys.

    Args:
        features: D.
        size: rows kept.
        seed: of the keys; the same rows in batches of another size give the same sample.
    """

    def __init__(self, features: int, size: int, seed: int) -> None:
        super().__init__(features)
        expect(size >= 1, "size", size, "at least one row")
        self._size, self._generator = size, torch.Generator().manual_seed(seed)
        self._keys, self._kept = torch.empty(0, dtype=torch.float64), torch.empty(0, features)

    def _add(self, x: torch.Tensor) -> None:
        keys = torch.cat([self._keys, torch.rand(len(x), dtype=torch.float64, generator=self._generator)])
        self._keys, order = keys.topk(min(self._size, len(keys)), largest=False)
        self._kept = torch.cat([self._kept.to(x.dtype), x])[order]

    def matrix(self) -> torch.Tensor:
        """The rows kept (min(size, rows), D)."""
        self._seen()
        return self._kept


def calibration_batches(
    windows: Sequence[Window], padding: int, count: int = 512, batch_size: int = 32, seed: int = 0
) -> list[dict[str, torch.Tensor]]:
    """Windows drawn for calibration, as batches of a model's arguments.

    Args:
        windows: of training sentences (never of those a model is judged by).
        padding: id of the padding piece.
        count: windows drawn without replacement; all of them where there are fewer. The papers take 128 texts of 2048 pieces;
            sentences have some 20, and 128 of them are too few for a Hessian of 1536 inputs.
        batch_size: windows in a batch.
        seed: of the draw.
    Returns:
        ``{"input_ids", "attention_mask"}`` per batch, int64 (B, L), windows of similar length together.
    Raises:
        ValueError: no windows, or a count or batch size below 1.
    """
    expect(len(windows) > 0, "windows", len(windows), "at least one window")
    expect(count >= 1, "count", count, "at least one window")
    expect(batch_size >= 1, "batch_size", batch_size, "at least 1")
    drawn = random.Random(seed).sample(range(len(windows)), min(count, len(windows)))
    drawn.sort(key=lambda i: (len(windows[i].ids), i))
    chunks = (drawn[i : i + batch_size] for i in range(0, len(drawn), batch_size))
    pairs = (collate([windows[i] for i in chunk], padding) for chunk in chunks)
    return [{"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)} for ids, mask in pairs]


def checked_batches(batches: Iterable[Batch]) -> list[Batch]:
    """The calibration set as a list, after a look at each batch.

    Raises:
        ValueError: not an iterable of batches, none, or one that is not a mapping with tensors ``input_ids`` and
            ``attention_mask`` of one shape (B, L), with at least one real token.
    """
    iterable = isinstance(batches, Iterable) and not isinstance(batches, str | Mapping | torch.Tensor)
    expect(iterable, "batches", type(batches).__name__, "a list of batches, as calibration_batches makes it")
    batches = list(batches)
    expect(len(batches) > 0, "batches", batches, "at least one batch: the calibration set is empty")
    for number, batch in enumerate(batches):
        tensors = isinstance(batch, Mapping) and all(
            isinstance(batch.get(key), torch.Tensor) for key in ("input_ids", "attention_mask")
        )
        expect(tensors, f"batches[{number}]", type(batch).__name__, "a mapping with tensors input_ids and attention_mask")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        expect(ids.dim() == 2 and ids.shape == mask.shape, f"batches[{number}]", (ids.shape, mask.shape), "one shape (B, L)")
        expect(bool(mask.any()), f"batches[{number}]", "padding alone", "at least one real token")
    return batches
