"""Where a model's errors are: every gold entity with what became of it, and recall by any property of entities."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from course_lib.data.conll import Sentence
from course_lib.data.tags import Span, spans
from course_lib.errors import expect

OUTCOMES = ("right", "wrong type", "wrong boundaries", "missed")


@dataclass(frozen=True)
class Found:
    """A gold entity.

    Attributes:
        sentence: its number.
        span: words and type.
        text: the words.
        outcome: one of :data:`OUTCOMES`.
        seen: these words, lower-cased, are an entity of some training sentence.
    """

    sentence: int
    span: Span
    text: str
    outcome: str
    seen: bool


def outcome(entity: Span, predicted: Sequence[Span]) -> str:
    """What became of a gold entity: right; the same words with another type; words in common; nothing.

    >>> outcome(Span(0, 2, "PER"), [Span(1, 2, "PER")])
    'wrong boundaries'
    """
    if entity in predicted:
        return "right"
    if any(p[:2] == entity[:2] for p in predicted):
        return "wrong type"
    return "wrong boundaries" if any(p.start < entity.end and entity.start < p.end for p in predicted) else "missed"


def gold_entities(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[str]], training: Iterable[Sentence]
) -> list[Found]:
    """Every gold entity of ``sentences`` with its outcome, and whether ``training`` has it."""
    known = {_text(s.words, span).lower() for s in training for span in spans(s.tags)}
    found = []
    for number, (sentence, tags) in enumerate(zip(sentences, predicted, strict=True)):
        guesses = spans(tags)
        for span in spans(sentence.tags):
            text = _text(sentence.words, span)
            found.append(Found(number, span, text, outcome(span, guesses), text.lower() in known))
    return found


def _text(words: Sequence[str], span: Span) -> str:
    return " ".join(words[span.start : span.end])


def recall_by(found: Iterable[Found], key: Callable[[Found], str]) -> dict[str, tuple[float, float, float, int]]:
    """Recall, its 95 % interval and the number of entities, for each value of ``key``, in the order of the values."""
    groups: dict[str, list[bool]] = {}
    for entity in found:
        groups.setdefault(key(entity), []).append(entity.outcome == "right")
    return {k: (sum(v) / len(v), *wilson(sum(v), len(v)), len(v)) for k, v in sorted(groups.items())}


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, sound for few cases and for shares near 0 and 1 (Wilson 1927).

    ``(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)`` with z = 1.96.

    >>> [round(v, 3) for v in wilson(10, 10)]
    [0.722, 1.0]
    """
    expect(0 <= right <= count and count > 0, "right", right, f"0 to {count}, of at least one")
    p, z = right / count, 1.96
    middle, half = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, (middle - half) / (1 + z * z / count)), min(1.0, (middle + half) / (1 + z * z / count))
