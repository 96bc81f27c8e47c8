"""Merging of computation paths: what can be worked out before the model runs is, and what runs side by side runs as one product.

- Query, key and value read the same input: one product instead of three (:func:`join_qkv`).
- Two linear maps in a row are one: ``W₂·(W₁·x + b₁) + b₂ = (W₂W₁)·x + (W₂b₁ + b₂)`` (:func:`compose`). For the factors of a
  low rank that is the way back, which pays where they are the larger (:func:`merge_factors`).
- A division of the input goes into the weight: ``W·(x / s) = (W·diag(1/s))·x`` (:func:`fold_input_scales`); the 1/√d of
  attention into the query.
- What is constant is added up beforehand: the embedding of the one token type (:func:`fold_token_types`), and attention's
  biases (:func:`fold_attention_biases`): softmax does not feel the key's, which adds the same to all scores of a query, and
  as its probabilities add up to 1, the value's comes out as it is and joins the bias of the output projection.

All of these change outputs by rounding alone, in evaluation: dropout in training stands between some of them. ONNX Runtime
does the same to an exported graph (Source: its transformer optimizer, fusion_attention.py); here it is done to the model,
which stays one that can be trained and saved. A layer norm's gain cannot go into the matrix after it in BERT: the residual
reads the norm's output too.
"""

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.models.gates import require_no_gates
from course_lib.models.surgery import encoder_layers, layer_names
from course_lib.plan import replace_module
from course_lib.quantization.smooth import InputScaledLinear
from course_lib.redundancy.joined_modules import FoldedEmbeddings, JoinedSelfAttention
from course_lib.redundancy.low_rank_layers import LowRankLinear
from course_lib.redundancy.storage import shared_names
from course_lib.report import Report, Reporting


def compose(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """One linear layer for two in a row: weight ``W₂·W₁`` (R, D), bias ``W₂·b₁ + b₂``; products in float64, rounded once.

    Args:
        first: of weight (r, D).
        second: of weight (R, r).
    Raises:
        ValueError: the second does not read what the first puts out.
    """
    expect(
        second.in_features == first.out_features,
        "second",
        second.in_features,
        f"{first.out_features} inputs, which first gives",
    )
    through, bias = second.weight.detach().double(), None
    if first.bias is not None:
        bias = through @ first.bias.detach().double()
    if second.bias is not None:
        bias = second.bias.detach().double() + (0 if bias is None else bias)
    one = nn.Linear(first.in_features, second.out_features, bias is not None).to(first.weight.device, first.weight.dtype)
    with torch.no_grad():
        one.weight.copy_(through @ first.weight.detach().double())
        if bias is not None:
            one.bias.copy_(bias)
    return one


def scaled_input(linear: nn.Linear, scale: torch.Tensor) -> nn.Linear:
    """The linear layer that gives for x what ``linear`` gives for ``scale · x``: weight ``W·diag(scale)``.

    Args:
        linear: of weight (R, D).
        scale: (D,), finite.
    Raises:
        ValueError: another number of scales, or one that is not finite.
    """
    good = scale.shape == (linear.in_features,) and bool(torch.isfinite(scale).all())
    expect(good, "scale", tuple(scale.shape), f"{linear.in_features} finite numbers")
    one = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None).to(
        linear.weight.device, linear.weight.dtype
    )
    with torch.no_grad():
        one.weight.copy_(linear.weight.double() * scale.double())
        if linear.bias is not None:
            one.bias.copy_(linear.bias)
    return one


def merge_factors(model: nn.Module, all_of_them: bool = False) -> Report:
    """Make one matrix again of each low-rank layer whose factors are no smaller than it, in place.

    Args:
        model: with :class:`course_lib.redundancy.low_rank_layers.LowRankLinear` layers.
        all_of_them: those whose factors are smaller too.
    Raises:
        CourseError: there is nothing to merge.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, LowRankLinear)}
    larger = {
        name: m for name, m in found.items() if m.rank * (m.in_features + m.out_features) >= m.in_features * m.out_features
    }
    chosen = found if all_of_them else larger
    _expect_some(chosen, f"a low-rank layer whose factors are no smaller than their product; there are {len(found)} others")
    count, changed = Reporting(model), []
    for name, layer in chosen.items():
        replace_module(model, name, compose(layer.down, layer.up).train(layer.training))
        changed.append(f"{name}: factors of rank {layer.rank} → ({layer.out_features}, {layer.in_features})")
    return count.report(
        changed, [f"{name}: its factors of rank {m.rank} are smaller" for name, m in found.items() if name not in chosen]
    )


def fold_input_scales(model: nn.Module) -> Report:
    """Take the division before a linear layer (:class:`course_lib.quantization.smooth.InputScaledLinear`) into its weight, in place.

    Raises:
        CourseError: no layer has one, with a float weight behind it.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, InputScaledLinear)}
    able = {name: m for name, m in found.items() if type(m.linear) is nn.Linear}
    _expect_some(able, "a float linear layer behind a division of its input")
    count = Reporting(model)
    for name, layer in able.items():
        replace_module(model, name, scaled_input(layer.linear, 1 / layer.input_scale.double()).train(layer.training))
    skipped = [
        f"{name}: a {type(m.linear).__name__}, whose codes do not take a scale" for name, m in found.items() if name not in able
    ]
    return count.report([f"{name}: its division is in the weight" for name in able], skipped)


