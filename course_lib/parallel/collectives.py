"""Ring collectives written with point-to-point sends: each of ``p`` workers talks to its two neighbours alone.

A flat tensor is cut in ``p`` chunks whose lengths differ by at most one. In each of ``p − 1`` steps every worker sends one chunk to
the next worker while it receives another from the one before. Nobody is the bottleneck: whatever ``p`` is, a worker sends about
``2n`` bytes for an all-reduce of ``n``, exactly ``2n − |chunk r| − |chunk r+1|``, which is ``2(p−1)/p · n`` where ``p`` divides.

Source: Patarasuk & Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009; in deep learning Gibiansky 2017
and Horovod (Sergeev & Del Balso 2018, 1802.05799).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist

from course_lib.errors import CourseError, expect
from course_lib.parallel.agree import gathered, require_equal

Group = dist.ProcessGroup | None


@dataclass
class Traffic:
    """What this worker has sent: ``bytes`` of tensors (not of protocols under them) in ``messages``."""

    bytes: int = 0
    messages: int = 0

    def count(self, x: torch.Tensor) -> None:
        """Add one message with a tensor of any shape."""
        self.bytes += x.numel() * x.element_size()
        self.messages += 1


def ring_all_reduce(
    x: torch.Tensor, group: Group = None, traffic: Traffic | None = None, check: bool = True, check_finite: bool = False
) -> torch.Tensor:
    """Sum a tensor over the workers, in place: a reduce-scatter, then an all-gather.

    Every worker ends with the same bits, since each chunk is summed once, from worker ``chunk + 1`` round to worker ``chunk``.

    Args:
        x: any shape, float or integer, contiguous.
        group: the workers; None: all.
        traffic: counts what is sent.
        check: compare shape and dtype among workers first, by one small collective; without it a mismatch may hang or crash.
        check_finite: also look for NaN and infinity, and name the worker that has one.
    Returns:
        ``x``.
    Raises:
        ValueError: the workers have different shapes or dtypes, or ``x`` is not contiguous.
        CourseError: a value is not finite.
    """
    _check(x, group, check)
    if check_finite:
        require_finite(x, group)
    chunks = _chunks(x, group)
    reduce_scatter_chunks(chunks, group, traffic)
    all_gather_chunks(chunks, group, traffic)
    return x


def ring_reduce_scatter(
    x: torch.Tensor, group: Group = None, traffic: Traffic | None = None, check: bool = True
) -> torch.Tensor:
    """The sum over the workers of the flat tensor's chunk number ``rank``, at most ``⌈n/p⌉`` long; ``x`` (any shape) stays as it is."""
    _check(x, group, check)
    chunks = _chunks(x.clone(), group)
    reduce_scatter_chunks(chunks, group, traffic)
    return chunks[dist.get_rank(group)].clone()  # without the rest of the tensor behind it


def ring_all_gather(x: torch.Tensor, group: Group = None, traffic: Traffic | None = None, check: bool = True) -> torch.Tensor:
    """All workers' tensors, each of any shape (…), stacked by rank: (p, …)."""
    _check(x, group, check)
    out = x.new_empty(dist.get_world_size(group), *x.shape)
    out[dist.get_rank(group)] = x
    all_gather_chunks(list(out), group, traffic)
    return out


def ring_broadcast(
    x: torch.Tensor, source: int = 0, group: Group = None, traffic: Traffic | None = None, check: bool = True
) -> torch.Tensor:
    """Copy the tensor of the worker ``source`` (its rank in the group) to all others, in place, and return it (any shape).

    Chunks travel round the ring; while a worker passes one on, the next one is on its way to it. ``n`` bytes are sent by every
    worker but the last.
    """
    _check(x, group, check)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    expect(0 <= source < size, "source", source, f"a rank in the group, 0 to {size - 1}")
    before, after, sending = (rank - 1) % size, (rank + 1) % size, []
    for chunk in _chunks(x, group):
        if rank != source and chunk.numel():
            dist.recv(chunk, group=group, group_src=before)
        if after != source and chunk.numel():
            sending.append(dist.isend(chunk, group=group, group_dst=after))
            if traffic:
                traffic.count(chunk)
    for work in sending:
        work.wait()
    return x


def reduce_scatter_chunks(chunks: list[torch.Tensor], group: Group = None, traffic: Traffic | None = None) -> None:
    """Sum chunk ``r`` over the workers into worker ``r``'s chunk; its other chunks are left with parts of sums.

    Args:
        chunks: one for each worker, (length,) each; lengths may differ, but are the same on all workers.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    arriving = torch.empty_like(max(chunks, key=torch.numel))
    for step in range(size - 1):
        sent, due = chunks[(rank - step - 1) % size], chunks[(rank - step - 2) % size]
        received = arriving.flatten()[: due.numel()].view_as(due)
        shift(sent, received, group, traffic)
        due += received


def all_gather_chunks(chunks: list[torch.Tensor], group: Group = None, traffic: Traffic | None = None) -> None:
    """Copy chunk ``r`` of each worker ``r`` to all workers.

    Args:
        chunks: one for each worker, of any shapes, the same on all workers; filled in place.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    for step in range(size - 1):
        shift(chunks[(rank - step) % size], chunks[(rank - step - 1) % size], group, traffic)


def shift(send: torch.Tensor, receive: torch.Tensor, group: Group = None, traffic: Traffic | None = None) -> None:
    """Send a tensor (any shape) to the next worker while another, of its own shape, comes from the one before.

    Both are started before either is waited for: if all sent first and then received, all would wait for each other for ever.
    Empty tensors are not sent.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    both = [dist.P2POp(dist.isend, send, group=group, group_peer=(rank + 1) % size)] if send.numel() else []
    both += [dist.P2POp(dist.irecv, receive, group=group, group_peer=(rank - 1) % size)] if receive.numel() else []
    for work in dist.batch_isend_irecv(both) if both else ():
        work.wait()
    if traffic and send.numel():
        traffic.count(send)


def chunk_bounds(length: int, parts: int) -> list[tuple[int, int]]:
    """Start and end of ``parts`` chunks whose lengths differ by at most one.

    >>> chunk_bounds(7, 3)
    [(0, 3), (3, 5), (5, 7)]
    """
    small, longer = divmod(length, parts)
    return list(pairwise(n * small + min(n, longer) for n in range(parts + 1)))


def require_finite(x: torch.Tensor, group: Group = None) -> None:
    """Refuse NaN and infinity in ``x`` (any shape) on any worker; all workers raise, so that none waits.

    Raises:
        CourseError: names the ranks.
    """
    bad = gathered(int((~torch.isfinite(x)).sum()), group)
    if any(bad):
        where = ", ".join(f"rank {rank}: {count} of {x.numel()} values" for rank, count in enumerate(bad) if count)
        raise CourseError(f"NaN or infinity before a sum over workers ({where}). Look at that worker's batch and loss.")


def _check(x: torch.Tensor, group: Group, check: bool) -> None:
    expect(x.is_contiguous(), "x", f"a tensor with strides {x.stride()}", "a contiguous tensor: it is cut into chunks")
    if check:
        require_equal("shape and dtype of x", (tuple(x.shape), str(x.dtype)), group)


def _chunks(x: torch.Tensor, group: Group) -> list[torch.Tensor]:
    """The flat tensor's chunks, one for each worker; views of ``x``."""
    flat = x.view(-1)
    return [flat[start:end] for start, end in chunk_bounds(x.numel(), dist.get_world_size(group))]
