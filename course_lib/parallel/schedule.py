"""Schedules of a pipeline as data: what each stage does, in which order. One object drives the processes, the clock and the costs.

A *stage* is a worker with a stretch of the layers; a batch is cut into *micro-batches* that follow each other through the stages.
The forward pass of a micro-batch waits for the stage before, the backward pass for the stage after; in between its activations
are kept. A *tick* is the time of one forward pass.
"""

from dataclasses import dataclass
from typing import NamedTuple

from course_lib.errors import expect

FORWARD, BACKWARD = "forward", "backward"


class Action(NamedTuple):
    """One pass of one micro-batch through one stage.

    Attributes:
        kind: ``"forward"`` or ``"backward"``.
        micro_batch: its number, from 0.
    """

    kind: str
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.kind[0].upper()}{self.micro_batch}"


@dataclass(frozen=True)
class Schedule:
    """The ordered list of actions of each stage.

    Attributes:
        name: such as ``"GPipe"``.
        actions: stage → its actions in order; each micro-batch once forward and, later, once backward.
    Raises:
        ValueError: an action is missing, there twice, or a backward comes before its forward.

    >>> print(one_f_one_b(2, 3))
    stage 0: F0 F1 B0 F2 B1 B2
    stage 1: F0 B0 F1 B1 F2 B2
    """

    name: str
    actions: tuple[tuple[Action, ...], ...]

    def __post_init__(self) -> None:
        expect(len(self.actions) > 0 and len(self.actions[0]) > 0, "actions", self.actions, "at least one stage with actions")
        due = sorted(Action(kind, i) for i in range(self.micro_batches) for kind in (FORWARD, BACKWARD))
        for stage, own in enumerate(self.actions):
            text = " ".join(map(str, own))
            whole = sorted(own) == due
            expect(whole, f"actions[{stage}]", text, f"each of {self.micro_batches} micro-batches once forward, once backward")
            right = all(own.index((FORWARD, i)) < own.index((BACKWARD, i)) for i in range(self.micro_batches))
            expect(right, f"actions[{stage}]", text, "each backward after its forward")

    @property
    def stages(self) -> int:
        """How many stages there are: p in formulae."""
        return len(self.actions)

    @property
    def micro_batches(self) -> int:
        """How many micro-batches a batch is cut into: m in formulae."""
        return len(self.actions[0]) // 2

    def __str__(self) -> str:
        return "\n".join(f"stage {stage}: {' '.join(map(str, own))}" for stage, own in enumerate(self.actions))

    def source(self, stage: int, action: Action) -> int | None:
        """The stage whose same action must be done first and whose result this one receives; None at the pipeline's ends."""
        neighbour = stage - 1 if action.kind == FORWARD else stage + 1
        return neighbour if 0 <= neighbour < self.stages else None

    def target(self, stage: int, action: Action) -> int | None:
        """The stage that this action's result is sent to; None at the pipeline's ends."""
        neighbour = stage + 1 if action.kind == FORWARD else stage - 1
        return neighbour if 0 <= neighbour < self.stages else None


def gpipe(stages: int, micro_batches: int) -> Schedule:
    """All forward passes, then all backward passes in reverse order (GPipe, Huang et al. 2018, 1811.06965).

    Args:
        stages: workers in the pipeline, at least 1.
        micro_batches: parts of a batch, at least 1.
    Raises:
        ValueError: a number below 1.

    >>> print(gpipe(2, 3))
    stage 0: F0 F1 F2 B2 B1 B0
    stage 1: F0 F1 F2 B2 B1 B0
    """
    _check(stages, micro_batches)
    forward = [Action(FORWARD, i) for i in range(micro_batches)]
    backward = [Action(BACKWARD, i) for i in reversed(range(micro_batches))]
    return Schedule("GPipe", ((*forward, *backward),) * stages)


