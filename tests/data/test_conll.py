"""CoNLL files: every layout people write is read alike, what is wrong is named with its line, and writing loses nothing."""

import random

import pytest

from course_lib.data.conll import Sentence, format_conll, read_conll, write_conll
from course_lib.errors import CourseError

SENTENCES = [
    Sentence(("Ana", "Prado", "left", "Leeds"), ("B-PER", "I-PER", "O", "B-LOC")),
    Sentence(("?",), ("O",)),
    Sentence(("Lyon", "Nice", "Bank"), ("B-LOC", "B-LOC", "B-ORG")),
]


def read(tmp_path, content, **options):
    path = tmp_path / "file.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_conll(path, **options)


def failure(tmp_path, content, **options):
    with pytest.raises(CourseError) as error:
        read(tmp_path, content, **options)
    return str(error.value).replace(str(tmp_path / "file.txt"), "FILE")


@pytest.mark.parametrize("columns", [2, 3, 4, 7])
@pytest.mark.parametrize("separator", ["\t", " ", "   ", " \t "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_any_separator_number_of_columns_line_end_and_byte_order_mark(tmp_path, columns, separator, end, start):
    lines = []
    for s in SENTENCES:
        lines += [separator.join([w, *["NN"] * (columns - 2), t]) for w, t in zip(s.words, s.tags, strict=True)] + [""]
    file = read(tmp_path, start + end.join(lines).encode())
    assert file.sentences == SENTENCES
    assert (file.scheme, file.repaired, file.documents) == ("IOB2", 0, 0)


def test_document_lines_part_sentences_and_are_counted(tmp_path):
    text = "-DOCSTART- -X- -X- O\n\na O\n-DOCSTART-\nb O\n\n-DOCSTART- O\n\n"
    file = read(tmp_path, text)
    assert [s.words for s in file.sentences] == [("a",), ("b",)]
    assert file.documents == 3


@pytest.mark.parametrize("text", ["a O\n\nb O", "\n\na O\n \n\t\n\nb O\n\n\n", "a O \n   \nb\t O\t\n"])
def test_blank_lines_at_any_place_and_a_missing_last_line_end(tmp_path, text):
    assert [s.words for s in read(tmp_path, text).sentences] == [("a",), ("b",)]


def test_a_word_may_hold_spaces_where_tabs_part_the_columns(tmp_path):
    assert read(tmp_path, "New York\tx\tB-LOC\n").sentences == [Sentence(("New York",), ("B-LOC",))]


@pytest.mark.parametrize("character", ["\u0085", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\u00a0", "\ufe0f", "\u3000"])
def test_characters_some_take_for_line_ends_or_blanks_are_words(tmp_path, character):
    file = read(tmp_path, f"a{character}b\tB-PER\n{character}\tI-PER\n")
    assert file.sentences == [Sentence((f"a{character}b", character), ("B-PER", "I-PER"))]


@pytest.mark.parametrize(
    "scheme, tags",
    [
        ("IOB1", "I-PER I-PER B-PER O I-LOC"),
        ("BIOES", "B-PER E-PER S-PER O S-LOC"),
        ("BIOES", "B-PER L-PER U-PER O U-LOC"),
        ("IOB2", "B-PER I-PER B-PER O B-LOC"),
    ],
)
def test_every_scheme_is_recognised_and_converted(tmp_path, scheme, tags):
    file = read(tmp_path, "".join(f"w{i} {t}\n" for i, t in enumerate(tags.split())))
    assert file.scheme == scheme
    assert file.sentences[0].tags == ("B-PER", "I-PER", "B-PER", "O", "B-LOC")
    assert file.repaired == 0


@pytest.mark.parametrize(
    "content, expected",
    [
        ("a O\n\nword\n", "FILE, line 3: found one column ('word'), expected at least two"),
        ("a O\n\tB-PER\n", "FILE, line 2: found one column ('B-PER'), expected at least two"),
        ("\ufeffa O\r\nb\r\n", "FILE, line 2: found one column ('b')"),
        ("x" * 99 + "\n", "FILE, line 1: found one column ('" + "x" * 40 + "')"),
        ("a O\nb NN PER\n", "FILE, line 2: tag 'PER': expected O or one of B- I- E- S- followed by an entity type"),
        ("a O\nb B-\n", "FILE, line 2: tag 'B-': expected"),
        ("# text = ok\n1 a O\n", "FILE, line 1: tag 'ok': expected"),
        ("a O\rb O\r", "FILE, line 1: tag 'O\\r': expected"),
        ("a B-PER\n\nb O\nc I-PER\n", "FILE, line 4: I-PER after O: in IOB2, I-PER must follow B-PER or I-PER"),
        ("a O\n\nb S-PER\nc B-PER\nd O\n", "FILE, line 5: O after B-PER: in BIOES"),
        ("a S-PER\nb B-PER\n\nc O\n", "FILE, line 2: the sentence ends inside an entity (B-PER)"),
        ("a I-PER\n\nb O\nc B-PER\n", "FILE, line 1: I-PER after O: in IOB2"),  # IOB1 and IOB2 mixed
        ("a B-PER\nb E-PER\n\nc B-LOC\nd O\n", "FILE, line 5: O after B-LOC: in BIOES"),  # BIOES and IOB2 mixed
        (b"a O\nb O\nNa\xefve B-PER\n", "FILE, line 3: not UTF-8"),
        ("a\tO\n".encode("utf-16"), "FILE: a binary file (it holds NUL bytes). Expected UTF-8 text in CoNLL columns."),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "FILE: a binary file"),
        (b"", "FILE: no sentence found. Expected lines of word and tag"),
        (b"\xef\xbb\xbf", "FILE: no sentence found"),
        ("\n\n -DOCSTART- O\n\n", "FILE: no sentence found"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_what_was_expected(tmp_path, content, expected):
    assert failure(tmp_path, content).startswith(expected)


def test_every_message_about_a_transition_says_how_to_go_on(tmp_path):
    assert "Correct the line, or read with repair=True (--repair)" in failure(tmp_path, "a O\nb I-PER\nc B-LOC\n")


@pytest.mark.parametrize("name", ["absent.txt", "."])
def test_an_unreadable_file_is_named(tmp_path, name):
    with pytest.raises(CourseError, match="Cannot read ") as error:
        read_conll(tmp_path / name)
    assert str(tmp_path) in str(error.value)


def test_repair_mends_and_counts_over_all_sentences(tmp_path):
    text = "a I-PER\nb I-PER\n\nc B-LOC\nd I-PER\ne I-PER\n\nf O\ng B-PER\n"
    assert "line 1" in failure(tmp_path, text)
    file = read(tmp_path, text, repair=True)
    assert [s.tags for s in file.sentences] == [("B-PER", "I-PER"), ("B-LOC", "B-PER", "I-PER"), ("O", "B-PER")]
    assert file.repaired == 2


@pytest.mark.parametrize("content", ["a O\nb\n", "a PER\n", b"\xff\n", ""])
def test_repair_does_not_excuse_a_broken_file(tmp_path, content):
    failure(tmp_path, content, repair=True)


def random_sentences(seed):
    """Sentences of random Unicode words, with any character a file can hold."""
    rng = random.Random(seed)

    def word():
        code_points = rng.choice((rng.randrange(33, 127), rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000)))
        return chr(code_points)

    for _ in range(50):
        words = []
        while len(words) < rng.randrange(1, 12):
            w = "".join(word() for _ in range(rng.randrange(1, 9))).strip(" ")
            if w and not set(w) & set("\t\n\r") and not w.startswith("\ufeff"):
                words.append(w)
        if words:
            yield Sentence(tuple(words), tuple(rng.choice(("O", "B-PER", "B-creative-work")) for _ in words))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_written_is_read_back_the_same(tmp_path, seed):
    sentences = list(random_sentences(seed))
    assert len(sentences) > 30
    write_conll(tmp_path / "a.txt", sentences)
    assert read_conll(tmp_path / "a.txt").sentences == sentences
    assert (tmp_path / "a.txt").read_bytes() == format_conll(sentences).encode()


def test_the_format_is_word_tab_tag_and_a_blank_line(tmp_path):
    write_conll(tmp_path / "a.txt", SENTENCES[:2])
    assert (tmp_path / "a.txt").read_bytes() == b"Ana\tB-PER\nPrado\tI-PER\nleft\tO\nLeeds\tB-LOC\n\n?\tO\n\n"


@pytest.mark.parametrize("word", ["", " ", "a\tb", "a\nb", "a\rb", " a", "a ", "-DOCSTART-", "-DOCSTART-x"])
def test_a_word_no_reader_could_get_back_is_refused_and_the_old_file_stays(tmp_path, word):
    path = tmp_path / "a.txt"
    write_conll(path, SENTENCES)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"sentences\[1\] has the word") as error:
        write_conll(path, [SENTENCES[0], Sentence(("ok", word), ("O", "O"))])
    assert repr(word) in str(error.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_sentence_without_words_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sentences\[1\] has no words"):
        write_conll(tmp_path / "a.txt", [SENTENCES[0], Sentence((), ())])
    assert list(tmp_path.iterdir()) == []


def test_words_and_tags_of_different_number_are_refused(tmp_path):
    with pytest.raises(ValueError):
        write_conll(tmp_path / "a.txt", [Sentence(("a", "b"), ("O",))])
    assert list(tmp_path.iterdir()) == []
