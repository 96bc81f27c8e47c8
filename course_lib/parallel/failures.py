"""Whose fault it is when a parallel run fails: the rank that died or raised, or the one that the others waited for."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from course_lib.parallel.logs import Logs

WAITING = ("torch/distributed/", "course_lib/parallel/")  # code that stands still for nothing but a peer


class WorkerError(RuntimeError):
    """A worker failed.

    Attributes:
        rank: which.
        traceback: its own, or where it stood while its peers waited; what it last wrote to standard error if it died.
    """

    def __init__(self, message: str, rank: int, traceback: str) -> None:
        super().__init__(f"{message}\n{traceback}".rstrip())
        self.rank, self.traceback = rank, traceback


@dataclass
class Peers:
    """What is known of the workers: ``reports`` of those that came to an end, exit codes of the ``dead``, both by rank."""

    world_size: int
    timeout_s: float
    reports: dict[int, dict] = field(default_factory=dict)
    dead: dict[int, int] = field(default_factory=dict)

    @property
    def complaints(self) -> list[int]:
        """Ranks that waited for others in vain."""
        return [rank for rank, report in self.reports.items() if report.get("waited")]


def cause(peers: Peers, logs: Logs, stack: Callable[[int], str | None], last_chance: bool) -> WorkerError | None:
    """The error to raise, as soon as it is certain.

    A rank that died or raised an error of its own is to blame at once. Complaints of ranks that waited are blamed on nobody
    until the ``last_chance``; then on those who neither reported nor wait themselves, or who had returned already.

    Args:
        stack: tells where a worker stands; None if it does not answer.
    """
    for rank, code in peers.dead.items():
        last = f"The last it wrote to standard error:\n{logs.tail(rank)}" if logs.tail(rank) else ""
        return WorkerError(f"rank {rank} of {peers.world_size} {_ending(code)}.", rank, last)
    for rank, report in peers.reports.items():
        if "error" in report and not report["waited"]:
            return WorkerError(f"rank {rank} of {peers.world_size} raised {report['error']}", rank, report["traceback"])
    if peers.complaints and last_chance:
        return _late(peers, stack)
    return None


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before it returned"
    return f"was killed by {signal.Signals(-code).name}" + (", perhaps for want of memory" if code == -signal.SIGKILL else "")


def _late(peers: Peers, stack: Callable[[int], str | None]) -> WorkerError:
    waited = f"kept its peers waiting in a collective for more than {peers.timeout_s:g} s"
    silent = {rank: stack(rank) for rank in range(peers.world_size) if rank not in peers.reports}
    for rank, where in silent.items():
        if where is None:
            return WorkerError(f"rank {rank} of {peers.world_size} {waited} and does not answer.", rank, "")
        if not _in_a_collective(where):
            return WorkerError(f"rank {rank} of {peers.world_size} {waited}. It is here:", rank, where)
    for rank, report in peers.reports.items():
        if "result" in report:
            return WorkerError(f"rank {rank} of {peers.world_size} {waited}: it had returned.", rank, "")
    places = silent | {rank: peers.reports[rank]["traceback"] for rank in peers.complaints}
    message = f"Every rank waits for another, for more than {peers.timeout_s:g} s: collectives in another order on some?"
    everyone = "\n".join(f"rank {rank} of {peers.world_size}:\n{places[rank].rstrip()}" for rank in sorted(places))
    return WorkerError(message, peers.complaints[0], everyone)


def _in_a_collective(stack: str) -> bool:
    """Whether the innermost frame, locks of the standard library aside, is torch's or ours, or waits on a handle of theirs."""
    frames = [line.replace("\\", "/") for line in stack.splitlines() if line.lstrip().startswith("File ")]
    own = [frame for frame in frames if "/threading.py" not in frame and "/concurrent/futures/" not in frame]
    return any(place in own[-1] for place in WAITING) or ".wait(" in stack.rstrip().splitlines()[-1]
