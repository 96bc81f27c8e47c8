"""Batches by length: everything once, as few as possible, and no batches of the same sizes with less padding."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.deploy.buckets import batches_by_length, computed_pieces, in_order


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 6))
def test_every_sentence_is_in_one_batch_and_none_is_too_large(lengths, size):
    for batches in (batches_by_length(lengths, size), in_order(len(lengths), size)):
        assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
        assert len(batches) == -(-len(lengths) // size) and all(1 <= len(b) <= size for b in batches)
    assert computed_pieces(lengths, batches_by_length(lengths, size)) >= sum(lengths)


@given(st.lists(st.integers(1, 9), min_size=4, max_size=6))
def test_full_batches_cannot_be_padded_less(lengths):
    lengths = lengths[: len(lengths) // 2 * 2]
    best = min(
        computed_pieces(lengths, [list(order[i : i + 2]) for i in range(0, len(order), 2)])
        for order in itertools.permutations(range(len(lengths)))
    )
    assert computed_pieces(lengths, batches_by_length(lengths, 2)) == best


def test_a_fixed_length_costs_its_length():
    assert computed_pieces([3, 9], [[0, 1]], fixed=128) == 256
    with pytest.raises(ValueError, match="fixed = 8: expected at least the longest sentence, 9"):
        computed_pieces([3, 9], [[0, 1]], fixed=8)


@pytest.mark.parametrize("make", [lambda: batches_by_length([1], 0), lambda: in_order(1, 0)])
def test_a_batch_holds_at_least_one(make):
    with pytest.raises(ValueError, match="size = 0: expected at least 1"):
        make()
