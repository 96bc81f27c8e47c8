"""Outlier columns of activations, and how a layer's weights can take their size over.

In BERT a few columns of the hidden state are many times larger than the rest, and only at a few tokens such as [CLS] (Kovaleva et al.
2021, 2105.06990; Bondarenko et al. 2021, 2109.12948).
"""

import torch

from course_lib.errors import expect
from course_lib.quantization.smooth import scaled_columns, smooth_scale


def outlier_columns(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    """The columns whose largest magnitude is more than ``factor`` times that of the median column, the largest first.

    Args:
        x: activations (N, D), a row for each token, floating point.
        factor: above 0.
    Returns:
        int64, the numbers of the columns, 0 to D − 1; empty where there is none.
    Raises:
        ValueError: no matrix of floats, or a factor that is not above 0.

    >>> outlier_columns(torch.tensor([[1.0, -20.0, 0.5], [2.0, 0.0, 1.0]]))
    tensor([1])
    """
    expect(x.dim() == 2 and x.is_floating_point() and x.numel() > 0, "x", (x.dtype, tuple(x.shape)), "floats (N, D)")
    expect(factor > 0, "factor", factor, "a number above 0")
    largest = x.abs().amax(0)
    order = largest.argsort(descending=True, stable=True)
    return order[largest[order] > factor * largest.median()]


def smoothed(absmax: torch.Tensor, weight: torch.Tensor, alpha: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """SmoothQuant's scales and the weight that belongs behind a division of the input by them.

    ``s_j = max|X_j|^α / max|W_j|^(1−α)`` and ``W·diag(s)``, so that ``(x / s)·(W·diag(s))ᵀ = x·Wᵀ`` (Xiao et al. 2022, 2211.10438).

    Args:
        absmax: ``max_t |X_tj|`` (D,); ``weight``: W, (R, D).
        alpha: how much of the difficulty moves to the weights, 0 to 1.
    Returns:
        s (D,), and the new weight (R, D).
    Raises:
        ValueError: as :func:`course_lib.quantization.smooth.smooth_scale`.

    >>> smoothed(torch.tensor([16.0, 1.0]), torch.tensor([[1.0, -4.0]]))
    (tensor([4.0000, 0.5000]), tensor([[ 4., -2.]]))
    """
    scale = smooth_scale(absmax, weight, alpha)
    return scale, scaled_columns(weight, scale)
