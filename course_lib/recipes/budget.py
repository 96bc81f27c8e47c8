"""Which of many recipes to take: the Pareto front, and what a budget leaves of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from course_lib.errors import expect

AIMS = ("loss", "bytes", "ms")  # F1 points lost, bytes on disk, milliseconds per sentence: the less the better


@dataclass(frozen=True)
class Budget:
    """What a model may cost; None: any amount.

    Attributes:
        loss: points of F1 (hundredths) below the teacher.
        bytes: on disk, tokenizer included.
        ms: milliseconds per sentence, batch 1.
    """

    loss: float | None = None
    bytes: int | None = None
    ms: float | None = None

    def limits(self) -> dict[str, float]:
        """The limits that are set."""
        return {aim: getattr(self, aim) for aim in AIMS if getattr(self, aim) is not None}

    def excess(self, figures: Mapping[str, float]) -> dict[str, float]:
        """How far figures are above each limit, in one currency: shares of the limit, and whole points of F1.

        A tenth of a point thus counts like 10 % more bytes. Not above 0: the limit is kept.

        >>> Budget(loss=1.0, bytes=100).excess({"loss": 1.5, "bytes": 90, "ms": 3.0})
        {'loss': 0.5, 'bytes': -0.1}
        """
        return {
            aim: round(figures[aim] - limit if aim == "loss" else figures[aim] / limit - 1, 12)
            for aim, limit in self.limits().items()
        }

    def kept(self, figures: Mapping[str, float]) -> bool:
        """True when no limit is exceeded."""
        return all(over <= 0 for over in self.excess(figures).values())


def pareto_front(rows: Sequence[Mapping[str, float]]) -> list[int]:
    """Indices of rows that no other row beats: none is as good in all of :data:`AIMS` and better in one.

    >>> pareto_front([{"loss": 1, "bytes": 5, "ms": 1}, {"loss": 2, "bytes": 5, "ms": 1}, {"loss": 3, "bytes": 4, "ms": 9}])
    [0, 2]
    """
    points = [tuple(row[aim] for aim in AIMS) for row in rows]
    beats = lambda a, b: a != b and all(x <= y for x, y in zip(a, b, strict=True))  # noqa: E731
    return [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]


def choose(rows: Sequence[Mapping[str, float]], budget: Budget, goal: str = "loss") -> int | None:
    """Index of the row that keeps the budget and is best in ``goal`` (the others of :data:`AIMS` break ties); None: no row does.

    Raises:
        ValueError: ``goal`` is none of :data:`AIMS`.
    """
    expect(goal in AIMS, "goal", goal, f"one of {AIMS}")
    kept = [i for i, row in enumerate(rows) if budget.kept(row)]
    order = (goal, *(aim for aim in AIMS if aim != goal))
    return min(kept, key=lambda i: tuple(rows[i][aim] for aim in order), default=None)


def nearest(rows: Sequence[Mapping[str, float]], budget: Budget) -> int:
    """Index of the row whose excesses over the budget add up to the least."""
    return min(range(len(rows)), key=lambda i: sum(max(0.0, over) for over in budget.excess(rows[i]).values()))
