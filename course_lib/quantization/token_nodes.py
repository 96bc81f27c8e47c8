"""Dynamic quantization of every node: each token brings its own scale, so that an outlier of one token costs the others nothing.

A scale for each token: Yao et al. 2022, 2206.01861.
"""

from collections.abc import Iterable

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.plan import replace_module
from course_lib.quantization.linear import quantize_tokens
from course_lib.report import Report, Reporting


class TokenNode(nn.Module):
    """A module whose first input, or output, or both go through symmetric int8 codes with a scale for each row.

    Args:
        module: computes as before in between.
        sides: "input", "output" or both.
    """

    def __init__(self, module: nn.Module, sides: Iterable[str]) -> None:
        super().__init__()
        self.module, self.sides = module, frozenset(sides)
        expect(self.sides <= {"input", "output"}, "sides", sorted(self.sides), "'input' and 'output'")

    def _through(self, side: str, x: torch.Tensor) -> torch.Tensor:
        if side not in self.sides:
            return x
        codes, scale = quantize_tokens(x.reshape(-1, x.shape[-1]))
        return (codes * scale).view(x.shape)

    def forward(self, x: torch.Tensor, *arguments, **named) -> torch.Tensor:
        """As the module inside: x of any shape that it takes."""
        return self._through("output", self.module(self._through("input", x), *arguments, **named))


def quantize_nodes_by_token(model: nn.Module, nodes: Iterable[str]) -> Report:
    """Send nodes through int8 codes with a scale for each token, in place: a simulation, for models that are not to be saved.

    Args:
        model: floating point.
        nodes: ``name:input`` and ``name:output``, such as the keys of :func:`course_lib.quantization.nodes.node_ranges`.
    Raises:
        CourseError: a node of no module.
    """
    sides: dict[str, list[str]] = {}
    for node in nodes:
        name, _, side = node.rpartition(":")
        sides.setdefault(name, []).append(side)
    modules = dict(model.named_modules())
    if unknown := [name for name in sides if name not in modules]:
        raise CourseError(f"nodes: the model has no module {unknown[0]!r}; expected nodes of this model, as of node_ranges.")
    new = {name: TokenNode(modules[name], found).train(modules[name].training) for name, found in sides.items()}
    count = Reporting(model)
    for name, module in new.items():
        replace_module(model, name, module)
    return count.report([f"{name}: {' and '.join(sorted(node.sides))} of 8 bits per token" for name, node in new.items()])
