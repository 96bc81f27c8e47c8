"""Attention scores through codes: the node inside a module, where the mask of the padding is added.

To real scores of a few dozen a mask adds −3.4e38 where the key is padding. A tool that calibrates on what it sees there gives
the scores one range that holds this number, and 255 steps of 1.3e36: all real scores become the same. Without padding in the
calibration, or with a range of the real entries alone, they get a range of their own, and what is masked gets its lowest code:
hidden where the range is wide (e⁻²⁰ of the weight at 20 below), visible where it is narrow. (Inputs of the softmax as a node of
their own: Bondarenko et al. 2021, 2109.12948.)
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from course_lib.calibration import Batch, checked_batches
from course_lib.errors import expect
from course_lib.layerwise import evaluating
from course_lib.pruning.structure import encoder_layers
from course_lib.quantization.affine import choose_from_range, fake_quantize
from course_lib.quantization.apply import Range
from course_lib.quantization.observers import MinMax

NAME = "course_scores"  # of the attention in the registry of transformers, while it lasts
Through = Callable[[int, torch.Tensor], torch.Tensor]


def score_range(scores: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest score of a real query with a real key.

    Args:
        scores: after the mask was added, (B, H, L, L): sentence, head, query, key.
        attention_mask: (B, L), 1 at real tokens, 0 at padding; each sentence has a real token.
    Returns:
        Two scalars.
    Raises:
        ValueError: shapes that do not fit, or padding alone.

    >>> scores = torch.tensor([[[[1.0, -3e38], [5.0, -3e38]]]])  # one sentence, one head, one real token
    >>> score_range(scores, torch.tensor([[1, 0]]))
    (tensor(1.), tensor(1.))
    """
    fits = scores.dim() == 4 and (len(scores), *scores.shape[2:]) == (*attention_mask.shape, attention_mask.shape[-1])
    expect(fits, "scores", tuple(scores.shape), f"(B, H, L, L) with a mask of shape {tuple(attention_mask.shape)}")
    mask = attention_mask.bool()
    expect(bool(mask.any()), "attention_mask", "padding alone", "at least one real token")
    real = (mask[:, :, None] & mask[:, None, :])[:, None].expand_as(scores)
    low, high = scores[real].aminmax()
    return low, high


def score_ranges(
    model: nn.Module,
    batches: Iterable[Batch],
    choose: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = score_range,
) -> list[Range]:
    """The range of the masked scores of each layer over a calibration set.

    Args:
        model: BERT-like, called as ``model(**batch)``, without dropout; not changed.
        batches: the calibration set, tensors (B, L).
        choose: (scores, attention_mask) → the ends of one batch, as :func:`score_range`.
    Returns:
        The lowest and the highest end of all batches, for each layer.
    """
    seen = [MinMax() for _ in encoder_layers(model)]
    mask = torch.empty(0)

    def look(layer: int, scores: torch.Tensor) -> torch.Tensor:
        seen[layer].update(torch.stack([torch.as_tensor(end) for end in choose(scores, mask)]))
        return scores

    with scores_through(model, look), evaluating(model):
        for batch in checked_batches(batches):
            mask = batch["attention_mask"]
            model(**batch)
    return [observer.range() for observer in seen]


@contextlib.contextmanager
def quantized_scores(model: nn.Module, ranges: list[Range], bits: int = 8) -> Iterator[None]:
    """While this lasts, the masked scores of each layer go through asymmetric codes of these ranges.

    Args:
        model: BERT-like.
        ranges: for each layer two scalars, as of :func:`score_ranges`.
        bits: of the codes.
    """
    count = len(encoder_layers(model))
    expect(len(ranges) == count, "ranges", len(ranges), f"one for each of {count} layers")
    codes = [choose_from_range(*ends, bits, symmetric=False) for ends in ranges]
    with scores_through(model, lambda layer, s: fake_quantize(s, *codes[layer], bits, symmetric=False)):
        yield


@contextlib.contextmanager
def scores_through(model: nn.Module, through: Through) -> Iterator[None]:
    """While this lasts, attention is written out, and ``through(layer, scores)`` stands between mask and softmax.

    Args:
        model: BERT-like, of transformers.
        through: (number of the layer, scores (B, H, L, L) with the mask added) → scores of the same shape.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    number = {layer.attention.self: i for i, layer in enumerate(encoder_layers(model))}

    def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **named):
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)  # (B, H, L, L)
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = nn.functional.dropout(through(number[module], scores).softmax(-1), dropout, module.training)
        return (weights @ value).transpose(1, 2).contiguous(), weights  # (B, L, H, D / H)

    own = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[NAME] = attend
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])  # an alias, which may stay
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = own
        del ALL_ATTENTION_FUNCTIONS[NAME]
