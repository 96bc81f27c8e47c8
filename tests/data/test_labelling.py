"""Tests of course_lib/data/labelling.py: labels for word pieces, right and wrong."""

import pytest

from course_lib.data.align import IGNORED, make_windows, window_labels
from course_lib.data.labelling import all_pieces, by_position, first_pieces, pieces_of, rest_outside, specials_outside
from course_lib.models.zoo import find_encoder, load_tokenizer

INDEX = {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3}
WORDS, TAGS = ("Wilhelmina", "\ufe0f", "Oldenkamp", "visited", "Reykjavik"), ("B-PER", "I-PER", "I-PER", "O", "B-LOC")
WAYS = (first_pieces, by_position, all_pieces, rest_outside, specials_outside)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_encoder("minilm"))


def test_first_pieces_are_the_labels_of_the_librarys_windows(tokenizer):
    _, ids, word_ids = pieces_of(WORDS, tokenizer)
    (window,) = make_windows([WORDS], tokenizer)
    assert tuple(ids) == window.ids
    assert first_pieces(word_ids, TAGS, INDEX) == window_labels(window, TAGS, INDEX)


def test_pieces_know_their_words(tokenizer):
    pieces, ids, word_ids = pieces_of(WORDS, tokenizer)
    assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]" and word_ids[0] is word_ids[-1] is None
    assert len(pieces) == len(ids) == len(word_ids) > len(WORDS)
    assert 1 not in word_ids  # a variation selector has no piece


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_a_label_for_each_piece(way, tokenizer):
    _, _, word_ids = pieces_of(WORDS, tokenizer)
    labels = way(word_ids, TAGS, INDEX)
    assert len(labels) == len(word_ids) and set(labels) <= {IGNORED, *INDEX.values()}


def test_the_ways_agree_where_a_word_is_a_piece_and_special_pieces_are_left_out():
    word_ids, tags = [None, 0, 1, 2, None], ["B-LOC", "O", "B-PER"]
    assert [way(word_ids, tags, INDEX)[1:-1] for way in WAYS] == [[3, 0, 1]] * 5
    assert [way(word_ids, tags, INDEX)[0] for way in WAYS] == [IGNORED] * 4 + [0]


def test_the_wrong_ways_differ_on_a_name_in_pieces():
    word_ids, tags = [None, 0, 0, 1, 1, None], ["B-PER", "I-PER"]
    assert first_pieces(word_ids, tags, INDEX) == [-100, 1, -100, 2, -100, -100]
    assert by_position(word_ids, tags, INDEX) == [-100, 1, 2, 0, 0, -100]
    assert all_pieces(word_ids, tags, INDEX) == [-100, 1, 1, 2, 2, -100]
    assert rest_outside(word_ids, tags, INDEX) == [-100, 1, 0, 2, 0, -100]
    assert specials_outside(word_ids, tags, INDEX) == [0, 1, 0, 2, 0, 0]
