"""Tests of course_lib/data/long_text.py: windows own a partition, with context, and are few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.data.align import make_windows
from course_lib.data.conll import Sentence
from course_lib.data.long_text import blocks, cut_off, joined, owned_windows
from course_lib.models.zoo import find_encoder, load_tokenizer


@st.composite
def settings(draw):
    size = draw(st.integers(1, 40))
    return draw(st.integers(1, 300)), size, draw(st.integers(0, (size - 1) // 2))


@given(settings())
def test_owned_parts_are_a_partition_with_context_on_both_sides(given_settings):
    length, size, context = given_settings
    bounds = owned_windows(length, size, context)
    assert [i for _, _, a, b in bounds for i in range(a, b)] == list(range(length))
    for start, end, a, b in bounds:
        assert 0 <= start <= a < b <= end <= length and end - start <= size
        assert a - start >= min(context, a) and end - b >= min(context, length - b)


@given(settings())
def test_no_fewer_windows_would_do(given_settings):
    length, size, context = given_settings
    # The first and the last own size − context at most, those between size − 2·context.
    least = 1 if length <= size else 2 + max(0, -(-(length - 2 * (size - context)) // (size - 2 * context)))
    assert len(owned_windows(length, size, context)) == least


def test_blocks_and_truncation():
    assert blocks(7, 3) == [(0, 3, 0, 3), (3, 6, 3, 6), (6, 7, 6, 7)]
    assert cut_off(7, 3) == [(0, 3, 0, 3)] and cut_off(2, 3) == [(0, 2, 0, 2)]


@pytest.mark.parametrize("length, size, context, name", [(0, 5, 1, "length"), (5, 4, 2, "context"), (5, 4, -1, "context")])
def test_what_cannot_be_cut_is_said(length, size, context, name):
    with pytest.raises(ValueError, match=name):
        owned_windows(length, size, context)


def test_a_text_that_fits_gives_the_librarys_windows():
    tokenizer = load_tokenizer(find_encoder("minilm"))
    sentences = [("Ana", "Ruiz", "left", "Reykjavik"), (), ("\ufe0f",), ("Bo",)]
    for cut in (owned_windows, blocks, cut_off):
        assert make_windows(sentences, tokenizer, 512, lambda length, room, cut=cut: cut(length, room, 20)) == make_windows(
            sentences, tokenizer
        )


def test_each_word_of_a_long_text_is_spoken_for_once():
    tokenizer = load_tokenizer(find_encoder("minilm"))
    words = ("Wilhelmina", "Oldenkamp", "visited", "Reykjavik") * 20
    for cut in (owned_windows, blocks):
        windows = make_windows([words], tokenizer, 18, lambda length, room, cut=cut: cut(length, room, 4))
        assert sorted(w for window in windows for _, w in window.heads) == list(range(80))
        assert max(len(w.ids) for w in windows) <= 18
    (short,) = make_windows([words], tokenizer, 18, cut_off)
    assert len(short.heads) < 80


def test_texts_are_sentences_one_after_the_other():
    a, b, c = Sentence(("x", "y"), ("O", "B-A")), Sentence(("z",), ("O",)), Sentence(("w",), ("B-A",))
    assert joined([a, b, c], 2) == [Sentence(("x", "y", "z"), ("O", "B-A", "O")), c]
