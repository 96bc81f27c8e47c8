"""Data parallelism: each worker has the whole model and a part of the batch; gradients are summed while backward goes on.

``∇ Σ loss / tokens = Σ over workers of ∇ (their losses / tokens)``, if all divide by the tokens of the whole batch. Who averages
means of workers instead, as ``DistributedDataParallel`` on plain means does, gives the tokens of a short batch more weight.

Source: Li et al., PyTorch Distributed: experiences on accelerating data parallel training, 2020, 2006.15704.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from course_lib.data.align import IGNORED
from course_lib.errors import CourseError, expect
from course_lib.parallel.agree import gathered
from course_lib.parallel.buckets import Bucket, make_buckets
from course_lib.parallel.collectives import Group, Traffic, chunk_bounds, ring_all_reduce, ring_broadcast
from course_lib.parallel.norms import require_no_gradients

AllReduce = Callable[[torch.Tensor, Group], object]


class DataParallel:
    """Sums the gradients of a model's copies, bucket by bucket, by a thread beside backward.

    After ``loss.backward()`` call :meth:`wait`; then every worker's gradients are those of the whole batch, so that clipping
    and the optimizer need no more communication and copies stay equal to the bit. Take them away (``zero_grad()``) before the next
    step: they are sums already, and a second sum would count them once for each worker.

    Args:
        model: the same on each worker; weights and buffers of the group's first worker are copied to all.
        bucket_bytes: most bytes of gradients in a message.
        group: the workers; None: all. All of them make the object together, and use the ring in it for nothing else between
            ``backward()`` and :meth:`wait`: two rings at once would take each other's chunks.
        all_reduce: ``(flat tensor, group)``, sums in place; None: our ring.
        check_finite: name the worker whose gradient has NaN or infinity, for one more small message each step.
    Attributes:
        traffic: what the ring has sent since the object was made.
    Raises:
        ValueError: the workers' models have different parameters, or gradients are there already; in ``backward()`` and in
            :meth:`wait` that gradients of an earlier step are.
    """

    def __init__(
        self,
        model: nn.Module,
        bucket_bytes: int = 2**22,
        group: Group = None,
        all_reduce: AllReduce | None = None,
        check_finite: bool = False,
    ) -> None:
        expect(bucket_bytes > 0, "bucket_bytes", bucket_bytes, "a positive number of bytes")
        _require_same_form(model, group)
        require_no_gradients(model)
        self._names = {p: name for name, p in model.named_parameters() if p.requires_grad}  # a tied one comes once
        parameters = list(self._names)
        for tensor in (*model.parameters(), *model.buffers()):
            ring_broadcast(tensor.data, group=group, check=False)
        self.group = group
        self.traffic, self.check_finite = Traffic(), check_finite
        self.all_reduce = all_reduce or partial(ring_all_reduce, traffic=self.traffic, check=False)
        self.buckets = make_buckets(parameters, bucket_bytes)
        self._thread = ThreadPoolExecutor(1, "all-reduce")
        self._in_bucket = {p: number for number, bucket in enumerate(self.buckets) for p in bucket.parameters}
        self._hooks = [p.register_hook(partial(self._arriving, p)) for p in parameters]
        self._hooks += [p.register_post_accumulate_grad_hook(self._arrived) for p in parameters]
        self._paused = False
        self._reset()

    def _reset(self) -> None:
        self._begun: set[nn.Parameter] = set()  # have a gradient of this step
        self._ready: set[nn.Parameter] = set()
        self._missing = [len(bucket.parameters) for bucket in self.buckets]
        self._flying: list[tuple[Bucket, torch.Tensor, Future]] = []
        self._bad = 0

    @property
    def in_flight(self) -> int:
        """Buckets whose sum has been started since the last :meth:`wait`."""
        return len(self._flying)

    def _arriving(self, parameter: nn.Parameter, _: torch.Tensor) -> None:
        """Called by backward before a gradient is added to the parameter's."""
        self._require_new(parameter)
        self._begun.add(parameter)

    def _require_new(self, parameter: nn.Parameter) -> None:
        """Zeros, of ``zero_grad(set_to_none=False)``, may stay: they add nothing."""
        old = parameter not in self._begun and parameter.grad is not None and bool(parameter.grad.any())
        expect(not old, "gradient", self._names[parameter], "none before a step: zero_grad() first")

    def _arrived(self, parameter: nn.Parameter) -> None:
        """Called by backward when a parameter's gradient is complete."""
        if self._paused:
            return
        if parameter in self._ready:
            raise CourseError(
                "A second backward() before wait(): do all but the last of a step inside `with parallel.no_sync():`."
            )
        self._ready.add(parameter)
        self._missing[self._in_bucket[parameter]] -= 1
        # Always in the order of the buckets, whichever is complete first: all workers must sum the same ones.
        while self.in_flight < len(self.buckets) and not self._missing[self.in_flight]:
            self._launch(self.buckets[self.in_flight])

    def _launch(self, bucket: Bucket) -> None:
        flat = bucket.pack()
        if self.check_finite:
            self._bad += int((~torch.isfinite(flat)).sum())
        self._flying.append((bucket, flat, self._thread.submit(self.all_reduce, flat, self.group)))

    def wait(self) -> None:
        """End a step's backward: start what no gradient arrived for on this worker, await all sums, put them in place.

        A worker that had no part of the batch calls it without a backward.

        Raises:
            ValueError: gradients of an earlier step are there still.
            CourseError: gradients are not finite (with ``check_finite``); the message names the ranks.
        """
        for bucket in self.buckets[self.in_flight :]:
            for parameter in bucket.parameters:
                self._require_new(parameter)
        for bucket in self.buckets[self.in_flight :]:
            self._launch(bucket)
        flying, bad = self._flying, self._bad
        self._reset()
        for bucket, flat, work in flying:
            work.result()
            bucket.unpack(flat)
        if self.check_finite and any(found := gathered(bad, self.group)):
            where = ", ".join(f"rank {rank}: {count} values" for rank, count in enumerate(found) if count)
            raise CourseError(f"Gradients with NaN or infinity ({where}). Look at that worker's batch and loss.")

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of the backwards in here stay on this worker and add up; for all micro-batches of a step but the last."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def remove(self) -> None:
        """Let go of the model: take the hooks off and end the thread."""
        for hook in self._hooks:
            hook.remove()
        self._thread.shutdown()


