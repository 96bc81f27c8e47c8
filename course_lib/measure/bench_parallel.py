"""Rows of ``make bench`` about parallelism: our ring beside gloo's, our data-parallel step beside torch's and one process.

Both sides run in the same worker processes, in turns, all workers starting together; the first worker's clock counts.
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from course_lib.measure.bench_tensors import Sizes, agree
from course_lib.parallel.collectives import ring_all_reduce
from course_lib.parallel.data_parallel import DataParallel, global_tokens, part_of
from course_lib.parallel.launcher import run
from course_lib.parallel.pipeline import token_loss

TAGS = 9
CLOSE = 1e-4  # of the largest gradient: what float32 sums in another order may change


def rows(sizes: Sizes, repeats: int) -> list[dict]:
    """All rows, in the form of :func:`course_lib.measure.bench.row`; peaks are not measured."""
    two, four = run(pair_of_workers, 2, sizes, repeats)[0], run(ring, 4, sizes, repeats)[0]
    return [
        _row("parallel ring all-reduce, 2 workers (gloo)", *two["ring"]),
        _row("parallel ring all-reduce, 4 workers (gloo)", *four),
        _row("parallel data-parallel step, 2 workers (DistributedDataParallel)", *two["ddp"]),
        _row("parallel data-parallel step, 2 workers (one process, 2 threads)", *two["one process"]),
    ]


def pair_of_workers(sizes: Sizes, repeats: int) -> dict[str, tuple[float, float, int]]:
    """In a worker: all that is timed with two."""
    return {"ring": ring(sizes, repeats), **step(sizes, repeats)}


def _row(name: str, ours: float, theirs: float, tensor_bytes: int) -> dict:
    times = {"ours_ms": round(ours, 3), "theirs_ms": round(theirs, 3), "ratio": round(theirs / ours, 3)}
    return {"name": name, **times, "ours_peak_mib": None, "tensor_mib": round(tensor_bytes / 2**20, 3) or None}


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median milliseconds of both after a warm-up, called at the same time by all workers."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for call, kept in zip((ours, theirs), times, strict=True):
            dist.barrier()
            start = time.perf_counter()
            call()
            if number:
                kept.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def ring(sizes: Sizes, repeats: int) -> tuple[float, float, int]:
    """In a worker: times of both all-reduces of a tensor like a feed-forward weight, and its bytes."""
    x = torch.full((4 * sizes.width, sizes.width), float(dist.get_rank() + 1))
    theirs = x.clone()
    dist.all_reduce(theirs)
    agree(torch.equal(ring_all_reduce(x.clone()), theirs), "ring all-reduce")  # small integers: exact in any order
    x.zero_()
    return *in_turns(lambda: ring_all_reduce(x, check=False), lambda: dist.all_reduce(x), repeats), 4 * x.numel()


def step(sizes: Sizes, repeats: int) -> dict[str, tuple[float, float, int]]:
    """In a worker: times of forward and backward of an encoder, with the gradients of the whole batch on every worker."""
    ids, labels = _batch(sizes)
    tokens = int((labels >= 0).sum())
    model = _encoder(sizes)
    averaging, alone = nn.parallel.DistributedDataParallel(copy.deepcopy(model)), copy.deepcopy(model)
    parallel = DataParallel(model)

    def ours() -> None:
        model.zero_grad()
        mine = part_of(labels)
        (token_loss(model(input_ids=part_of(ids)).logits, mine) / global_tokens(mine)).backward()
        parallel.wait()

    def ddp() -> None:
        averaging.zero_grad()
        mine = part_of(labels)
        loss = token_loss(averaging(input_ids=part_of(ids)).logits, mine) / global_tokens(mine)
        (loss * dist.get_world_size()).backward()  # it averages over workers

    def one_process() -> None:
        if dist.get_rank() == 0:  # with the cores of all; the others wait at the next barrier
            torch.set_num_threads(dist.get_world_size())
            alone.zero_grad()
            (token_loss(alone(input_ids=ids).logits, labels) / tokens).backward()
            torch.set_num_threads(1)

    for call in (ours, ddp, one_process):
        call()
    if dist.get_rank() == 0:
        for other, what in ((averaging.module, "DistributedDataParallel"), (alone, "one process")):
            agree(_distance(model, other) <= CLOSE, f"data-parallel step and {what}")
    size = 4 * sum(p.numel() for p in model.parameters())
    found = {"ddp": (*in_turns(ours, ddp, repeats), size), "one process": (*in_turns(ours, one_process, repeats), size)}
    parallel.remove()
    return found


def _batch(sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels (B, 32), a quarter of the tokens."""
    generator = torch.Generator().manual_seed(0)
    shape = (max(2, sizes.tokens // 128), 32)
    ids = torch.randint(1, sizes.vocabulary, shape, generator=generator)
    labels = torch.randint(0, TAGS, shape, generator=generator)
    return ids, labels.masked_fill(torch.rand(shape, generator=generator) < 0.3, -100)


def _encoder(sizes: Sizes) -> nn.Module:
    """Half as wide and half as deep as asked for: the default sizes give the course's own encoder, 6 layers of 384."""
    from course_lib.models.zoo import hugging_face

    library, width = hugging_face(), sizes.width // 2
    torch.manual_seed(0)
    config = library.BertConfig(
        vocab_size=sizes.vocabulary, hidden_size=width, num_hidden_layers=max(1, sizes.layers // 2), num_labels=TAGS,
        num_attention_heads=max(1, width // 32), intermediate_size=4 * width,
    )  # fmt: skip
    return library.BertForTokenClassification(config).eval()


def _distance(a: nn.Module, b: nn.Module) -> float:
    pairs = [(p.grad, q.grad) for p, q in zip(a.parameters(), b.parameters(), strict=True) if q.grad is not None]
    return max(float((p - q).abs().max()) for p, q in pairs) / max(float(q.abs().max()) for _, q in pairs)