def one_f_one_b(stages: int, micro_batches: int) -> Schedule:
    """A few forward passes, then one forward and one backward in turns (1F1B, Narayanan et al. 2021, 2104.04473).

    Stage s runs ``min(m, p − 1 − s)`` forward passes before its first pair, so it never keeps more than ``min(m, p − s)``
    micro-batches; it takes as long as :func:`gpipe`.

    Args:
        stages, micro_batches: as of :func:`gpipe`.
    Raises:
        ValueError: a number below 1.
    """
    _check(stages, micro_batches)
    return Schedule("1F1B", tuple(_one_f_one_b(min(micro_batches, stages - 1 - s), micro_batches) for s in range(stages)))


def _one_f_one_b(ahead: int, micro_batches: int) -> tuple[Action, ...]:
    order = [Action(FORWARD, i) for i in range(ahead)]
    for i in range(micro_batches):
        if ahead + i < micro_batches:
            order.append(Action(FORWARD, ahead + i))
        order.append(Action(BACKWARD, i))
    return tuple(order)


def start_ticks(schedule: Schedule, forward: int = 1, backward: int = 1) -> list[dict[Action, int]]:
    """When each action starts if every stage goes on as soon as it can and messages take no time.

    Args:
        schedule: what to run.
        forward, backward: ticks of one pass; a backward pass computes about twice as much as a forward pass.
    Returns:
        Stage → action → tick of its start, from 0, in the stage's order.
    Raises:
        ValueError: ticks below 1, or stages that wait for each other for ever.
    """
    expect(forward >= 1, "forward", forward, "at least 1 tick")
    expect(backward >= 1, "backward", backward, "at least 1 tick")
    lasts = {FORWARD: forward, BACKWARD: backward}
    starts: list[dict[Action, int]] = [{} for _ in schedule.actions]
    free = [0] * schedule.stages  # when a stage has done what it has begun
    waiting = True
    while waiting:
        waiting = False
        for stage, own in enumerate(schedule.actions):
            if len(starts[stage]) == len(own):
                continue
            action = own[len(starts[stage])]
            source = schedule.source(stage, action)
            if source is not None and action not in starts[source]:
                continue
            arrived = 0 if source is None else starts[source][action] + lasts[action.kind]
            starts[stage][action] = max(free[stage], arrived)
            free[stage] = starts[stage][action] + lasts[action.kind]
            waiting = True
    stuck = {s: str(own[len(starts[s])]) for s, own in enumerate(schedule.actions) if len(starts[s]) < len(own)}
    expect(not stuck, "schedule", stuck, "an order in which no stages wait for each other (stage: what it waits to do)")
    return starts


def total_ticks(schedule: Schedule, forward: int = 1, backward: int = 1) -> int:
    """Ticks from the first action's start to the last one's end; arguments as of :func:`start_ticks`.

    >>> total_ticks(gpipe(4, 8))
    22
    """
    lasts = {FORWARD: forward, BACKWARD: backward}
    starts = start_ticks(schedule, forward, backward)
    return max(tick + lasts[action.kind] for own in starts for action, tick in own.items())


def bubble(schedule: Schedule, forward: int = 1, backward: int = 1) -> float:
    """Share of the stages' time in which they wait, counted in ticks; arguments as of :func:`start_ticks`.

    For GPipe and for 1F1B it is ``(p − 1) / (m + p − 1)``.

    >>> bubble(gpipe(4, 12)), bubble(one_f_one_b(4, 12))
    (0.2, 0.2)
    """
    total = total_ticks(schedule, forward, backward)
    busy = schedule.micro_batches * (forward + backward)
    return (total - busy) / total


def peak_activations(schedule: Schedule) -> list[int]:
    """The most micro-batches whose activations a stage keeps at once, stage by stage.

    >>> peak_activations(gpipe(4, 8)), peak_activations(one_f_one_b(4, 8))
    ([8, 8, 8, 8], [4, 3, 2, 1])
    """
    peaks = []
    for own in schedule.actions:
        kept, peak = 0, 0
        for action in own:
            kept += 1 if action.kind == FORWARD else -1
            peak = max(peak, kept)
        peaks.append(peak)
    return peaks


def _check(stages: int, micro_batches: int) -> None:
    expect(stages >= 1, "stages", stages, "at least 1 stage")
    expect(micro_batches >= 1, "micro_batches", micro_batches, "at least 1 micro-batch")
