"""Words to word pieces and back: windows over long sentences, labels, batches.

One rule holds for every sentence of any length: **each word gets exactly one prediction.** The first piece of a
word speaks for it; a word without pieces (U+FE0F, U+FFFD, control characters) is ``O``; a sentence longer than
the model is cut into overlapping windows, and each piece is read in the one window that *owns* it.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from course_lib.errors import expect

Cut = Callable[[int, int], Sequence[tuple[int, int, int, int]]]
IGNORED = -100  # label of pieces that say nothing: later pieces of a word, context, padding


@dataclass(frozen=True)
class Window:
    """A stretch of one sentence that fits the model.

    Attributes:
        sentence: index of the sentence.
        ids: piece ids, ``[CLS]`` and ``[SEP]`` included.
        heads: ``(position in ids, index of the word)`` of each word this window speaks for.
    """

    sentence: int
    ids: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]


def window_bounds(length: int, size: int) -> list[tuple[int, int, int, int]]:
    """Cut ``length`` pieces into overlapping windows of at most ``size`` and say which window owns which piece.

    Args:
        length: pieces of the sentence.
        size: pieces that fit a window (special tokens not counted), at least 4.
    Returns:
        ``(start, end, own_start, own_end)`` per window, all half open. The owned ranges partition
        ``range(length)``; windows overlap by ``size // 4`` pieces or more, and an owned piece that is not near the
        sentence's own ends has at least ``size // 8`` pieces of context on both sides.

    >>> window_bounds(10, 8)
    [(0, 8, 0, 7), (2, 10, 7, 10)]
    """
    expect(size >= 4, "size", size, "room for at least 4 pieces")
    if length <= size:
        return [(0, length, 0, length)]
    overlap = size // 4
    starts = list(range(0, length - size, size - overlap)) + [length - size]
    bounds, owned = [], 0
    for k, start in enumerate(starts):
        end = start + size
        # Ownership changes hands one context width before the window ends.
        own_end = length if k == len(starts) - 1 else end - overlap // 2
        bounds.append((start, end, owned, own_end))
        owned = own_end
    return bounds


def make_windows(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer, max_pieces: int = 512, cut: Cut = window_bounds
) -> list[Window]:
    """Turn sentences of words into windows of word pieces.

    Args:
        sentences: words per sentence; empty sentences and words without pieces are allowed.
        tokenizer: a fast tokenizer with padding and truncation switched off, with ``[CLS]`` and ``[SEP]``.
        max_pieces: positions of the model, ``[CLS]`` and ``[SEP]`` included.
        cut: how a sentence is cut, ``(pieces, pieces that fit a window) -> bounds`` as of :func:`window_bounds`.
    Returns:
        Windows in the order of the sentences. A sentence without any piece has no window.
    """
    cls, sep = special_ids(tokenizer)
    windows = []
    for index, encoded in enumerate(
        tokenizer.encode_batch([list(s) for s in sentences], is_pretokenized=True, add_special_tokens=False)
    ):
        word_ids, ids = encoded.word_ids, encoded.ids
        if not ids:
            continue
        first = [i == 0 or word_ids[i] != word_ids[i - 1] for i in range(len(ids))]
        for start, end, own_start, own_end in cut(len(ids), max_pieces - 2):
            heads = tuple((i - start + 1, word_ids[i]) for i in range(own_start, own_end) if first[i])
            if heads:
                windows.append(Window(index, (cls, *ids[start:end], sep), heads))
    return windows


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """Ids of the start and end marks, ``[CLS]``/``[SEP]`` or ``<s>``/``</s>``.

    Raises:
        ValueError: the tokenizer has neither pair.
    """
    for start, end in (("[CLS]", "[SEP]"), ("<s>", "</s>")):
        ids = tokenizer.token_to_id(start), tokenizer.token_to_id(end)
        if None not in ids:
            return ids
    raise ValueError("tokenizer: expected the special tokens [CLS] and [SEP] (or <s> and </s>), found neither pair")


def pad_id(tokenizer: Tokenizer) -> int:
    """Id of the padding token; 0 where there is none (padding is masked, its id does not matter)."""
    return next((i for t in ("[PAD]", "<pad>") if (i := tokenizer.token_to_id(t)) is not None), 0)


def window_labels(window: Window, tags: Sequence[str], index: dict[str, int]) -> list[int]:
    """Label per piece of a window: the tag's index at the first piece of each owned word, −100 elsewhere.

    Raises:
        KeyError: a tag that the model has no label for (only training needs labels for all).
    """
    labels = [IGNORED] * len(window.ids)
    for position, word in window.heads:
        labels[position] = index[tags[word]]
    return labels


def pad(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    """Rows of unequal length as one int64 array (B, L), filled up with ``value``."""
    out = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def collate(windows: Sequence[Window], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """``input_ids`` and ``attention_mask`` of a batch, both int64 (B, L) with L the longest window."""
    return pad([w.ids for w in windows], padding), pad([[1] * len(w.ids) for w in windows], 0)


def batches(windows: Sequence[Window], size: int, rng: random.Random | None = None) -> Iterator[list[int]]:
    """Indices of windows in batches of similar length, so that little is padded.

    Args:
        windows: what to batch.
        size: windows in a batch (the last may be smaller).
        rng: shuffles for training: windows are drawn into pools of 32 batches, sorted by length within each,
            and the batches of a pool are shuffled. Without it the order is by length, longest first.
    """
    expect(size >= 1, "size", size, "at least 1")
    order = list(range(len(windows)))
    if rng is None:
        order.sort(key=lambda i: -len(windows[i].ids))
        yield from (order[i : i + size] for i in range(0, len(order), size))
        return
    rng.shuffle(order)
    for start in range(0, len(order), 32 * size):
        pool = sorted(order[start : start + 32 * size], key=lambda i: len(windows[i].ids))
        chunks = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(chunks)
        yield from chunks
