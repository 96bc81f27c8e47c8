"""What workers do for the tests of the collectives, all cases in one launch; each returns plain values to judge."""

import torch
import torch.distributed as dist

from course_lib.parallel import collectives as ours
from course_lib.parallel.collectives import Traffic

LENGTHS = (0, 1, 3, 8, 1003)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8)


def inputs(length: int, dtype: torch.dtype, rank: int) -> torch.Tensor:
    """A tensor (length,) of this rank; integers small enough to be summed without overflow."""
    generator = torch.Generator().manual_seed(rank)
    if dtype.is_floating_point:
        return torch.randn(length, generator=generator).to(dtype)
    return torch.randint(0, 50, (length,), generator=generator).to(dtype)


def sums(world_size: int) -> list[dict]:
    """Ring all-reduce and reduce-scatter beside torch's sum, in groups of 2 to ``world_size``."""
    cases = []
    for size in range(2, world_size + 1):
        group = dist.new_group(list(range(size)))
        if dist.get_rank() >= size:
            continue
        rank = dist.get_rank(group)
        for length in LENGTHS:
            for dtype in DTYPES:
                x, traffic = inputs(length, dtype, rank), Traffic()
                part = ours.ring_reduce_scatter(x, group)
                untouched = torch.equal(x, inputs(length, dtype, rank))
                total = ours.ring_all_reduce(x.clone(), group, traffic)
                theirs = inputs(length, dtype, rank)
                dist.all_reduce(theirs, group=group)
                everyone = [torch.empty_like(total) for _ in range(size)]
                dist.all_gather(everyone, total, group=group)
                start, end = ours.chunk_bounds(length, size)[rank]
                cases.append(
                    {
                        "size": size,
                        "rank": rank,
                        "total": total,
                        "theirs": theirs,
                        "same bits": all(torch.equal(total, other) for other in everyone),
                        "part is a part": torch.equal(part, total[start:end]) and untouched,
                        "traffic": traffic,
                    }
                )
    return cases


def copies() -> dict:
    """All-gather and broadcast from each rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    traffic, result = Traffic(), {}
    result["gathered"] = ours.ring_all_gather(torch.full((2, 3), float(rank)), traffic=traffic)
    result["gather traffic"] = traffic
    for source in range(size):
        traffic = Traffic()
        x = torch.arange(5) + 10 * rank
        result[source] = (ours.ring_broadcast(x, source, traffic=traffic), traffic)
    return result


def mistakes() -> dict[str, str]:
    """The message of each kind of bad input; None where there was no error."""
    rank = dist.get_rank()

    def message(call) -> str | None:
        try:
            call()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    nan = torch.ones(4)
    if rank == 2:
        nan[1:3] = torch.tensor([float("nan"), float("inf")])
    return {
        "shape": message(lambda: ours.ring_all_reduce(torch.ones(3 + (rank == 1)))),
        "dtype": message(lambda: ours.ring_all_gather(torch.ones(3, dtype=torch.int64 if rank == 3 else None))),
        "strides": message(lambda: ours.ring_reduce_scatter(torch.ones(4, 4)[:, :2])),
        "source": message(lambda: ours.ring_broadcast(torch.ones(3), source=4)),
        "nan": message(lambda: ours.ring_all_reduce(nan, check_finite=True)),
        "still in step": message(lambda: ours.ring_all_reduce(torch.ones(4))),
    }


def everything() -> tuple[list[dict], dict, dict[str, str]]:
    """One launch for all tests."""
    return sums(dist.get_world_size()), copies(), mistakes()
