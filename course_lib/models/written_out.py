"""BERT's encoder in elementary operations: attention, one layer, a whole token classifier, to be compared with the library's own."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from course_lib.errors import expect

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, torch.Tensor], torch.Tensor]


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor) -> torch.Tensor:
    """Multi-head attention between projection and output projection: ``softmax(QKᵀ/√d + mask)·V`` in each head.

    Args:
        q, k, v: projected queries, keys and values, float (B, L, D).
        heads: H; a head has d = D / H consecutive columns.
        mask: bool (B, L), True at real pieces, which alone may be looked at; at least one in each row.
    Returns:
        float (B, L, D), the heads side by side again.
    Raises:
        ValueError: D is no multiple of ``heads``.

    Source: Vaswani et al. 2017, 1706.03762.
    """
    expect(q.shape[-1] % heads == 0, "heads", heads, f"a divisor of {q.shape[-1]} columns")
    weights = attention_weights(q, k, heads, mask)
    mixed = weights @ split_heads(v, heads)  # (B, H, L, d)
    return mixed.transpose(1, 2).flatten(2)  # (B, L, H, d), a piece's heads side by side, then (B, L, D)


def attention_weights(q: torch.Tensor, k: torch.Tensor, heads: int, mask: torch.Tensor) -> torch.Tensor:
    """How much each piece takes from each other one: float (B, H, L, L), rows sum to 1; arguments as of :func:`attention`."""
    q, k = split_heads(q, heads), split_heads(k, heads)  # (B, H, L, d)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, H, L, L)
    return scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, L, D) → (B, H, L, d): head h gets columns h·d to (h + 1)·d."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def encoder_layer(layer: nn.Module, x: torch.Tensor, mask: torch.Tensor, attention: Attention = attention) -> torch.Tensor:
    """One layer of BERT in evaluation mode, with the weights of ``layer``.

    ``x + attention`` → LayerNorm → ``+ feed-forward`` → LayerNorm (the norm after the sum, Devlin et al. 2018, 1810.04805).

    Args:
        layer: a layer of the encoder, whose modules are called in turn.
        x: float (B, L, D).
        mask: bool (B, L), True at real pieces.
        attention: what mixes the pieces, as :func:`attention`.
    Returns:
        float (B, L, D).
    """
    own, heads = layer.attention.self, layer.attention.self.num_attention_heads
    mixed = attention(own.query(x), own.key(x), own.value(x), heads, mask)
    x = layer.attention.output.LayerNorm(x + layer.attention.output.dense(mixed))  # (B, L, D)
    inner = nn.functional.gelu(layer.intermediate.dense(x))  # (B, L, F)
    return layer.output.LayerNorm(x + layer.output.dense(inner))  # (B, L, D)


class WrittenOut:
    """A token classifier run layer by layer by :func:`encoder_layer`; an engine for :func:`course_lib.ner.predict.predict_tags`.

    Args:
        model: a ``BertForTokenClassification`` in evaluation mode.
        attention: what mixes the pieces in every layer.
    """

    def __init__(self, model: nn.Module, attention: Attention = attention) -> None:
        self.model, self.attention = model, attention

    def hidden(self, input_ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """What leaves the embeddings and each layer: float (B, L, D) each."""
        base = self.model.base_model
        states = [base.embeddings(input_ids=input_ids)]
        for layer in base.encoder.layer:
            states.append(encoder_layer(layer, states[-1], mask, self.attention))
        return states

    @torch.no_grad()
    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Logits float32 (B, L, T) from ids and mask int64 (B, L)."""
        last = self.hidden(torch.from_numpy(input_ids), torch.from_numpy(attention_mask).bool())[-1]
        return self.model.classifier(last).numpy()
