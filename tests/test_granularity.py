"""Blocks: every entry in exactly one, and back; refused where a size does not divide."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.granularity import block_size, from_blocks, grid, spread, to_blocks

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@st.composite
def blocked(draw):
    """A shape and a block size that divides it."""
    counts = draw(SHAPES)
    block = draw(st.lists(st.integers(1, 4), min_size=len(counts), max_size=len(counts)))
    return tuple(c * b for c, b in zip(counts, block, strict=True)), tuple(block)


@given(blocked())
def test_blocks_are_a_permutation_of_the_entries_and_go_back(case):
    shape, block = case
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    rows = to_blocks(x, block)
    assert rows.shape == (torch.Size(grid(shape, block)).numel(), torch.Size(block).numel())
    assert sorted(rows.flatten().tolist()) == x.flatten().tolist()
    assert torch.equal(from_blocks(rows, shape, block), x)


@given(blocked())
def test_a_spread_value_stands_in_every_entry_of_its_block_and_nowhere_else(case):
    shape, block = case
    number = spread(torch.arange(torch.Size(grid(shape, block)).numel()), shape, block)
    assert number.shape == torch.Size(shape)
    for index in torch.ones(shape).nonzero().tolist():
        place = 0
        for i, b, n in zip(index, block, grid(shape, block), strict=True):
            place = place * n + i // b
        assert number[tuple(index)] == place


def test_a_transposed_view_is_blocked_by_its_own_shape():
    x = torch.arange(12.0).view(3, 4).t()
    assert not x.is_contiguous()
    assert torch.equal(to_blocks(x, (2, 3)), to_blocks(x.contiguous(), (2, 3)))


@pytest.mark.parametrize(
    "granularity, axis, expected",
    [("tensor", 0, (4, 6)), ("channel", 0, (1, 6)), ("channel", 1, (4, 1)), ("channel", -1, (4, 1)), (3, 0, (1, 3)), ((2, 6), 0, (2, 6))],
)  # fmt: skip
def test_words_numbers_and_tuples_name_block_sizes(granularity, axis, expected):
    assert block_size((4, 6), granularity, axis) == expected


@pytest.mark.parametrize(
    "granularity, axis, message",
    [
        ("row", 0, r"granularity = 'row': expected 'tensor', 'channel'"),
        ("channel", 2, r"axis = 2: expected a dimension of a tensor of 2"),
        (4, 0, r"granularity = \(1, 4\): expected numbers that divide the shape \(4, 6\)"),
        (0, 0, r"divide the shape"),
        (True, 0, r"granularity = True"),
        ((1, 2, 3), 0, r"one number for each of 2 dimensions"),
    ],
)
def test_bad_granularities_are_named(granularity, axis, message):
    with pytest.raises(ValueError, match=message):
        block_size((4, 6), granularity, axis)


def test_a_scalar_has_no_blocks():
    with pytest.raises(ValueError, match="at least one dimension"):
        block_size(())


def test_values_must_be_as_many_as_blocks():
    with pytest.raises(ValueError, match=r"values = \(3,\): expected a value for each of \(2, 1\) blocks"):
        spread(torch.ones(3), (4, 6), (2, 6))
