"""Joining the process group that ``torchrun`` or :func:`course_lib.parallel.launcher.run` describes in the environment."""

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from course_lib.errors import CourseError, expect

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init_from_env(backend: str | None = None, timeout_s: float = 60.0, join_s: float = 120.0) -> tuple[int, int]:
    """Join the process group of ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``, as torchrun sets them.

    Args:
        backend: ``gloo`` (CPU) or ``nccl`` (one GPU for each process); None: ``nccl`` where there is a GPU, else ``gloo``.
        timeout_s: seconds that a collective may wait for its peers before it raises.
        join_s: seconds until every rank must have come.
    Returns:
        This process's rank and the number of processes.
    Raises:
        CourseError: no such environment, the port is taken, or a rank is missing (the message says which).
    """
    gpu = torch.cuda.is_available() and dist.is_nccl_available()
    backend = backend or ("nccl" if gpu else "gloo")
    expect(backend in ("gloo", "nccl"), "backend", backend, "gloo or nccl")
    if backend == "nccl" and not gpu:
        raise CourseError("backend = 'nccl' needs an NVIDIA GPU, and torch sees none here; on CPUs it is 'gloo'.")
    absent = [name for name in NEEDED if name not in os.environ]
    if absent:
        raise CourseError(f"{', '.join(absent)} not set: start this with `torchrun --nproc-per-node 2 …` or parallel.run.")
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    expect(0 <= rank < world_size, "RANK", rank, f"a number from 0 to WORLD_SIZE − 1 = {world_size - 1}")
    store = _store(rank, world_size, join_s)
    store.set(f"joined/{rank}", "")
    deadline = time.monotonic() + join_s
    missing = [r for r in range(world_size) if not _there(store, r, deadline)]
    if missing:
        raise CourseError(f"After {join_s:g} s these ranks of {world_size} have not joined: {', '.join(map(str, missing))}.")
    timeout = timedelta(seconds=timeout_s)
    # Or groups made later, by new_group() or for a device mesh, wait for the 30 minutes that torch sets there; it has no option for it.
    dist.distributed_c10d.default_pg_timeout = dist.distributed_c10d.default_pg_nccl_timeout = timeout
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return rank, world_size


def device() -> torch.device:
    """Where this process's tensors belong: its GPU under ``nccl``, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _store(rank: int, world_size: int, join_s: float) -> dist.TCPStore:
    """The key-value store by which ranks find each other; torchrun's agent or the launcher holds it, else rank 0 does."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    holds = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        return dist.TCPStore(host, port, world_size, holds, timedelta(seconds=join_s), wait_for_workers=False)
    except dist.DistError as error:
        if holds:
            raise CourseError(f"MASTER_PORT = {port} is taken on {host}; choose another, or leave it to torchrun.") from error
        raise CourseError(
            f"After {join_s:g} s rank 0 of {world_size} has not joined: nobody answers at {host}:{port}."
        ) from error


def _there(store: dist.Store, rank: int, deadline: float) -> bool:
    try:
        store.wait([f"joined/{rank}"], timedelta(seconds=max(0.01, deadline - time.monotonic())))
    except dist.DistError:
        return False
    return True
