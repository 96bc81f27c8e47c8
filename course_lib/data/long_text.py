"""Sentences longer than a model: cut off, cut into blocks, or read in overlapping windows of which each owns a part."""

from collections.abc import Sequence

from course_lib.data.conll import Sentence
from course_lib.errors import expect

Bounds = tuple[int, int, int, int]  # start, end, own_start, own_end, half open


def owned_windows(length: int, size: int, context: int) -> list[Bounds]:
    """Windows over ``length`` pieces, each of which is owned by one window that sees ``context`` pieces to either side of it.

    Args:
        length: pieces of the text, at least 1.
        size: pieces that fit a window, more than ``2·context``.
        context: pieces to either side of an owned piece, where the text has as many.
    Returns:
        ``(start, end, own_start, own_end)`` for each window, half open: it reads ``start … end − 1`` and owns
        ``own_start … own_end − 1``. As few windows as will do.
    Raises:
        ValueError: nothing to cut, or no room for anything but context.

    >>> owned_windows(10, 6, 1)
    [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    expect(length >= 1, "length", length, "at least 1 piece")
    expect(0 <= 2 * context < size, "context", context, f"0 or more, and less than half of the window's {size} pieces")
    bounds, owned = [], 0
    while owned < length:
        start = max(0, min(owned - context, length - size))
        end = min(start + size, length)
        own_end = end if end == length else end - context
        bounds.append((start, end, owned, own_end))
        owned = own_end
    return bounds


def blocks(length: int, size: int, context: int = 0) -> list[Bounds]:
    """Blocks side by side, without context.

    >>> blocks(10, 6)
    [(0, 6, 0, 6), (6, 10, 6, 10)]
    """
    return [(a, min(a + size, length), a, min(a + size, length)) for a in range(0, length, size)]


def cut_off(length: int, size: int, context: int = 0) -> list[Bounds]:
    """The beginning alone: what ``truncation=True`` reads.

    >>> cut_off(10, 6)
    [(0, 6, 0, 6)]
    """
    return [(0, min(length, size), 0, min(length, size))]


def joined(sentences: Sequence[Sentence], count: int) -> list[Sentence]:
    """Texts of ``count`` sentences each, one after the other; the last may be shorter."""
    groups = [sentences[i : i + count] for i in range(0, len(sentences), count)]
    return [Sentence(tuple(w for s in g for w in s.words), tuple(t for s in g for t in s.tags)) for g in groups]
