"""Removing units written out for the tensors alone, as lesson 04 builds it.

:mod:`course_lib.models.groups` and :mod:`course_lib.pruning.tree` do the same for the modules of a model. Sources: filters of
convolutions, Li et al. 2016, 1608.08710; attention heads, Michel et al. 2019, 1905.10650.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.errors import expect
from course_lib.models.groups import unit_parameters
from course_lib.models.surgery import layer_names
from course_lib.pruning.tree import Node
from course_lib.pruning.unit_masks import encoder_groups
from course_lib.report import parameter_count

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def remove_units(weight: torch.Tensor, bias: torch.Tensor, reader: torch.Tensor, keep: torch.Tensor) -> Three:
    """Keep only some neurons, or channels: their rows, their biases, and the columns of the next weight that read them.

    Args:
        weight: what makes the U units: (U, in) of a linear layer, (U, in, k, k) of a convolution.
        bias: (U,).
        reader: the next weight, (out, U·P, …): P columns for each unit, unit by unit. P is 1, or the positions of a map that
            was flattened.
        keep: int64 (kept,), numbers of units.
    Returns:
        The three with fewer units: (kept, …), (kept,) and (out, kept·P, …).
    Raises:
        ValueError: columns that are no multiple of the units, or a number that is no unit.

    >>> w, b, r, keep = torch.zeros(5, 3), torch.zeros(5), torch.zeros(2, 20), torch.tensor([0, 4])
    >>> [tuple(t.shape) for t in remove_units(w, b, r, keep)]
    [(2, 3), (2,), (2, 8)]
    """
    units, columns = len(weight), reader.shape[1]
    expect(columns % units == 0, "reader", tuple(reader.shape), f"a multiple of {units} columns")
    expect(bool(((keep >= 0) & (keep < units)).all()), "keep", keep, f"units between 0 and {units - 1}")
    return weight[keep], bias[keep], reader[:, _blocks(keep, columns // units)]


def remove_attention_heads(qkv: torch.Tensor, biases: torch.Tensor, out: torch.Tensor, keep: torch.Tensor, size: int) -> Three:
    """Keep only some attention heads: ``size`` rows each of query, key and value, and ``size`` columns of what reads them.

    Args:
        qkv: the weights of query, key and value, (3, H·size, D); head h has the rows h·size … h·size + size − 1 of each.
        biases: theirs, (3, H·size).
        out: the weight of the output projection, (D, H·size).
        keep: int64 (kept,), numbers of heads.
        size: of a head.
    Returns:
        The three with fewer heads: (3, kept·size, D), (3, kept·size) and (D, kept·size).
    Raises:
        ValueError: rows that are no multiple of ``size``, or a number that is no head.

    >>> qkv, biases, out = torch.zeros(3, 12, 12), torch.zeros(3, 12), torch.zeros(12, 12)
    >>> [tuple(t.shape) for t in remove_attention_heads(qkv, biases, out, torch.tensor([2]), size=4)]
    [(3, 4, 12), (3, 4), (12, 4)]
    """
    expect(qkv.shape[1] % size == 0, "size", size, f"a divisor of {qkv.shape[1]} rows")
    heads = qkv.shape[1] // size
    expect(bool(((keep >= 0) & (keep < heads)).all()), "keep", keep, f"heads between 0 and {heads - 1}")
    rows = _blocks(keep, size)
    return qkv[:, rows], biases[:, rows], out[:, rows]


def masked_block(
    x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """A feed-forward block with some neurons hidden: ``(GELU(x·W₁ᵀ + b₁) ⊙ m)·W₂ᵀ + b₂``, the output as if they were removed.

    Args:
        x: (N, D).
        w1, b1: (F, D) and (F,).
        w2, b2: (D, F) and (D,).
        mask: bool (F,), True where a neuron stays.
    Returns:
        (N, D).

    >>> one = torch.ones(1, 1)
    >>> masked_block(one, one, one[0], one, 3 * one[0], torch.tensor([False]))
    tensor([[3.]])
    """
    expect(
        mask.dtype == torch.bool and mask.shape == b1.shape,
        "mask",
        f"{mask.dtype} {tuple(mask.shape)}",
        f"bool {tuple(b1.shape)}",
    )
    hidden = F.gelu(x @ w1.T + b1)  # (N, F)
    return (hidden * mask) @ w2.T + b2


def next_to_go(costs: Mapping[str, float], parameters: Mapping[str, int], gone: Collection[str]) -> str:
    """One greedy decision in a tree of modules: the node that costs the least for each parameter it still frees.

    Args:
        costs: node → what its removal would do to the loss now, such as ``"layer.1"``, ``"layer.1.heads"``.
        parameters: leaf of the tree → its parameters. A leaf is inside of a node when it is the node, or its name goes on from
            the node's name with a dot.
        gone: leaves that were removed before.
    Returns:
        The node. What has nothing left to free is no candidate; among equals the first one.
    Raises:
        ValueError: nothing left to remove.

    >>> next_to_go({"a": 3.0, "a.heads": 2.0, "a.neurons": 2.0}, {"a.heads": 10, "a.neurons": 20}, gone=[])
    'a'
    """
    left = {leaf: count for leaf, count in parameters.items() if leaf not in gone}
    freed = {node: sum(n for leaf, n in left.items() if f"{leaf}.".startswith(f"{node}.")) for node in costs}
    expect(any(freed.values()), "gone", sorted(gone), "a node with something left to free")
    return min((node for node in costs if freed[node]), key=lambda node: costs[node] / freed[node])


def leaf_parameters(model: nn.Module, tree: Sequence[Node]) -> dict[str, int]:
    """Parameters of each leaf of a module tree, and as ``<layer>.rest`` those that go only with the whole layer.

    Args:
        model: nothing in it is masked.
        tree: of :func:`course_lib.pruning.tree.module_tree`, or some of its nodes.
    """
    each = {group.name: unit_parameters(model, group) for group in encoder_groups(model)}
    outer = {node.group for node in tree if node.group != node.name}  # groups whose leaves are in the tree
    found = {n.name: len(n.units) * each[n.group] for n in tree if n.group and (n.name != n.group or n.group not in outer)}
    for layer in layer_names(model):
        inside = sum(count for leaf, count in found.items() if leaf.startswith(f"{layer}."))
        found[f"{layer}.rest"] = parameter_count(model.get_submodule(layer)) - inside
    return found


def _blocks(keep: torch.Tensor, size: int) -> torch.Tensor:
    """The rows, or columns, of blocks of ``size``: block k has k·size … k·size + size − 1."""
    return (keep[:, None] * size + torch.arange(size)).flatten()
