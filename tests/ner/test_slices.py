"""Tests of course_lib/ner/slices.py: what became of each entity, recall by slices, Wilson's interval."""

import pytest

from course_lib.data.conll import Sentence
from course_lib.data.tags import Span
from course_lib.ner.slices import OUTCOMES, Found, gold_entities, outcome, recall_by, wilson


def test_every_outcome_is_told_apart():
    gold = Span(1, 3, "PER")
    cases = {
        "right": [Span(1, 3, "PER")], "wrong type": [Span(1, 3, "LOC")], "wrong boundaries": [Span(2, 3, "PER")], "missed": [Span(3, 4, "PER")],
    }  # fmt: skip
    assert {name: outcome(gold, predicted) for name, predicted in cases.items()} == {name: name for name in OUTCOMES}


def test_entities_know_their_words_and_whether_training_has_them():
    training = [Sentence(("ANA", "Ruiz", "left"), ("B-PER", "I-PER", "O"))]
    sentences = [Sentence(("Ana", "Ruiz", "in", "Left"), ("B-PER", "I-PER", "O", "B-LOC"))]
    found = gold_entities(sentences, [["B-PER", "I-PER", "O", "O"]], training)
    assert found == [
        Found(0, Span(0, 2, "PER"), "Ana Ruiz", "right", True),
        Found(0, Span(3, 4, "LOC"), "Left", "missed", False),
    ]


def test_recall_counts_the_right_ones_of_each_slice():
    entities = [Found(0, Span(0, 1, t), "x", o, False) for t, o in (("A", "right"), ("A", "missed"), ("B", "right"))]
    table = recall_by(entities, lambda e: e.span.type)
    assert list(table) == ["A", "B"] and table["A"][0] == 0.5 and table["A"][3] == 2
    assert table["B"] == (1.0, *wilson(1, 1), 1)


@pytest.mark.oracles
def test_wilson_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for right, count in ((0, 5), (3, 10), (400, 400)):
        theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
        assert wilson(right, count) == pytest.approx((theirs.low, theirs.high), abs=2e-5)  # z = 1.96 is 1.95996 cut short


def test_wilson_wants_a_share():
    for right, count in ((3, 2), (0, 0), (-1, 4)):
        with pytest.raises(ValueError, match="right"):
            wilson(right, count)
