"""An exercise as data: what it is worth, the inputs it is tried on, and how an output is judged.

The learner's function never meets the judgement: :mod:`course_lib.exercises.run` turns cases into outcomes (the only place
where the learner's code runs) and :mod:`course_lib.exercises.judge` turns outcomes into points. Cases and outcomes consist
of tensors, numbers, strings and containers of these, so that the first half can run in another process.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from course_lib.errors import expect


@dataclass(frozen=True)
class Case:
    """One call of the learner's function.

    Attributes:
        label: what this input is about, in a few words: "a threshold of 0".
        args: positional arguments; they are copied before each call.
        part: the share of the points it belongs to; a part counts when all its cases pass.
        calls: for things with state: ``(method, arguments)`` to call, in order, on what ``function(*args)`` returns;
            the output is then the list of their results.
        free: more than one output is right, as where scores are equal. A misconception is recognised by the other cases that
            fail, if there are any: a wrong answer need not choose as its model does.
    """

    label: str
    args: tuple = ()
    part: str = "values"
    calls: tuple[tuple[str, tuple], ...] = ()
    free: bool = False

    @property
    def size(self) -> int:
        """Numbers in the arguments: the smallest failing case is the one to show."""
        return _numbers(self.args) + _numbers(self.calls)


@dataclass(frozen=True)
class Misconception:
    """A known way to be wrong.

    Attributes:
        name: a short name, which an instructor sees in the summary of a class.
        mistake: what somebody with this misconception would have written, same signature as the exercise.
        says: what to tell them, from the case and their output; never the answer.
    """

    name: str
    mistake: Callable
    says: Callable[[Case, Any], str]


@dataclass(frozen=True)
class Exercise:
    """An exercise.

    Attributes:
        id: public and permanent; also the name of the function.
        title: a few words.
        points: for a full answer.
        difficulty: 1 to 5.
        minutes: that it takes somebody who has just read the text above it.
        hints: two or three, each a step further.
        reference: the library's own function; goes to work where the learner's does not pass.
        cases: draws the inputs from a generator: fresh ones, and the edges.
        verify: judges one output: None, or the property it violates, in a sentence without the answer.
        misconceptions: known ways to be wrong, the likeliest first.
        seconds: a case may take; a function that runs longer is stopped.
    """

    id: str
    title: str
    points: float
    difficulty: int
    minutes: int
    hints: tuple[str, ...]
    reference: Callable
    cases: Callable[[torch.Generator], Sequence[Case]]
    verify: Callable[[Case, Any], str | None]
    misconceptions: tuple[Misconception, ...] = field(default=())
    seconds: float = 5.0

    def __post_init__(self) -> None:
        expect(self.id.isidentifier(), "id", self.id, "the name of a function")
        expect(self.points > 0, "points", self.points, "a number above 0")
        expect(1 <= self.difficulty <= 5, "difficulty", self.difficulty, "1 to 5")
        expect(len(self.hints) >= 2, "hints", self.hints, "two or three hints")

    def draw(self, seed: int) -> list[Case]:
        """The cases of a seed: equal seeds, equal cases; exercises draw differently."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.id} {seed}".encode()))  # it heeds 32 bits only
        return list(self.cases(generator))


@dataclass(frozen=True)
class Choice:
    """One answer of a question, and why it is right or not."""

    text: str
    explanation: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question for reflection with checkable answers: a choice, or a number within a tolerance.

    Attributes:
        id: public and permanent.
        text: the question.
        choices: at least two, one of them right; empty for a number.
        number: the right number, and ``tolerance`` around it.
        explanation: for a number: why it is this.
        slips: wrong numbers that a known slip leads to, and what to tell whoever answers one.
    """

    id: str
    text: str
    choices: tuple[Choice, ...] = ()
    number: float | None = None
    tolerance: float = 0.0
    explanation: str = ""
    slips: tuple[tuple[float, str], ...] = ()

    def __post_init__(self) -> None:
        right = sum(c.right for c in self.choices)
        expect((right == 1) != (self.number is not None), "choices", right, "one right choice, or a number")
        expect(self.number is None or bool(self.explanation), "explanation", self.explanation, "a reason for the number")


def _numbers(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(_numbers(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_numbers(v) for v in value)
    return 1
