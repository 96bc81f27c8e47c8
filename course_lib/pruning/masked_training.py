"""Training on with a mask: pruned weights stay zero only if somebody sees to it after each step."""

from collections.abc import Sequence

import torch

from course_lib.errors import expect


def masked_sgd(
    w: torch.Tensor, mask: torch.Tensor, gradients: Sequence[torch.Tensor], lr: float, momentum: float = 0.9
) -> torch.Tensor:
    """Some steps of SGD with momentum on a pruned weight, the mask applied again after each.

    ``v ← momentum·v + g``, ``w ← mask·(w − lr·v)``, v = 0 at first. Masking the gradient alone is not enough: momentum, Adam's
    averages and weight decay move a weight whose gradient is zero.

    Args:
        w: weights of any shape.
        mask: bool, the same shape, True where a weight stays.
        gradients: one per step, the shape of ``w``.
        lr: learning rate.
        momentum: 0 to below 1.
    Returns:
        The weights after the last step; ``w`` is left as it is.

    >>> masked_sgd(torch.ones(2), torch.tensor([True, False]), [torch.ones(2)], lr=0.5)
    tensor([0.5000, 0.0000])
    """
    expect(
        mask.shape == w.shape and mask.dtype == torch.bool, "mask", (mask.dtype, tuple(mask.shape)), f"bool, {tuple(w.shape)}"
    )
    expect(0 <= momentum < 1, "momentum", momentum, "a number from 0 to below 1")
    velocity = torch.zeros_like(w)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        w = mask * (w - lr * velocity)
    return w


def first_order_saliency(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """The size of the first-order change of the loss when a weight goes, added up over batches: ``Σ_b |w·g_b|``.

    With ``L(0) ≈ L(w) − w·∂L/∂w``. Sizes are taken before adding, or batches that pull in opposite directions cancel
    (Molchanov et al. 2016, 1611.06440). :func:`course_lib.pruning.scores.taylor_scores` does the same from losses.

    Args:
        w: weights, any shape.
        gradients: (batches, *w.shape).
    Returns:
        Scores ≥ 0 of the shape of ``w``.

    >>> first_order_saliency(torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 0.0], [-1.0, 3.0]]))
    tensor([4., 3.])
    """
    expect(gradients.shape[1:] == w.shape, "gradients", tuple(gradients.shape), f"(batches, {', '.join(map(str, w.shape))})")
    return (w * gradients).abs().sum(dim=0)
