"""What workers compute in the tests of the sharded optimizer and of checkpoints."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from model_jobs import WORDS, drawn_batch, one_process, real, refused, small, tolerance
from torch import nn

from course_lib import artifacts
from course_lib.parallel import checkpoint
from course_lib.parallel.agree import fingerprints, gathered
from course_lib.parallel.data_parallel import DataParallel, global_tokens, part_of
from course_lib.parallel.pipeline import token_loss
from course_lib.parallel.sharded_optimizer import MOMENTS, ShardedAdamW
from course_lib.parallel.stage import Stage
from course_lib.parallel.tensor_bert import apply

STEPS, LR, DECAY = 5, 0.01, 0.1
ROUTE = [("tensor", 2), ("pipeline", 2), ("one process", 1), ("data", 4), ("tensor", 4), ("pipeline", 4), ("tensor", 2)]
REAL_STEPS, REAL_LR, REAL_EPS = 3, 1e-3, 1e-6


def everything(folder: str) -> dict:
    """All checks: of the optimizer on 2, 3 and 4 workers, and checkpoints that go from any of 1 to 4 to any other number."""
    groups = {size: dist.new_group(list(range(size))) for size in range(1, 5)}
    mine = {size: group for size, group in groups.items() if dist.get_rank() < size}
    return {
        "adamw": {size: beside_adamw(group) for size, group in mine.items() if size > 1},
        "few": {size: few_parameters(group) for size, group in mine.items() if size == 4},
        "moved": moved(Path(folder), mine),
        "refused": refusals(Path(folder), groups[4]),
        "weights": weights(Path(folder) / "weights", mine),
        "split": split_refusals(Path(folder) / "weights", groups[4]),
        "real": on_the_encoder(groups[2]) if dist.get_rank() < 2 else None,
    }


class Model(nn.Module):
    """Tied embeddings, a layer and a buffer that changes; 1 279 weights, a prime number, so that no number of workers divides it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.bias = nn.Embedding(85, 13), nn.Parameter(torch.randn(12))
        self.decoder, self.layer = nn.Linear(13, 85, bias=False), nn.Linear(13, 12, bias=False)
        self.norm = nn.Parameter(torch.randn(6))
        self.decoder.weight = self.words.weight
        self.register_buffer("seen", torch.zeros(()))
        self.double()


def set_gradients(model: nn.Module, seed: int) -> None:
    """The same random gradients on every worker; one bias has none at every second step."""
    generator = torch.Generator().manual_seed(seed)
    for number, p in enumerate(model.parameters()):
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        if number == 1 and seed % 2:
            p.grad = None


def beside_adamw(group) -> dict:
    """Steps of the sharded optimizer and of torch's from the same weights with the same gradients."""
    model, alone = Model(), Model()
    ours = ShardedAdamW(model.parameters(), LR, weight_decay=DECAY, group=group)
    theirs = torch.optim.AdamW(alone.parameters(), LR, weight_decay=DECAY)
    for seed in range(STEPS):
        for m, optimizer in ((model, ours), (alone, theirs)):
            set_gradients(m, seed)
            optimizer.step()
            optimizer.zero_grad()
    whole = sum(t.numel() * t.element_size() for s in theirs.state.values() for name, t in s.items() if name != "step")
    pairs = list(zip(model.parameters(), alone.parameters(), strict=True))
    return {
        "distance": max(float((a - b).detach().abs().max()) for a, b in pairs),
        "largest": max(float(b.detach().abs().max()) for _, b in pairs),
        "bytes": ours.state_bytes,
        "whole bytes": whole,
        "sent": ours.traffic,
        "size": ours.size,
        "emptied": all(p.grad is None for p in model.parameters()),
    }


def few_parameters(group) -> list[float]:
    """Three numbers on four workers: one of them has no share."""
    weight = nn.Parameter(torch.zeros(3))
    optimizer = ShardedAdamW([weight, weight], lr=1.0, weight_decay=0.0, group=group)
    weight.grad = torch.tensor([1.0, -2.0, 3.0])
    optimizer.step()
    return weight.tolist()


def trained(group, steps: int) -> tuple[Model, ShardedAdamW]:
    """A model and its optimizer after some steps."""
    model = Model()
    optimizer = ShardedAdamW(model.parameters(), LR, group=group)
    train(model, optimizer, 0, steps)
    return model, optimizer


def train(model: Model, optimizer: ShardedAdamW, first: int, steps: int) -> None:
    """Steps ``first`` and so on."""
    for seed in range(first, first + steps):
        set_gradients(model, seed)
        optimizer.step()
        model.seen += 1  # as running statistics would


def state(model: nn.Module, optimizer: ShardedAdamW) -> list[torch.Tensor]:
    """All there is: weights, buffers, this worker's moments, steps."""
    return [*model.state_dict().values(), *(getattr(optimizer, m) for m in MOMENTS), torch.tensor(optimizer.steps)]


