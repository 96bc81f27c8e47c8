"""Packing: codes of 1 to 8 bits side by side in bytes: ``ceil(n·b/8)`` bytes for n codes.

The codes are one stream of bits, lowest bit first: code i holds the bits from i·b on. A *word* is the fewest codes that fill
whole bytes: 2 of 4 bits, 8 of 3 bits. Read as one little-endian integer with a byte for each code, a word is closed up by halves: first the
gaps inside each pair of codes, then inside each pair of pairs, and so on. Every step is one pass over contiguous memory.
"""

import math

import torch

from course_lib.errors import expect

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # codes in a word → an integer with a byte for each


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` packed codes, ``ceil(count · bits / 8)``.

    >>> packed_bytes(3, 3), packed_bytes(768 * 3072, 4)
    (2, 1179648)
    """
    expect(bits in range(1, 9) and not isinstance(bits, bool), "bits", bits, "a whole number from 1 to 8")
    expect(count >= 0, "count", count, "a number of codes")
    return math.ceil(count * bits / 8)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes into bytes.

    Args:
        codes: any shape, read row by row; uint8 in [0, 2^b − 1], or int8 in [−2^(b−1), 2^(b−1) − 1] (kept in two's
            complement: unpack them with ``signed=True``).
        bits: 1 to 8 for each code.
    Returns:
        uint8 (``ceil(n · bits / 8)``,); the bits left over in the last byte are 0.
    Raises:
        ValueError: other bits or dtypes, or a code that needs more bits.

    >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 4)
    tensor([33,  3], dtype=torch.uint8)
    """
    size = packed_bytes(codes.numel(), bits)
    expect(codes.dtype in (torch.int8, torch.uint8), "codes", codes.dtype, "int8 or uint8")
    _expect_range(codes, bits)
    flat = codes.reshape(-1).contiguous().view(torch.uint8)
    if bits == 8:
        return flat.clone()
    per_word = _codes_per_word(bits)
    words = _padded(flat, per_word).view(_WORDS[per_word])
    for field, lane in _halves(bits):  # `field` bits used out of `lane`, in every lane
        upper = (words >> (lane - field)).bitwise_and_(_mask(words, field, lane, start=field))
        words = upper.bitwise_or_(words & _mask(words, field, lane))
    used = words.element_size() * bits // 8
    packed = words.to(torch.uint8) if used == 1 else words.view(torch.uint8).view(-1, words.element_size())[:, :used]
    return packed.reshape(-1)[:size]


def unpack(packed: torch.Tensor, bits: int, count: int, signed: bool = False) -> torch.Tensor:
    """The codes that were packed; the inverse of :func:`pack`.

    Args:
        packed: uint8, of exactly ``ceil(count · bits / 8)`` bytes.
        bits: 1 to 8.
        count: how many codes.
        signed: whether they were int8.
    Returns:
        Codes (``count``,), int8 or uint8.
    Raises:
        ValueError: other bits or dtypes, or bytes that are too few or too many for ``count``.

    >>> unpack(torch.tensor([33, 3], dtype=torch.uint8), 4, 3)
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    size = packed_bytes(count, bits)
    expect(packed.dtype == torch.uint8, "packed", packed.dtype, "torch.uint8")
    expect(packed.numel() == size, "packed", packed.numel(), f"{size} bytes for {count} codes of {bits} bits")
    flat = packed.reshape(-1).contiguous()
    if bits == 8:
        return flat.clone().view(torch.int8 if signed else torch.uint8)
    per_word = _codes_per_word(bits)
    used = per_word * bits // 8
    padded = _padded(flat, used).view(-1, used)
    if used == 1:
        words = padded.to(_WORDS[per_word])
    else:
        words = torch.nn.functional.pad(padded, (0, per_word - used)).view(_WORDS[per_word])
    for field, lane in reversed(_halves(bits)):
        upper = (words << (lane - field)).bitwise_and_(_mask(words, field, lane, start=lane))
        words = upper.bitwise_or_(words & _mask(words, field, lane))
    codes = words.reshape(-1).view(torch.uint8)[:count]
    if not signed:
        return codes
    top = 1 << (bits - 1)  # two's complement: the top bit counts −2^(b−1)
    return (codes ^ top).view(torch.int8).sub_(top)


def _codes_per_word(bits: int) -> int:
    """The fewest codes that fill whole bytes."""
    return 8 // math.gcd(bits, 8)


def _halves(bits: int) -> list[tuple[int, int]]:
    """The steps that close a word up: each joins neighbouring lanes of ``lane`` bits, of which ``field`` are in use."""
    return [(bits << step, 8 << step) for step in range(_codes_per_word(bits).bit_length() - 1)]


def _mask(words: torch.Tensor, field: int, lane: int, start: int = 0) -> int:
    """``field`` ones from bit ``start`` on, in every pair of lanes."""
    ones = ((1 << field) - 1) << start
    return sum(ones << offset for offset in range(0, 8 * words.element_size(), 2 * lane))


def _padded(flat: torch.Tensor, multiple: int) -> torch.Tensor:
    """Bytes whose number is a multiple and that start at a multiple, as a view as wider integers needs."""
    missing = -flat.numel() % multiple
    if missing:
        return torch.nn.functional.pad(flat, (0, missing))
    return flat.clone() if flat.storage_offset() % multiple else flat


def _expect_range(codes: torch.Tensor, bits: int) -> None:
    if codes.numel() == 0:
        return
    lowest, highest = (int(end) for end in codes.aminmax())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if codes.dtype == torch.int8 else (0, (1 << bits) - 1)
    fits = low <= lowest and highest <= high
    expect(fits, "codes", f"{lowest} to {highest}", f"numbers from {low} to {high} for {bits} bits")
