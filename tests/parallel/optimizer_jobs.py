"""What workers compute in the tests of the sharded optimizer and of checkpoints."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from model_jobs import refused
from torch import nn

from course_lib.parallel import checkpoint
from course_lib.parallel.sharded_optimizer import MOMENTS, ShardedAdamW

STEPS, LR, DECAY = 5, 0.01, 0.1


def everything(folder: str) -> dict:
    """All checks: of the optimizer on 2, 3 and 4 workers, and checkpoints that go from any of 1 to 4 to any other number."""
    groups = {size: dist.new_group(list(range(size))) for size in range(1, 5)}
    mine = {size: group for size, group in groups.items() if dist.get_rank() < size}
    return {
        "adamw": {size: beside_adamw(group) for size, group in mine.items() if size > 1},
        "few": {size: few_parameters(group) for size, group in mine.items() if size == 4},
        "moved": moved(Path(folder), mine),
        "refused": refusals(Path(folder), groups[4]),
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
        "sent": ours.traffic.bytes,
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

    whole, checkpoint.save_file = checkpoint.save_file, full_disk if rank == 1 else checkpoint.save_file
    train(model, optimizer, 1, 1)
    found["full"] = refused(lambda: checkpoint.save(folder / "kept", model, optimizer))
    checkpoint.save_file = whole
    dist.barrier()
    checkpoint.load(folder / "kept", model, optimizer)
    found["older is whole"] = all(torch.equal(a, b) for a, b in zip(state(model, optimizer), before, strict=True))
    found["left"] = sorted(os.listdir(folder))
    return found


def full_disk(tensors: dict, path: Path) -> None:
    """What writing to a full disk does."""
    raise OSError(28, "No space left on device")
