"""A corpus with its splits: a folder of CoNLL files, a hub id, or the generated one."""

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.data.conll import ConllFile, Sentence, format_conll, read_conll
from course_lib.data.tags import split_tag, tag_list
from course_lib.errors import CourseError


@dataclass
class Corpus:
    """Training, validation and test sentences, and how these splits came about."""

    name: str
    train: list[Sentence]
    validation: list[Sentence]
    test: list[Sentence]
    splits: str
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """What a model of this corpus does (:mod:`course_lib.tasks`): it says a tag for each word."""
        return "ner"

    @property
    def tags(self) -> list[str]:
        """Labels of a model trained on this corpus: from the training sentences, O first."""
        return tag_list(s.tags for s in self.train)

    @property
    def types(self) -> set[str]:
        """Entity types seen in training."""
        return {split_tag(tag)[1] for tag in self.tags} - {""}

    def fingerprint(self) -> str:
        """sha256 over all sentences in order: equal only for equal data."""
        parts = (format_conll(part) for part in (self.train, self.validation, self.test))
        return hashlib.sha256("\x00".join(parts).encode()).hexdigest()

    def figures(self) -> dict:
        """The ``data`` part of a scorecard."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "sentences": {name: len(part) for name, part in parts.items()},
            "tokens": {name: sum(len(s.words) for s in part) for name, part in parts.items()},
            "splits": self.splits,
        }


def load_corpus(where: str, seed: int = 0, repair: bool = False) -> Corpus:
    """Load a corpus by folder or hub id.

    Args:
        where: a folder with ``train.txt`` and, if there are, ``dev.txt`` and ``test.txt``; or ``hub:ID``
            (``hub:conll2003``) where there is a network.
        seed: draws the splits that the folder lacks.
        repair: mend illegal tag transitions (see :func:`course_lib.data.conll.read_conll`).
    Raises:
        CourseError: no such folder, a bad file, or a corpus without entities.
    """
    if where.startswith("hub:"):
        from course_lib.data.hub import read_hub

        name = where.removeprefix("hub:")
        files = read_hub(name, repair)
        name = name.replace("/", "--")
    else:
        folder = Path(where)
        if not (folder / "train.txt").is_file():
            raise CourseError(
                f"--data {where}: no train.txt there. Expected a folder with train.txt (and dev.txt, test.txt), or hub:ID."
            )
        paths = {split: folder / f"{split}.txt" for split in ("train", "dev", "test")}
        files = {split: read_conll(path, repair) for split, path in paths.items() if path.is_file()}
        name = folder.resolve().name
    notes = [f"{split}.txt: {_note(file)}" for split, file in files.items() if _note(file)]
    return _split(name, {split: file.sentences for split, file in files.items()}, seed, notes)


def _note(file: ConllFile) -> str:
    parts = [f"converted from {file.scheme}"] if file.scheme != "IOB2" else []
    parts += [f"{file.repaired} tags repaired"] if file.repaired else []
    return ", ".join(parts)


def _split(name: str, parts: dict[str, list[Sentence]], seed: int, notes: list[str]) -> Corpus:
    corpus = Corpus(name, *fill_splits(parts, seed), notes)
    if not corpus.types:
        raise CourseError(f"{name}: no entity in its {len(corpus.train)} training sentences, so there is nothing to learn.")
    for split, sentences in (("validation", corpus.validation), ("test", corpus.test)):
        unseen = {split_tag(t)[1] for s in sentences for t in s.tags} - corpus.types - {""}
        if unseen:
            corpus.notes.append(f"{split} has types never seen in training, all of them counted as misses: {sorted(unseen)}")
    return corpus


def fill_splits(parts: dict[str, list], seed: int) -> tuple[list, list, list, str]:
    """Fill in the splits a corpus lacks, and say how.

    Args:
        parts: sentences of ``train`` and, if there are, of ``dev`` and ``test``.
        seed: draws what is missing.
    Returns:
        Training, validation and test sentences, and where they are from, in words.
    Raises:
        CourseError: too few training sentences to draw from.
    """
    train = list(parts["train"])
    dev, test = parts.get("dev"), parts.get("test")
    if dev is not None and test is not None:
        splits = "train, dev and test as given"
    elif test is not None:
        train, (dev,) = _draw(train, seed, 1)
        splits = f"no dev.txt: validation is a tenth of train, drawn with seed {seed}; test as given"
    elif dev is not None:
        test = dev
        train, (dev,) = _draw(train, seed, 1)
        splits = f"no test.txt: dev.txt is the test, validation is a tenth of train, drawn with seed {seed}"
    else:
        train, (dev, test) = _draw(train, seed, 2)
        splits = f"train.txt alone: validation and test are a tenth each, drawn with seed {seed}"
    return train, dev, test, splits


def _draw(sentences: list, seed: int, count: int) -> tuple[list, list[list]]:
    """Take ``count`` tenths (at least one sentence each) out of ``sentences``, order kept."""
    size = max(1, len(sentences) // 10)
    if len(sentences) <= count * size:
        raise CourseError(f"{len(sentences)} training sentences: too few to draw {count} split(s) of {size} from them.")
    order = random.Random(seed).sample(range(len(sentences)), count * size)
    drawn = [[sentences[i] for i in sorted(order[k * size : (k + 1) * size])] for k in range(count)]
    taken = set(order)
    return [s for i, s in enumerate(sentences) if i not in taken], drawn
