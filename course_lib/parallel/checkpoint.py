"""Checkpoints that N workers write together and M workers read: plain tensors and JSON, whole or absent.

Weights and moments are each one flat vector. Worker ``r`` writes chunk ``r`` of each into a file of its own; ``index.json`` says what
the vectors hold. A reader takes the ranges that it needs, from whichever files have them. On several hosts the folder must be on
a disk that all of them see.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from course_lib.artifacts import new_folder, read_json, write_json
from course_lib.errors import CourseError, expect
from course_lib.parallel.agree import gathered
from course_lib.parallel.collectives import chunk_bounds
from course_lib.parallel.sharded_optimizer import MOMENTS, ShardedAdamW

INDEX = "index.json"


def save(folder: Path | str, model: nn.Module, optimizer: ShardedAdamW) -> None:
    """Write weights, buffers and the optimizer's state; all workers of the optimizer's group call it together.

    An older checkpoint of that name stays as it is until the new one is complete.

    Raises:
        CourseError: a worker could not write its part; the message says which and why.
        ValueError: the weights are of several dtypes.
    """
    rank, workers = dist.get_rank(optimizer.group), dist.get_world_size(optimizer.group)
    index = {"workers": workers, **_described(model, optimizer), "steps": optimizer.steps}
    with ExitStack() as stack:
        mine = str(stack.enter_context(new_folder(folder))) if rank == 0 else ""
        place = Path(gathered(mine, optimizer.group)[0])
        weights = _flat(model)
        start, end = chunk_bounds(len(weights), workers)[rank]
        tensors = {"weights": weights[start:end].clone(), **{name: getattr(optimizer, name) for name in MOMENTS}}
        if rank == 0:
            tensors |= {f"buffer/{name}": b.contiguous() for name, b in _buffers(model).items()}
        _together(lambda: save_file(tensors, place / _file(rank, workers)), f"write {place}", optimizer)
        if rank == 0:
            write_json(place / INDEX, index)
    dist.barrier(optimizer.group)  # the folder has its name now


def load(folder: Path | str, model: nn.Module, optimizer: ShardedAdamW) -> None:
    """Restore what :func:`save` wrote, by any number of workers, bit for bit; nothing is changed if anything is wrong.

    Raises:
        CourseError: the checkpoint is missing, incomplete, damaged, or of another model.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise CourseError(f"{folder}: no checkpoint of parallel workers there, {INDEX} is missing.")
    index = read_json(folder / INDEX)
    try:
        workers, steps = int(index["workers"]), list(index["steps"])
    except (ValueError, TypeError, KeyError) as error:
        raise CourseError(f"{folder / INDEX} is no index of a checkpoint of parallel workers: {error!r}.") from error
    _require_same(folder, index, _described(model, optimizer))
    start, end = optimizer.bounds[dist.get_rank(optimizer.group)]
    read: dict[str, torch.Tensor] = {}

    def collect() -> None:
        size = sum(p.numel() for p in model.parameters())
        read["weights"] = read_range(folder, "weights", workers, size, 0, size)
        read.update({name: read_range(folder, name, workers, optimizer.size, start, end) for name in MOMENTS})
        with safe_open(folder / _file(0, workers), "pt") as file:
            read.update({name: file.get_tensor(f"buffer/{name}") for name in _buffers(model)})

    _together(collect, f"read {folder}", optimizer)
    parameters = list(model.parameters())
    with torch.no_grad():
        for p, values in zip(parameters, read["weights"].split([p.numel() for p in parameters]), strict=True):
            p.copy_(values.view_as(p))
        for name, buffer in _buffers(model).items():
            buffer.copy_(read[name])
        for name in MOMENTS:
            getattr(optimizer, name).copy_(read[name])
    optimizer.steps = steps


def read_range(folder: Path, key: str, workers: int, size: int, start: int, end: int) -> torch.Tensor:
    """Values ``start`` to ``end`` of a vector (size,) of which each of ``workers`` workers wrote a chunk."""
    parts = [torch.empty(0)]
    for rank, (low, high) in enumerate(chunk_bounds(size, workers)):
        if max(low, start) < min(high, end):
            with safe_open(folder / _file(rank, workers), "pt") as file:
                parts.append(file.get_slice(key)[max(low, start) - low : min(high, end) - low])
    return torch.cat(parts[1:] or parts)


def _flat(model: nn.Module) -> torch.Tensor:
    dtypes = {p.dtype for p in model.parameters()}
    expect(len(dtypes) == 1, "model", sorted(map(str, dtypes)), "weights of one dtype")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those that belong to the model's state; a tied parameter is none."""
    state = model.state_dict(keep_vars=True)
    return {name: b for name, b in model.named_buffers() if name in state}


def _described(model: nn.Module, optimizer: ShardedAdamW) -> dict:
    """What the flat vectors hold, in order."""
    names = {p: name for name, p in model.named_parameters()}
    expect(all(p in names for p in optimizer.parameters), "optimizer", "an optimizer of other parameters", "one of the model's")
    return {
        "weights": _forms((name, p) for p, name in names.items()),
        "optimizer": _forms((names[p], p) for p in optimizer.parameters),
        "buffers": _forms(_buffers(model).items()),
    }


def _forms(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[list]:
    return [[name, list(t.shape), str(t.dtype)] for name, t in tensors]


def _require_same(folder: Path, index: dict, due: dict) -> None:
    for what, forms in due.items():
        for theirs, ours in zip_longest(index.get(what, []), forms):
            if theirs != ours:
                raise CourseError(f"{folder}: a checkpoint of another model: of {what} it has {theirs} where {ours} is due.")


def _together(work: Callable[[], object], what: str, optimizer: ShardedAdamW) -> None:
    """Do something on all workers; if it fails on one, all raise and none waits."""
    failure = None
    try:
        work()
    except (SafetensorError, OSError) as error:
        failure = f"{type(error).__name__}: {error}"
    failures = gathered(failure, optimizer.group)
    if any(failures):
        where = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(failures) if text)
        raise CourseError(f"Cannot {what} ({where}).")


def _file(rank: int, workers: int) -> str:
    return f"rank-{rank:05d}-of-{workers:05d}.safetensors"
