"""What a transform did to a model: never a silent no-op."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Report:
    """What changed, what was skipped and why, and what it saved.

    Attributes:
        parameters_before, parameters_after: stored parameters of the whole model.
        bytes_before, bytes_after: of all parameters and buffers, each storage once.
        changed: one line per module changed.
        skipped: one line per module left alone, with the reason.
    """

    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    changed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        saved = 1 - self.bytes_after / self.bytes_before if self.bytes_before else 0.0
        head = (
            f"{self.parameters_before:,} → {self.parameters_after:,} parameters, "
            f"{self.bytes_before:,} → {self.bytes_after:,} bytes (−{saved:.1%})"
        )
        return "\n".join([head, *self.changed, *(f"skipped: {s}" for s in self.skipped)])


class Reporting:
    """Counts a model before and after a transform.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> count = Reporting(model)
    >>> model[0] = nn.Linear(4, 1)
    >>> print(count.report(["0: 2 → 1 outputs"]))
    10 → 5 parameters, 40 → 20 bytes (−50.0%)
    0: 2 → 1 outputs
    """

    def __init__(self, model: "nn.Module") -> None:
        self.model, self.before = model, (parameter_count(model), tensor_bytes(model))

    def report(self, changed: list[str], skipped: list[str] | None = None) -> Report:
        """The report of what happened since this object was made."""
        (parameters, size), model = self.before, self.model
        return Report(parameters, parameter_count(model), size, tensor_bytes(model), changed, list(skipped or []))


def parameter_count(model: "nn.Module") -> int:
    """Parameters stored, tied ones once; the codes of quantized layers (their ``code_count``) are parameters too."""
    codes = sum(getattr(module, "code_count", 0) for module in model.modules())
    return sum(p.numel() for p in model.parameters()) + codes


def tensor_bytes(model: "nn.Module") -> int:
    """Bytes of all parameters and buffers; what shares a storage counts once."""
    storages = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes() if storage.nbytes() else 0
    return sum(storages.values())
