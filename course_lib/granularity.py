"""Granularity: which entries of a tensor share one number (a threshold, a scale, a codebook). One concept for both families.

A *block size* has one entry per dimension of the tensor and divides it: ``(1, 384)`` makes a block of each row of a
``(1536, 384)`` matrix, ``(1, 64)`` a group of 64 entries of a row, ``(1536, 384)`` one block of it all. The convention is
that of torchao's quantization primitives.
"""

from collections.abc import Sequence

import torch

from course_lib.errors import expect

Granularity = str | int | tuple[int, ...]


def block_size(shape: Sequence[int], granularity: Granularity = "tensor", axis: int = 0) -> tuple[int, ...]:
    """The block size of a granularity.

    Args:
        shape: of the tensor, D dimensions.
        granularity: ``"tensor"``, one block; ``"channel"``, a block for each index along ``axis``; a number, groups of so
            many entries along the last dimension; or a block size itself, a tuple of D numbers.
        axis: of the channels; 0 are the output channels of a linear layer.
    Returns:
        D numbers, each dividing its dimension.
    Raises:
        ValueError: an unknown word, a size that does not divide its dimension, or an axis out of range.

    >>> block_size((6, 8)), block_size((6, 8), "channel"), block_size((6, 8), 4), block_size((6, 8), (3, 2))
    ((6, 8), (1, 8), (1, 4), (3, 2))
    """
    shape = tuple(int(s) for s in shape)
    expect(len(shape) > 0, "shape", shape, "at least one dimension")
    if granularity == "tensor":
        return shape
    if granularity == "channel":
        expect(-len(shape) <= axis < len(shape), "axis", axis, f"a dimension of a tensor of {len(shape)} dimensions")
        axis %= len(shape)
        return tuple(1 if i == axis else s for i, s in enumerate(shape))
    if isinstance(granularity, int) and not isinstance(granularity, bool):
        granularity = (1,) * (len(shape) - 1) + (granularity,)
    expect(isinstance(granularity, tuple), "granularity", granularity, "'tensor', 'channel', a group size or a block size")
    expect(len(granularity) == len(shape), "granularity", granularity, f"one number for each of {len(shape)} dimensions")
    divides = all(g > 0 and s % g == 0 for g, s in zip(granularity, shape, strict=True))
    expect(divides, "granularity", granularity, f"numbers that divide the shape {shape}")
    return granularity


def grid(shape: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    """How many blocks there are along each dimension.

    >>> grid((6, 8), (1, 4))
    (6, 2)
    """
    return tuple(s // b for s, b in zip(shape, block, strict=True))


def to_blocks(x: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """The tensor as a matrix with a row for each block: (blocks, entries of a block); the inverse of :func:`from_blocks`.

    >>> to_blocks(torch.arange(8).view(2, 4), (2, 2))
    tensor([[0, 1, 4, 5],
            [2, 3, 6, 7]])
    """
    counts = grid(x.shape, block)
    split = x.reshape([n for pair in zip(counts, block, strict=True) for n in pair])  # (G₁, b₁, G₂, b₂, …)
    order = [*range(0, 2 * x.dim(), 2), *range(1, 2 * x.dim(), 2)]  # the block's number first, the place in it last
    return split.permute(order).reshape(_product(counts), _product(block))


def from_blocks(rows: torch.Tensor, shape: Sequence[int], block: Sequence[int]) -> torch.Tensor:
    """The tensor of ``shape`` whose blocks are the rows (blocks, entries of a block)."""
    counts = grid(shape, block)
    split = rows.reshape(*counts, *block)  # (G₁, G₂, …, b₁, b₂, …)
    order = [i + k * len(counts) for i in range(len(counts)) for k in (0, 1)]
    return split.permute(order).reshape(tuple(shape))


def spread(values: torch.Tensor, shape: Sequence[int], block: Sequence[int]) -> torch.Tensor:
    """One value per block, repeated over the block's entries.

    Args:
        values: of the shape :func:`grid`, or flat in that order.
    Returns:
        A tensor of ``shape``.

    >>> spread(torch.tensor([1, 2]), (2, 4), (2, 2))
    tensor([[1, 1, 2, 2],
            [1, 1, 2, 2]])
    """
    counts = grid(shape, block)
    expect(values.numel() == _product(counts), "values", tuple(values.shape), f"a value for each of {counts} blocks")
    return from_blocks(values.reshape(-1, 1).expand(-1, _product(block)), shape, block)


def _product(numbers: Sequence[int]) -> int:
    result = 1
    for n in numbers:
        result *= n
    return result
