"""Packing against arithmetic on whole numbers: the codes of a word are its digits in base 2^b."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.quantization.packing import pack, packed_bytes, unpack


@st.composite
def coded(draw):
    """Codes of a tensor, their bits, and whether they are signed; lengths that fill no word included."""
    bits, signed = draw(st.integers(1, 8)), draw(st.booleans())
    low = -(1 << (bits - 1)) if signed else 0
    values = draw(st.lists(st.integers(low, low + (1 << bits) - 1), max_size=70))
    return torch.tensor(values, dtype=torch.int8 if signed else torch.uint8), bits, signed


def number_of(codes: list[int], bits: int) -> int:
    return sum((code % (1 << bits)) << (i * bits) for i, code in enumerate(codes))


def as_bytes(codes: list[int], bits: int) -> list[int]:
    """The definition: digit j of whole word i is code j·m + i, byte t of it stands at t·m + i; what is left is one number."""
    per_word = 8 // math.gcd(8, bits)
    m, width = len(codes) // per_word, per_word * bits // 8
    words = [number_of(codes[i : m * per_word : m], bits).to_bytes(width, "little") for i in range(m)]
    left = codes[m * per_word :]
    last = number_of(left, bits).to_bytes(-(-len(left) * bits // 8), "little")
    return [word[t] for t in range(width) for word in words] + list(last)


@settings(deadline=None)
@given(coded())
def test_packed_bytes_are_the_digits_of_numbers_and_unpack_to_the_codes(case):
    codes, bits, signed = case
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == as_bytes(codes.tolist(), bits)
    assert packed.numel() == packed_bytes(codes.numel(), bits) == -(-codes.numel() * bits // 8)
    back = unpack(packed, bits, codes.numel(), signed)
    assert back.dtype == codes.dtype and torch.equal(back, codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_of_every_width_survives_in_every_place_of_a_word(bits):
    every = torch.arange(1 << bits).to(torch.uint8)
    for shift in range(8):
        codes = every.repeat(3).roll(shift)
        assert torch.equal(unpack(pack(codes, bits), bits, codes.numel()), codes)


def test_views_pack_as_their_own_entries_and_are_left_as_they_were():
    whole = torch.arange(96).remainder(8).to(torch.uint8)
    for view in (whole.view(8, 12).t(), whole[1:], whole[3:75], whole[::2], whole[:1].expand(11)):
        before = view.clone()
        for bits in (3, 4, 5, 6, 8):
            assert torch.equal(pack(view, bits), pack(view.clone(), bits))
            assert torch.equal(unpack(pack(view, bits), bits, view.numel()), before.flatten())
        assert torch.equal(view, before)


def test_a_view_of_packed_bytes_unpacks_as_its_own_bytes():
    for bits in range(1, 9):
        codes = torch.arange(41).remainder(1 << bits).to(torch.uint8)
        packed = torch.cat([torch.tensor([9], dtype=torch.uint8), pack(codes, bits)])[1:]
        assert torch.equal(unpack(packed, bits, 41), codes)


def test_eight_bits_are_a_copy_not_the_same_memory():
    codes = torch.tensor([-1, 5], dtype=torch.int8)
    packed = pack(codes, 8)
    packed.zero_()
    assert codes.tolist() == [-1, 5]


@pytest.mark.parametrize("bits", [0, 9, 17, True, 2.5])
def test_bits_outside_1_to_8_are_refused(bits):
    with pytest.raises(ValueError, match=r"bits = .*: expected a whole number from 1 to 8"):
        pack(torch.zeros(3, dtype=torch.uint8), bits)
    with pytest.raises(ValueError, match=r"bits = .*: expected a whole number from 1 to 8"):
        unpack(torch.zeros(3, dtype=torch.uint8), bits, 3)


@pytest.mark.parametrize(
    "codes, bits, message",
    [
        (torch.tensor([0, 16], dtype=torch.uint8), 4, r"codes = '0 to 16': expected numbers from 0 to 15 for 4 bits"),
        (torch.tensor([-5, 0], dtype=torch.int8), 3, r"codes = '-5 to 0': expected numbers from -4 to 3"),
        (torch.tensor([4], dtype=torch.int8), 3, r"codes = '4 to 4'"),
        (torch.tensor([1, 2]), 4, r"codes = torch.int64: expected int8 or uint8"),
        (torch.tensor([1.0]), 4, r"codes = torch.float32"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, bits, message):
    with pytest.raises(ValueError, match=message):
        pack(codes, bits)


def test_bytes_that_are_not_those_of_the_count_are_refused():
    with pytest.raises(ValueError, match=r"packed = 3: expected 2 bytes for 5 codes of 3 bits"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 5)
    with pytest.raises(ValueError, match=r"packed = torch.int8"):
        unpack(torch.zeros(2, dtype=torch.int8), 3, 5)
    with pytest.raises(ValueError, match=r"count = -1"):
        unpack(torch.zeros(0, dtype=torch.uint8), 3, -1)
