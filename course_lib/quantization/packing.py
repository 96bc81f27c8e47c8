"""Packing: codes of 1 to 8 bits side by side in bytes: ``ceil(n·b/8)`` bytes for n codes.

A *word* is the fewest codes that fill whole bytes: 2 codes of 4 bits, 8 of 3 bits (in 3 bytes). Of n codes in m words, word i
holds the codes i, m + i, 2m + i, …, and byte t of all words lies in one piece. So every step is one pass over contiguous
memory, which strides of 2 or 8 would not be. The few codes left over make a last word of their own, cut to its used bytes.
"""

import math

import torch

from course_lib.errors import expect


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` packed codes, ``ceil(count · bits / 8)``.

    >>> packed_bytes(3, 3), packed_bytes(768 * 3072, 4)
    (2, 1179648)
    """
    expect(bits in range(1, 9) and not isinstance(bits, bool), "bits", bits, "a whole number from 1 to 8")
    expect(count >= 0, "count", count, "a number of codes")
    return -(-count * int(bits) // 8)


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
    flat, whole = codes.reshape(-1).view(torch.uint8), codes.numel() - codes.numel() % _per_word(bits)
    if codes.dtype == torch.int8:
        flat = flat & ((1 << bits) - 1)  # the sign bits above the code would run into its neighbour
    packed = torch.empty(size, dtype=torch.uint8, device=codes.device)
    body = packed[: whole * bits // 8]
    _pack_words(flat[:whole], bits, body)
    if whole < flat.numel():
        last = torch.zeros(_per_word(bits), dtype=torch.uint8, device=codes.device)
        last[: flat.numel() - whole] = flat[whole:]
        packed[body.numel() :] = _pack_words(last, bits, torch.empty_like(last[:bits]))[: size - body.numel()]
    return packed


def unpack(packed: torch.Tensor, bits: int, count: int, signed: bool = False) -> torch.Tensor:
    """The codes that were packed; the inverse of :func:`pack`.

    Args:
        packed: uint8 (bytes,), exactly ``ceil(count · bits / 8)``.
        bits: 1 to 8.
        count: how many codes.
        signed: whether they were int8.
    Returns:
        Codes (count,), int8 or uint8.
    Raises:
        ValueError: other bits or dtypes, or bytes that are too few or too many for ``count``.

    >>> unpack(torch.tensor([33, 3], dtype=torch.uint8), 4, 3)
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    size = packed_bytes(count, bits)
    expect(packed.dtype == torch.uint8, "packed", packed.dtype, "torch.uint8")
    expect(packed.numel() == size, "packed", packed.numel(), f"{size} bytes for {count} codes of {bits} bits")
    flat, whole = packed.reshape(-1), count - count % _per_word(bits)
    codes = torch.empty(count, dtype=torch.int8 if signed else torch.uint8, device=packed.device)
    _unpack_words(flat[: whole * bits // 8], bits, codes[:whole])
    if whole < count:
        last = torch.nn.functional.pad(flat[whole * bits // 8 :], (0, bits))[: _per_word(bits) * bits // 8]
        codes[whole:] = _unpack_words(last, bits, codes.new_empty(_per_word(bits)))[: count - whole]
    return codes


def _per_word(bits: int) -> int:
    """The fewest codes that fill whole bytes."""
    return 8 // math.gcd(bits, 8)


def _pack_words(codes: torch.Tensor, bits: int, out: torch.Tensor) -> torch.Tensor:
    """Whole words: code j of a word goes to the bits from j·b on of its bytes."""
    per_word = _per_word(bits)
    planes = out[: codes.numel() * bits // 8].view(per_word * bits // 8, -1)  # (bytes of a word, words)
    for j, plane in enumerate(codes.view(per_word, -1)):
        byte, shift = divmod(j * bits, 8)
        if shift == 0:
            planes[byte] = plane  # the first code of this byte
        else:
            planes[byte] |= plane << shift
        if shift + bits > 8:
            planes[byte + 1] = plane >> (8 - shift)  # what did not fit is the first of the next byte
    return out


def _unpack_words(packed: torch.Tensor, bits: int, out: torch.Tensor) -> torch.Tensor:
    per_word = _per_word(bits)
    planes = packed.view(per_word * bits // 8, -1)
    for j, code in enumerate(out.view(per_word, -1)):
        byte, shift = divmod(j * bits, 8)
        field = planes[byte] >> shift
        if shift + bits > 8:
            field |= planes[byte + 1] << (8 - shift)
        # Up to the top of the byte and down again: drops the neighbours' bits and, for int8, repeats the sign bit.
        torch.bitwise_left_shift(field.view(out.dtype), 8 - bits, out=code).bitwise_right_shift_(8 - bits)
    return out


def _expect_range(codes: torch.Tensor, bits: int) -> None:
    if codes.numel() == 0 or bits == 8:
        return
    lowest, highest = (int(end) for end in codes.aminmax())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if codes.dtype == torch.int8 else (0, (1 << bits) - 1)
    fits = low <= lowest and highest <= high
    expect(fits, "codes", f"{lowest} to {highest}", f"numbers from {low} to {high} for {bits} bits")
