"""Labelled texts: what a sequence classifier learns from, as tab-separated files or generated."""

import functools
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from course_lib.artifacts import write_text
from course_lib.data.corpus import Corpus, fill_splits
from course_lib.data.words import split_words
from course_lib.errors import CourseError, expect

FOLDER = Path(__file__).parent / "corpus" / "messages"
SIZES = {"train": 3000, "validation": 600, "test": 1000}
SHARES = (("train", 0.65), ("validation", 0.8), ("test", 1.0))  # where a split ends among frames and phrases


@dataclass(frozen=True)
class Text:
    """A text and its label."""

    text: str
    label: str

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """Its words."""
        return tuple(w.text for w in split_words(self.text))

    @property
    def tags(self) -> tuple[str]:
        """The label as the one tag of the whole text, so that texts are scored as sentences are: F1 is then the accuracy."""
        return (f"B-{self.label}",)


@dataclass
class TextCorpus(Corpus):
    """Training, validation and test texts; see :class:`course_lib.data.corpus.Corpus`."""

    @property
    def task(self) -> str:
        """What a model of this corpus does: it says one label for each text."""
        return "classification"

    @property
    def tags(self) -> list[str]:
        """Labels of a model trained on this corpus, sorted: those of the training texts."""
        return sorted({t.label for t in self.train})

    @property
    def types(self) -> set[str]:
        """The labels, as a set."""
        return {*self.tags}

    def fingerprint(self) -> str:
        """sha256 over all texts in order: equal only for equal data."""
        parts = ("".join(f"{t.label}\t{t.text}\n" for t in part) for part in (self.train, self.validation, self.test))
        return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def read_texts(path: Path | str) -> list[Text]:
    """Read a file of texts, one a line: the label, a tab, the text.

    Args:
        path: the file, UTF-8; empty lines are passed over.
    Raises:
        CourseError: no such file, not UTF-8, nothing in it, or a line without a label or a word; the message names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise CourseError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CourseError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Convert the file to UTF-8.") from error
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, tab, text = line.partition("\t")
        if not tab or not label.strip() or not text.strip():
            raise CourseError(f"{path}, line {number}: {line[:40]!r}; expected a label, a tab and a text.")
        texts.append(Text(text.strip(), label.strip()))
    if not texts:
        raise CourseError(f"{path}: no text found. Expected lines of a label, a tab and a text.")
    return texts


def load_texts(where: str, seed: int = 0) -> TextCorpus:
    """Load labelled texts from a folder with ``train.tsv`` and, if there are, ``dev.tsv`` and ``test.tsv``.

    Args:
        where: the folder.
        seed: draws the splits that the folder lacks.
    Raises:
        CourseError: no such folder, a bad file, or a single label.
    """
    folder = Path(where)
    if not (folder / "train.tsv").is_file():
        raise CourseError(f"--data {where}: no train.tsv there. Expected a folder with train.tsv (and dev.tsv, test.tsv).")
    paths = {split: folder / f"{split}.tsv" for split in ("train", "dev", "test")}
    parts = {split: read_texts(path) for split, path in paths.items() if path.is_file()}
    corpus = TextCorpus(folder.resolve().name, *fill_splits(parts, seed), notes=[])
    if len(corpus.tags) < 2:
        raise CourseError(f"{where}: the only label in train.tsv is {corpus.tags[0]!r}; expected two or more.")
    for split, texts in (("validation", corpus.validation), ("test", corpus.test)):
        if unseen := sorted({t.label for t in texts} - set(corpus.tags)):
            corpus.notes.append(f"{split} has labels never seen in training, all of them counted as misses: {unseen}")
    return corpus


def write_texts(path: Path | str, texts: Sequence[Text]) -> None:
    """Write texts as lines of a label, a tab and the text, atomically."""
    write_text(path, "".join(f"{t.label}\t{t.text}\n" for t in texts))


def generate_texts(seed: int = 0, sizes: dict[str, int] | None = None, folder: Path = FOLDER) -> TextCorpus:
    """Make the corpus of messages to a company, labelled by what they are about.

    Frames and phrases of validation and test never occur in training, and many frames name a second topic that the message is
    *not* about. So counting words does badly: a reader must know what phrases mean and which of two counts.

    Args:
        seed: equal seeds give equal corpora on every machine.
        sizes: texts per split, default 3 000 / 600 / 1 000.
        folder: with ``frames.txt`` and ``topics.txt``, to generate from one's own.
    Returns:
        The corpus ``messages``; no text occurs twice in it.
    Raises:
        CourseError: too few frames or phrases for so many different texts.
    """
    sizes = sizes or SIZES
    frames = parted(_lines(folder / "frames.txt"))
    topics = {name: parted(phrases) for name, phrases in read_topics(folder / "topics.txt").items()}
    parts, seen = {}, set()
    for split, _ in SHARES:
        expect(sizes.get(split, 0) > 0, f"sizes[{split!r}]", sizes.get(split), "a number of texts above 0")
        rng, texts, rejected = random.Random(f"{seed}/messages/{split}"), [], 0
        while len(texts) < sizes[split]:
            topic, other = rng.sample(sorted(topics), 2)
            frame = rng.choice(frames[split])
            line = frame.format(topic=rng.choice(topics[topic][split]), other=rng.choice(topics[other][split]))
            text = Text(line[0].upper() + line[1:], topic)
            rejected = rejected + 1 if text.text in seen else 0
            if rejected > 1000:
                raise CourseError(
                    f"{folder}: no new {split} text in 1000 draws after {len(texts)}; ask for fewer, or write more frames."
                )
            if not rejected:
                seen.add(text.text)
                texts.append(text)
        parts[split] = texts
    splits = f"frames and phrases kept apart between train, validation and test; seed {seed}"
    return TextCorpus("messages", parts["train"], parts["validation"], parts["test"], splits)


def parted(lines: Sequence[str]) -> dict[str, list[str]]:
    """Part lines into training, validation and test in the order of their hashes (65, 15 and 20 %)."""
    order = sorted(set(lines), key=lambda line: hashlib.sha256(line.encode()).hexdigest())
    ends = [0, *(round(share * len(order)) for _, share in SHARES)]
    return {split: order[a:b] for (split, _), (a, b) in zip(SHARES, pairwise(ends), strict=True)}


def read_topics(path: Path) -> dict[str, list[str]]:
    """Phrases by topic, from a file of ``[topic]`` lines with a phrase a line below each."""
    topics: dict[str, list[str]] = {}
    for line in _lines(path):
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            phrases = topics.setdefault(heading[1], [])
        else:
            phrases.append(line)
    return topics


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
