"""The grammar of frames: what each construct expands to, and that mistakes are named with file and line."""

import random
from collections import Counter

import pytest

from course_lib.data.grammar import Choice, Expander, last_name, parse, read_grammar
from course_lib.errors import CourseError


@pytest.fixture
def grammar(tmp_path):
    """Write a frame file and read it."""

    def read(text, shared=None):
        (tmp_path / "sport.txt").write_text(text, "utf-8")
        return read_grammar(tmp_path / "sport.txt", shared or {})

    return read


def expander(productions=None, seed=0, names=None):
    names = names or {"per.full": ["Ana", "van", "Berg"], "loc.city": ["New", "Delhi"], "org.club": ["Leeds"]}
    return Expander(productions or {}, lambda kind: names[kind], random.Random(seed))


def expansions(text, productions=None, count=300):
    """How often each sentence of a frame is drawn."""
    made = expander(productions)
    return Counter(" ".join(word for word, _ in made.frame(text)) for _ in range(count))


def test_plain_words_slots_and_literals():
    text = "Then {per.full} -LRB- {org.club} -RRB- left \\@ann \\-LRB- {loc.city} , @ 5 }"
    assert expander().frame(text) == [
        ("Then", "O"),
        *[("Ana", "B-PER"), ("van", "I-PER"), ("Berg", "I-PER")],
        *[("(", "O"), ("Leeds", "B-ORG"), (")", "O"), ("left", "O"), ("@ann", "O"), ("-LRB-", "O")],
        *[("New", "B-LOC"), ("Delhi", "I-LOC"), (",", "O"), ("@", "O"), ("5", "O"), ("}", "O")],
    ]


def test_choices_may_nest_and_be_empty_and_each_alternative_is_drawn_as_often():
    drawn = expansions("a ( b | ( c | d ) e | ) f", count=3000)
    assert set(drawn) == {"a b f", "a c e f", "a d e f", "a f"}
    # binomial: 5 standard deviations of sqrt(3000 * p * (1 - p)) < 26 are below 130
    assert abs(drawn["a b f"] - 1000) < 130 and abs(drawn["a f"] - 1000) < 130
    assert abs(drawn["a c e f"] - 500) < 130


def test_a_bar_at_the_top_is_a_choice_between_whole_frames():
    assert set(expansions("a b | c")) == {"a b", "c"}


def test_productions_expand_anew_each_time_and_may_use_others():
    productions = {"@n": Choice((("1",), ("2",))), "@pair": Choice((("@n", "-", "@n"),))}
    assert set(expansions("@pair !", productions)) == {"1 - 1 !", "1 - 2 !", "2 - 1 !", "2 - 2 !"}


def test_remembered_names_come_back_verbatim_tagged_and_by_last_name():
    names = iter([["Ana", "van", "Berg"], ["Ivo", "Lee"]])
    made = Expander({}, lambda kind: next(names), random.Random(0))
    assert made.frame("{per=x} met {per=y} ; {=x} , {=x.last} and {=y.last}") == [
        *[("Ana", "B-PER"), ("van", "I-PER"), ("Berg", "I-PER"), ("met", "O"), ("Ivo", "B-PER"), ("Lee", "I-PER")],
        *[(";", "O"), ("Ana", "B-PER"), ("van", "I-PER"), ("Berg", "I-PER"), (",", "O")],
        *[("van", "B-PER"), ("Berg", "I-PER"), ("and", "O"), ("Lee", "B-PER")],
    ]


def test_a_name_is_remembered_for_one_sentence_only():
    made = expander()
    made.frame("{org.club=x}")
    with pytest.raises(CourseError, match=r"slot \{=x\} comes before \{kind=x\}"):
        made.frame("{=x}")


@pytest.mark.parametrize(
    "frame, message",
    [
        ("a @nope b", "production @nope is not defined; a literal handle is written \\@nope"),
        ("{=x} {per.full=x}", "slot {=x} comes before {kind=x}"),
        ("{per.full=x} {=x.first}", "slot {=x.first}: expected {=x} or {=x.last}"),
        ("a ( b | c", "a '(' is never closed. Literal parentheses are written -LRB- and -RRB-."),
        ("a ( b ( c )", "a '(' is never closed."),
        ("a ) b", "a ')' without its '('. Literal parentheses are written -LRB- and -RRB-."),
        ("( a ) )", "a ')' without its '('."),
    ],
)
def test_a_mistake_in_a_frame_is_named(frame, message):
    with pytest.raises(CourseError) as error:
        expander().frame(frame)
    assert message in str(error.value)


def test_parsing_keeps_the_structure():
    assert parse("a ( b | c d ) e", "here") == ("a", Choice((("b",), ("c", "d"))), "e")
    assert parse("", "here") == ()


def test_a_file_holds_frames_productions_and_comments(grammar):
    read = grammar(
        "# comment\n\n@x = a | b c\n  | d\n  | ( e | )\n- one @x\n  \n- two ( @y | )\r\n", {"@y": Choice((("why",),))}
    )
    assert read.domain == "sport"
    assert read.frames == ["one @x", "two ( @y | )"]
    assert set(read.productions) == {"@x", "@y"}
    assert set(expansions("@x", read.productions)) == {"a", "b c", "d", "e", ""}


def test_a_domains_own_production_hides_the_shared_one_and_leaves_it_alone(grammar):
    shared = {"@x": Choice((("shared",),))}
    assert set(expansions("@x", grammar("@x = own\n", shared).productions)) == {"own"}
    assert shared == {"@x": Choice((("shared",),))}


@pytest.mark.parametrize(
    "text, message",
    [
        ("# fine\nplain words\n", "sport.txt, line 2: found 'plain words'; expected '- frame', '@name = a | b' or '# comment'"),
        ("-no space\n", "sport.txt, line 1: found '-no space'"),
        ("-\n", "sport.txt, line 1: found '-'"),
        ("@name=a\n", "sport.txt, line 1: found '@name=a'"),
        ("- ok\n- a ( b\n", "sport.txt, line 2: a '(' is never closed"),
        ("@a = x\n\n@b = x ) y\n", "sport.txt, line 3: a ')' without its '('"),
        ("@a = x\n  | ( y\n", "sport.txt, line 1: a '(' is never closed"),
        ("  | x\n", "sport.txt, line 1: a line that starts with '  |' goes on a production"),
        ("- a\n  | b\n", "sport.txt, line 2: a line that starts with '  |' goes on a production"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(grammar, text, message):
    with pytest.raises(CourseError) as error:
        grammar(text)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "full, last",
    [
        ("Ana Prado", "Prado"),
        ("Plato", "Plato"),
        ("Ana van der Berg", "van der Berg"),
        ("Vincent Van Gogh", "Van Gogh"),
        ("Van Gogh", "Gogh"),  # the first word is a first name, whatever it looks like
        ("Sammy Davis Jr.", "Davis"),
        ("Pieter van Dam III", "van Dam"),
        ("Ana Maria Prado Lee", "Lee"),
    ],
)
def test_last_names_keep_particles_and_lose_suffixes(full, last):
    assert last_name(full.split()) == last.split()
