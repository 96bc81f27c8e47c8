"""``run(fn, world_size=4)``: a function on several processes of this machine, from a notebook or a script.

The parent holds a key-value store on a port of the loopback interface that the system chooses; by it the workers get their
call, find each other and report. Nothing is written to disk.
"""

import contextlib
import linecache
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import cloudpickle
import torch.distributed as dist

from course_lib.errors import expect
from course_lib.parallel.failures import Peers, cause
from course_lib.parallel.logs import Logs

JOIN_S = 120.0  # until all workers must have come: each imports torch first
GRACE_S = 3.0  # after a peer's complaint, until the culprit must have shown itself
ANSWER_S = 2.0  # until workers must have told where they are
POLL_S = 0.02
LOOPBACK = {"darwin": "lo0"}.get(sys.platform, "lo")


def run(
    fn: Callable,
    world_size: int = 4,
    *args,
    backend: str = "gloo",
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    threads: int = 1,
) -> list:
    """Call ``fn(*args)`` in ``world_size`` new processes with ``torch.distributed`` initialised.

    Functions of a module go by reference, those of a notebook's cell or of the main script by value. What the workers print
    is shown line by line after their rank. However the call ends, no process of it is left.

    Args:
        fn: called in each process; ``torch.distributed.get_rank()`` tells which it is.
        world_size: number of processes.
        args: given to each.
        backend: ``gloo``, or ``nccl`` where each process has a GPU.
        timeout_s: seconds that a collective may wait for its peers. The function itself may take as long as it likes.
        env: environment variables besides those of this process.
        threads: threads of torch in each process.
    Returns:
        The results by rank.
    Raises:
        WorkerError: a worker raised, died, or kept its peers waiting; it names the rank and has its traceback.
        ValueError: bad arguments, or ones that cannot be sent.

    >>> run(max, 1, [3, 1, 2])
    [3]
    """
    expect(callable(fn), "fn", fn, "a function")
    expect(isinstance(world_size, int) and world_size >= 1, "world_size", world_size, "a number of processes, at least 1")
    expect(timeout_s > 0, "timeout_s", timeout_s, "a positive number of seconds")
    expect(threads >= 1, "threads", threads, "at least 1")
    call = _pickled(fn, args)
    settings, workers = [backend, str(timeout_s), str(JOIN_S), str(threads)], []
    with Desk() as desk, Logs() as logs, _ended(workers):
        desk.store.set("call", call)
        for rank in range(world_size):
            workers.append(_start(_environment(rank, world_size, desk.port, threads, env), settings))
            logs.follow(rank, workers[-1])
        reports = _watch(workers, desk, logs, timeout_s)
        desk.store.set("over", "")
        with contextlib.suppress(subprocess.TimeoutExpired):  # who hangs on leaving is killed
            for worker in workers:
                worker.wait(timeout=5)
    return [report["result"] for report in reports]


def _pickled(fn: Callable, args: tuple) -> bytes:
    file = getattr(getattr(fn, "__code__", None), "co_filename", "")
    lines = [] if os.path.exists(file) else linecache.getlines(file)  # of a notebook's cell, for the worker's tracebacks
    try:
        return cloudpickle.dumps((fn, args, file, lines))
    except (TypeError, pickle.PicklingError, AttributeError) as error:
        raise ValueError(f"fn = {fn!r}: it or its arguments cannot be sent to another process: {error}") from error


class Desk:
    """The store where workers get their call and leave their reports; only this machine can reach it.

    Its port is free when the system gives it and stays taken from then on, so no run meets another's. It is closed at the end of
    the ``with``, even if an error's traceback, which a notebook keeps, still holds this object.
    """

    def __enter__(self) -> "Desk":
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            self.port = listener.getsockname()[1]
            handle = listener.detach()
        self.store = dist.TCPStore(
            "127.0.0.1", self.port, None, True, timedelta(seconds=JOIN_S), False, master_listen_fd=handle
        )
        return self

    def __exit__(self, *_) -> None:
        del self.store


def _environment(rank: int, world_size: int, port: int, threads: int, more: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of one worker: what torchrun would set, this process's import path, one network interface."""
    return {
        **os.environ,
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL")},
        **(more or {}),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the parent holds the store
        "GLOO_SOCKET_IFNAME": LOOPBACK,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONUNBUFFERED": "1",  # logs appear when they are written
    }


def _start(environment: dict[str, str], settings: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "course_lib.parallel.worker", *settings],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the workers
    )


def _watch(workers: list[subprocess.Popen], desk: Desk, logs: Logs, timeout_s: float) -> list[dict]:
    """The reports of all ranks, all with results.

    Raises:
        WorkerError: a rank failed; found within :data:`GRACE_S` and a few polls of its death, error or peers' complaint.
    """
    peers, deadline = Peers(len(workers), timeout_s), None
    while len(peers.reports) < len(workers):
        for rank, worker in enumerate(workers):
            dead = worker.poll() is not None  # asked before its report is: the report is older than the death
            if rank not in peers.reports and desk.store.check([f"report/{rank}"]):
                peers.reports[rank] = pickle.loads(desk.store.get(f"report/{rank}"))
            elif rank not in peers.reports and rank not in peers.dead and dead:
                peers.dead[rank], peers.last_words[rank] = worker.returncode, logs.last_words(rank)
        last_chance = len(peers.reports) + len(peers.dead) == len(workers) or (deadline and time.monotonic() > deadline)
        found = cause(peers, lambda ranks: _stacks({rank: workers[rank] for rank in ranks}, desk), bool(last_chance))
        if found:
            raise found
        if peers.complaints and deadline is None:
            deadline = time.monotonic() + GRACE_S
        time.sleep(POLL_S)
    return [peers.reports[rank] for rank in range(len(workers))]


def _stacks(workers: Mapping[int, subprocess.Popen], desk: Desk) -> dict[int, str | None]:
    """Where workers are right now, by rank; None for those that do not answer within :data:`ANSWER_S`. All are asked first."""
    for worker in workers.values():
        with contextlib.suppress(OSError):  # it is gone
            worker.stdin.write(b"stack\n")
            worker.stdin.flush()
    found: dict[int, str | None] = dict.fromkeys(workers)
    deadline = time.monotonic() + ANSWER_S
    while None in found.values() and time.monotonic() < deadline:
        for rank in [rank for rank, where in found.items() if where is None and desk.store.check([f"stack/{rank}"])]:
            found[rank] = desk.store.get(f"stack/{rank}").decode()
        time.sleep(POLL_S)
    return found


@contextlib.contextmanager
def _ended(workers: list[subprocess.Popen]) -> Iterator[None]:
    """Kill what still runs at the end, with whatever it started, and reap it."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL) if hasattr(os, "killpg") else worker.kill()
        for worker in workers:
            worker.wait()
            worker.stdin.close()
