"""Removing structure from BERT-like encoders: whole layers, attention heads and feed-forward neurons, with really smaller matrices.

Heads and neurons may end up in other numbers in every layer. To try a removal out before, and to take it back, mask it
(:mod:`course_lib.pruning.unit_masks`).
"""

from collections.abc import Sequence

import torch
from torch import nn

from course_lib.errors import expect
from course_lib.models.gates import require_no_gates
from course_lib.models.groups import CoupledGroup, check_units
from course_lib.models.surgery import (
    cut_units,
    encoder_layers,
    head_groups,
    layer_names,
    layer_shapes,
    neuron_groups,
    record_shapes,
)
from course_lib.report import Report, Reporting


def drop_layers(model: nn.Module, keep: Sequence[int]) -> Report:
    """Keep only the layers ``keep`` (indices in ascending order), in place.

    Args:
        model: a BERT-like model; its config follows.
    Raises:
        ValueError: no layer kept, one out of range, or not ascending.
        CourseError: not built like BERT, or units of it are masked.
    """
    keep = checked_layers(model, keep)
    require_no_gates(model, "drop_layers")
    count, layers = Reporting(model), encoder_layers(model)
    model.base_model.encoder.layer = nn.ModuleList(layers[i] for i in keep)
    record_shapes(model)
    return count.report([f"encoder.layer.{i}: dropped" for i in range(len(layers)) if i not in keep])


def remove_ffn_neurons(model: nn.Module, keep: Sequence[torch.Tensor]) -> Report:
    """Keep only the feed-forward neurons ``keep[i]`` of layer i, in place.

    A neuron is a row of the first matrix, its bias, and a column of the second: all three go. What a neuron
    would have put out is then missing exactly as if its activation were zero.

    Args:
        model: a BERT-like model; its config follows.
        keep: int64 indices per layer, (neurons kept,). An empty one leaves the block its output bias, added to every token.
    Raises:
        ValueError: not one index tensor per layer, an index out of range or twice, or no neuron in any layer.
        CourseError: not built like BERT, tied or masked weights.
    """
    return _remove(model, "ffn", "feed-forward neurons", neuron_groups(model), keep)


def remove_heads(model: nn.Module, keep: Sequence[torch.Tensor]) -> Report:
    """Keep only the attention heads ``keep[i]`` of layer i, in place (Michel et al. 2019, 1905.10650).

    A head of size d is d rows of query, key and value with their biases, and d columns of the output projection.

    Args:
        model: a BERT-like model; its config follows, with the heads of each layer in ``course_shapes``.
        keep: int64 indices per layer, (heads kept,). An empty one leaves the block its output bias, added to every token.
    Raises:
        ValueError, CourseError: as for :func:`remove_ffn_neurons`.
    """
    return _remove(model, "heads", "attention heads", head_groups(model), keep)


def best_units(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (count,) of the highest scores (units,), ascending; ties go to the lower index.

    >>> best_units(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2)
    tensor([1, 2])
    """
    expect(0 < count <= len(scores), "count", count, f"between 1 and {len(scores)} units")
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def checked_layers(model: nn.Module, keep: Sequence[int]) -> list[int]:
    """The layers to keep, after they were found to be ascending numbers of layers, at least one."""
    keep, last = list(keep), len(encoder_layers(model)) - 1
    ascending = keep == sorted(set(keep)) and bool(keep) and keep[0] >= 0 and keep[-1] <= last
    expect(ascending, "keep", keep, f"ascending layer numbers between 0 and {last}, at least one")
    return keep


def _remove(model: nn.Module, kind: str, what: str, groups: Sequence[CoupledGroup], keep: Sequence[torch.Tensor]) -> Report:
    names, before = layer_names(model), layer_shapes(model)[kind]
    expect(len(keep) == len(names), "keep", len(keep), f"one index tensor for each of {len(names)} layers")
    expect(any(len(k) > 0 for k in keep), "keep", [len(k) for k in keep], f"at least one of the {what}")
    require_no_gates(model, "pruning")
    waiting = iter(groups)
    chosen = [next(waiting) if n else None for n in before]  # a layer without units has no group
    for number, (group, kept) in enumerate(zip(chosen, keep, strict=True)):  # all of it, before anything is changed
        if group:
            check_units(group, kept, f"keep[{number}]")
        else:
            expect(len(kept) == 0, f"keep[{number}]", kept.tolist()[:8], f"nothing: the layer has no {what} left")
    count, changed = Reporting(model), []
    for number, (group, kept) in enumerate(zip(chosen, keep, strict=True)):
        if group:
            cut_units(model, group, kept)
            changed.append(f"encoder.layer.{number}: {group.units} → {len(kept)} {what}")
    record_shapes(model)
    return count.report(changed)
