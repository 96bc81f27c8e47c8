"""What workers compute in the tests of data parallelism, beside one process with the whole batch."""

import copy

import torch
import torch.distributed as dist
from model_jobs import WORDS, Batch, distance, drawn_batch, one_process, real, refused, small, tolerance
from torch import nn

from course_lib.parallel.agree import gathered
from course_lib.parallel.collectives import ring_all_reduce
from course_lib.parallel.data_parallel import DataParallel, global_tokens, part_of
from course_lib.parallel.pipeline import token_loss


def everything() -> dict:
    """All checks at 4 workers and at the first 2 of them, by number of workers."""
    pair = dist.new_group([0, 1])
    found = {}
    for group in (None, pair)[: 2 if dist.get_rank() < 2 else 1]:
        found[dist.get_world_size(group)] = {
            "equal": equal_to_one_process(group),
            "ddp": against_torch(group),
            "training": training(group),
            "used": used_by_some(group),
            "overlap": overlap(group),
            "refused": refusals(group),
            "stale": stale(group),
        }
    return found


def batches() -> dict[str, tuple[nn.Module, Batch]]:
    """A model and a whole batch for each case."""
    ids, mask, labels = drawn_batch(130)
    without = labels.clone()
    without[:4] = -100  # of 2 workers the first has no real token, of 4 the first two
    return {
        "tiny, 7 rows": (small(), (ids, mask, labels)),
        "tiny, 3 rows": (small(), drawn_batch(130, sentences=3)),  # of 4 workers one has no row
        "tiny, no tokens on some": (small(), (ids, mask, without)),
        "tied": (small("MaskedLM"), (ids, mask, labels)),
        "real": (real(), drawn_batch(WORDS, 5, 8)),
    }


def backward(parallel: DataParallel, model: nn.Module, batch: Batch, group, micro: int = 0) -> float:
    """One step's loss over all workers; gradients are left in the model. In micro-batches of ``micro`` rows, if given."""
    ids, mask, labels = (part_of(t, group) for t in batch)
    tokens, loss = global_tokens(labels, group), torch.zeros((), dtype=torch.float64)
    pieces = list(zip(*(t.split(micro or max(len(ids), 1)) for t in (ids, mask, labels)), strict=True)) if len(ids) else []
    for number, (i, m, y) in enumerate(pieces):
        share = token_loss(model(input_ids=i, attention_mask=m).logits, y) / tokens
        if number + 1 < len(pieces):
            with parallel.no_sync():
                share.backward()
        else:
            share.backward()
        loss += share.detach()
    parallel.wait()
    return float(ring_all_reduce(loss, group))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter's gradient by name."""
    return {name: p.grad for name, p in model.named_parameters()}


def equal_to_one_process(group) -> dict[str, dict]:
    """Distances of loss and gradients, of steps at once and in micro-batches of one row."""
    found = {}
    for name, (model, batch) in batches().items():
        due_loss, due = one_process(model, batch)
        parallel = DataParallel(model, bucket_bytes=10_000, group=group)
        for micro in (0, 1) if name != "real" else (0,):
            model.zero_grad()
            loss = backward(parallel, model, batch, group, micro)
            here = gradients(model)
            found[f"{name}, micro-batches of {micro or 'all'}"] = {
                "loss": abs(loss - due_loss) / due_loss,
                "gradients": distance(here, due),
                "tolerance": tolerance(model, batch),
                "same bits": len(set(gathered(tuple(float(g.sum()) for g in here.values()), group))) == 1,
            }
        parallel.remove()
    return found


def against_torch(group) -> dict:
    """DistributedDataParallel, which averages: its loss is multiplied by the number of workers."""
    model, batch = small(), drawn_batch(130)
    theirs = nn.parallel.DistributedDataParallel(copy.deepcopy(model), process_group=group)
    ids, mask, labels = (part_of(t, group) for t in batch)
    share = token_loss(theirs(input_ids=ids, attention_mask=mask).logits, labels) / global_tokens(labels, group)
    (share * dist.get_world_size(group)).backward()
    parallel = DataParallel(model, group=group)
    backward(parallel, model, batch, group)
    parallel.remove()
    return {"gradients": distance(gradients(model), gradients(theirs.module)), "tolerance": tolerance(model, batch)}


