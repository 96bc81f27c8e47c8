"""More text of the same domain without labels: training sentences with other names and other words, for a teacher to label.

What a teacher has learnt by heart it labels with certainty, and a student learns nothing from it that the hard labels do not
say. A sentence with another name in it is new to both, of the same domain, and the teacher says what it thinks of it: data
augmentation for distillation (Tang et al. 2019, 1903.12136; Jiao et al. 2019, 1909.10351), many changed copies and a patient
student (Beyer et al. 2021, 2106.05237).
"""

import random
from collections.abc import Sequence

from course_lib.data.conll import Sentence
from course_lib.data.tags import spans
from course_lib.errors import expect


def names_by_type(sentences: Sequence[Sentence]) -> dict[str, list[tuple[str, ...]]]:
    """The words of every entity by its type, each as often as it occurs.

    >>> names_by_type([Sentence(("Ana", "Ruiz", "left"), ("B-PER", "I-PER", "O"))])
    {'PER': [('Ana', 'Ruiz')]}
    """
    names: dict[str, list[tuple[str, ...]]] = {}
    for s in sentences:
        for span in spans(s.tags):
            names.setdefault(span.type, []).append(s.words[span.start : span.end])
    return names


def changed_copies(
    sentences: Sequence[Sentence], copies: int, seed: int, swap: float = 0.6, replace: float = 0.1
) -> list[tuple[str, ...]]:
    """Each sentence ``copies`` times over, with entities swapped for others of their type and words for words of the corpus.

    Args:
        sentences: training sentences with tags.
        copies: how many changed copies of each.
        seed: of all draws.
        swap: probability that an entity gives way to another one of its type, drawn by frequency.
        replace: probability that a word outside entities gives way to a word drawn by frequency.
    Returns:
        Words of the new sentences, in rounds: all sentences once, then all of them again. Their labels are for a teacher to say.
    Raises:
        ValueError: no copies, or a probability outside 0 to 1.

    >>> a = Sentence(("Ana", "met", "Bo"), ("B-PER", "O", "B-PER"))
    >>> changed_copies([a], copies=1, seed=0, swap=0.0, replace=0.0)
    [('Ana', 'met', 'Bo')]
    """
    expect(copies >= 1, "copies", copies, "at least 1 copy")
    for name, share in (("swap", swap), ("replace", replace)):
        expect(0 <= share <= 1, name, share, "a probability between 0 and 1")
    names, rng = names_by_type(sentences), random.Random(f"{seed}/changed copies")
    words = [w for s in sentences for w, tag in zip(s.words, s.tags, strict=True) if tag == "O"] or [""]
    return [_changed(s, names, words, rng, swap, replace) for _ in range(copies) for s in sentences]


def _changed(
    sentence: Sentence, names: dict, words: list[str], rng: random.Random, swap: float, replace: float
) -> tuple[str, ...]:
    at, out, position = {span.start: span for span in spans(sentence.tags)}, [], 0
    while position < len(sentence.words):
        span = at.get(position)
        if span is None:
            out.append(rng.choice(words) if rng.random() < replace else sentence.words[position])
            position += 1
        else:
            kept = sentence.words[span.start : span.end]
            out += rng.choice(names[span.type]) if rng.random() < swap else kept
            position = span.end
    return tuple(out)
