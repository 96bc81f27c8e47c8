"""The dictionary baseline: the most frequent type of each name, the longest match from the left, case ignored."""

import random

import pytest

from course_lib.data.conll import Sentence
from course_lib.data.tags import spans, to_iob2
from course_lib.ner.dictionary import build_dictionary, dictionary_tags


def sentence(text, tags):
    return Sentence(tuple(text.split()), tuple(tags.split()))


def test_entries_are_lower_cased_entities_with_their_most_frequent_type():
    dictionary = build_dictionary(
        [
            sentence("Jordan beat JORDAN in New York", "B-PER O B-LOC O B-LOC I-LOC"),
            sentence("jordan and the new york times", "B-LOC O O B-ORG I-ORG I-ORG"),
            sentence("York York", "B-LOC B-PER"),
        ]
    )
    assert dictionary == {
        ("jordan",): "LOC",
        ("new", "york"): "LOC",
        ("new", "york", "times"): "ORG",
        ("york",): "LOC",  # as often PER: the one met first
    }


def test_nothing_is_learnt_from_nothing_and_nothing_found_without_entries():
    assert build_dictionary([]) == {}
    assert build_dictionary([sentence("a b", "O O")]) == {}
    assert dictionary_tags(["a", "b"], {}) == ["O", "O"]
    assert dictionary_tags([], {("a",): "PER"}) == []


@pytest.mark.parametrize(
    "text, tags",
    [
        ("in NEW york", "O B-LOC I-LOC"),
        ("york york", "B-PER B-PER"),
        ("new york times", "B-ORG I-ORG I-ORG"),
        ("new york time", "B-LOC I-LOC O"),
        ("new new york", "O B-LOC I-LOC"),
        ("times", "O"),
    ],
)
def test_the_longest_entry_from_the_left_wins(text, tags):
    dictionary = {("new", "york"): "LOC", ("york",): "PER", ("new", "york", "times"): "ORG"}
    assert dictionary_tags(text.split(), dictionary) == tags.split()


def test_equals_a_brute_force_search_on_random_words():
    rng = random.Random(0)
    for _ in range(500):
        alphabet = "abc"
        entries = {tuple(rng.choices(alphabet, k=rng.randrange(1, 4))): rng.choice(("PER", "LOC")) for _ in range(4)}
        words = rng.choices(alphabet + alphabet.upper(), k=rng.randrange(12))
        tags = dictionary_tags(words, entries)
        assert to_iob2(tags, "IOB2") == (tags, 0)

        free, expected = 0, []
        every = [(i, j) for i in range(len(words)) for j in range(len(words), i, -1)]  # by start, the longest first
        for i, j in every:
            kind = entries.get(tuple(w.lower() for w in words[i:j]))
            if kind and i >= free:
                expected.append((i, j, kind))
                free = j
        assert [tuple(s) for s in spans(tags)] == expected


def test_finds_all_of_its_own_training_entities_where_they_are_unambiguous():
    rng = random.Random(1)
    corpus = []
    for i in range(100):
        words = [f"w{rng.randrange(50)}", f"Name{i}", f"Other{i}", "x", f"Town{i % 7}"]
        corpus.append(Sentence(tuple(words), ("O", "B-PER", "I-PER", "O", "B-LOC")))
    dictionary = build_dictionary(corpus)
    assert [tuple(dictionary_tags(s.words, dictionary)) for s in corpus] == [s.tags for s in corpus]
