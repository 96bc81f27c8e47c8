"""Changed copies: what stays, what changes, how often, and that the draws are reproducible."""

from collections import Counter

import pytest

from course_lib.data.augment import changed_copies, names_by_type
from course_lib.data.conll import Sentence

CORPUS = [
    Sentence(("Ana", "Ruiz", "met", "Bo", "in", "Rome"), ("B-PER", "I-PER", "O", "B-PER", "O", "B-LOC")),
    Sentence(("It", "rained", "in", "Oslo", "."), ("O", "O", "O", "B-LOC", "O")),
]


def test_names_are_collected_by_type_as_often_as_they_occur():
    assert names_by_type(CORPUS + CORPUS[1:]) == {"PER": [("Ana", "Ruiz"), ("Bo",)], "LOC": [("Rome",), ("Oslo",), ("Oslo",)]}


def test_nothing_changes_when_nothing_may():
    assert changed_copies(CORPUS, 2, 0, swap=0.0, replace=0.0) == [s.words for s in CORPUS] * 2


def test_swapped_names_are_of_the_same_type_and_all_other_words_stay():
    seen = Counter()
    for first, second in zip(*[iter(changed_copies(CORPUS, 200, 0, swap=1.0, replace=0.0))] * 2, strict=True):
        assert second in {("It", "rained", "in", place, ".") for place in ("Rome", "Oslo")}
        people = ("Ana Ruiz", "Bo")
        assert " ".join(first) in {f"{a} met {b} in {c}" for a in people for b in people for c in ("Rome", "Oslo")}
        seen[second] += 1
    # 200 fair draws: a share below a quarter has probability under exp(−2·200·0.25²) < 1e-10 (Hoeffding); the seed is fixed
    assert min(seen.values()) > 50


def test_replaced_words_come_from_outside_entities_and_keep_the_length():
    outside = {"met", "in", "It", "rained", "."}
    copies = changed_copies(CORPUS, 50, 1, swap=0.0, replace=1.0)
    for words, sentence in zip(copies, CORPUS * 50, strict=True):
        assert len(words) == len(sentence.words)
        for word, old, tag in zip(words, sentence.words, sentence.tags, strict=True):
            assert word in outside if tag == "O" else word == old
    assert len(set(copies)) > 20


def test_equal_seeds_give_equal_copies_and_more_copies_begin_alike():
    three = changed_copies(CORPUS, 3, 5)
    assert changed_copies(CORPUS, 3, 5) == three and changed_copies(CORPUS, 1, 5) == three[:2]
    assert changed_copies(CORPUS * 20, 3, 6) != changed_copies(CORPUS * 20, 3, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"copies": 0}, "copies = 0"), ({"swap": 1.5}, r"swap = 1\.5"), ({"replace": -0.1}, r"replace = -0\.1")],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        changed_copies(CORPUS, **({"copies": 1, "seed": 0} | arguments))
