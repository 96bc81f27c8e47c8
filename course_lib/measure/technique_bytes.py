"""What a technique leaves, and how many bytes it takes: codes, scales, codebooks, masks and all that stayed in float."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from course_lib.errors import expect
from course_lib.pruning.storage_bytes import bitmask_bytes, two_four_bytes
from course_lib.quantization.apply import Quantized
from course_lib.quantization.embedding import QuantizedEmbedding
from course_lib.quantization.nodes import QuantizedNode
from course_lib.quantization.scheme import linear_bytes, weight_bytes

NODE_BYTES = 5  # a float32 scale and a uint8 zero point


@dataclass
class Made:
    """A model as a technique leaves it.

    Attributes:
        model: ready to be called.
        masks: parameter name → bool mask of the weights that have zeros to leave out of the file.
        layout: how masked weights are stored: "bitmask", a bit for each entry; "rows", a bit for each row, which stays or
            goes whole; "2:4", two values of every four and their places.
        note: what happened, in a line.
    """

    model: nn.Module
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    layout: str = "bitmask"
    note: str = ""


def masked_bytes(mask: torch.Tensor, layout: str, value_bytes: int = 4) -> int:
    """Bytes of a matrix of which only the entries of a mask are stored.

    Args:
        mask: bool (R, D), True where a weight stays.
        layout: see :class:`Made`.
        value_bytes: of an entry.
    Returns:
        ``kept·v + ceil(R·D/8)`` for "bitmask", ``kept·v + ceil(R/8)`` for "rows", ``R·D/2·v + ceil(R·D/8)`` for "2:4"
        (:mod:`course_lib.pruning.storage_bytes`).
    Raises:
        ValueError: an unknown layout, or a mask that does not have it.

    >>> mask = torch.tensor([[True, True, True, True], [False, False, False, False]])
    >>> masked_bytes(mask, "bitmask"), masked_bytes(mask, "rows")
    (17, 17)
    """
    expect(layout in ("bitmask", "rows", "2:4"), "layout", layout, "'bitmask', 'rows' or '2:4'")
    kept = int(mask.sum())
    if layout == "bitmask":
        return bitmask_bytes(mask.shape, kept, value_bytes)
    if layout == "rows":
        whole = bool((mask.all(1) | ~mask.any(1)).all())
        expect(whole, "mask", "rows with both", "rows that stay or go whole")
        return kept * value_bytes + -(-len(mask) // 8)
    most = int(mask.view(-1, 4).sum(1).max())
    expect(most <= 2, "mask", f"{most} of 4 neighbours", "at most 2 of every 4")
    return two_four_bytes(mask.shape, value_bytes)


def payload_bytes(made: Made) -> int:
    """Bytes of all tensors of a model by the formula of how each is stored; what is tied counts once.

    Quantized layers by :func:`course_lib.quantization.scheme.linear_bytes`, masked weights by :func:`masked_bytes`, a
    simulated node by its scale and zero point, all else as it is.

    Raises:
        ValueError: a mask of no weight of the model.
    """
    quantized = {name: m for name, m in made.model.named_modules() if isinstance(m, Quantized)}
    nodes = sum(len(m.codes) for m in made.model.modules() if isinstance(m, QuantizedNode))
    total, left, seen = NODE_BYTES * nodes + sum(map(_quantized_bytes, quantized.values())), dict(made.masks), set()
    for name, tensor in made.model.state_dict(keep_vars=True).items():
        if id(tensor) in seen or any(name.startswith(f"{q}.") for q in quantized):
            continue
        seen.add(id(tensor))
        mask = left.pop(name, None)
        total += tensor.nbytes if mask is None else masked_bytes(mask, made.layout, tensor.element_size())
    expect(not left, "masks", next(iter(left), None), "names of the model's own weights")
    return total


def _quantized_bytes(module: nn.Module) -> int:
    if isinstance(module, QuantizedEmbedding):
        return weight_bytes((module.num_embeddings, module.embedding_dim), module.scheme)
    return linear_bytes((module.out_features, module.in_features), module.scheme, module.bias is not None)
