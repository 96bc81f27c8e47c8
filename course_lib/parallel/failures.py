"""Whose fault it is when a parallel run fails: the rank that died or raised, or the one that the others waited for."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from course_lib.parallel.worker import tells_of_waiting

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
    """What is known of the workers, by rank.

    Attributes:
        world_size: how many there are.
        timeout_s: how long a collective may wait for its peers.
        reports: of those that came to an end.
        dead: exit codes of those that did not.
        last_words: what the dead last wrote to standard error.
    """

    world_size: int
    timeout_s: float
    reports: dict[int, dict] = field(default_factory=dict)
    dead: dict[int, int] = field(default_factory=dict)
    last_words: dict[int, str] = field(default_factory=dict)

    @property
    def complaints(self) -> dict[int, str]:
        """What those ranks told that waited for others in vain: a traceback, or the last words of one that NCCL's watchdog ended."""
        raised = {rank: report["traceback"] for rank, report in self.reports.items() if report.get("waited")}
        return raised | {rank: self.last_words[rank] for rank in self.dead if self._aborted(rank)}

    @property
    def own_faults(self) -> list[int]:
        """Ranks that died, or raised an error, for a reason of their own: the dead first, then by the time of the error."""
        raised = [rank for rank, report in self.reports.items() if "error" in report and not report["waited"]]
        return [r for r in self.dead if not self._aborted(r)] + sorted(raised, key=lambda rank: self.reports[rank]["at"])

    def _aborted(self, rank: int) -> bool:
        return self.dead[rank] == -signal.SIGABRT and tells_of_waiting(self.last_words.get(rank, ""))


Stacks = Callable[[list[int]], Mapping[int, str | None]]  # of ranks: where each stands, None if it does not answer


def cause(peers: Peers, stacks: Stacks, last_chance: bool) -> WorkerError | None:
    """The error to raise, as soon as it is certain.

    A rank that died or raised an error of its own is to blame at once, the earliest of them. Complaints of ranks that waited are
    blamed on nobody until the ``last_chance``; then on those who neither reported nor wait themselves, or who had returned
    already.

    Args:
        stacks: asks all those workers at once where they stand.
    """
    for rank in peers.own_faults:
        if rank in peers.dead:
            last = peers.last_words.get(rank, "")
            told = f"The last it wrote to standard error:\n{last}" if last else ""
            return WorkerError(f"rank {rank} of {peers.world_size} {_ending(peers.dead[rank])}.", rank, told)
        report = peers.reports[rank]
        return WorkerError(f"rank {rank} of {peers.world_size} raised {report['error']}", rank, report["traceback"])
    if peers.complaints and last_chance:
        return _late(peers, stacks)
    return None


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before it returned"
    return f"was killed by {signal.Signals(-code).name}" + (", perhaps for want of memory" if code == -signal.SIGKILL else "")


def _late(peers: Peers, stacks: Stacks) -> WorkerError:
    waited = f"kept its peers waiting in a collective for more than {peers.timeout_s:g} s"
    silent = stacks([rank for rank in range(peers.world_size) if rank not in peers.reports and rank not in peers.dead])
    for rank, where in silent.items():
        if where is None:
            return WorkerError(f"rank {rank} of {peers.world_size} {waited} and does not answer.", rank, "")
        if not _in_a_collective(where):
            return WorkerError(f"rank {rank} of {peers.world_size} {waited}. It is here:", rank, where)
    for rank, report in peers.reports.items():
        if "result" in report:
            return WorkerError(f"rank {rank} of {peers.world_size} {waited}: it had returned.", rank, "")
    places = {**silent, **peers.complaints}
    message = f"Every rank waits for another, for more than {peers.timeout_s:g} s: collectives in another order on some?"
    everyone = "\n".join(f"rank {rank} of {peers.world_size}:\n{places[rank].rstrip()}" for rank in sorted(places))
    return WorkerError(message, min(peers.complaints), everyone)


def _in_a_collective(stack: str) -> bool:
    """Whether the innermost frame, locks of the standard library aside, is torch's or ours, or waits on a handle of theirs."""
    frames = [line.replace("\\", "/") for line in stack.splitlines() if line.lstrip().startswith("File ")]
    own = [frame for frame in frames if "/threading.py" not in frame and "/concurrent/futures/" not in frame]
    return any(place in own[-1] for place in WAITING) or ".wait(" in stack.rstrip().splitlines()[-1]
