"""What a transform did to a model: never a silent no-op."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """What changed, what was skipped and why, and what it saved.

    Attributes:
        changed: one line per module changed.
        skipped: one line per module left alone, with the reason.
        parameters_before, parameters_after: stored parameters of the whole model.
    """

    parameters_before: int
    parameters_after: int
    changed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        saved = 1 - self.parameters_after / self.parameters_before
        head = f"{self.parameters_before:,} → {self.parameters_after:,} parameters (−{saved:.1%})"
        return "\n".join([head, *self.changed, *(f"skipped: {s}" for s in self.skipped)])
