"""The natural test set: prose and words agree character by character, and it is what the course says it is."""

from collections import Counter

import pytest

from course_lib.data.conll import Sentence
from course_lib.data.generated import generate
from course_lib.data.natural import NaturalSentence, load_natural
from course_lib.data.tags import Span, spans, to_iob2


@pytest.fixture(scope="module")
def natural():
    return load_natural()


def test_sentences_have_3_to_60_words(natural):
    lengths = {n.prose: sum(any(c.isalnum() for c in w) for w in n.sentence.words) for n in natural}  # marks are no words
    assert [prose for prose, length in lengths.items() if not 3 <= length <= 60] == []


def test_size_and_types(natural):
    assert len(natural) >= 400
    types = Counter(s.type for n in natural for s in spans(n.sentence.tags))
    assert set(types) == {"PER", "LOC", "ORG", "MISC"}
    assert min(types.values()) >= 100  # enough of each for a figure by type


def test_all_tags_are_legal_iob2(natural):
    for n in natural:
        assert to_iob2(n.sentence.tags, "IOB2") == (list(n.sentence.tags), 0)


def test_prose_and_words_agree_but_for_white_space(natural):
    for n in natural:
        assert "".join(n.prose.split()) == "".join(n.sentence.words)
        assert n.prose == n.prose.strip() and n.prose


def test_character_spans_spell_the_words_of_their_entities(natural):
    for n in natural:
        # oracle: the place of every character that is no white space
        places = [i for i, c in enumerate(n.prose) if not c.isspace()]
        ends = [0]
        for word in n.sentence.words:
            ends.append(ends[-1] + len(word))
        expected = [Span(places[ends[a]], places[ends[b] - 1] + 1, kind) for a, b, kind in spans(n.sentence.tags)]
        assert n.character_spans() == expected
        for span, (a, b, _) in zip(n.character_spans(), spans(n.sentence.tags), strict=True):
            assert "".join(n.prose[span.start : span.end].split()) == "".join(n.sentence.words[a:b])


def test_a_word_that_occurs_twice_is_found_at_its_own_place():
    n = NaturalSentence(
        "x",
        "An Ana, Ana left An.",
        Sentence(("An", "Ana", ",", "Ana", "left", "An", "."), tuple("O" * 3) + ("B-PER", "O", "B-LOC", "O")),
    )
    assert n.character_spans() == [Span(8, 11, "PER"), Span(17, 19, "LOC")]


def test_no_sentence_twice_and_none_that_is_generated(natural):
    words = {n.sentence.words for n in natural}
    assert len(words) == len(natural)
    corpus = generate(0)
    assert words.isdisjoint(s.words for part in (corpus.train, corpus.validation, corpus.test) for s in part)


def test_it_is_varied(natural):
    genres = Counter(n.genre for n in natural)
    assert len(genres) >= 8 and max(genres.values()) < len(natural) / 2
    assert all(g and g == g.strip() for g in genres)
    assert sum(not spans(n.sentence.tags) for n in natural) >= 40  # text without names is text too