def moved(folder: Path, groups: dict) -> dict[tuple[int, int], bool]:
    """Written by N, read by M, trained on: whether it is to the bit what M workers reach without a stop."""
    for writers, group in groups.items():
        checkpoint.save(folder / str(writers), *trained(group, 3))
    dist.barrier()
    found = {}
    for readers, group in groups.items():
        due = state(*trained(group, 5))
        for writers in range(1, 5):
            model, optimizer = trained(group, 1)
            checkpoint.load(folder / str(writers), model, optimizer)
            train(model, optimizer, 3, 2)
            found[writers, readers] = all(torch.equal(a, b) for a, b in zip(state(model, optimizer), due, strict=True))
    dist.barrier()
    return found


def refusals(folder: Path, group) -> dict:
    """What is refused on all workers, and what is left then."""
    model, optimizer = trained(group, 1)
    before, rank = [t.clone() for t in state(model, optimizer)], dist.get_rank()
    checkpoint.save(folder / "kept", model, optimizer)
    others = nn.Linear(2, 3)
    found = {
        "absent": refused(lambda: checkpoint.load(folder / "no", model, optimizer)),
        "another": refused(lambda: checkpoint.load(folder / "kept", others, ShardedAdamW(others.parameters(), group=group))),
        "foreign": refused(lambda: checkpoint.save(folder / "foreign", others, optimizer)),
        "one foreign": refused(lambda: checkpoint.save(folder / "foreign", others if rank == 2 else model, optimizer)),
        "empty": refused(lambda: ShardedAdamW([], group=group)),
    }
    dist.barrier()
    if rank == 0:
        (folder / "new").mkdir(exist_ok=True)
        (folder / "new" / "index.json").write_text("{}")
    dist.barrier()
    found["no index"] = refused(lambda: checkpoint.load(folder / "new", model, optimizer))
    damaged = folder / "4" / "rank-00002-of-00004.safetensors"
    if rank == 0:
        damaged.write_bytes(damaged.read_bytes()[:-8])
    dist.barrier()
    found["damaged"] = refused(lambda: checkpoint.load(folder / "4", model, optimizer))
    found["unchanged"] = all(torch.equal(a, b) for a, b in zip(state(model, optimizer), before, strict=True))

    train(model, optimizer, 1, 1)
    for what, failing, on in (("full", (checkpoint, "save_file"), 1), ("index", (checkpoint, "write_json"), 0)):
        with broken(*failing, full_disk, rank == on):
            found[what] = refused(lambda: checkpoint.save(folder / "kept", model, optimizer))
    with broken(artifacts.os, "replace", full_disk_for(folder / "named", os.replace), rank == 0):
        found["name"] = refused(lambda: checkpoint.save(folder / "named", model, optimizer))
    found["below a file"] = refused(lambda: checkpoint.save(folder / "kept" / "index.json" / "new", model, optimizer))
    with broken(checkpoint, "read_json", full_disk, rank == 3):
        found["unreadable"] = refused(lambda: checkpoint.load(folder / "kept", model, optimizer))
    dist.barrier()
    checkpoint.load(folder / "kept", model, optimizer)
    found["older is whole"] = all(torch.equal(a, b) for a, b in zip(state(model, optimizer), before, strict=True))
    found["left"] = sorted(os.listdir(folder))
    return found


def full_disk(*_) -> None:
    """What writing to a full disk does."""
    raise OSError(28, "No space left on device")


def full_disk_for(target: Path, otherwise):
    """What renaming to ``target`` does on a full disk; other names are free."""
    return lambda source, name: full_disk() if Path(name) == target else otherwise(source, name)


@contextlib.contextmanager
def broken(module, name: str, instead, here: bool) -> Iterator[None]:
    """Another function in place of a module's, on this worker if ``here``."""
    whole = getattr(module, name)
    setattr(module, name, instead if here else whole)
    try:
        yield
    finally:
        setattr(module, name, whole)


# Weights of split models, by their names in the whole one.


def fresh(kind: str) -> nn.Module:
    """A model to be read into, whose weights are all 7."""
    model = small(kind)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7)
    return model


def weights(folder: Path, groups: dict) -> dict[str, bool]:
    """Weights handed on along :data:`ROUTE`: whether they are equal to the bit after each reading.

    With the words split too where nothing is tied; of a masked language model the last stage has them as well.
    """
    found = {}
    for kind, vocabulary in (("TokenClassification", True), ("MaskedLM", False)):
        due = {name: p.detach().clone() for name, p in small(kind).named_parameters()}
        for number, (way, size) in enumerate(ROUTE):
            if size in groups:
                model = fresh(kind) if number else small(kind)
                held, own = model, lambda model=model: dict(model.named_parameters())
                if way == "tensor":
                    held, _ = apply(model, groups[size], vocabulary=vocabulary)
                    own = held.whole
                elif way == "pipeline":
                    held = Stage(model, dist.get_rank(), {2: [3, 1], 4: [1, 1, 1, 1]}[size])
                    own = lambda held=held: held.parameter_names  # noqa: E731
                if number:
                    checkpoint.load_weights(folder / kind / str(number - 1), held, groups[size])
                here = own()
                expected = {name: due[name] for name in here} if way == "pipeline" else due
                found[f"{kind}: {number} {way} {size}"] = same_tensors(here, expected)
                checkpoint.save_weights(folder / kind / str(number), held, groups[size])
            dist.barrier()
    return found


