"""Prose to sentences and words: offsets are exact on any text, and the cases that splitters get wrong come out right."""

import random
from itertools import groupby

import pytest

from course_lib.data.natural import load_natural
from course_lib.data.words import split_sentences, split_words

MARKS = "aAbBzZ.'’\"“”-‐‑1 9,:@#!?…\n\t\r\x0b\x1c \u00a0\u2028\u0085é日ß\ufe0f\ufffd\u200bn't s(){}[]»/\u0301\x00\x1f\u3000İǅ😀"
PIECES = ["Dr", "U.S.", "No", "n't", "'s", "www.a.b", "http://", "a@b.co", "J.", "...", "--", "etc", "e.g", "7:30", "O'", " "]


def random_text(rng, alphabet):
    if alphabet == "marks":
        return "".join(rng.choice(MARKS) for _ in range(rng.randrange(60)))
    if alphabet == "pieces":
        return "".join(rng.choice(PIECES) if rng.random() < 0.5 else rng.choice(MARKS) for _ in range(rng.randrange(30)))
    points = (rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))) for _ in range(rng.randrange(60)))
    return "".join(map(chr, points))


@pytest.mark.parametrize("alphabet", ["marks", "pieces", "unicode"])
def test_offsets_are_exact_and_only_white_space_is_left_out(alphabet):
    rng = random.Random(alphabet)
    for _ in range(3000):
        text = random_text(rng, alphabet)
        sentences = split_sentences(text)
        assert all(sentences)
        for words in (split_words(text), [w for s in sentences for w in s]):
            position = 0
            for word in words:
                assert word.start >= position and word.end > word.start
                assert text[word.start : word.end] == word.text
                assert not text[position : word.start].strip()
                assert not any(c.isspace() for c in word.text)
                position = word.end
            assert not text[position:].strip()


def test_splitting_the_natural_prose_gives_its_gold_words():
    wrong = [
        (gold, found)
        for n in load_natural()
        if (found := tuple(w.text for w in split_words(n.prose))) != (gold := n.sentence.words)
    ]
    assert wrong == []


