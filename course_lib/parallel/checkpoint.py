"""Checkpoints that N workers write together and M workers read: plain tensors and JSON, whole or absent.

Weights and moments are each one flat vector. Worker ``r`` writes chunk ``r`` of each into a file of its own; ``index.json`` says what
the vectors hold. A reader takes the ranges that it needs, from whichever files have them. On several hosts the folder must be on
a disk that all of them see.

:func:`save` and :func:`load` are for training with the whole model on every worker. :func:`save_weights` and :func:`load_weights`
have the weights alone, by their names in the whole model, however it is split: what two workers wrote by tensor parallelism, a
pipeline of four or a single process reads.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from course_lib.artifacts import new_folder, read_json, write_json
from course_lib.errors import CourseError, expect
from course_lib.parallel.agree import fingerprints, gathered
from course_lib.parallel.collectives import Group, chunk_bounds
from course_lib.parallel.sharded_optimizer import MOMENTS, ShardedAdamW
from course_lib.parallel.stage import Stage
from course_lib.parallel.tensor_bert import TensorParallel, joined
from course_lib.parallel.tensor_parallel import part

INDEX = "index.json"
Model = nn.Module | TensorParallel  # a Stage is a module
Tensors = dict[str, torch.Tensor]


def save(folder: Path | str, model: nn.Module, optimizer: ShardedAdamW) -> None:
    """Write weights, buffers and the optimizer's state; all workers of the optimizer's group call it together.

    An older checkpoint of that name stays as it is until the new one is complete.

    Args:
        folder: made, or replaced.
        model: whole and the same on every worker; its buffers are those of the first one.
        optimizer: of its parameters.
    Raises:
        CourseError: a worker could not write its part; the message, the same on all, says which and why.
        ValueError: weights of several dtypes, or that differ from worker to worker, as those of a split model do.
    """
    own = _replicated(model, optimizer.group)
    index = _together(lambda: _described(model, optimizer) | {"steps": optimizer.steps}, f"save {folder}", own.group)[0]
    forms = _whole_forms(own)
    rank, workers = _place(own.group)
    start, end = chunk_bounds(_size(forms), workers)[rank]

    def tensors() -> Tensors:
        flat = torch.cat([p.detach().flatten() for p in own.parameters.values()])
        return {"weights": flat[start:end].clone(), **{name: getattr(optimizer, name) for name in MOMENTS}}

    _write(Path(folder), index, tensors, own)


def load(folder: Path | str, model: nn.Module, optimizer: ShardedAdamW) -> None:
    """Restore what :func:`save` wrote, by any number of workers, bit for bit; nothing is changed if anything is wrong.

    Args:
        folder: of a checkpoint.
        model, optimizer: as of :func:`save`.
    Raises:
        CourseError: the checkpoint is missing, incomplete, damaged, or of another model; the message, the same on all workers,
            says for which of them.
    """
    folder, found, steps = Path(folder), {}, []
    start, end = optimizer.bounds[dist.get_rank(optimizer.group)]

    def read() -> None:
        index = read_index(folder)
        _require_same(folder, index, _described(model, optimizer))
        size = sum(p.numel() for p in model.parameters())
        found["weights"] = read_range(folder, "weights", index["workers"], size, 0, size)
        for name in MOMENTS:
            found[name] = read_range(folder, name, index["workers"], optimizer.size, start, end)
        found.update(_read_buffers(folder, index["workers"], _buffers(model)))
        steps.extend(index["steps"])

    _together(read, f"read {folder}", optimizer.group)
    parameters = list(model.parameters())
    with torch.no_grad():
        for p, values in zip(parameters, found["weights"].split([p.numel() for p in parameters]), strict=True):
            p.copy_(values.view_as(p))
        for name, tensor in [*_buffers(model).items(), *((name, getattr(optimizer, name)) for name in MOMENTS)]:
            tensor.copy_(found[name])
    optimizer.steps = steps


def save_weights(folder: Path | str, model: Model, group: Group = None) -> None:
    """Write a model's weights by their names in the whole model; all workers that share it call it together.

    The files are those of :func:`save`, without an optimizer. Tensors are put together one after the other, so that no worker
    keeps more than its chunk of the whole. In a grid (:mod:`course_lib.parallel.hybrid`) the workers of one replica call it.

    Args:
        folder: made, or replaced when the new checkpoint is complete.
        model: whole and the same on every worker, a stage of a pipeline, or slices with what puts them together.
        group: the workers; None: those of the slices, else all. One process needs no group.
    Raises:
        CourseError: a worker could not write its part; the message, the same on all, says which and why.
        ValueError: weights of several dtypes, a stage with buffers, or weights that several workers hold and that differ.
    """
    own = _held(model, group)
    forms = _whole_forms(own)
    rank, workers = _place(own.group)
    start, end = chunk_bounds(_size(forms), workers)[rank]
    pieces, offset = [], 0
    for values in _whole_tensors(own, forms):
        pieces.append(values.flatten()[max(start - offset, 0) : max(end - offset, 0)].clone())
        offset += values.numel()
    index = {"weights": _listed(forms), "optimizer": [], "buffers": _forms(own.buffers.items()), "steps": []}
    _write(Path(folder), index, lambda: {"weights": torch.cat(pieces)}, own)


def load_weights(folder: Path | str, model: Model, group: Group = None) -> None:
    """Read the weights that :func:`save_weights` or :func:`save` wrote, bit for bit, into a model split in any way or in none.

    Args:
        folder: of a checkpoint by any number of workers.
        model, group: as of :func:`save_weights`.
    Raises:
        CourseError: the checkpoint is missing, incomplete, damaged, or of another model; the message, the same on all workers,
            says for which of them. Nothing is changed then.
    """
    folder, own, found = Path(folder), _held(model, group), {}
    rank, workers = _place(own.group)

    def read() -> set[str]:
        index = read_index(folder)
        sizes = [prod(shape) for _, shape, _ in index["weights"]]
        firsts = accumulate(sizes, initial=0)
        forms = {name: (shape, dtype, first) for (name, shape, dtype), first in zip(index["weights"], firsts, strict=False)}
        for name, p in own.parameters.items():
            if name not in forms:
                raise CourseError(f"{folder}: a checkpoint of another model: it has no {name}.")
            shape, dtype, first = forms[name]
            end = first + prod(shape)
            values = read_range(folder, "weights", index["workers"], sum(sizes), first, end).view(shape)
            if name in own.split:
                stretch = part(shape[own.split[name]], rank, workers)
                values = values.narrow(own.split[name], stretch.start, stretch.stop - stretch.start)
            if (values.shape, dtype) != (p.shape, str(p.dtype)):
                raise CourseError(
                    f"{folder}: a checkpoint of another model: its {name}, {shape} of {dtype}, does not fit {list(p.shape)} of {p.dtype}."
                )
            found[name] = values
        found.update(_read_buffers(folder, index["workers"], own.buffers))
        return set(forms) - set(own.parameters)

    unread = sorted(set.intersection(*_together(read, f"read {folder}", own.group)))
    if unread:
        raise CourseError(f"{folder}: a checkpoint of another model: no worker has a place for {unread[0]}.")
    with torch.no_grad():
        for name, tensor in [*own.parameters.items(), *own.buffers.items()]:
            tensor.copy_(found[name])


def read_index(folder: Path) -> dict:
    """What a checkpoint holds: ``workers`` that wrote it; ``weights, optimizer, buffers``, name, shape and dtype each; ``steps``.

    Raises:
        CourseError: there is none, or another file.
    """
    if not (folder / INDEX).is_file():
        raise CourseError(f"{folder}: no checkpoint of parallel workers there, {INDEX} is missing.")
    index = read_json(folder / INDEX)
    try:
        found = {"workers": int(index["workers"]), "steps": list(index["steps"])}
        for what in ("weights", "optimizer", "buffers"):
            found[what] = [[str(name), list(shape), str(dtype)] for name, shape, dtype in index[what]]
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise CourseError(f"{folder / INDEX} is no index of a checkpoint of parallel workers: {error!r}.") from error


def read_range(folder: Path, key: str, workers: int, size: int, start: int, end: int) -> torch.Tensor:
    """Values ``start`` to ``end`` of a vector (size,) of which each of ``workers`` workers wrote a chunk."""
    parts = [torch.empty(0)]
    for rank, (low, high) in enumerate(chunk_bounds(size, workers)):
        if max(low, start) < min(high, end):
            with safe_open(folder / _file(rank, workers), "pt") as file:
                parts.append(file.get_slice(key)[max(low, start) - low : min(high, end) - low])
    return torch.cat(parts[1:] or parts)


# What a worker holds.


@dataclass(frozen=True)
class _Held:
    """A worker's part of a model by names in the whole one.

    Attributes:
        parameters, buffers: what is here.
        split: of the parameters that are slices, the dimension.
        group: the workers that share the model.
        everywhere: whether each of them has all parameters, or slices of them.
    """

    parameters: dict[str, nn.Parameter]
    buffers: Tensors
    split: dict[str, int]
    group: Group
    everywhere: bool


def _held(model: Model, group: Group) -> _Held:
    if isinstance(model, TensorParallel):
        return _Held(dict(model.model.named_parameters()), _buffers(model.model), model.split, model.group, True)
    if isinstance(model, Stage):
        expect(
            not _buffers(model), "model", sorted(_buffers(model)), "a stage without buffers: their whole names are not known"
        )
        return _Held(model.parameter_names, {}, {}, group, False)
    return _replicated(model, group)


def _replicated(model: nn.Module, group: Group) -> _Held:
    return _Held(dict(model.named_parameters()), _buffers(model), {}, group, True)


def _whole_forms(own: _Held) -> dict[str, tuple[list[int], str]]:
    """Shape in the whole model and dtype of every parameter, by name; the same on all workers.

    Raises:
        ValueError: one that several workers have whole differs between them, or there are several dtypes.
    """
    whole = {name: p for name, p in own.parameters.items() if name not in own.split}
    prints = fingerprints(whole)
    mine = {name: (list(p.shape), str(p.dtype), prints.get(name, (0, ""))[1]) for name, p in own.parameters.items()}
    everyone = gathered(mine, own.group) if dist.is_initialized() else [mine]
    forms = {}
    for name in dict.fromkeys(name for held in everyone for name in held):
        found = {rank: held.get(name) for rank, held in enumerate(everyone) if own.everywhere or name in held}
        first = next(iter(found.values()))
        due = "the same on all workers that have it whole (rank: shape, dtype, checksum); save_weights is for slices and stages"
        expect(name in own.split or all(form == first for form in found.values()), name, found, due)
        shape = list(first[0])
        if name in own.split:
            shape[own.split[name]] = sum(form[0][own.split[name]] for form in found.values())
        forms[name] = shape, first[1]
    dtypes = sorted({dtype for _, dtype in forms.values()})
    expect(len(dtypes) == 1, "model", dtypes, "weights of one dtype")
    return forms


def _whole_tensors(own: _Held, forms: dict[str, tuple[list[int], str]]) -> Iterator[torch.Tensor]:
    """Every parameter of the whole model, one after the other, on all workers."""
    holders = gathered(set(own.parameters), own.group) if dist.is_initialized() else [set(own.parameters)]
    for name, (shape, _) in forms.items():
        here = own.parameters.get(name)
        if name in own.split:
            yield joined(here.detach(), own.split[name], own.group)
        elif own.everywhere:
            yield here.detach()
        else:
            values = next(iter(own.parameters.values())).new_empty(shape) if here is None else here.detach().clone()
            if dist.is_initialized():
                dist.broadcast(values, group=own.group, group_src=next(r for r, names in enumerate(holders) if name in names))
            yield values


def _buffers(model: nn.Module) -> Tensors:
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


def _listed(forms: dict[str, tuple[list[int], str]]) -> list[list]:
    return [[name, *form] for name, form in forms.items()]


def _size(forms: dict[str, tuple[list[int], str]]) -> int:
    return sum(prod(shape) for shape, _ in forms.values())


def _require_same(folder: Path, index: dict, due: dict) -> None:
    for what, forms in due.items():
        for theirs, ours in zip_longest(index.get(what, []), forms):
            if theirs != ours:
                raise CourseError(f"{folder}: a checkpoint of another model: of {what} it has {theirs} where {ours} is due.")


# Files, and failures of which all workers must hear.


def _write(folder: Path, index: dict, tensors: Callable[[], Tensors], own: _Held) -> None:
    """Every worker's file and the index, in a folder that gets its name when all are there."""
    rank, workers = _place(own.group)
    with ExitStack() as stack:

        def begin() -> str:
            return str(stack.enter_context(new_folder(folder))) if rank == 0 else ""

        place = Path(_together(begin, f"write {folder}", own.group)[0])

        def write() -> None:
            buffers = {f"buffer/{name}": b.contiguous() for name, b in own.buffers.items()} if rank == 0 else {}
            save_file(tensors() | buffers, place / _file(rank, workers))
            if rank == 0:
                write_json(place / INDEX, {"workers": workers, **index})

        _together(write, f"write {place}", own.group)
        _together(stack.close, f"write {folder}", own.group)  # the folder has its name now