def same_tensors(found: dict[str, torch.Tensor], due: dict[str, torch.Tensor]) -> bool:
    return found.keys() == due.keys() and all(torch.equal(found[name], due[name]) for name in due)


def split_refusals(folder: Path, group) -> dict[str, str]:
    """What is refused of split models, on all workers; nothing is written, nothing changed."""
    rank, kind = dist.get_rank(), "TokenClassification"
    sliced, stage = small(), Stage(small(), rank, [1, 1, 1, 1])
    split, _ = apply(sliced, group)
    before = [p.detach().clone() for p in sliced.parameters()]
    unlike = fresh(kind)
    with torch.no_grad():
        unlike.classifier.bias[0] = rank
    two = small()
    two.bert.double()
    two.classifier.float()
    buffered = Stage(small(), rank, [1, 1, 1, 1])
    buffered.layers[0].register_buffer("seen", torch.zeros(1))
    found = {
        "slices": refused(lambda: checkpoint.save(folder / "no", sliced, ShardedAdamW(sliced.parameters(), group=group))),
        "stage": refused(lambda: checkpoint.save(folder / "no", stage, ShardedAdamW(stage.parameters(), group=group))),
        "unlike": refused(lambda: checkpoint.save_weights(folder / "no", unlike, group)),
        "dtypes": refused(lambda: checkpoint.save_weights(folder / "no", two, group)),
        "buffers": refused(lambda: checkpoint.save_weights(folder / "no", buffered, group)),
        "below a file": refused(lambda: checkpoint.save_weights(folder / kind / "0" / "index.json" / "no", split)),
        "another": refused(lambda: checkpoint.load_weights(folder / "MaskedLM" / "0", split)),
        "shapes": refused(lambda: checkpoint.load_weights(folder / kind / "0", apply(small(neurons=32), group)[0])),
        "fewer": refused(
            lambda: checkpoint.load_weights(folder / kind / "0", Stage(small(layers=5), rank, [2, 1, 1, 1]), group)
        ),
        "more": refused(lambda: checkpoint.load_weights(folder / kind / "0", apply(small(layers=3), group)[0])),
        "no moments": refused(lambda: load_with_moments(folder / kind / "3", group)),
    }
    found["unchanged"] = all(torch.equal(a, b) for a, b in zip(sliced.parameters(), before, strict=True))
    return found | {"nothing written": not (folder / "no").exists()}


def load_with_moments(folder: Path, group) -> None:
    model = small()
    checkpoint.load(folder, model, ShardedAdamW(model.parameters(), group=group))


# The course's encoder.


def on_the_encoder(group) -> dict:
    """Steps of data parallelism with the sharded optimizer, beside one process with plain AdamW."""
    torch.manual_seed(0)  # of the head
    model = real()
    parallel = DataParallel(model, group=group)
    optimizer = ShardedAdamW(model.parameters(), REAL_LR, eps=REAL_EPS, group=group)
    batches = [drawn_batch(WORDS, 4, 8, seed) for seed in range(REAL_STEPS)]
    for batch in batches:
        ids, mask, labels = (part_of(t, group) for t in batch)
        (token_loss(model(input_ids=ids, attention_mask=mask).logits, labels) / global_tokens(labels, group)).backward()
        parallel.wait()
        optimizer.step()
        optimizer.zero_grad()
    parallel.remove()
    found = {
        "alike": len(set(gathered(str(fingerprints(dict(model.named_parameters()))), group))) == 1,
        "state": optimizer.state_bytes,
        "traffic": optimizer.traffic,
        "size": optimizer.size,
        "data": parallel.traffic,
        "buckets": [sum(b.sizes) + len(b.sizes) for b in parallel.buckets],
    }
    return found | (beside_one_process(model, batches) if dist.get_rank(group) == 0 else {})


def beside_one_process(model: nn.Module, batches: list) -> dict:
    """How far a model's weights are from those of the same steps in one process."""
    torch.manual_seed(0)
    alone, largest = real(), 0.0
    start = {name: p.detach().clone() for name, p in alone.named_parameters()}
    theirs = torch.optim.AdamW(alone.parameters(), REAL_LR, eps=REAL_EPS)
    for batch in batches:
        _, due = one_process(alone, batch)
        for name, p in alone.named_parameters():
            p.grad = due[name]
        largest = max(largest, *(float(g.abs().max()) for g in due.values()))
        theirs.step()
        theirs.zero_grad()
    pairs = [
        (p.detach(), q.detach(), start[name]) for (name, p), q in zip(alone.named_parameters(), model.parameters(), strict=True)
    ]
    return {
        "distance": max(float((p - q).abs().max()) for p, q, _ in pairs),
        "moved": max(float((p - s).abs().max()) for p, _, s in pairs),
        "tolerance": tolerance(model, batches[0]),
        "largest": largest,
    }
