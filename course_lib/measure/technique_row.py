"""A row of the technique table as data."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from course_lib.measure.technique_bench import Bench
from course_lib.measure.technique_bytes import Made

Make = Callable[[nn.Module, Bench], Made]


@dataclass(frozen=True)
class Technique:
    """One technique at one strength.

    Attributes:
        name: unique, such as ``wanda-70``; ``--only`` matches it.
        method: for people.
        family: "pruning" or "quantization"; "none" for the teacher itself.
        strength: such as "70%", "2:4" or "4 bits".
        make: changes a model of the teacher's own weights, in place, and says what came of it.
        plain: name of the row of plain magnitude or rounding to nearest, at equal bytes, to compare with; None: it is one.
        trained: whether it learns from the sentences of the short training.
    """

    name: str
    method: str
    family: str
    strength: str
    make: Make
    plain: str | None = None
    trained: bool = False

    @property
    def kind(self) -> str:
        """ "ours", or "plain" for a baseline."""
        return "plain" if self.plain is None else "ours"


def recovered(make: Make, after: Callable[[Made], Callable[[int, int], None] | None] = lambda made: None) -> Make:
    """A technique and the short training after it.

    Args:
        make: the technique.
        after: what it left → what to call after each step, or None.
    """

    def again(model: nn.Module, bench: Bench) -> Made:
        made = make(model, bench)
        bench.train(made.model, after_step=after(made))
        return made

    return again