def _read_buffers(folder: Path, workers: int, buffers: Tensors) -> Tensors:
    with safe_open(folder / _file(0, workers), "pt") as file:
        return {name: file.get_tensor(f"buffer/{name}") for name in buffers}


def _together(work: Callable[[], object], what: str, group: Group) -> list:
    """Do something on all workers, and gather what it returns; if it fails on one, all raise and none waits."""
    result, failure = None, None
    try:
        result = work()
    except Exception as error:  # of whatever kind: the others must hear of it
        failure = str(error) if isinstance(error, CourseError) else f"{type(error).__name__}: {error}"
    found = gathered((result, failure), group) if dist.is_initialized() else [(result, failure)]
    ranks: dict[str, list[str]] = {}
    for rank, (_, text) in enumerate(found):
        if text is not None:
            ranks.setdefault(text, []).append(str(rank))
    if ranks:
        where = "; ".join(f"rank{'s'[: len(of) - 1]} {', '.join(of)}: {text}" for text, of in ranks.items())
        raise CourseError(f"Cannot {what} ({where}).")
    return [result for result, _ in found]


def _place(group: Group) -> tuple[int, int]:
    """This worker's rank and the number of workers; one process needs no group."""
    return (dist.get_rank(group), dist.get_world_size(group)) if dist.is_initialized() else (0, 1)


def _file(rank: int, workers: int) -> str:
    return f"rank-{rank:05d}-of-{workers:05d}.safetensors"
