"""Tests of course_lib/ner/written_out.py: counts as seqeval's and as the library's, the interval as the library's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from course_lib.data.tags import to_iob2
from course_lib.ner.evaluate import counts, f1_interval
from course_lib.ner.written_out import bootstrap_interval, entity_counts, token_accuracy

TAGS = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), min_size=1, max_size=8)
PAIRS = st.lists(TAGS.flatmap(lambda a: st.tuples(st.just(a), st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B"]), min_size=len(a), max_size=len(a)))), min_size=1, max_size=5)  # fmt: skip


@given(PAIRS)
def test_counts_are_the_librarys_and_give_seqevals_f1(pairs):
    gold, predicted = ([to_iob2(side, "IOB2", repair=True)[0] for side in sides] for sides in zip(*pairs, strict=True))
    rows = [entity_counts(g, p) for g, p in zip(gold, predicted, strict=True)]
    assert rows == [tuple(row) for row in counts(gold, predicted).tolist()]
    right, found, true = map(sum, zip(*rows, strict=True))
    if found + true:
        theirs = f1_score(gold, predicted, mode="strict", scheme=IOB2, zero_division=0)
        assert 2 * right / (found + true) == pytest.approx(theirs, abs=1e-12)  # fractions of small whole numbers


def test_accuracy_counts_words_o_included():
    assert token_accuracy([["O", "B-A"], ["O", "O"]], [["O", "O"], ["O", "O"]]) == 0.75
    with pytest.raises(ValueError, match="gold"):
        token_accuracy([], [])


def test_counts_want_tags_of_the_same_words():
    with pytest.raises(ValueError, match="predicted = 1: expected 2 tags"):
        entity_counts(["O", "O"], ["O"])


def test_the_interval_is_the_librarys_up_to_the_luck_of_the_draw():
    g = torch.Generator().manual_seed(0)
    gold = [["B-A", "O"]] * 300
    predicted = [["B-A", "O"] if torch.rand((), generator=g) < 0.7 else ["O", "B-A"] for _ in gold]
    table = torch.from_numpy(counts(gold, predicted))
    low, high = bootstrap_interval(table, torch.randint(0, 300, (4000, 300), generator=g))
    # F1 of 300 sentences is spread by √(.7·.3/300) = .026. A 2.5 % quantile of n draws has a spread of about √(.025·.975/n) / .058 / …
    # = .07 of that for n = 4 000 and .13 for the library's 1 000: .004 together, and four times that is beyond luck.
    assert [low, high] == pytest.approx(f1_interval(gold, predicted)[1:], abs=0.016)


def test_equal_draws_have_no_spread_and_sums_come_before_the_ratio():
    table = torch.tensor([[1, 1, 2], [0, 2, 1], [0, 0, 0]])
    low, high = bootstrap_interval(table, torch.tensor([[0, 1, 2]] * 3))
    assert low == high == pytest.approx(2 / 6)
    assert bootstrap_interval(table, torch.tensor([[2, 2, 2]])) == (0.0, 0.0)


def test_counts_have_three_columns():
    with pytest.raises(ValueError, match="counts"):
        bootstrap_interval(torch.zeros(4, 2, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
