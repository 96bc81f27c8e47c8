"""What each kind of parallelism costs and gains on this machine: the same training steps by one process, by two and by four.

On two cores two workers have the arithmetic that two threads of one process have, and messages besides. What they can save
is memory for each worker, and what they show is that they compute the same. Four workers share the two cores.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import nn

from course_lib.data.align import IGNORED
from course_lib.machine import processors
from course_lib.models.surgery import encoder_layers
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.parallel.agree import gathered
from course_lib.parallel.collectives import Traffic, ring_all_reduce
from course_lib.parallel.data_parallel import DataParallel, global_tokens, part_of
from course_lib.parallel.hybrid import make_mesh, tensor_step
from course_lib.parallel.launcher import run
from course_lib.parallel.pipeline import Pipeline, token_loss
from course_lib.parallel.schedule import Schedule, gpipe, one_f_one_b
from course_lib.parallel.sharded_optimizer import MOMENTS, ShardedAdamW
from course_lib.parallel.stage import Stage, even_counts
from course_lib.parallel.tensor_bert import apply
from course_lib.parallel.tensor_parallel import Sum
from course_lib.precision.live_bytes import LiveBytes

TAGS = ["O", "B-X", "I-X"]
MICRO_BATCHES = 4  # of a pipeline
CLIP, LR = 1.0, 1e-4
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # ids, attention mask and labels, int64 (B, L) each


@dataclass
class Way:
    """One way to take a step.

    Attributes:
        module: what this worker holds.
        gradients: puts the gradients of a batch into ``.grad`` and returns its loss.
        clip: clips them to a norm over all workers.
        traffic: counts what this worker sends in a step.
        sharded: whether the optimizer's state is spread over the workers, which have the same weights.
    """

    module: nn.Module
    gradients: Callable[[Batch], float]
    clip: Callable[[float], object]
    traffic: Traffic = field(default_factory=Traffic)
    sharded: bool = False


@dataclass(frozen=True)
class Work:
    """What is trained: ``steps`` timed steps, after one to warm up, on one batch of ``sentences`` of up to ``length`` pieces."""

    encoder: str = "minilm"
    sentences: int = 16
    length: int = 64
    steps: int = 5


def alone(model: nn.Module) -> Way:
    """One process, no messages."""

    def gradients(batch: Batch) -> float:
        loss = _loss(model, batch, int((batch[2] != IGNORED).sum()))
        loss.backward()
        return float(loss.detach())

    return Way(model, gradients, lambda norm: nn.utils.clip_grad_norm_(model.parameters(), norm))


def data(model: nn.Module) -> Way:
    """Each worker has the whole model and a share of the batch."""
    parallel = DataParallel(model)

    def gradients(batch: Batch) -> float:
        own = tuple(map(part_of, batch))
        loss = _loss(model, own, global_tokens(own[2]))
        loss.backward()
        parallel.wait()
        return sum(gathered(float(loss.detach())))

    return Way(model, gradients, lambda norm: nn.utils.clip_grad_norm_(model.parameters(), norm), parallel.traffic)


def data_sharded(model: nn.Module) -> Way:
    """As :func:`data`, and each worker has the moments of its share of the weights."""
    return replace(data(model), sharded=True)


def tensor(model: nn.Module) -> Way:
    """Each worker has some heads and neurons of every layer, and some words."""
    traffic = Traffic()
    split, _ = apply(model, total=_ring(traffic), vocabulary=True)
    return Way(model, alone(model).gradients, split.clip, traffic)


def pipeline(schedule: Callable[[int, int], Schedule]) -> Callable[[nn.Module], Way]:
    """Each worker has some layers; micro-batches in the order of a schedule."""

    def way(model: nn.Module) -> Way:
        workers = dist.get_world_size()
        stage = Stage(model, dist.get_rank(), even_counts(len(encoder_layers(model)), workers))
        made = Pipeline(stage, schedule(workers, MICRO_BATCHES))
        return Way(stage, lambda batch: made.step(*batch), made.clip, made.traffic)

    return way


def grid(model: nn.Module) -> Way:
    """Two replicas with a share of the batch each, and each split in two by tensor parallelism."""
    traffic, mesh = Traffic(), make_mesh(2, 2)
    split, _ = apply(model, mesh.model_group, _ring(traffic, mesh.model_group), vocabulary=True)
    return Way(model, lambda batch: tensor_step(split, mesh, batch, traffic), split.clip, traffic)


WAYS = {
    "one process": alone,
    "data": data,
    "data, sharded optimizer": data_sharded,
    "tensor": tensor,
    "pipeline, GPipe": pipeline(gpipe),
    "pipeline, 1F1B": pipeline(one_f_one_b),
    "data × tensor, 2 × 2": grid,
}
ROWS = (
    ("one process", 1, 1), ("one process", 1, 2), *((way, 2, 1) for way in list(WAYS)[1:-1]), ("data × tensor, 2 × 2", 4, 1),
)  # fmt: skip


def rows(work: Work = Work(), which: tuple[tuple[str, int, int], ...] = ROWS) -> list[dict]:
    """Train for a few steps in each way, in processes of their own, one way after the other.

    Args:
        work: what is trained.
        which: name of a way, workers, threads of each.
    Returns:
        A row for each: ``way`` (which says so where workers share cores), ``workers, threads, seconds_per_step`` (median of the
        steps, of the slowest worker),
        ``cpu_seconds_per_step`` (of each worker, all threads; other programs disturb it less), ``peak_mib`` (live tensor bytes
        of each worker in a step: weights, gradients, the optimizer's state, activations), ``mib_sent`` and ``messages`` (of
        each worker in a step), ``losses``.
    """
    made = []
    for way, workers, threads in which:
        found, cores = run(train, workers, way, work, threads=threads), processors()
        crowded = f"; {workers} workers on {cores} core{'s' * (cores > 1)}" if 1 < workers > cores else ""
        made.append(
            {
                "way": way + crowded,
                "workers": workers,
                "threads": threads,
                "seconds_per_step": round(max(statistics.median(f["seconds"]) for f in found), 3),
                "cpu_seconds_per_step": [round(statistics.median(f["cpu_seconds"]), 3) for f in found],
                "peak_mib": [round(f["peak_bytes"] / 2**20, 1) for f in found],
                "mib_sent": [round(f["bytes"] / 2**20, 2) for f in found],
                "messages": [f["messages"] for f in found],
                "losses": found[0]["losses"],
            }
        )
    return made


def train(way: str, work: Work) -> dict:
    """What one worker measures: ``seconds`` and ``cpu_seconds`` of each step, and of one further step ``peak_bytes, bytes, messages``; ``losses`` of all."""
    torch.manual_seed(0)
    model = load_token_classifier(find_encoder(work.encoder), TAGS).eval()  # no dropout: all ways have the same losses
    batch = drawn_batch(model.config.vocab_size, work.sentences, work.length)
    made = WAYS[way](model)
    del model  # a stage lets go of the other layers
    optimizer = (ShardedAdamW if made.sharded else torch.optim.AdamW)(made.module.parameters(), lr=LR)
    if made.sharded:
        optimizer.traffic = made.traffic  # one count of both
    state = [getattr(optimizer, moment) for moment in MOMENTS] if made.sharded else optimizer
    seconds, cpu_seconds, losses = [], [], []
    for number in range(work.steps + 2):
        extra = number > work.steps  # looked at as it runs, so not timed
        sent = Traffic(made.traffic.bytes, made.traffic.messages)
        with LiveBytes(made.module, state) if extra else contextlib.nullcontext() as live:
            began, cpu_began = time.perf_counter(), time.process_time()
            losses.append(made.gradients(batch))
            made.clip(CLIP)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - cpu_began)
    return {
        "seconds": seconds[1:-1],
        "cpu_seconds": cpu_seconds[1:-1],
        "losses": losses,
        "parameters": sum(p.numel() for p in made.module.parameters()),
        "state_bytes": sum(t.numel() * t.element_size() for t in state) if made.sharded else None,
        "peak_bytes": live.peak,
        "bytes": made.traffic.bytes - sent.bytes,
        "messages": made.traffic.messages - sent.messages,
    }


def drawn_batch(vocabulary: int, sentences: int, length: int) -> Batch:
    """Random ids, mask and labels, int64 (B, L) each, of sentences between half the length and all of it."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (sentences, length), generator=generator)
    mask = (torch.arange(length) < length - torch.arange(sentences)[:, None] % (length // 2)).long()
    return ids, mask, torch.randint(0, len(TAGS), ids.shape, generator=generator).masked_fill(mask == 0, IGNORED)


def _ring(traffic: Traffic, group: dist.ProcessGroup | None = None) -> Sum:
    """A sum over workers by our ring, counted."""
    return lambda x: ring_all_reduce(x.clone(memory_format=torch.contiguous_format), group, traffic, check=False)


def _loss(model: nn.Module, batch: Batch, tokens: int) -> torch.Tensor:
    ids, mask, labels = batch
    return token_loss(model(input_ids=ids, attention_mask=mask).logits, labels) / tokens