def training(group) -> dict:
    """Five clipped steps of SGD on different batches; copies start different and must not stay so."""
    alone, model = small("MaskedLM"), small("MaskedLM")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * dist.get_rank(group))  # the first worker's weights count
    parallel = DataParallel(model, group=group)
    steps = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (alone, model)]
    norms = []
    for seed in range(5):
        batch = drawn_batch(130, sentences=5, seed=seed)
        _, due = one_process(alone, batch)
        for name, p in alone.named_parameters():
            p.grad = due[name]
        backward(parallel, model, batch, group)
        norms.append([float(nn.utils.clip_grad_norm_(m.parameters(), 0.5)) for m in (alone, model)])
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad()
    parallel.remove()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    everyone = gathered({name: w.sum().item() for name, w in weights.items()}, group)
    return {
        "weights": distance(weights, {name: p.detach() for name, p in alone.named_parameters()}),
        "norms": norms,
        "tolerance": tolerance(model, batch),
        "copies equal": all(other == everyone[0] for other in everyone),
    }


class Choice(nn.Module):
    """Three layers, of which a worker uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.nobody = (nn.Linear(2, 1, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        return (self.first if rank == 0 else self.other)(x)


def used_by_some(group) -> dict:
    """Gradients of parameters that only the first, only the other workers, or nobody uses."""
    model, rank = Choice(), dist.get_rank(group)
    parallel = DataParallel(model, bucket_bytes=1, group=group)
    model(torch.ones(1, 2), rank).sum().backward()
    parallel.wait()
    parallel.remove()
    return {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()}


def overlap(group) -> dict:
    """Buckets on the way when backward reaches the word embeddings, its last parameter; and what was sent in all."""
    model, batch = small(), drawn_batch(130)
    words, seen = model.get_input_embeddings().weight, []
    words.register_post_accumulate_grad_hook(lambda _: seen.append(parallel.in_flight))  # before that of DataParallel
    parallel = DataParallel(model, bucket_bytes=30_000, group=group)
    backward(parallel, model, batch, group)
    seen.append(parallel.in_flight)
    parallel.remove()
    sizes = [sum(bucket.sizes) + len(bucket.sizes) for bucket in parallel.buckets]
    model(input_ids=batch[0]).logits.sum().backward()  # let go of: nothing is sent
    return {"in flight": seen[:2], "sizes": sizes, "traffic": parallel.traffic, "after": parallel.in_flight}


def stale(group) -> dict:
    """What is said of gradients of an earlier step, by each way to forget them; and gradients after a ``zero_grad`` that leaves zeros."""
    model, rank, found = nn.Linear(2, 1, bias=False), dist.get_rank(group), {}
    loss = lambda: model(torch.ones(1, 2)).sum()  # noqa: E731
    parallel = DataParallel(model, group=group)

    def paused() -> None:
        with parallel.no_sync():
            loss().backward()

    for zeros in (True, False):
        loss().backward()
        parallel.wait()
        model.zero_grad(set_to_none=not zeros)
    loss().backward()
    parallel.wait()
    found["sum"] = model.weight.grad.tolist()
    found["backward"] = refused(lambda: loss().backward())
    found["paused"] = refused(paused)
    found["no part of the batch"] = refused(parallel.wait)
    found["made"] = refused(lambda: DataParallel(model, group=group))
    found["kept"] = model.weight.grad.tolist()
    model.zero_grad()
    if rank == 0:
        loss().backward()  # the others have no part of the batch
    parallel.wait()
    found["afterwards"] = model.weight.grad.tolist()
    parallel.remove()
    return found


def refusals(group) -> dict[str, str]:
    """What is refused, on every worker."""
    rank, batch = dist.get_rank(group), drawn_batch(130)
    model = small()
    parallel = DataParallel(model, group=group, check_finite=True)

    def loss() -> torch.Tensor:
        model.zero_grad()
        return model(input_ids=batch[0]).logits.sum()

    def nan() -> None:
        (loss() * (float("nan") if rank == 1 else 1)).backward()
        parallel.wait()

    def twice() -> None:
        loss().backward()
        try:
            loss().backward()
        finally:
            parallel.wait()

    found = {"nan": refused(nan), "twice": refused(twice), "finite": refused(lambda: [loss().backward(), parallel.wait()])}
    parallel.remove()
    return found | {
        "model": refused(lambda: DataParallel(nn.Linear(2, 2 + rank), group=group)),
        "bytes": refused(lambda: DataParallel(model, bucket_bytes=0, group=group)),
        "tokens": refused(lambda: global_tokens(torch.full((2, 3), -100), group)),
    }
