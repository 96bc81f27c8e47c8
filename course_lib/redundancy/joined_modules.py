"""BERT's modules with fewer steps: attention with one product for query, key and value, and embeddings of two tables instead of three."""

import torch
from torch import nn

from course_lib.errors import CourseError, expect


class JoinedSelfAttention(nn.Module):
    """Self-attention whose query, key and value come out of one product: ``[q, k, v] = x·[W_q; W_k; W_v]ᵀ + [b_q; b_k; b_v]``.

    Args:
        attention: BERT's own, with linear layers ``query``, ``key`` and ``value``; it is not changed.
        scaled: take the factor 1/√d of the scores into the query's weights.
    Raises:
        CourseError: attention of another kind.

    Its weights are copies, laid out head by head as BERT's. Attention probabilities are not recorded (``output_attentions``).
    """

    def __init__(self, attention: nn.Module, scaled: bool = False) -> None:
        super().__init__()
        parts = [getattr(attention, name, None) for name in ("query", "key", "value")]
        if not all(type(part) is nn.Linear for part in parts):
            raise CourseError(
                f"{type(attention).__name__}: expected the linear layers query, key and value, as they are in BERT."
            )
        self.config, self.dropout, self.is_causal = attention.config, attention.dropout, False
        self.num_attention_heads, self.attention_head_size = attention.num_attention_heads, attention.attention_head_size
        self.all_head_size, self.scaled = attention.all_head_size, scaled
        self.scaling = 1.0 if scaled else attention.scaling
        factor = attention.scaling if scaled else 1.0
        self.qkv = join(parts, (factor, 1.0, 1.0))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L, D) → (B, L, H·d), and the probabilities where the kind of attention gives any."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
        from transformers.models.bert.modeling_bert import eager_attention_forward

        joined = self.qkv(hidden_states)  # (B, L, 3·H·d)
        joined = joined.view(*hidden_states.shape[:-1], 3, self.num_attention_heads, self.attention_head_size)
        query, key, value = joined.permute(2, 0, 3, 1, 4).unbind(
            0
        )  # heads before tokens, as attention wants them: (B, H, L, d)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout.p if self.training else 0.0
        kwargs.pop("past_key_values", None)
        output, probabilities = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return output.reshape(*hidden_states.shape[:-1], -1).contiguous(), probabilities


class FoldedEmbeddings(nn.Module):
    """BERT's embeddings for text of one token type, whose embedding is added to every position's beforehand.

    Args:
        embeddings: BERT's own; it is not changed.
        token_type: the one that all tokens have.
    Raises:
        CourseError: embeddings of another kind.
        ValueError: no such token type.
    """

    def __init__(self, embeddings: nn.Module, token_type: int = 0) -> None:
        super().__init__()
        tables = [getattr(embeddings, f"{name}_embeddings", None) for name in ("word", "position", "token_type")]
        if not all(isinstance(table, nn.Embedding) for table in tables):
            raise CourseError(
                f"{type(embeddings).__name__}: expected word, position and token_type embeddings, as they are in BERT."
            )
        words, positions, types = tables
        expect(0 <= token_type < types.num_embeddings, "token_type", token_type, f"one of {types.num_embeddings} token types")
        self.token_type, self.word_embeddings = token_type, words
        self.position_embeddings = nn.Embedding.from_pretrained(
            (positions.weight + types.weight[token_type]).detach(), freeze=False
        )
        self.LayerNorm, self.dropout = embeddings.LayerNorm, embeddings.dropout

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values_length: int = 0,
    ) -> torch.Tensor:
        """Piece numbers (B, L) → (B, L, D).

        Raises:
            ValueError: tokens of another type than the one folded in.
        """
        if token_type_ids is not None:
            wrong = int((token_type_ids != self.token_type).sum())
            expect(
                wrong == 0, "token_type_ids", f"{wrong} of another type", f"type {self.token_type} alone, which is folded in"
            )
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(words.shape[1], device=words.device) + past_key_values_length
        return self.dropout(self.LayerNorm(words + self.position_embeddings(position_ids)))


def join(linears: list[nn.Linear], factors: tuple[float, ...]) -> nn.Linear:
    """One linear layer that puts out what several put out of the same input, one after another, each times its factor.

    A missing bias counts as zeros where another has one.

    Args:
        linears: of weights (Rᵢ, D) with the same D.
        factors: a number for each.
    Raises:
        ValueError: no layers, layers of different inputs, or another number of factors.
    """
    widths = [linear.in_features for linear in linears]
    expect(len(set(widths)) == 1, "linears", widths, "at least one layer, all of the same number of inputs")
    expect(len(factors) == len(linears), "factors", factors, f"a number for each of {len(linears)} layers")
    weight = torch.cat([f * linear.weight.detach() for f, linear in zip(factors, linears, strict=True)])
    joined = nn.Linear(widths[0], len(weight), any(linear.bias is not None for linear in linears)).to(
        weight.device, weight.dtype
    )
    with torch.no_grad():
        joined.weight.copy_(weight)
        if joined.bias is not None:
            biases = [weight.new_zeros(m.out_features) if m.bias is None else m.bias for m in linears]
            joined.bias.copy_(torch.cat([f * b for f, b in zip(factors, biases, strict=True)]))
    return joined
