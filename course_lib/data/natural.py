"""The natural test set: sentences written by hand for this course, as words with tags and as running prose."""

from dataclasses import dataclass
from pathlib import Path

from course_lib.data.conll import Sentence, read_conll
from course_lib.data.tags import Span, spans

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class NaturalSentence:
    """One sentence: ``genre``, its ``prose`` as a person typed it, and its words with gold tags."""

    genre: str
    prose: str
    sentence: Sentence

    def character_spans(self) -> list[Span]:
        """Gold entities by characters of ``prose``."""
        places, position = [], 0
        for word in self.sentence.words:
            start = self.prose.index(word, position)
            position = start + len(word)
            places.append((start, position))
        return [Span(places[s.start][0], places[s.end - 1][1], s.type) for s in spans(self.sentence.tags)]


def load_natural() -> list[NaturalSentence]:
    """All sentences, in order; neighbours of one genre may form a passage."""
    lines = (FOLDER / "natural_prose.txt").read_text("utf-8").splitlines()
    rows = [line.split("\t", 1) for line in lines]
    sentences = read_conll(FOLDER / "natural.txt").sentences
    return [NaturalSentence(genre, prose, s) for (genre, prose), s in zip(rows, sentences, strict=True)]
