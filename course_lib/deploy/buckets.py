"""Batches of sentences of similar length, and what padding costs."""

from collections.abc import Sequence

from course_lib.errors import expect


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Positions of sentences in as few batches as possible, neighbours in length together.

    Args:
        lengths: word pieces of each sentence.
        size: sentences that a batch holds at most.
    Returns:
        A list of positions for each batch, longest sentences first; only the last batch may be smaller.

    >>> batches_by_length([3, 9, 4, 8, 2], size=2)
    [[1, 3], [2, 0], [4]]
    """
    expect(size >= 1, "size", size, "at least 1")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + size] for i in range(0, len(order), size)]


def in_order(count: int, size: int) -> list[list[int]]:
    """Positions in batches as they come.

    >>> in_order(5, 2)
    [[0, 1], [2, 3], [4]]
    """
    expect(size >= 1, "size", size, "at least 1")
    return [list(range(i, min(i + size, count))) for i in range(0, count, size)]


def computed_pieces(lengths: Sequence[int], batches: Sequence[Sequence[int]], fixed: int | None = None) -> int:
    """Pieces that a model computes for these batches, padding included: ``Σ sentences of the batch · its longest sentence``.

    Args:
        lengths: pieces of each sentence.
        batches: positions.
        fixed: length that every batch is padded to; None: that of its longest sentence.

    >>> computed_pieces([3, 9, 4, 8, 2], [[1, 3], [2, 0], [4]])
    28
    """
    longest = max((lengths[i] for batch in batches for i in batch), default=0)
    expect(fixed is None or fixed >= longest, "fixed", fixed, f"at least the longest sentence, {longest}")
    return sum(len(batch) * (fixed or max(lengths[i] for i in batch)) for batch in batches)
