"""Tensor parallelism: each worker has a slice of a matrix, so that a layer's products are computed side by side.

Of two consecutive linear layers the first is split by its outputs (*columns* of x·Wᵀ), the second by its inputs (*rows*):
what is between them, a GELU or whole attention heads, never leaves a worker, and one sum over the workers makes the result
whole. Source: Shoeybi et al. 2019, 1909.08053 (Megatron-LM).
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from course_lib.errors import expect
from course_lib.parallel.collectives import chunk_bounds

Sum = Callable[[torch.Tensor], torch.Tensor]  # of a tensor over workers, which leaves its argument as it is


def torch_sum(group: dist.ProcessGroup | None = None) -> Sum:
    """The sum over a group's workers by torch's own all-reduce.

    Args:
        group: the workers; None: all.
    """

    def total(x: torch.Tensor) -> torch.Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x

    return total


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, total):
        ctx.total = total
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.total(gradient), None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, total):
        return total(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def copy_to_workers(x: torch.Tensor, total: Sum) -> torch.Tensor:
    """The function f of the paper: the identity, whose gradient is summed over the workers.

    Every worker reads all of x for its slice of the outputs, so the gradient of x is the sum of what they send back.

    Args:
        x: any shape, the same on every worker.
        total: sums over the workers.
    Returns:
        x, the same shape.
    """
    return _Copy.apply(x, total)


def reduce_from_workers(x: torch.Tensor, total: Sum) -> torch.Tensor:
    """The function g of the paper: the sum over the workers, whose gradient is the identity.

    Args:
        x: any shape, each worker's part of a sum.
        total: sums over the workers.
    Returns:
        The sum, the same shape, on every worker.
    """
    return _Reduce.apply(x, total)


def part(length: int, rank: int, workers: int) -> slice:
    """The stretch of ``length`` rows or columns that a worker has; stretches differ by at most one.

    >>> [part(10, rank, 4) for rank in range(4)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    """
    expect(workers >= 1, "workers", workers, "at least 1")
    expect(0 <= rank < workers, "rank", rank, f"between 0 and {workers - 1}")
    return slice(*chunk_bounds(length, workers)[rank])


def even_part(what: str, units: int, rank: int, workers: int) -> slice:
    """:func:`part` of units that every worker must have the same number of.

    Raises:
        ValueError: the number of workers does not divide them.
    """
    expect(units % workers == 0 and units > 0, "workers", workers, f"a divisor of the {units} {what}")
    return part(units, rank, workers)


def slice_rows(linear: nn.Linear, rows: slice) -> nn.Linear:
    """A linear layer (D → rows) of some outputs of another one, in storage of its own."""
    return _linear(linear.weight[rows], None if linear.bias is None else linear.bias[rows])


class ColumnParallelLinear(nn.Module):
    """A linear layer of which this worker computes some outputs: (…, D) → (…, F/n), with the gradient of x summed.

    Args:
        linear: the whole layer, D → F; it is copied from and left as it is.
        rank, workers: n of them, which must divide F.
        total: sums over the workers.
    Raises:
        ValueError: n does not divide F.
    """

    def __init__(self, linear: nn.Linear, rank: int, workers: int, total: Sum) -> None:
        super().__init__()
        rows = even_part("outputs", linear.out_features, rank, workers)
        own = slice_rows(linear, rows)
        self.weight, self.bias, self.total = own.weight, own.bias, total

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) → (…, F/n)."""
        return F.linear(copy_to_workers(x, self.total), self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """A linear layer of which this worker reads some inputs: (…, F/n) → (…, D), summed over the workers.

    The bias is whole on every worker and added once, after the sum.

    Args:
        linear: the whole layer, F → D; it is copied from and left as it is.
        rank, workers: n of them, which must divide F.
        total: sums over the workers.
    Raises:
        ValueError: n does not divide F.
    """

    def __init__(self, linear: nn.Linear, rank: int, workers: int, total: Sum) -> None:
        super().__init__()
        columns = even_part("inputs", linear.in_features, rank, workers)
        own = _linear(linear.weight[:, columns], linear.bias)
        self.weight, self.bias, self.total = own.weight, own.bias, total

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, F/n) → (…, D)."""
        y = reduce_from_workers(F.linear(x, self.weight), self.total)
        return y if self.bias is None else y + self.bias


class VocabularyParallelEmbedding(nn.Module):
    """An embedding of which this worker has some rows: ids (…) → (…, D), rows of the others added by the sum.

    Args:
        embedding: the whole one, (V, D); it is copied from and left as it is.
        rank, workers: they need not divide V.
        total: sums over the workers.
    """

    def __init__(self, embedding: nn.Embedding, rank: int, workers: int, total: Sum) -> None:
        super().__init__()
        rows = part(embedding.num_embeddings, rank, workers)
        self.first, self.total = rows.start, total
        self.weight = _parameter(embedding.weight[rows], embedding.weight)
        padding = embedding.padding_idx  # its row gets no gradient
        self.padding = None if padding is None or not rows.start <= padding < rows.stop else padding - rows.start

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 (…) → float (…, D)."""
        own = ids - self.first
        elsewhere = (own < 0) | (own >= len(self.weight))
        rows = F.embedding(own.masked_fill(elsewhere, 0), self.weight, self.padding)
        return reduce_from_workers(rows.masked_fill(elsewhere[..., None], 0.0), self.total)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = _parameter(weight, weight)
    made.bias = None if bias is None else _parameter(bias, bias)
    return made


def _parameter(values: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    """A copy, so that the whole tensor's storage can go."""
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format), requires_grad=like.requires_grad)
