"""Gradient accumulation: a large batch in small parts, with the gradient of the whole.

A token loss is a sum over real tokens divided by their number. The parts of a batch have different numbers of them, so each part's sum
is divided by the number **of the whole batch**: then the shares add up to its loss, and their gradients to its gradient. To take
the mean of each part and average these is common and wrong: a token in a short part weighs more than one in a long part.

With a model like BERT each part also makes a gradient of the whole word embedding before it is added, so parts save activations, not that.

Source: Ott et al. 2018, 1806.00187, section 3 (updates delayed over several batches).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from course_lib.data.align import IGNORED
from course_lib.errors import expect


def micro_batches(batch: Sequence[torch.Tensor], size: int) -> list[tuple[torch.Tensor, ...]]:
    """A batch, tensors (B, …), in parts of ``size`` rows, the last perhaps smaller.

    >>> [len(ids) for ids, _ in micro_batches([torch.zeros(5, 3), torch.zeros(5)], 2)]
    [2, 2, 1]
    """
    expect(len({len(x) for x in batch}) == 1, "batch", [len(x) for x in batch], "tensors of equally many rows")
    expect(size >= 1, "size", size, "at least 1 row")
    return list(zip(*(x.split(size) for x in batch), strict=True))


def real_tokens(labels: torch.Tensor) -> int:
    """How many labels (B, L) are not −100."""
    return int((labels != IGNORED).sum())


def token_loss_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over the real tokens: logits (B, L, T), labels (B, L) with −100 elsewhere; a scalar in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def loss_shares(
    parts: Sequence, summed: Callable[[object], torch.Tensor], count: Callable[[object], int]
) -> Iterator[torch.Tensor]:
    """Each part's share of the batch's mean loss, ``summed(part) / Σ count``, computed when asked for.

    Differentiate each before asking for the next (:func:`course_lib.precision.mixed.train_step` does), so that the activations of
    one part are in memory at a time. Dropout draws other numbers than for the whole batch, and batch norm sees the parts.

    Args:
        parts: of one batch.
        summed: part → its loss, a scalar, summed and not averaged.
        count: part → over how many real tokens or examples it is summed.
    Raises:
        ValueError: no real token in the whole batch.

    >>> [float(share) for share in loss_shares([torch.tensor([1.0, 2.0]), torch.tensor([6.0])], torch.sum, len)]
    [1.0, 2.0]
    """
    total = sum(count(part) for part in parts)
    expect(total > 0, "parts", total, "at least one real token in the batch")
    return (summed(part) / total for part in parts)
