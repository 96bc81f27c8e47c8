"""Clipping gradients that are spread over workers by their common norm (Pascanu et al. 2012, 1211.5063)."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist

from course_lib.errors import expect
from course_lib.parallel.agree import gathered

PIECE = 2**20  # values that are looked at together


def sum_of_squares(parameters: Iterable[torch.nn.Parameter]) -> float:
    """``Σ g²`` of the gradients there are, of any shape, summed in fp64.

    In fp32 the sum over an embedding of twelve million entries is off by a thousandth; in pieces, no copy of it is made.
    """
    pieces = (piece for p in parameters if p.grad is not None for piece in p.grad.flatten().split(PIECE))
    return sum(float(piece.double().square().sum()) for piece in pieces)


def require_no_gradients(module: torch.nn.Module) -> None:
    """Refuse gradients left from an earlier step: a sum over workers would count them once for each worker.

    Raises:
        ValueError: names the first parameter that has one.
    """
    left = next((name for name, p in module.named_parameters() if p.grad is not None), None)
    expect(left is None, "gradient", left, "none before a step: zero_grad() first")


def clip_gradients(
    parameters: Iterable[torch.nn.Parameter],
    counted: Iterable[torch.nn.Parameter],
    max_norm: float,
    group: dist.ProcessGroup | None = None,
) -> float:
    """Scale gradients in place so that their norm over all workers is at most ``max_norm``.

    Every gradient of the model must be counted by one worker only: where several hold the same one (a bias that is not
    split, tied embeddings), one of them counts it and all of them scale it.

    Args:
        parameters: what this worker holds.
        counted: those of them that this worker counts.
        max_norm: as of ``torch.nn.utils.clip_grad_norm_``, positive.
        group: the workers among which the model is split; None: all.
    Returns:
        The norm before, the same on every worker.
    Raises:
        ValueError: ``max_norm`` is not positive, or gradients are not finite: the message says on which ranks.
    """
    expect(max_norm > 0, "max_norm", max_norm, "a positive norm")
    squares = gathered(sum_of_squares(counted), group)
    finite = all(map(math.isfinite, squares))
    expect(finite, "gradients", dict(enumerate(squares)), "finite ones on every worker (rank: its sum of squares)")
    norm = math.sqrt(sum(squares))
    scale = min(1.0, max_norm / (norm + 1e-6))
    for p in parameters:
        if p.grad is not None:
            p.grad.mul_(scale)
    return norm