def test_natural_passages_are_split_where_their_sentences_end():
    # Headlines and list items have no full stop and stand on lines of their own. In what is left over, "dir." looks like
    # a sentence end to any splitter that does not know it: below one in fifty.
    right = total = 0
    for _, group in groupby(load_natural(), key=lambda n: n.genre):
        text, starts = "", []
        for n in group:
            if text:
                text += " " if text.endswith((".", "!", "?", '"', ")")) else "\n"
            starts.append(len(text))
            text += n.prose
        found = {s[0].start for s in split_sentences(text)}
        right += len(found & set(starts))
        total += len(found | set(starts))
    assert total >= 400
    assert right / total > 0.95


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ""),
        (" \n\t", ""),
        # abbreviations, initials, letters with full stops
        ("Dr. Lee of St. Ives, Mt. Rainier, vs. Acme Inc.", "Dr. Lee of St. Ives , Mt. Rainier , vs. Acme Inc."),
        ("J. R. R. Tolkien met A. Lee.", "J. R. R. Tolkien met A. Lee ."),
        ("in the U.S. at 9 a.m., e.g. i.e. etc.", "in the U.S. at 9 a.m. , e.g. i.e. etc."),
        ("No. 5 and no. 7, Fig. 2, fig. 3, p. 9", "No. 5 and no. 7 , Fig. 2 , fig. 3 , p. 9"),
        ("Is that a no. I saw an ed.", "Is that a no . I saw an ed ."),
        ("No. He left.", "No . He left ."),
        ("Plan B. it is", "Plan B . it is"),
        # clitics and apostrophes
        ("don't can't won't DON'T don’t", "do n't ca n't wo n't DO N'T do n’t"),
        ("I'm you're we've he'll she'd Maria's I'M", "I 'm you 're we 've he 'll she 'd Maria 's I 'M"),
        ("He wouldn't've. I'd've.", "He would n't 've . I 'd 've ."),
        ("O'Neill L'Oréal D’Angelo O'NEILL", "O'Neill L'Oréal D’Angelo O'NEILL"),
        ("O'Neill's O’Neill’s U.S.'s Inc.'s", "O'Neill 's O’Neill ’s U.S. 's Inc. 's"),
        ("mother-in-law's O'Neill-Smith", "mother-in-law 's O'Neill-Smith"),
        ("the players' bus, rock 'n' roll", "the players ' bus , rock ' n ' roll"),
        ("it was 's and 'd", "it was ' s and ' d"),
        ("done.'s", "done . ' s"),
        # numbers
        ("1,250 3.5 7:30 3rd 1990s 12th.", "1,250 3.5 7:30 3rd 1990s 12th ."),
        ("$40, €3.50, 12%, 5.", "$ 40 , € 3.50 , 12 % , 5 ."),
        ("won 2-1 (1990-95)", "won 2 - 1 ( 1990 - 95 )"),  # a score is three words
        ("a 12-year-old, 19th-century, 2.5-litre 7-Eleven", "a 12-year-old , 19th-century , 2.5-litre 7-Eleven"),
        ("COVID-19 F-16 5km 3M 49ers", "COVID-19 F-16 5km 3M 49ers"),
        # hyphens, dashes, dots
        ("two-year Franco‑German a-b-c", "two-year Franco‑German a-b-c"),
        ("yes--no - so... well…", "yes -- no - so ... well …"),
        # addresses
        ("See http://a.b/c?d=e,f. (https://y.z/w)", "See http://a.b/c?d=e,f . ( https://y.z/w )"),
        ("www.x.org, <http://q.r>!", "www.x.org , < http://q.r > !"),
        ("ann.b+c@mail.example.co.uk. @ann #tag_1 a@b", "ann.b+c@mail.example.co.uk . @ann #tag_1 a @b"),
        ("(He said: \"Go!\")", '( He said : " Go ! " )'),
        # other scripts and marks
        ("Ægir naïve Zürich 東京", "Ægir naïve Zürich 東京"),
        ("ok 👍🏽 \ufe0f", "ok 👍 🏽 \ufe0f"),
    ],
)  # fmt: skip
def test_words(text, words):
    assert [w.text for w in split_words(text)] == words.split()


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("Mr. Wu left. Did he? Yes! Well… Sure", ["Mr. Wu left .", "Did he ?", "Yes !", "Well …", "Sure"]),
        ("one line\nanother\r\nthird\n\n", ["one line", "another", "third"]),
        ("form\x0cfeed\u2028line\u0085x", ["form feed line x"]),  # only line feeds end lines
        ("He came from the U.S. Army. J. Smith did.", ["He came from the U.S. Army .", "J. Smith did ."]),
        ("It cost 3.5. 40 came.", ["It cost 3.5 .", "40 came ."]),
        # a full stop that is both: of the abbreviation and of the sentence
        ("He left the U.S. She stayed. He met U.S. Senators.", ["He left the U.S.", "She stayed .", "He met U.S. Senators ."]),
        ("It began at 9 p.m. The U.S. in May was hot.", ["It began at 9 p.m.", "The U.S. in May was hot ."]),
        ('"We left the U.S." Then he slept.', ['" We left the U.S. "', "Then he slept ."]),
        # list items
        ("1. Open the lid. 2. Close it.", ["1 . Open the lid .", "2 . Close it ."]),
        ("a. Ann\nb. Bob", ["a . Ann", "b . Bob"]),
        ("In 1990. 12 came.", ["In 1990 .", "12 came ."]),
        ("the end. and so on", ["the end . and so on"]),
        ("Really?! No!!! Yes?? ok", ["Really ? !", "No ! ! !", "Yes ? ? ok"]),
        ("Wait... What?", ["Wait ...", "What ?"]),
        # quotes: the closing one belongs to the sentence before it, the opening one to the sentence after it
        ('"Stop!" she cried. He ran.', ['" Stop ! " she cried .', "He ran ."]),
        ('He said "Go. Now." Then left.', ['He said " Go .', 'Now . "', "Then left ."]),
        ('"Go." "Now." Ann left.', ['" Go . "', '" Now . "', "Ann left ."]),
        ('He said "Go. Now." "Then," she said.', ['He said " Go .', 'Now . "', '" Then , " she said .']),
        ('He left. "Go," she said. "Now!"', ["He left .", '" Go , " she said .', '" Now ! "']),
        ('She said " Go . " He left .', ['She said " Go . "', "He left ."]),
        ("“Stop!” she cried. “No.” He ran.", ["“ Stop ! ” she cried .", "“ No . ”", "He ran ."]),
        ("He said 'go.' She went. 'Yes.'", ["He said ' go . '", "She went .", "' Yes . '"]),
        ("(He left.) She stayed. [Yes.]", ["( He left . )", "She stayed .", "[ Yes . ]"]),
        ('("Go.") He went.', ['( " Go . " )', "He went ."]),
    ],
)
def test_sentences(text, sentences):
    assert [" ".join(w.text for w in s) for s in split_sentences(text)] == sentences


def test_a_long_line_of_quotes_or_dots_is_split_all_the_same():
    for text in ("'" * 3000, '."' * 1500, "." * 3000):
        assert "".join(w.text for s in split_sentences(text) for w in s) == text
