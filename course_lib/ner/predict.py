"""Tags for sentences of words, and entities with character offsets for running prose."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from tokenizers import Tokenizer

from course_lib.data.align import Window, batches, collate, make_windows, pad_id
from course_lib.data.tags import spans, to_iob2
from course_lib.data.words import Word, split_sentences
from course_lib.deploy.engines import Engine
from course_lib.errors import expect


def predict_tags(
    sentences: Sequence[Sequence[str]],
    engine: Engine,
    tokenizer: Tokenizer,
    tags: Sequence[str],
    batch_size: int = 32,
    max_pieces: int = 512,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """One IOB2 tag for every word of every sentence, of whatever length.

    Args:
        sentences: words per sentence.
        engine: gives logits (B, L, T).
        tokenizer: the model's own.
        tags: T labels, by index.
        batch_size: windows in a batch.
        max_pieces: positions of the model.
        progress: called with the number of windows done after each batch.
    Returns:
        Tags per sentence. Words without pieces are O; a predicted I-X that continues nothing is written as
        B-X, as conlleval reads it, so that every result is legal IOB2.
    """
    windows, padding = make_windows(sentences, tokenizer, max_pieces), pad_id(tokenizer)
    chosen: list[Sequence[int]] = [()] * len(windows)
    for indices in batches(windows, batch_size):
        best = engine(*collate([windows[i] for i in indices], padding)).argmax(axis=-1)
        for row, i in zip(best, indices, strict=True):
            chosen[i] = row
        if progress:
            progress(len(indices))
    return tags_of_words([len(words) for words in sentences], windows, chosen, tags)


def tags_of_words(
    lengths: Sequence[int], windows: Sequence[Window], chosen: Sequence[Sequence[int]], tags: Sequence[str]
) -> list[list[str]]:
    """From what was chosen for pieces to a tag for each word.

    Args:
        lengths: words of each sentence.
        windows: of :func:`course_lib.data.align.make_windows`.
        chosen: for each window, the number of the tag of each piece; padding may follow.
        tags: T labels, by number.
    Returns:
        Legal IOB2 tags per sentence, as of :func:`predict_tags`.
    """
    result = [["O"] * length for length in lengths]
    for window, row in zip(windows, chosen, strict=True):
        for position, word in window.heads:
            result[window.sentence][word] = tags[row[position]]
    return [to_iob2(t, "IOB2", repair=True)[0] for t in result]


def predict_text(
    texts: Iterable[str], engine: Engine, tokenizer: Tokenizer, tags: Sequence[str], at_once: int = 1, **options
) -> Iterator[dict]:
    """Entities of running prose, one record per sentence, in order.

    Args:
        texts: documents or lines; each is split into sentences and words.
        engine, tokenizer, tags, options: as for :func:`predict_tags`.
        at_once: texts that are taken in before their sentences are batched together: more is faster, 1 answers each text
            before it asks for the next.
    Yields:
        ``{"text", "start", "end", "entities": [{"type", "text", "start", "end"}]}``; ``start`` and ``end`` of the
        sentence and of its entities count characters from the beginning of the text given.
    Raises:
        ValueError: one text instead of several, or ``at_once`` below 1.
    """
    expect(not isinstance(texts, str), "texts", texts, "a list of texts, not one text")
    expect(at_once >= 1, "at_once", at_once, "at least 1 text")
    rest = iter(texts)
    while taken := list(islice(rest, at_once)):
        found = [(text, sentence) for text in taken for sentence in split_sentences(text)]
        words = [[w.text for w in sentence] for _, sentence in found]
        for (text, sentence), predicted in zip(found, predict_tags(words, engine, tokenizer, tags, **options), strict=True):
            yield _record(text, sentence, predicted)


def _record(text: str, sentence: Sequence[Word], predicted: Sequence[str]) -> dict:
    start, end = sentence[0].start, sentence[-1].end
    entities = [(s.type, sentence[s.start].start, sentence[s.end - 1].end) for s in spans(predicted)]
    return {
        "text": text[start:end],
        "start": start,
        "end": end,
        "entities": [{"type": kind, "text": text[a:b], "start": a, "end": b} for kind, a, b in entities],
    }
