"""Functions that worker processes of the tests run; torch alone is imported, so that they start soon."""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist


def look_round(x: int) -> dict:
    """What a worker sees, and a sum over all."""
    total = torch.tensor([dist.get_rank() + x])
    dist.all_reduce(total)
    print("hello from stdout")
    print("hello from stderr", file=sys.stderr)
    return {
        "rank": dist.get_rank(),
        "world_size": dist.get_world_size(),
        "sum": total,
        "threads": torch.get_num_threads(),
        "colour": os.environ.get("COLOUR"),
        "stdin": sys.stdin.read(),
    }


def fail(culprit: int, how: str, pids: str) -> int:
    """One rank fails while the others wait for it in a collective; each leaves its process id in the folder ``pids``."""
    rank, group = dist.get_rank(), dist.new_group()  # of its own: its time-out is not that of all
    with open(os.path.join(pids, str(rank)), "w") as file:
        file.write(str(os.getpid()))
    if rank == culprit:
        if how == "raise":
            raise ValueError("no such tag")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "sleep":
            time.sleep(600)
        if how == "disorder":
            dist.recv(torch.zeros(1), (rank + 1) % dist.get_world_size())
    dist.barrier(group)
    return rank


def wait_for_each_other(pids: str) -> None:
    """All ranks wait for a message from the next one, which none sends; each has its process id in the folder ``pids``."""
    rank, group = dist.get_rank(), dist.new_group()
    dist.barrier(group)
    with open(os.path.join(pids, f"{rank}.new"), "w") as file:
        file.write(str(os.getpid()))
    os.rename(file.name, file.name.removesuffix(".new"))
    dist.recv(torch.zeros(1), (rank + 1) % dist.get_world_size())


def speak_and_wait(answer: str) -> bool:
    """Print, then wait until somebody who has read that makes the file ``answer``, at most half a minute."""
    print("are you there?")
    deadline = time.monotonic() + 30
    while not os.path.exists(answer) and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.path.exists(answer)


def raise_on_the_second_rank() -> None:
    """Under torchrun: one rank raises while the other waits for it."""
    from course_lib.parallel.process_group import init_from_env

    rank, _ = init_from_env()
    if rank == 1:
        raise ValueError("no such tag")
    dist.barrier()


if __name__ == "__main__":
    raise_on_the_second_rank()
