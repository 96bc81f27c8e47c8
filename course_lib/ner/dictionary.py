"""The baseline without a model: look names up among the training entities."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from course_lib.data.conll import Sentence
from course_lib.data.tags import Span, from_spans, spans


def build_dictionary(sentences: Iterable[Sentence]) -> dict[tuple[str, ...], str]:
    """The most frequent type of every training entity, by its lower-cased words."""
    seen: dict[tuple[str, ...], Counter] = defaultdict(Counter)
    for sentence in sentences:
        for start, end, kind in spans(sentence.tags):
            seen[tuple(w.lower() for w in sentence.words[start:end])][kind] += 1
    return {words: types.most_common(1)[0][0] for words, types in seen.items()}


def dictionary_tags(words: Sequence[str], dictionary: dict[tuple[str, ...], str]) -> list[str]:
    """Tag the longest entries from left to right, case ignored.

    >>> dictionary_tags(["in", "New", "York"], {("new", "york"): "LOC", ("york",): "PER"})
    ['O', 'B-LOC', 'I-LOC']
    """
    longest = max(map(len, dictionary), default=0)
    lower, found, i = [w.lower() for w in words], [], 0
    while i < len(words):
        size = next((n for n in range(min(longest, len(words) - i), 0, -1) if tuple(lower[i : i + n]) in dictionary), 0)
        if size:
            found.append(Span(i, i + size, dictionary[tuple(lower[i : i + size])]))
        i += size or 1
    return from_spans(found, len(words))
