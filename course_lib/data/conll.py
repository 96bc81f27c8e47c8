"""CoNLL column files: reading with errors that name the line, and writing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.artifacts import write_text
from course_lib.data.tags import IllegalTag, detect_scheme, split_tag, to_iob2
from course_lib.errors import CourseError


@dataclass(frozen=True)
class Sentence:
    """Words and their IOB2 tags, one per word."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass
class ConllFile:
    """What a file held: its sentences in IOB2, the scheme it was written in, and repaired tags."""

    sentences: list[Sentence]
    scheme: str
    repaired: int = 0
    documents: int = 0


@dataclass
class _Raw:
    """A sentence as it stands in the file, with the line of each word for error messages."""

    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def read_conll(path: Path | str, repair: bool = False) -> ConllFile:
    """Read a file of columns: first the word, last the tag, a blank line between sentences.

    Tabs or spaces, any number of columns, ``-DOCSTART-`` lines, CRLF and a byte-order mark are
    understood; IOB1 and BIOES are recognised and converted to IOB2.

    Args:
        path: the file, UTF-8.
        repair: mend illegal tag transitions instead of stopping; the result says how many.
    Raises:
        CourseError: not a text file, no sentence in it, a line without a tag, an unknown tag, or an
            illegal transition; the message gives file, line, what was found and what was expected.
    """
    path = Path(path)
    raw, documents = _read_lines(path)
    if not raw:
        raise CourseError(f"{path}: no sentence found. Expected lines of word and tag, a blank line between sentences.")
    scheme = detect_scheme(s.tags for s in raw)
    sentences, repaired = [], 0
    for s in raw:
        try:
            tags, mended = to_iob2(s.tags, scheme, repair)
        except IllegalTag as error:
            raise CourseError(
                f"{path}, line {s.lines[error.position]}: {error}. "
                "Correct the line, or read with repair=True (--repair) to mend such tags and count them."
            ) from error
        sentences.append(Sentence(tuple(s.words), tuple(tags)))
        repaired += mended
    return ConllFile(sentences, scheme, repaired, documents)


def _read_lines(path: Path) -> tuple[list[_Raw], int]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CourseError(f"Cannot read {path}: {error.strerror}.") from error
    if b"\0" in data[:65536]:
        raise CourseError(f"{path}: a binary file (it holds NUL bytes). Expected UTF-8 text in CoNLL columns.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CourseError(f"{path}, line {line}: not UTF-8 ({error.reason}). Convert the file to UTF-8.") from error
    sentences, current, documents = [], _Raw(), 0
    # Not splitlines(): words may hold U+0085 or U+2028, which it would take for line ends.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        line = line.strip(" \t")
        columns = line.split("\t") if "\t" in line else line.split(" ")
        columns = [c for c in (c.strip(" ") for c in columns) if c]
        if not columns or columns[0].startswith("-DOCSTART-"):
            documents += bool(columns)
            if current.words:
                sentences.append(current)
                current = _Raw()
            continue
        if len(columns) < 2:
            raise CourseError(
                f"{path}, line {number}: found one column ({columns[0][:40]!r}), expected at least two: "
                "the word first and its tag last, separated by a tab or spaces."
            )
        try:
            split_tag(columns[-1])
        except ValueError as error:
            raise CourseError(f"{path}, line {number}: {error}.") from error
        current.words.append(columns[0])
        current.tags.append(columns[-1])
        current.lines.append(number)
    if current.words:
        sentences.append(current)
    return sentences, documents


def format_conll(sentences: Iterable[Sentence]) -> str:
    """Text of a two-column file: word TAB tag, LF, a blank line after each sentence."""
    return "".join("".join(f"{w}\t{t}\n" for w, t in zip(s.words, s.tags, strict=True)) + "\n" for s in sentences)


def write_conll(path: Path | str, sentences: Sequence[Sentence]) -> None:
    """Write sentences as a two-column IOB2 file, atomically.

    Raises:
        ValueError: what no reader could get back: a sentence without words, or a word that is empty, starts or ends
            with a space, holds a tab or line end, or starts like a ``-DOCSTART-`` line.
    """
    for i, sentence in enumerate(sentences):
        if not sentence.words:
            raise ValueError(f"sentences[{i}] has no words: expected at least one, a file cannot hold an empty sentence")
        for word in sentence.words:
            if word != word.strip(" ") or not word or set(word) & set("\t\n\r") or word.startswith("-DOCSTART-"):
                raise ValueError(
                    f"sentences[{i}] has the word {word!r}: expected no tab, no line end, no space around it, not empty, "
                    "not -DOCSTART-"
                )
    write_text(path, format_conll(sentences))
