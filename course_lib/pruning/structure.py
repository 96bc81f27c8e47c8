"""Removing structure from BERT-like encoders: whole layers and feed-forward neurons, with really smaller matrices."""

from collections.abc import Sequence

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.report import Report, Reporting


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of Transformer layers of a BERT-like model.

    Raises:
        CourseError: a model that is not built like BERT.
    """
    layers = getattr(getattr(getattr(model, "base_model", None), "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(layers[0], "intermediate"):
        raise CourseError(
            f"{type(model).__name__}: expected a BERT-like encoder (base_model.encoder.layer[i].intermediate.dense)."
        )
    return layers


def drop_layers(model: nn.Module, keep: Sequence[int]) -> Report:
    """Keep only the layers ``keep`` (indices in ascending order), in place.

    Args:
        model: a BERT-like model; its ``config.num_hidden_layers`` follows.
    Raises:
        ValueError: no layer kept, one out of range, or not ascending.
    """
    layers = encoder_layers(model)
    keep = list(keep)
    ascending = keep == sorted(set(keep)) and bool(keep) and keep[0] >= 0 and keep[-1] < len(layers)
    expect(ascending, "keep", keep, f"ascending layer numbers between 0 and {len(layers) - 1}, at least one")
    count = Reporting(model)
    model.base_model.encoder.layer = nn.ModuleList(layers[i] for i in keep)
    model.config.num_hidden_layers = len(keep)
    dropped = [f"encoder.layer.{i}: dropped" for i in range(len(layers)) if i not in keep]
    return count.report(dropped)


def shrink_linear(linear: nn.Linear, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> nn.Linear:
    """A smaller layer with only these output rows and input columns (int64 indices); None keeps all.

    ``y[rows] = W[rows][:, columns] x[columns] + b[rows]``: the same as before where the dropped inputs are zero.
    """
    weight = linear.weight.detach()
    weight = weight if rows is None else weight[rows]  # (rows, in)
    weight = weight if columns is None else weight[:, columns]
    small = nn.Linear(weight.shape[1], weight.shape[0], bias=linear.bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        small.weight.copy_(weight)
        if linear.bias is not None:
            small.bias.copy_(linear.bias if rows is None else linear.bias[rows])
    return small


def remove_ffn_neurons(model: nn.Module, keep: Sequence[torch.Tensor]) -> Report:
    """Keep only the feed-forward neurons ``keep[i]`` of layer i, in place; the same number in every layer.

    A neuron is a row of the first matrix, its bias, and a column of the second: all three go. What a neuron
    would have put out is then missing exactly as if its activation were zero.

    Args:
        keep: int64 indices (F',) per layer.
    Raises:
        ValueError: not one index tensor per layer, an index out of range or twice, or unequal sizes (the
            config of Hugging Face has one ``intermediate_size``).
    """
    layers = encoder_layers(model)
    expect(len(keep) == len(layers), "keep", len(keep), f"one index tensor for each of {len(layers)} layers")
    sizes = sorted({len(k) for k in keep})
    expect(len(sizes) == 1 and sizes[0] > 0, "keep", sizes, "the same number of neurons, above 0, in every layer")
    widths = [layer.intermediate.dense.out_features for layer in layers]
    for number, (width, kept) in enumerate(zip(widths, keep, strict=True)):  # all of it, before anything is changed
        inside = len(set(kept.tolist())) == len(kept) and int(kept.min()) >= 0 and int(kept.max()) < width
        expect(inside, f"keep[{number}]", kept.tolist()[:8], f"different neurons between 0 and {width - 1}")
    count, changed = Reporting(model), []
    for number, (layer, width, kept) in enumerate(zip(layers, widths, keep, strict=True)):
        layer.intermediate.dense = shrink_linear(layer.intermediate.dense, rows=kept)
        layer.output.dense = shrink_linear(layer.output.dense, columns=kept)
        changed.append(f"encoder.layer.{number}: {width} → {len(kept)} feed-forward neurons")
    model.config.intermediate_size = sizes[0]
    return count.report(changed)


def best_units(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` highest scores, ascending; ties go to the lower index.

    >>> best_units(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2)
    tensor([1, 2])
    """
    expect(0 < count <= len(scores), "count", count, f"between 1 and {len(scores)} units")
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values
