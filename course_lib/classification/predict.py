"""One label for each text, from the same token classifier as named entities: the tag of the first piece, ``[CLS]``, is the text's.

Source: Devlin et al. 2018, 1810.04805, sections 3.1 and 3.2 (the last state of ``[CLS]`` stands for the whole text).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from tokenizers import Tokenizer

from course_lib.data.align import IGNORED, Window, batches, collate, make_windows, pad_id
from course_lib.data.texts import Text
from course_lib.data.words import split_words
from course_lib.deploy.engines import Engine


def text_labels(window: Window, text: Text, index: dict[str, int]) -> list[int]:
    """Label per piece of a window: that of the text at ``[CLS]``, −100 elsewhere; each window of a long text learns it.

    Raises:
        KeyError: a label that the model does not have.
    """
    return [index[text.label]] + [IGNORED] * (len(window.ids) - 1)


def predict_labels(
    texts: Sequence[Sequence[str]],
    engine: Engine,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    batch_size: int = 32,
    max_pieces: int = 512,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """One label for every text of whatever length, as the one tag of :attr:`course_lib.data.texts.Text.tags`.

    Args:
        texts: words per text.
        engine, tokenizer, batch_size, max_pieces, progress: as of :func:`course_lib.ner.predict.predict_tags`.
        labels: K labels, by index.
    Returns:
        ``["B-<label>"]`` for each text. A text without any piece gets the first label.
    """
    chances = label_probabilities(texts, engine, tokenizer, len(labels), batch_size, max_pieces, progress)
    return [[f"B-{labels[i]}"] for i in chances.argmax(axis=1)]


def label_probabilities(
    texts: Sequence[Sequence[str]],
    engine: Engine,
    tokenizer: Tokenizer,
    count: int,
    batch_size: int = 32,
    max_pieces: int = 512,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Probability of each label for each text, float64 (texts, count): softmax at ``[CLS]``, mean over the windows of a long text.

    Args:
        count: labels of the model.
    """
    windows, padding = make_windows(texts, tokenizer, max_pieces), pad_id(tokenizer)
    sums, read = np.zeros((len(texts), count)), np.zeros(len(texts))
    for indices in batches(windows, batch_size):
        logits = engine(*collate([windows[i] for i in indices], padding))[:, 0].astype(np.float64)  # (B, count)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        for row, i in zip(chances, indices, strict=True):
            sums[windows[i].sentence] += row
            read[windows[i].sentence] += 1
        if progress:
            progress(len(indices))
    return sums / np.maximum(read, 1)[:, None]


def classify_text(
    texts: Iterable[str], engine: Engine, tokenizer: Tokenizer, labels: Sequence[str], at_once: int = 1, max_pieces: int = 512
) -> Iterator[dict]:
    """Label and probabilities of running prose: ``{"text", "label", "probabilities": {label: probability}}`` for each text.

    Args:
        at_once: texts that are read and batched together.
    """
    rest = iter(texts)
    while chunk := list(islice(rest, at_once)):
        words = [[w.text for w in split_words(text)] for text in chunk]
        table = label_probabilities(words, engine, tokenizer, len(labels), max_pieces=max_pieces)
        for text, chances in zip(chunk, table, strict=True):
            order = sorted(zip(labels, chances, strict=True), key=lambda pair: -pair[1])
            found = {label: round(float(chance), 4) for label, chance in order}
            yield {"text": text, "label": order[0][0], "probabilities": found}
