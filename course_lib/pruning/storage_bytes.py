"""What sparse formats cost, to the byte, and from which density on they pay.

``n = rows·columns`` entries of v bytes each, of which ``nonzeros`` are stored; density = nonzeros/n.
"""

import torch

from course_lib.errors import expect

Shape = tuple[int, int]
WIDTHS = (torch.uint8, torch.int16, torch.int32, torch.int64)


def index_dtype(count: int) -> torch.dtype:
    """The narrowest of uint8, int16, int32, int64 that holds the numbers 0 … count − 1.

    >>> index_dtype(256), index_dtype(768), index_dtype(32768), index_dtype(32769)
    (torch.uint8, torch.int16, torch.int16, torch.int32)
    """
    return next(d for d in WIDTHS if count - 1 <= torch.iinfo(d).max)


def dense_bytes(shape: Shape, value_bytes: int = 4) -> int:
    """All entries, zeros too: ``n·v``.

    >>> dense_bytes((768, 768))
    2359296
    """
    return shape[0] * shape[1] * value_bytes


def coo_bytes(shape: Shape, nonzeros: int, value_bytes: int = 4) -> int:
    """Coordinates: ``nonzeros·(v + row number + column number)``.

    Args:
        shape: (rows, columns), which set the width of the numbers (:func:`index_dtype`).
        nonzeros: 0 to n.
        value_bytes: v.

    >>> coo_bytes((768, 768), 58_982)  # a tenth of the entries: a fifth of the bytes
    471856
    """
    _check(shape, nonzeros)
    return nonzeros * (value_bytes + _width(shape[0]) + _width(shape[1]))


def csr_bytes(shape: Shape, nonzeros: int, value_bytes: int = 4) -> int:
    """Compressed sparse rows: ``nonzeros·(v + column number) + (rows + 1)·pointer``; a pointer holds 0 … nonzeros.

    Args:
        shape, nonzeros, value_bytes: as in :func:`coo_bytes`.

    >>> csr_bytes((768, 768), 58_982)
    356968
    """
    _check(shape, nonzeros)
    return nonzeros * (value_bytes + _width(shape[1])) + (shape[0] + 1) * _width(nonzeros + 1)


def bitmask_bytes(shape: Shape, nonzeros: int, value_bytes: int = 4) -> int:
    """A bit for each entry: ``nonzeros·v + ceil(n/8)``.

    Args:
        shape, nonzeros, value_bytes: as in :func:`coo_bytes`.

    >>> bitmask_bytes((768, 768), 58_982)
    309656
    """
    _check(shape, nonzeros)
    return nonzeros * value_bytes + -(-shape[0] * shape[1] // 8)


def two_four_bytes(shape: Shape, value_bytes: int = 4) -> int:
    """Half of the values and 2 bits for the place of each: ``n/2·v + ceil(n/8)``, whatever the zeros among them.

    >>> two_four_bytes((768, 768)) / dense_bytes((768, 768))
    0.53125
    """
    return shape[0] * shape[1] // 2 * value_bytes + -(-shape[0] * shape[1] // 8)


def coo_break_even(shape: Shape, value_bytes: int = 4) -> float:
    """The density at which COO is as large as dense: ``v/(v + row number + column number)``.

    >>> coo_break_even((768, 768))
    0.5
    """
    return value_bytes / (value_bytes + _width(shape[0]) + _width(shape[1]))


def csr_break_even(shape: Shape, value_bytes: int = 4) -> float:
    """The density at which CSR is as large as dense: ``(n·v − (rows + 1)·p)/(n·(v + column number))``.

    p is the narrowest pointer that holds so many nonzeros. Negative where a matrix is so narrow that pointers alone outweigh it.

    >>> round(csr_break_even((768, 768)), 4), round(csr_break_even((768, 768), value_bytes=1), 4)
    (0.6658, 0.3316)
    """
    return _csr_reaches(shape, dense_bytes(shape, value_bytes), value_bytes + _width(shape[1]))


def bitmask_break_even(value_bytes: int = 4) -> float:
    """The density at which a bitmask is as large as dense, n a multiple of 8: ``1 − 1/(8v)``.

    >>> bitmask_break_even(), bitmask_break_even(value_bytes=1)
    (0.96875, 0.875)
    """
    return 1 - 1 / (8 * value_bytes)


def csr_beats_bitmask(shape: Shape) -> float:
    """The density at which CSR is as large as a bitmask, n a multiple of 8: ``(n/8 − (rows + 1)·p)/(n·column number)``.

    Below it CSR is smaller: less than one entry in 16 with column numbers of two bytes, whatever the values' width.

    >>> round(csr_beats_bitmask((768, 768)), 4)
    0.0599
    """
    return _csr_reaches(shape, shape[0] * shape[1] / 8, _width(shape[1]))


def _csr_reaches(shape: Shape, budget: float, per_value: int) -> float:
    """The density at which ``nonzeros·per_value + (rows + 1)·pointer`` is the budget."""
    reached = [
        min((budget - (shape[0] + 1) * dtype.itemsize) / per_value, torch.iinfo(dtype).max)  # what such a pointer can hold
        for dtype in WIDTHS
    ]
    return max(reached) / (shape[0] * shape[1])


def _width(count: int) -> int:
    return index_dtype(count).itemsize


def _check(shape: Shape, nonzeros: int) -> None:
    expect(0 <= nonzeros <= shape[0] * shape[1], "nonzeros", nonzeros, f"between 0 and {shape[0]}·{shape[1]}")
