"""Gradients of many parameters in few messages: buckets, filled in the order in which backward delivers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Bucket:
    """Parameters whose gradients travel as one flat tensor."""

    parameters: tuple[nn.Parameter, ...]

    @property
    def sizes(self) -> list[int]:
        """Values of each parameter."""
        return [p.numel() for p in self.parameters]

    def pack(self) -> torch.Tensor:
        """The flat gradients (n + parameters,), zeros where there is none, then for each parameter 1 if there is one.

        Of the sums over workers the last tell whether any worker had a gradient: a parameter that nobody used must be left
        without one, as in one process, or weight decay would shrink it.
        """
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        there = torch.tensor([float(p.grad is not None) for p in self.parameters])
        return torch.cat([*(g.flatten() for g in gradients), there.to(gradients[0])])

    def unpack(self, flat: torch.Tensor) -> None:
        """Make the parts of a flat tensor, (n + parameters,) as of :meth:`pack`, the parameters' gradients."""
        values, there = flat[: sum(self.sizes)], flat[sum(self.sizes) :]
        for p, part, used in zip(self.parameters, values.split(self.sizes), there.tolist(), strict=True):
            p.grad = part.view_as(p) if used else None


def make_buckets(parameters: Sequence[nn.Parameter], most_bytes: int) -> list[Bucket]:
    """Buckets of at most ``most_bytes`` (a larger parameter has one for itself), the last parameters first.

    Backward starts at the last layer, so the first bucket is complete long before the rest; it travels in the meantime.

    Args:
        parameters: of any shapes, in the order in which the model uses them, as ``model.parameters()`` mostly gives them.
        most_bytes: of gradients; a bucket holds one dtype and device.

    >>> a, b, c = (nn.Parameter(torch.zeros(n)) for n in (1, 2, 3))
    >>> [bucket.sizes for bucket in make_buckets([a, b, c], 20)]
    [[3, 2], [1]]
    """
    buckets: list[list[nn.Parameter]] = []
    for p in reversed(parameters):
        last = buckets[-1] if buckets else []
        alike = last and (last[0].dtype, last[0].device) == (p.dtype, p.device)
        if alike and sum(q.numel() for q in [*last, p]) * p.element_size() <= most_bytes:
            last.append(p)
        else:
            buckets.append([p])
    return [Bucket(tuple(bucket)) for bucket in buckets]
