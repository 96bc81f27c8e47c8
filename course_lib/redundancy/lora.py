"""LoRA: a product of two thin matrices learnt beside a weight that stays as it is (Hu et al. 2021, 2106.09685).

``y = x·Wᵀ + (α/r)·x·Aᵀ·Bᵀ``: A starts random and B at zero, so that nothing changes at first. The product has rank r at most: an update
of a whole matrix says much the same in many places, and a few directions of it are enough. After training ``W + (α/r)·B·A`` is a plain
layer again; codes of integers cannot take it in without rounding anew, so there the two stay attached.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.plan import match, replace_module
from course_lib.redundancy.added_weights import LINEAR, AddedModule, added_dtype, added_modules, expect_finite, freeze_base
from course_lib.report import Report, Reporting


@dataclass(frozen=True)
class Lora:
    """How LoRA is attached to a layer.

    Attributes:
        rank: r.
        alpha: the update is scaled by α/r; with the same α the best learning rate hardly depends on the rank.
        dropout: of the inputs of A, while training.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        expect(self.rank >= 1, "rank", self.rank, "1 or more")
        expect(self.alpha > 0, "alpha", self.alpha, "a number above 0")
        expect(0 <= self.dropout < 1, "dropout", self.dropout, "a probability below 1")


class LoraLinear(AddedModule):
    """A linear layer (R, D) with LoRA.

    Args:
        base: the layer, of floats or of integer codes.
        config: see :class:`Lora`; its rank at most the smaller of R and D.
        generator: draws A, uniform within ±1/√D, as a new linear layer's weight is.
    Attributes:
        down: A (r, D); up: B (R, r), zeros at first.
    """

    kind = "lora"

    def __init__(self, base: nn.Module, config: Lora, generator: torch.Generator | None = None) -> None:
        super().__init__()
        largest = min(base.in_features, base.out_features)
        expect(config.rank <= largest, "rank", config.rank, f"at most {largest}, the rank of the layer's own matrix")
        self.base, self.lora, self.config = base, config, asdict(config)
        bound, dtype = base.in_features**-0.5, added_dtype(base)
        down = torch.empty(config.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(dtype))
        self.up = nn.Parameter(torch.zeros(base.out_features, config.rank, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) → (…, R)"""
        small = F.linear(F.dropout(x, self.lora.dropout, self.training), self.down.to(x.dtype))  # (…, r)
        return self.base(x) + F.linear(small, self.up.to(x.dtype)) * (self.lora.alpha / self.lora.rank)

    def update(self) -> torch.Tensor:
        """What training has added to the weight: ``(α/r)·B·A``, (R, D)."""
        return self.up.detach() @ self.down.detach() * (self.lora.alpha / self.lora.rank)


def attach_lora(model: nn.Module, plan: Mapping[str, Lora], seed: int = 0) -> Report:
    """Add LoRA to linear layers, in place, and leave nothing else trainable but the classifier.

    Args:
        model: of float or quantized layers.
        plan: module name or pattern → :class:`Lora`.
        seed: draws every A.
    Returns:
        The layers, with how many numbers are trained in each.
    Raises:
        CourseError: a plan that matches nothing.
        ValueError: a rank above a matrix's own.
    """
    matches = match(model, plan, LINEAR)
    generator, count = torch.Generator().manual_seed(seed), Reporting(model)
    new = {
        name: LoraLinear(linear, config, generator).train(linear.training) for name, (linear, config) in matches.found.items()
    }
    for name, module in new.items():
        replace_module(model, name, module)
    freeze_base(model)
    changed = [f"{name}: rank {m.lora.rank}, {m.down.numel() + m.up.numel():,} numbers to train" for name, m in new.items()]
    return count.report(changed, matches.skipped)


def merge_lora(model: nn.Module) -> Report:
    """Put ``W + (α/r)·B·A`` in the place of each layer with LoRA, in place: as fast and as large as before it was attached.

    Raises:
        CourseError: no LoRA in the model, or one whose base has integer codes: it cannot take an update in without being quantized
            anew. Then nothing is changed.
        ValueError: an update with NaN or Inf in it.
    """
    found = {name: m for name, m in added_modules(model).items() if isinstance(m, LoraLinear)}
    if not found:
        raise CourseError(f"{type(model).__name__}: no LoRA in it; adapters cannot be merged, they are not linear.")
    for name, module in found.items():
        if not isinstance(module.base, nn.Linear):
            raise CourseError(
                f"{name}: its base is a {type(module.base).__name__} of integer codes, which take in no update; expected a float layer. "
                "Keep LoRA attached, or merge before quantizing."
            )
        expect_finite(f"{name}, the update", module.update())
    count = Reporting(model)
    for name, module in found.items():
        with torch.no_grad():
            module.base.weight += module.update().to(module.base.weight.dtype)
        replace_module(model, name, module.base)
    return count.report([f"{name}: merged" for name in found])
