"""The same work list on one machine's processes, or on a cluster's.

Work is anything that can be sent to another process, one piece at a time, so that memory stays flat however long the list.
A worker that dies costs the piece it had; when the one who gives out work dies, its workers see the end of their pipe and go.
"""

import atexit
import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from typing import Any

from course_lib.errors import CourseError

START_SECONDS = 600.0  # for a worker to be ready
PIECE_SECONDS = 3600.0  # for a piece of work; many times what grading a notebook may take
Open = Callable[[], AbstractContextManager[Callable[[Any], Any]]]  # what each worker does, opened once in it
SCHEDULER_SECONDS = 10  # to wait for a scheduler's answer


class Failed(Exception):
    """A piece of work that came to nothing; the message says why."""


def local(
    work: Iterable[tuple[Any, Any]], opened: Open, workers: int, seconds: float = PIECE_SECONDS
) -> Iterator[tuple[Any, Any]]:
    """Do work in processes of this machine.

    Args:
        work: ``(name, piece)``; pieces are taken from it as workers become free.
        opened: made in each worker, by :mod:`pickle`; its context gives the function that does a piece.
        workers: processes.
        seconds: a piece may take; one that is stuck is ended with its worker, and the others go on.
    Yields:
        ``(name, what came of it)`` as it is done; a :class:`Failed` where it raised, took too long, or its process died.
    Raises:
        CourseError: workers cannot begin.
    """
    pieces, busy, idle = iter(work), {}, []
    try:
        while True:
            while len(busy) < workers and (following := next(pieces, None)):
                name, piece = following
                allowed = seconds if idle else START_SECONDS
                process, pipe = idle.pop() if idle else _start(opened)
                busy[pipe] = name, process, time.monotonic() + allowed
                with contextlib.suppress(BrokenPipeError):  # found out when its answer is read
                    pipe.send(piece)
            if not busy:
                return
            ready = wait(list(busy), max(0.0, min(until for _, _, until in busy.values()) - time.monotonic()))
            for pipe in [p for p, (_, _, until) in busy.items() if p not in ready and until <= time.monotonic()]:
                name, process, _ = busy.pop(pipe)
                process.kill()
                process.join()
                pipe.close()
                yield name, Failed("it did not come to an end in time and was stopped")
            for pipe in ready:
                name, process, _ = busy.pop(pipe)
                try:
                    done = pipe.recv()
                    if done is None:  # it is ready to begin
                        busy[pipe] = name, process, time.monotonic() + seconds
                        continue
                    idle.append((process, pipe))
                    if isinstance(done, CourseError):  # it cannot begin, and no other could
                        raise done
                except (EOFError, ConnectionResetError):
                    process.join()
                    pipe.close()
                    done = Failed(f"the process that graded it ended (exit code {process.exitcode})")
                yield name, done
    finally:
        for process, pipe in [*idle, *((process, pipe) for pipe, (_, process, _) in busy.items())]:
            pipe.close()
            process.join(5)
            process.kill()


def _start(opened: Open) -> tuple[multiprocessing.Process, Connection]:
    context = multiprocessing.get_context("spawn")  # nothing of this process, and no thread, is in it
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, opened))
    process.start()
    theirs.close()
    return process, ours


def _serve(pipe: Connection, opened: Open) -> None:
    """A worker: says None when it is ready, or why it is not; then does what comes down the pipe until that ends."""
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        try:
            with opened() as do:
                pipe.send(None)
                while True:
                    pipe.send(_tried(do, pipe.recv()))
        except CourseError as error:
            pipe.send(error)


def _tried(do: Callable[[Any], Any], piece: Any) -> Any:
    try:
        return do(piece)
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}")


def dask(work: Iterable[tuple[Any, Any]], opened: Open, scheduler: str) -> Iterator[tuple[Any, Any]]:
    """Do work on a Dask cluster; as :func:`local`. Its workers' deaths are the cluster's to count; see ``KilledWorker``.

    Args:
        scheduler: its address, as ``tcp://10.0.0.1:8786``. The course must be installed where its workers are.
    Raises:
        CourseError: the extra ``cluster`` is not installed, or nobody answers at the address.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise CourseError(f"{error.name} is not installed: pip install 'course_lib[cluster]'.") from error
    try:
        client = Client(scheduler, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CourseError(f"No Dask scheduler answers at {scheduler!r} ({error}). Start one: dask scheduler") from error
    pieces, names = iter(work), {}
    with client:
        with client.as_current():
            running = as_completed()
        while True:
            while len(names) < max(1, sum(client.nthreads().values())) and (following := next(pieces, None)):
                name, piece = following
                future = client.submit(_on_cluster, opened, piece, pure=False)
                names[future] = name
                running.add(future)
            if not names:
                return
            future = next(running)
            name = names.pop(future)
            try:
                done = future.result()
            except KilledWorker:  # its message tells of the cluster's insides
                done = Failed("the process that graded it ended, and so did those that tried it again")
            yield name, done


_OPENED: dict[bytes, Callable[[Any], Any]] = {}  # by what was opened, in a worker of a cluster; closed when the process ends
_ONE_AT_A_TIME = threading.Lock()  # a worker may run several tasks in threads


def _on_cluster(opened: Open, piece: Any) -> Any:
    import pickle

    key = pickle.dumps(opened)
    with _ONE_AT_A_TIME:
        if key not in _OPENED:
            context = opened()
            _OPENED[key] = context.__enter__()
            atexit.register(context.__exit__, None, None, None)
        return _tried(_OPENED[key], piece)
