"""Codebooks: each value is kept as the number of its nearest level, of a short list of levels made for the tensor.

A grid of even steps is one list of levels; k-means finds the list with the least squared error (Han et al. 2015, 1510.00149),
exactly (:mod:`course_lib.quantization.exact_kmeans`) or by Lloyd's steps, which never raise the error but may stop short of
the best. With importance weights, such as the Fisher diagonal ``mean of (∂L/∂w)²`` or the mean square of each input of the
layer, the error that is made least is the weighted one, nearer to what the loss feels (Choi et al. 2016, 1612.01543).
"""

import numpy as np
import torch

from course_lib.errors import expect
from course_lib.granularity import Granularity, block_size, from_blocks, grid, to_blocks
from course_lib.quantization.exact_kmeans import optimal_levels_of_rows
from course_lib.quantization.packing import packed_bytes
from course_lib.quantization.sorted_sums import SortedSums

METHODS = ("exact", "lloyd", "uniform")


def uniform_levels(x: torch.Tensor, count: int) -> torch.Tensor:
    """Levels in even steps from the smallest to the largest value.

    Args:
        x: any shape, floating point, finite, at least one entry.
        count: how many levels, at least 1 (the one is the smallest value).
    Returns:
        float32 (``count``,), ascending.

    >>> uniform_levels(torch.tensor([0.0, 0.1, 3.0]), 4)
    tensor([0., 1., 2., 3.])
    """
    expect(isinstance(count, int) and count >= 1, "count", count, "a number of levels, at least 1")
    expect(x.is_floating_point() and x.numel() > 0, "x", (x.dtype, tuple(x.shape)), "at least one floating-point number")
    low, high = x.detach().double().aminmax()
    expect(bool(torch.isfinite(high - low)), "x", (float(low), float(high)), "finite numbers")
    return torch.linspace(0, 1, count, dtype=torch.float64).mul(high - low).add(low).float()


def lloyd_levels(
    x: torch.Tensor, levels: torch.Tensor, weights: torch.Tensor | None = None, iterations: int = 100
) -> torch.Tensor:
    """Lloyd's steps: each level moves to the (weighted) mean of the values nearest to it, until none changes sides.

    No step raises ``Σ w · (x − nearest level)²`` (Lloyd 1982); a level that no value is nearest to stays. The values are
    sorted once, after which a step costs only sums between the middles of the levels.

    Args:
        x: floating point, finite, at least one entry.
        levels: (k,) ascending, where to start.
        weights: as in :func:`course_lib.quantization.exact_kmeans.optimal_levels`.
        iterations: at most so many steps.
    Returns:
        float32 (k,), ascending.

    >>> lloyd_levels(torch.tensor([0.0, 1.0, 10.0, 12.0]), torch.tensor([0.0, 12.0]))
    tensor([ 0.5000, 11.0000])
    """
    expect(levels.dim() == 1 and len(levels) > 0, "levels", tuple(levels.shape), "a list of at least one level")
    _expect_ascending(levels)
    expect(iterations >= 0, "iterations", iterations, "a number of steps")
    sums, current, ends = SortedSums(x, weights), levels.double().numpy(), None
    for _ in range(iterations):
        middles = (current[1:] + current[:-1]) / 2
        before, ends = ends, np.concatenate([[0], np.searchsorted(sums.values, middles, "right"), [len(sums.values)]])
        if before is not None and np.array_equal(before, ends):
            break
        means = sums.means(ends)
        current = np.where(np.isnan(means), current, means)
    return torch.from_numpy(current.astype(np.float32))


