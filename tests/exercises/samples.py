"""Small exercises and questions for the tests of the machinery."""

import torch

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference


def clip(w: torch.Tensor, limit: float) -> torch.Tensor:
    """The library's answer: entries beyond ±limit are set to it."""
    return w.clamp(-limit, limit)


def _cases(generator: torch.Generator) -> list[Case]:
    return [
        Case("a few weights", (torch.tensor([-3.0, 0.5, 2.0]), 1.0)),
        Case("a matrix", (3 * torch.randn(3, 4, generator=generator), 1.0)),
        Case("a limit of 0", (torch.tensor([-1.0, 2.0]), 0.0), part="edges"),
    ]


def _verify(case: Case, output) -> str | None:
    return difference(output, clip(*case.args))


CLIP = Exercise(
    id="clip",
    title="weights within a limit",
    points=4,
    difficulty=2,
    minutes=5,
    hints=("Which entries are too large?", "There is a function that does both sides at once."),
    reference=clip,
    cases=_cases,
    verify=_verify,
    misconceptions=(
        Misconception(
            "one_sided",
            lambda w, limit: w.clamp(max=limit),
            lambda case, output: f"You get {describe(output)}: the negative side is left as it was.",
        ),
        Misconception(
            "zeroed",
            lambda w, limit: torch.where(w.abs() <= limit, w, 0),
            lambda case, output: f"You get {describe(output)}: what is beyond the limit has become 0.",
        ),
    ),
    seconds=0.2,
)


class Counter:
    """The library's answer: counts up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.counts = limit, torch.zeros(1)

    def step(self, by: int) -> torch.Tensor:
        self.counts = (self.counts + by).clamp(max=self.limit)
        return self.counts


def _counter_cases(generator: torch.Generator) -> list[Case]:
    steps = torch.randint(1, 4, (5,), generator=generator).tolist()
    return [
        Case("a few steps", (100,), calls=tuple(("step", (s,)) for s in steps)),
        Case("a limit that is met", (2,), part="limit", calls=(("step", (1,)), ("step", (5,)))),
    ]


def _counted(case: Case) -> list[torch.Tensor]:
    counter = Counter(*case.args)
    return [counter.step(*given) for _, given in case.calls]


COUNTER = Exercise(
    id="Counter",
    title="a thing with state",
    points=2,
    difficulty=1,
    minutes=5,
    hints=("Keep the count.", "Mind the limit."),
    reference=Counter,
    cases=_counter_cases,
    verify=lambda case, output: difference(output, _counted(case)),
)

ROOM = (
    Question(
        "zeros",
        "What does a zero take?",
        (Choice("nothing", "It is stored like any other."), Choice("4 bytes", "As every float32 does.", right=True)),
    ),
    Question("ratio", "How many times smaller?", number=6.0, tolerance=0.1, explanation="90 / 15 = 6."),
)