def _require_same_form(model: nn.Module, group: Group) -> None:
    tensors = (*model.named_parameters(), *model.named_buffers())
    everyone = gathered({name: (tuple(t.shape), str(t.dtype), t.requires_grad) for name, t in tensors}, group)
    for name in dict.fromkeys(name for forms in everyone for name in forms):
        found = [forms.get(name) for forms in everyone]
        due = "the same on every worker (rank: shape, dtype, whether it is trained)"
        expect(all(form == found[0] for form in found), name, dict(enumerate(found)), due)


def global_tokens(labels: torch.Tensor, group: Group = None) -> int:
    """Labels other than −100 in all workers' parts of the batch, what each worker divides its summed loss by.

    Args:
        labels: int64 (B, L) of this worker, B = 0 and L = 0 included.
    Raises:
        CourseError: nobody has one.
    """
    count = (labels != IGNORED).sum().view(1)
    ring_all_reduce(count, group, check=False)
    if not count:
        raise CourseError("labels: every one of the whole batch is −100: there is no loss to take. Leave such a batch out.")
    return int(count)


def part_of(batch: torch.Tensor, group: Group = None) -> torch.Tensor:
    """This worker's rows of a batch (B, …): parts differ by at most one row, and are empty where B is less than the workers."""
    start, end = chunk_bounds(len(batch), dist.get_world_size(group))[dist.get_rank(group)]
    return batch[start:end]
