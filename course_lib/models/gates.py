"""Gates: switches on a model's units and layers that hide them from the rest, without touching a weight.

A gate is a hook, so it can be taken off again and is copied with the model. It hides what a removal would remove: a unit's
gate sits where the unit is read, behind its bias and its activation (GELU(b) would stay otherwise); a layer's gate leads
around the layer (a post-LayerNorm layer whose branches are zero is not the identity: it still normalises and adds biases).
"""

from collections.abc import Iterator

import torch
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.groups import CoupledGroup


class UnitGate:
    """Sets what comes from masked units to zero before the module that reads it.

    Attributes:
        group: the coupled group.
        keep: bool (units,); False hides a unit.
    """

    def __init__(self, group: CoupledGroup, keep: torch.Tensor) -> None:
        self.group, self.keep = group, keep
        self.hidden = ~keep.repeat_interleave(group.reader.width)  # (columns of the reader,)

    def __call__(self, module: nn.Module, args: tuple) -> tuple:
        x, *rest = args
        last = isinstance(module, nn.Linear)  # features are last there, and after the batch in a convolution
        hidden = self.hidden.to(x.device) if last else self.hidden.to(x.device).view(-1, *[1] * (x.dim() - 2))
        return x.masked_fill(hidden, 0.0), *rest


class LayerGate:
    """Leads around a layer: what goes in comes out."""

    def __call__(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return args[0]


def gates(model: nn.Module) -> Iterator[tuple[str, UnitGate | LayerGate]]:
    """Names of the gated modules, and their gates."""
    for name, module in model.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            if isinstance(hook, (UnitGate, LayerGate)):
                yield name, hook


def remove_gates(module: nn.Module) -> None:
    """Take the gates of one module off; everything is as before, to the bit."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, (UnitGate, LayerGate))]:
            del hooks[key]


def require_no_gates(model: nn.Module, task: str) -> None:
    """Refuse a model with masked units or layers.

    Args:
        task: what it is refused for, for the message.
    Raises:
        CourseError: it has gates.
    """
    found = [name for name, _ in gates(model)]
    if found:
        raise CourseError(
            f"{task}: units of the model are masked ({', '.join(found[:3])}). Call compact(model) to remove them, or "
            "unmask(model) to have them back."
        )
