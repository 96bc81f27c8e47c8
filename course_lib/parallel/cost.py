"""What a step costs each worker, from shapes and schedules alone: bytes and messages it sends, ticks, waiting, activations kept.

The costs of a pipeline are read off the very :class:`course_lib.parallel.schedule.Schedule` that drives its processes, and
those of sums over workers off the chunks of the ring; a run counts the same numbers. Compared in this way by Narayanan et al.
2021, 2104.04473.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from course_lib.errors import expect
from course_lib.parallel.collectives import chunk_bounds
from course_lib.parallel.pipeline import HEADER
from course_lib.parallel.schedule import Schedule, bubble, peak_activations, total_ticks


@dataclass(frozen=True)
class Cost:
    """One step, worker by worker.

    Attributes:
        bytes: sent by each worker.
        messages: sent by each worker.
        ticks: from the step's start to its end, of passes of one micro-batch through one stage.
        bubble: the share of the workers' time in which they wait for others' ticks.
        peak_activations: the most micro-batches whose activations each worker keeps.
    """

    bytes: tuple[int, ...]
    messages: tuple[int, ...]
    ticks: int
    bubble: float
    peak_activations: tuple[int, ...]


def pipeline_cost(schedule: Schedule, sizes: Sequence[int], tied: int = 0) -> Cost:
    """A pipeline: whatever the schedule's actions send.

    Args:
        schedule: of p stages and m micro-batches.
        sizes: bytes of each micro-batch's hidden states between two stages, (B/m)·L·D times the bytes of a number.
        tied: bytes of an embedding matrix that first and last stage share, 0 without.
    Raises:
        ValueError: not one size for each micro-batch.

    >>> from course_lib.parallel.schedule import gpipe
    >>> pipeline_cost(gpipe(3, 2), [100, 50]).bytes
    (166, 332, 166)
    """
    m, p = schedule.micro_batches, schedule.stages
    expect(len(sizes) == m, "sizes", list(sizes), f"one size for each of {m} micro-batches")
    sent = [[sizes[a.micro_batch] + HEADER for a in own if schedule.target(stage, a) is not None]
            for stage, own in enumerate(schedule.actions)]  # fmt: skip
    if tied and p > 1:
        for stage in (0, p - 1):
            sent[stage].append(tied)
    return Cost(
        tuple(map(sum, sent)), tuple(map(len, sent)), total_ticks(schedule), bubble(schedule), tuple(peak_activations(schedule))
    )


def ring_cost(elements: int, itemsize: int, workers: int) -> Cost:
    """One ring all-reduce of a tensor: worker r sends all chunks but r, then all but r + 1; empty ones are not sent.

    Args:
        elements: of the tensor.
        itemsize: bytes of a number.
        workers: p; each sends ``2(p − 1)/p`` of the tensor where p divides it.

    >>> ring_cost(10, 4, 4).bytes
    (56, 60, 64, 60)
    """
    lengths = [end - start for start, end in chunk_bounds(elements, workers)]
    sent = [[n for skip in (r, (r + 1) % workers) for c, n in enumerate(lengths) if c != skip and n] for r in range(workers)]
    return _alone(tuple(itemsize * sum(s) for s in sent), tuple(map(len, sent)))


def data_cost(buckets: Sequence[int], itemsize: int, workers: int) -> Cost:
    """Data parallelism: each bucket of gradients is summed once.

    Args:
        buckets: elements of each: of its gradients, and one more for each parameter (:mod:`course_lib.parallel.buckets`).
        itemsize, workers: as of :func:`ring_cost`.
    """
    return total([ring_cost(elements, itemsize, workers) for elements in buckets])


def sharded_cost(elements: int, itemsize: int, workers: int) -> Cost:
    """A sharded optimizer's step: an all-gather, in which worker r sends all shares of the weights but that of worker r + 1.

    Args:
        elements: of all weights (:mod:`course_lib.parallel.sharded_optimizer`).
        itemsize, workers: as of :func:`ring_cost`.

    >>> sharded_cost(10, 4, 4).bytes
    (28, 32, 32, 28)
    """
    lengths = [end - start for start, end in chunk_bounds(elements, workers)]
    sent = [[n for c, n in enumerate(lengths) if c != (r + 1) % workers and n] for r in range(workers)]
    return _alone(tuple(itemsize * sum(s) for s in sent), tuple(map(len, sent)))


def moment_bytes(elements: int, itemsize: int, workers: int) -> tuple[int, ...]:
    """Bytes of AdamW's two moments on each worker when they are sharded; one worker has them all.

    Args:
        elements, itemsize, workers: as of :func:`sharded_cost`.

    >>> moment_bytes(10, 4, 4), moment_bytes(10, 4, 1)
    ((24, 24, 16, 16), (80,))
    """
    return tuple(2 * itemsize * (end - start) for start, end in chunk_bounds(elements, workers))


def tensor_cost(layers: int, elements: int, itemsize: int, workers: int, vocabulary: bool = False) -> Cost:
    """Tensor parallelism: two sums in a layer's forward pass and two in its backward pass, each of the hidden states.

    Args:
        layers: of the encoder.
        elements: of the hidden states, B·L·D.
        itemsize, workers: as of :func:`ring_cost`.
        vocabulary: whether the word embeddings are split, which costs one sum more.
    """
    return total([ring_cost(elements, itemsize, workers)] * (4 * layers + vocabulary))


def hybrid_cost(replicas: Sequence[Cost], columns: Sequence[Cost]) -> Cost:
    """A grid of workers (:mod:`course_lib.parallel.hybrid`): each pays in its replica and in its column.

    Args:
        replicas: of each replica by itself: tensor or pipeline parallelism among its parts.
        columns: of each part: the sum of its gradients over the replicas.
    Returns:
        The cost, workers in order of their ranks; it takes as long as its slowest replica.
    Raises:
        ValueError: numbers of workers that do not make a grid.
    """
    parts = {len(r.bytes) for r in replicas}
    expect(parts == {len(columns)}, "columns", len(columns), f"one for each part of every replica: {sorted(parts)}")
    rows = {len(c.bytes) for c in columns}
    expect(rows == {len(replicas)}, "replicas", len(replicas), f"one for each worker of every column: {sorted(rows)}")
    cells = [(r, c, d, m) for d, r in enumerate(replicas) for m, c in enumerate(columns)]
    slowest = max(replicas, key=lambda r: r.ticks)
    return Cost(
        tuple(r.bytes[m] + c.bytes[d] for r, c, d, m in cells),
        tuple(r.messages[m] + c.messages[d] for r, c, d, m in cells),
        slowest.ticks,
        slowest.bubble,
        tuple(r.peak_activations[m] for r, _, _, m in cells),
    )


def total(costs: Sequence[Cost]) -> Cost:
    """Several sums over the same workers in one step: bytes and messages add up, and it stays one forward and one backward pass."""
    expect(len(costs) > 0, "costs", list(costs), "at least one")
    by_worker = list(zip(*(zip(c.bytes, c.messages, strict=True) for c in costs), strict=True))
    sent, messages = (tuple(sum(pair[which] for pair in own) for own in by_worker) for which in (0, 1))
    return _alone(sent, messages)


def _alone(sent: tuple[int, ...], messages: tuple[int, ...]) -> Cost:
    """All workers compute at the same time: one forward, one backward pass, nobody waits for another's tick."""
    return Cost(sent, messages, 2, 0.0, (1,) * len(sent))
