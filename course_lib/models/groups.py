"""Coupled groups: which rows of which matrix belong together with which columns of the next, as objects that can be printed.

A *unit* is what can be taken out of a network without a trace: a feed-forward neuron, an attention head, a channel of a
convolution. It is made by rows of some modules and read by columns of one other, and all of them go together.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from course_lib.errors import CourseError, expect
from course_lib.plan import match, replace_module

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Part:
    """What a group's units are in one module: unit i has the rows (or columns) ``i·width … i·width + width − 1``.

    Attributes:
        module: its name in the model.
        axis: ``"rows"``, output features with their biases (and a BatchNorm's entries), or ``"columns"``, input features.
        width: rows or columns of one unit, such as the size of a head.
    """

    module: str
    axis: str
    width: int = 1

    def indices(self, units: torch.Tensor) -> torch.Tensor:
        """The rows or columns of these units, unit by unit.

        >>> Part("query", "rows", 3).indices(torch.tensor([2, 0]))
        tensor([6, 7, 8, 0, 1, 2])
        """
        return (units[:, None] * self.width + torch.arange(self.width)).flatten()


@dataclass(frozen=True)
class CoupledGroup:
    """Units that are alike, and every part of the model that belongs to them.

    Attributes:
        name: such as ``encoder.layer.0.neurons``.
        units: how many there are.
        parts: the modules that make them, in order of computation, and last the one that reads them.

    >>> print(CoupledGroup("ffn.neurons", 4, (Part("ffn.0", "rows"), Part("ffn.2", "columns"))))
    ffn.neurons: 4 units; unit i is
      row i of ffn.0, with its bias
      column i of ffn.2
    """

    name: str
    units: int
    parts: tuple[Part, ...]

    @property
    def reader(self) -> Part:
        """The module that reads the units: whatever reaches it from a masked unit is zero."""
        return self.parts[-1]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.units} units; unit i is"]
        for part in self.parts:
            one = part.width == 1
            place = f"{part.axis[:-1]} i" if one else f"{part.axis} {part.width}·i … {part.width}·i+{part.width - 1}"
            bias = "" if part.axis == "columns" else ", with its bias" if one else ", with their biases"
            lines.append(f"  {place} of {part.module}{bias}")
        return "\n".join(lines)


def check_groups(model: nn.Module, groups: Sequence[CoupledGroup]) -> None:
    """Refuse groups with a module that cannot be cut.

    Raises:
        CourseError: a module that is missing or of another class (a quantized one, say), whose weight is tied to another
            module's, or computed from a mask (``parametrize``, ``torch.nn.utils.prune``), or whose size is not that of the
            units.
    """
    parts = {part.module: part for group in groups for part in group.parts}
    if parts:
        match(model, dict.fromkeys(parts), KINDS)  # classes and tied weights
    for group in groups:
        for part in group.parts:
            module = model.get_submodule(part.module)
            if parametrize.is_parametrized(module) or prune.is_pruned(module):
                raise CourseError(
                    f"{part.module}: its weight is computed from a mask or another parametrization; make that permanent first."
                )
            size = _sizes(module)[part.axis == "columns"]
            if size != group.units * part.width:
                raise CourseError(
                    f"{part.module} has {size} {part.axis}, expected {group.units * part.width}: {group.units} units of "
                    f"{part.width} in {group.name}."
                )


def check_units(group: CoupledGroup, keep: torch.Tensor, argument: str = "keep") -> None:
    """Refuse indices that are no set of the group's units (the empty set is one)."""
    expect(keep.dtype == torch.int64 and keep.dim() == 1, argument, keep, "unit numbers, int64 (units,)")
    inside = len(set(keep.tolist())) == len(keep) and (
        len(keep) == 0 or (int(keep.min()) >= 0 and int(keep.max()) < group.units)
    )
    expect(inside, argument, keep.tolist()[:8], f"different units of {group.name} between 0 and {group.units - 1}")


def unit_parameters(model: nn.Module, group: CoupledGroup) -> int:
    """Parameters of one unit, over all parts of the group: what removing it saves.

    A feed-forward neuron of a layer of width D has ``2·D + 1``, a head of size d ``4·d·D + 3·d``.
    """
    total = 0
    for part in group.parts:
        for p in model.get_submodule(part.module).parameters(recurse=False):
            if part.axis == "rows" or p.dim() > 1:  # a bias belongs to the rows
                total += p.numel() // group.units
    return total


def keep_units(model: nn.Module, group: CoupledGroup, keep: torch.Tensor) -> None:
    """Cut a group down to the units ``keep``, in place and in that order; every other unit goes from every part.

    Args:
        model: the model the group is of.
        keep: int64 (units kept,).
    """
    for part in group.parts:
        cut = {part.axis: part.indices(keep)}
        replace_module(model, part.module, shrink(model.get_submodule(part.module), **cut))


def shrink(module: nn.Module, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> nn.Module:
    """A smaller copy of a linear, convolutional or BatchNorm module.

    ``y[rows] = W[rows][:, columns] x[columns] + b[rows]``: the same as before where the dropped inputs are zero.

    Args:
        module: of weight (rows, columns, …); a BatchNorm has rows only.
        rows: output features to keep, int64; None keeps all.
        columns: input features to keep, likewise.
    Returns:
        A module with tensors of its own, on the same device, with the same dtype, mode and ``requires_grad``.
    Raises:
        ValueError: a grouped convolution (its channels are tied in ways a row does not show), or another class.
    """
    expect(isinstance(module, KINDS), "module", type(module).__name__, " or ".join(k.__name__ for k in KINDS))
    expect(getattr(module, "groups", 1) == 1, "groups", getattr(module, "groups", 1), "a convolution of one group")
    small = copy.deepcopy(module)
    for name, tensor in [*small.named_parameters(recurse=False), *small.named_buffers(recurse=False)]:
        if tensor.dim() == 0:  # BatchNorm's count of batches
            continue
        cut = tensor.detach() if rows is None else tensor.detach()[rows]
        cut = cut if columns is None or tensor.dim() == 1 else cut[:, columns]
        setattr(small, name, nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut)
    for attribute, index in zip(_size_names(module), (rows, columns), strict=False):
        if index is not None:
            setattr(small, attribute, len(index))
    return small


def _size_names(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.Linear):
        return "out_features", "in_features"
    return ("num_features",) if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) else ("out_channels", "in_channels")


def _sizes(module: nn.Module) -> tuple[int, int]:
    sizes = [getattr(module, name) for name in _size_names(module)]
    return sizes[0], sizes[-1]
