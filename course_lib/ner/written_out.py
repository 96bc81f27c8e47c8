"""Entity F1 and its interval in elementary operations, to be compared with seqeval and with :mod:`course_lib.ner.evaluate`."""

from collections.abc import Sequence

import torch

from course_lib.data.tags import spans
from course_lib.errors import expect


def entity_counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """Entities found rightly, predicted, and in gold, in one sentence; right are those of the same words and type.

    Args:
        gold, predicted: legal IOB2 tags of the same words.

    >>> entity_counts(["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC"])
    (1, 2, 2)
    """
    expect(len(gold) == len(predicted), "predicted", len(predicted), f"{len(gold)} tags, as in gold")
    true, found = set(spans(gold)), set(spans(predicted))
    return len(true & found), len(found), len(true)


def token_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """The share of words with the right tag, O included.

    >>> token_accuracy([["B-PER", "O"], ["O"]], [["O", "O"], ["O"]]) == 2 / 3
    True
    """
    pairs = [(g, p) for a, b in zip(gold, predicted, strict=True) for g, p in zip(a, b, strict=True)]
    expect(bool(pairs), "gold", pairs, "at least one word")
    return sum(g == p for g, p in pairs) / len(pairs)


def bootstrap_interval(counts: torch.Tensor, draws: torch.Tensor) -> tuple[float, float]:
    """The middle 95 % of the F1 of redrawn sets of sentences: the percentile bootstrap (Efron 1979).

    Args:
        counts: int64 (N, 3), for each sentence entities right, predicted and in gold.
        draws: int64 (S, M), in each row M sentence numbers drawn with replacement.
    Returns:
        The 2.5 % and the 97.5 % quantile over the rows of ``F1 = 2·right / (predicted + gold)``, each of the summed counts.
    """
    expect(counts.dim() == 2 and counts.shape[1] == 3, "counts", tuple(counts.shape), "a row of three for each sentence")
    right, predicted, gold = counts[draws].sum(1).unbind(1)  # (S, M, 3) → (S, 3)
    f1 = 2 * right.double() / (predicted + gold).clamp(min=1)
    low, high = torch.quantile(f1, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)
