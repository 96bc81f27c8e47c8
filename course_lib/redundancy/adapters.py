"""Bottleneck adapters: a small network behind a layer, through a few dimensions and back, added to what came in.

``a(y) = y + U·gelu(D·y + d) + u`` with D (m, R) and U (R, m), put behind both blocks of an encoder layer, before the residual is added
(Houlsby et al. 2019, 1902.00751). U and u start at zero, so that nothing changes at first. Adapters are not linear: they cannot be merged
away, and cost time; what they cost is in the report.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.errors import expect
from course_lib.plan import match, replace_module
from course_lib.redundancy.added_weights import LINEAR, AddedModule, added_dtype, freeze_base
from course_lib.report import Report, Reporting

BOTH_BLOCKS = "*.output.dense"  # of BERT: behind attention and behind the feed-forward network


@dataclass(frozen=True)
class Adapter:
    """How an adapter is attached behind a layer.

    Attributes:
        width: m, the dimensions of the bottleneck.
    """

    width: int = 32

    def __post_init__(self) -> None:
        expect(self.width >= 1, "width", self.width, "1 or more")


class AdaptedLinear(AddedModule):
    """A linear layer (R, D) with an adapter behind it.

    Args:
        base: the layer, of floats or of integer codes.
        config: see :class:`Adapter`; its width at most R.
        generator: draws the weight of ``down``, uniform within ±1/√R.
    """

    kind = "adapter"

    def __init__(self, base: nn.Module, config: Adapter, generator: torch.Generator | None = None) -> None:
        super().__init__()
        wide = base.out_features
        expect(
            config.width <= wide, "width", config.width, f"at most the {wide} outputs of the layer: a bottleneck is narrower"
        )
        self.base, self.config = base, asdict(config)
        self.down, self.up = nn.Linear(wide, config.width), nn.Linear(config.width, wide)
        with torch.no_grad():
            self.down.weight.uniform_(-(wide**-0.5), wide**-0.5, generator=generator)
            for p in (self.down.bias, self.up.weight, self.up.bias):
                p.zero_()
        for layer in (self.down, self.up):
            layer.to(added_dtype(base))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) → (…, R)"""
        y = self.base(x)
        return y + self.up(F.gelu(self.down(y)))


def attach_adapters(model: nn.Module, plan: Mapping[str, Adapter], seed: int = 0) -> Report:
    """Put adapters behind linear layers, in place, and leave nothing else trainable but the classifier.

    Args:
        model: of float or quantized layers.
        plan: module name or pattern (:data:`BOTH_BLOCKS`) → :class:`Adapter`.
        seed: draws their weights.
    Returns:
        The layers, with how many numbers are trained in each.
    Raises:
        CourseError: a plan that matches nothing.
        ValueError: a bottleneck wider than a layer's outputs.
    """
    matches = match(model, plan, LINEAR)
    generator, count = torch.Generator().manual_seed(seed), Reporting(model)
    new = {
        name: AdaptedLinear(linear, config, generator).train(linear.training)
        for name, (linear, config) in matches.found.items()
    }
    for name, module in new.items():
        replace_module(model, name, module)
    freeze_base(model)
    size = lambda m: sum(p.numel() for p in m.added().values())  # noqa: E731
    return count.report(
        [f"{name}: {m.config['width']} wide, {size(m):,} numbers to train" for name, m in new.items()], matches.skipped
    )