def fold_token_types(model: nn.Module, token_type: int = 0) -> Report:
    """Add the embedding of the one token type to every position's, in place.

    Args:
        model: a BERT-like model.
        token_type: that of all tokens it will read; others are refused from then on.
    Raises:
        CourseError: embeddings of another kind, or folded already.
        ValueError: no such token type.
    """
    embeddings = getattr(getattr(model, "base_model", None), "embeddings", None)
    name = next((n for n, m in model.named_modules() if m is embeddings), None)
    _expect_some(name, "BERT's embeddings")
    folded, count = FoldedEmbeddings(embeddings, token_type), Reporting(model)
    replace_module(model, name, folded.train(embeddings.training))
    return count.report([f"{name}: token type {token_type} is in the position embeddings"])


def fold_attention_biases(model: nn.Module) -> Report:
    """Drop the key's bias and take the value's into the output projection's, in every layer, in place.

    Raises:
        CourseError: not built like BERT, masked or shared units, or no layer has such biases.
    """
    able, skipped = _with_biases(model, "fold_attention_biases")
    _expect_some(able, "layers whose key or value has a bias")
    count = Reporting(model)
    for key, value, out in able.values():
        with torch.no_grad():
            if value.bias is not None:
                out.bias.copy_(out.bias.double() + out.weight.double() @ value.bias.double())
        key.bias = value.bias = None
    return count.report([f"{name}: the key's bias is gone, the value's is in the output's" for name in able], skipped)


def join_qkv(model: nn.Module, scaled: bool = True) -> Report:
    """Work out query, key and value of every layer by one product, in place.

    Args:
        model: a BERT-like model.
        scaled: also take 1/√d into the query's weights.
    Raises:
        CourseError: not built like BERT, masked or shared units, or no layer whose query, key and value are linear layers.
    """
    able, skipped = _joinable(model, "join_qkv")
    _expect_some(able, "a layer whose query, key and value are linear layers")
    count = Reporting(model)
    for attention in able.values():
        attention.self = JoinedSelfAttention(attention.self, scaled).train(attention.self.training)
    return count.report([f"{name}: query, key and value are one product" for name in able], skipped)


def merge_paths(model: nn.Module) -> Report:
    """All that applies to BERT as it is: token types, attention's biases, then query, key and value as one, in place.

    Raises:
        CourseError: as of :func:`fold_token_types`, :func:`fold_attention_biases` and :func:`join_qkv`.
    """
    _expect_some(_with_biases(model, "merge_paths")[0], "layers whose key or value has a bias")
    _expect_some(_joinable(model, "merge_paths")[0], "a layer whose query, key and value are linear layers")
    count = Reporting(model)
    reports = [fold_token_types(model), fold_attention_biases(model), join_qkv(model)]
    return count.report([line for r in reports for line in r.changed], [line for r in reports for line in r.skipped])


def _expect_some(found: object, what: str) -> None:
    if not found:
        raise CourseError(f"model: expected {what}; found none. Nothing was changed.")


def _with_biases(model: nn.Module, task: str) -> tuple[dict[str, tuple[nn.Linear, ...]], list[str]]:
    """Key, value and output projection of each layer that has biases to fold, and lines about the other layers."""
    able, skipped = {}, []
    for name, layer in _own_layers(model, task).items():
        parts = (
            getattr(layer.attention.self, "key", None),
            getattr(layer.attention.self, "value", None),
            layer.attention.output.dense,
        )
        linear = all(type(m) is nn.Linear for m in parts) and parts[2].bias is not None
        if linear and any(m.bias is not None for m in parts[:2]):
            able[name] = parts
        else:
            skipped.append(f"{name}: no key and value of their own with biases")
    return able, skipped


def _joinable(model: nn.Module, task: str) -> tuple[dict[str, nn.Module], list[str]]:
    """The attention of each layer whose query, key and value can be joined, and lines about the other layers."""
    able, skipped = {}, []
    for name, layer in _own_layers(model, task).items():
        if all(type(getattr(layer.attention.self, part, None)) is nn.Linear for part in ("query", "key", "value")):
            able[name] = layer.attention
        else:
            skipped.append(f"{name}: {type(layer.attention.self).__name__} has no linear layers query, key and value")
    return able, skipped


def _own_layers(model: nn.Module, task: str) -> dict[str, nn.Module]:
    """The layers by name; masked units are refused, and layers that share parameters: one place's change would be another's too."""
    names = layer_names(model)
    require_no_gates(model, task)
    shared = [alias for alias in shared_names(model) if alias.startswith(tuple(f"{n}." for n in names))]
    if shared:
        raise CourseError(f"{task}: {shared[0]} is shared with another layer; call unshare(model) first.")
    return dict(zip(names, encoder_layers(model), strict=True))
