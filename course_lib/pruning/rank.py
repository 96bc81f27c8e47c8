"""The k smallest numbers of many tensors: exact, without sorting them, joining them or copying them.

A floating-point number's bits, read as an integer, sort like the number (IEEE 754 was made so). Counting the leading 16 bits
finds the bucket the k-th smallest lies in; counting the next 16 bits inside that bucket finds it (a radix select). Each pass
reads the tensors once in pieces that fit the cache, so a hundred million weights take about a second and no extra memory.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from course_lib.errors import expect

BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
PIECE = 1 << 15  # entries; torch does not split so few among threads, and the cost of that is more than it saves
DIGIT = 16


def require_rankable(name: str, x: torch.Tensor) -> None:
    """Refuse what has no order: empty and integer tensors, and NaN (infinities have their place at the ends).

    Args:
        name: of the argument, for the message.
        x: any shape.
    Raises:
        ValueError: as above.
    """
    expect(x.dtype in BITS, f"{name}.dtype", x.dtype, "a floating-point tensor of 16, 32 or 64 bits")
    expect(x.numel() > 0, name, tuple(x.shape), "at least one entry")
    if bool(x.detach().amax().isnan()):  # a maximum is NaN as soon as one entry is
        raise ValueError(f"{name} = {int(x.isnan().sum())} NaN: expected numbers that can be ranked")


def ordered_bits(x: torch.Tensor) -> np.ndarray:
    """Unsigned integers that sort as the numbers do, −0 and 0 being equal; the same shape and width as ``x``.

    The sign bit is turned over, so that positives come last; a negative number's other bits grow with its size, so they are
    turned over too.

    >>> np.sign(np.diff(ordered_bits(torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0])).astype(np.int64))).tolist()
    [1, 1, 0, 1]
    """
    bits = (x + 0.0).view(BITS[x.dtype]).numpy()  # −0 + 0 = 0
    sign = bits.dtype.itemsize * 8 - 1
    turn = (bits >> sign).view(f"u{bits.itemsize}") | bits.dtype.type(-1 << sign).view(f"u{bits.itemsize}")
    return bits.view(turn.dtype) ^ turn


def kth_smallest(parts: Sequence[torch.Tensor], k: int) -> tuple[torch.Tensor, int, int]:
    """The k-th smallest entry of all tensors together.

    Args:
        parts: tensors of one floating-point dtype, any shapes, without NaN.
        k: 1 for the smallest, up to the number of entries.
    Returns:
        The entry, a scalar tensor; how many entries are smaller; how many are equal to it, itself included.
    Raises:
        ValueError: k out of range, or different dtypes.

    >>> kth_smallest([torch.tensor([5.0, 1.0]), torch.tensor([1.0, 3.0])], 3)
    (tensor(3.), 2, 1)
    """
    entries = sum(p.numel() for p in parts)
    expect(1 <= k <= entries, "k", k, f"between 1 and the number of entries, {entries}")
    dtypes = {p.dtype for p in parts}
    expect(len(dtypes) == 1, "dtypes", sorted(map(str, dtypes)), "one dtype for all")
    dtype = dtypes.pop()
    width, found = torch.iinfo(BITS[dtype]).bits, 0  # the leading bits of the answer, one digit longer each round
    smaller = 0
    for shift in range(width - DIGIT, -1, -DIGIT):
        counts = np.zeros(1 << DIGIT, dtype=np.int64)
        for piece in pieces(parts):
            bits = ordered_bits(piece)
            if shift < width - DIGIT:
                bits = bits[bits >> (shift + DIGIT) == found]
            counts += np.bincount((bits >> shift).astype(np.uint16), minlength=1 << DIGIT)
        up_to = counts.cumsum()
        digit = int(np.searchsorted(up_to, k - smaller))
        smaller += int(up_to[digit] - counts[digit])
        found = found << DIGIT | digit
    sign = 1 << (width - 1)
    bits = found - sign if found & sign else ~found  # back from the order to the number's own bits, signed
    return torch.tensor(bits, dtype=BITS[dtype]).view(dtype), smaller, int(counts[digit])


def pieces(parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The entries of tensors of any shape in order, as flat pieces that fit the cache."""
    for part in parts:
        yield from part.detach().reshape(-1).split(PIECE)


def first_true(mask: torch.Tensor, count: int) -> torch.Tensor:
    """The mask, of any shape, with only its first ``count`` True entries, in row-major order.

    >>> first_true(torch.tensor([True, False, True, True]), 2)
    tensor([ True, False,  True, False])
    """
    result = torch.zeros(mask.shape, dtype=torch.bool)
    flat = result.view(-1)
    for i, piece in enumerate(mask.reshape(-1).split(PIECE)):
        start, inside = i * PIECE, int(torch.count_nonzero(piece))
        if inside > count:
            flat[start + piece.nonzero()[:count, 0]] = True
            break
        flat[start : start + len(piece)] = piece
        count -= inside
    return result