def nearest_codes(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The number of the nearest level of each value; exactly between two, the lower one.

    Args:
        x: floating point, any shape, no NaN.
        levels: float32 (k,), ascending, k at most 256.
    Returns:
        uint8, the shape of ``x``.

    >>> nearest_codes(torch.tensor([[-5.0, 0.4], [0.5, 0.6]]), torch.tensor([0.0, 1.0]))
    tensor([[0, 0],
            [0, 1]], dtype=torch.uint8)
    """
    expect(levels.dim() == 1 and 1 <= len(levels) <= 256, "levels", tuple(levels.shape), "a list of 1 to 256 levels")
    _expect_ascending(levels)
    expect(not bool(torch.isnan(x).any()), "x", "NaN", "numbers")
    middles = (levels[1:].double() + levels[:-1].double()).div_(2).to(torch.promote_types(x.dtype, torch.float32))
    return torch.bucketize(x.to(middles.dtype).contiguous(), middles, out_int32=True).to(torch.uint8)


def quantize_codebook(
    x: torch.Tensor,
    bits: int,
    granularity: Granularity = "tensor",
    axis: int = 0,
    method: str = "exact",
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and levels of a tensor.

    Args:
        x: floating point, any shape of at least one dimension, finite, at least one entry.
        bits: 1 to 8, for 2^b levels. (The time of exact levels grows with their number: of two million values 16 take a
            fifth of a second, 256 a quarter of a minute.)
        granularity, axis: which entries share a list of levels, see :func:`course_lib.granularity.block_size`.
        method: ``"exact"``, ``"lloyd"`` (started from the uniform levels) or ``"uniform"``.
        weights: importance ≥ 0 of each entry, of a shape that broadcasts to that of ``x``: (D,) for the inputs of a layer.
    Returns:
        Codes uint8 of the shape of ``x``, and levels float32 (*grid of blocks*, 2^b), ascending.
    Raises:
        ValueError: bits, method, granularity, or values or weights as in
            :func:`course_lib.quantization.exact_kmeans.optimal_levels`.

    >>> codes, levels = quantize_codebook(torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]), 1)
    >>> codes.tolist(), levels.tolist()
    ([0, 0, 1, 1, 1], [[0.5, 11.0]])
    """
    packed_bytes(0, bits)  # refuses other bits
    expect(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    expect(weights is None or method != "uniform", "weights", "given", "None for uniform levels, which have none")
    expect(x.is_floating_point() and x.numel() > 0, "x", (x.dtype, tuple(x.shape)), "at least one floating-point number")
    block = block_size(x.shape, granularity, axis)
    rows = to_blocks(x.detach(), block)  # (blocks, entries)
    importance = None if weights is None else to_blocks(_broadcast(weights, x.shape), block)
    levels = _levels_of_rows(rows, 2**bits, method, importance)
    codes = torch.stack([nearest_codes(row, own) for row, own in zip(rows, levels, strict=True)])
    return from_blocks(codes, x.shape, block), levels.view(*grid(x.shape, block), -1)


def dequantize_codebook(codes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The level of each code: float32, of the shape of the codes.

    Args:
        codes: integers, any shape; ``levels``: (*grid of blocks*, k), as :func:`quantize_codebook` gives them.

    >>> dequantize_codebook(torch.tensor([0, 1, 1], dtype=torch.uint8), torch.tensor([[0.5, 11.0]]))
    tensor([ 0.5000, 11.0000, 11.0000])
    """
    counts, k = levels.shape[:-1], levels.shape[-1]
    fits = len(counts) == codes.dim() and all(g > 0 and s % g == 0 for g, s in zip(counts, codes.shape, strict=True))
    expect(fits, "levels", tuple(levels.shape), f"a list of levels for each block of {tuple(codes.shape)}")
    expect(not codes.is_floating_point(), "codes", codes.dtype, "an integer tensor")
    block = tuple(s // g for s, g in zip(codes.shape, counts, strict=True))
    rows = to_blocks(codes, block).int()
    expect(codes.numel() == 0 or int(rows.max()) < k, "codes", int(rows.max()), f"numbers below {k}")
    if len(rows) == 1:
        values = levels.reshape(-1).index_select(0, rows.reshape(-1)).view(1, -1)
    else:
        values = levels.reshape(len(rows), k).gather(1, rows.long())
    return from_blocks(values, codes.shape, block)


def codebook_bytes(count: int, bits: int, codebooks: int = 1) -> int:
    """Bytes of ``count`` packed codes and of their levels in float32: ``ceil(n·b/8) + codebooks · 2^b · 4``.

    >>> codebook_bytes(768 * 3072, 4)
    1179712
    """
    return packed_bytes(count, bits) + codebooks * 2**bits * 4


def _levels_of_rows(rows: torch.Tensor, count: int, method: str, weights: torch.Tensor | None) -> torch.Tensor:
    if method == "exact":
        return optimal_levels_of_rows(rows, count, weights)
    levels = torch.stack([uniform_levels(row, count) for row in rows])
    if method == "uniform":
        return levels
    importance = [None] * len(rows) if weights is None else weights
    return torch.stack([lloyd_levels(*each) for each in zip(rows, levels, importance, strict=True)])


def _broadcast(weights: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    try:
        return weights.expand(shape)
    except RuntimeError:
        raise ValueError(f"weights = {tuple(weights.shape)}: expected a shape that broadcasts to {tuple(shape)}") from None


def _expect_ascending(levels: torch.Tensor) -> None:
    expect(bool((levels[1:] >= levels[:-1]).all()), "levels", levels.tolist(), "levels in ascending order")
