"""Other work on the same machine, made on purpose: what a benchmark on an idle machine never meets."""

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from course_lib.errors import expect

SECONDS = 60  # after which a neighbour ends by itself, should nobody stop it
BUSY = f"""
import time
end = time.monotonic() + {SECONDS}
print("busy", flush=True)
while time.monotonic() < end:
    sum(range(10_000))
"""


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """So many processes compute without a pause, each on one thread, until the block ends.

    Args:
        count: how many; at least 1.
    """
    expect(count >= 1, "count", count, "at least 1")
    with contextlib.ExitStack() as stack:
        others = []
        for _ in range(count):
            others.append(subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE))
            stack.callback(_end, others[-1])
        for other in others:
            other.stdout.readline()  # it is running
        yield


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def half_disturbed(
    contenders: Mapping[str, Callable[[], object]], rounds: int, turns: bool, neighbours: int
) -> tuple[dict[str, list[tuple[float, float]]], tuple[float, float]]:
    """Time contenders while other work starts half way through.

    Args:
        contenders: name → what to time.
        rounds: calls of each.
        turns: A B A B …; otherwise A A … B B ….
        neighbours: processes of other work.
    Returns:
        Name → ``(seconds since the start, milliseconds)`` of each call; and from when to when the others ran.
    """
    expect(rounds >= 1, "rounds", rounds, "at least 1")
    order = [name for _ in range(rounds) for name in contenders] if turns else [n for n in contenders for _ in range(rounds)]
    half = len(order) // 2
    calls: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    began = time.perf_counter()

    def call(name: str) -> None:
        start = time.perf_counter()
        contenders[name]()
        end = time.perf_counter()
        calls[name].append((start - began, (end - start) * 1000))

    for name in order[:half]:
        call(name)
    with busy_neighbours(neighbours):
        disturbed = time.perf_counter() - began
        for name in order[half:]:
            call(name)
        return calls, (disturbed, time.perf_counter() - began)


def all_at_once(copies: Sequence[Callable[[], object]], calls: int) -> tuple[float, list[float]]:
    """Call copies of a service at the same time, each again as soon as it has answered.

    Args:
        copies: one function for each copy; they must let go of Python's lock while they compute, as engines do.
        calls: of each copy.
    Returns:
        Answers per second of all together, and the milliseconds of each answer.
    """
    expect(calls >= 1, "calls", calls, "at least 1")
    expect(len(copies) >= 1, "copies", list(copies), "at least 1")

    def serve(copy: Callable[[], object]) -> list[float]:
        moments = [time.perf_counter()]
        for _ in range(calls):
            copy()
            moments.append(time.perf_counter())
        return [1000 * (end - start) for start, end in itertools.pairwise(moments)]

    began = time.perf_counter()
    with ThreadPoolExecutor(len(copies)) as pool:
        answers = [ms for own in pool.map(serve, copies) for ms in own]
    return len(answers) / (time.perf_counter() - began), answers
