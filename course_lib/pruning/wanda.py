"""Wanda: a weight matters as much as its size times the norm of the input it multiplies, among the weights of its own row.

Sun et al. 2023, 2306.11695. No gradients, no updates of what stays: one pass of calibration text and a sort.
"""

import numpy as np
import torch

from course_lib.errors import expect
from course_lib.pruning.masks import n_m_mask
from course_lib.pruning.rank import require_rankable


def wanda_scores(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """``|W_ij| · ‖X_j‖₂``: how much row i's output can change, summed over tokens in squares, without its weight j.

    Sun et al. 2023, 2306.11695, where scores are compared within a row: :func:`row_masks`, :func:`wanda_mask`.

    Args:
        weight: (R, D), floating point.
        norms: ``‖X_j‖₂`` of each input column over the calibration tokens, (D,), finite, at least 0.
    Returns:
        Scores (R, D), of the dtype of ``weight``.
    Raises:
        ValueError: other shapes, or norms that are no norms.

    >>> wanda_scores(torch.tensor([[1.0, -2.0]]), torch.tensor([5.0, 1.0]))
    tensor([[5., 2.]])
    """
    expect(weight.dim() == 2, "weight", tuple(weight.shape), "a matrix (R, D)")
    expect(weight.is_floating_point(), "weight.dtype", weight.dtype, "floating point")
    expect(norms.shape == weight.shape[1:], "norms", tuple(norms.shape), f"one for each of {weight.shape[1]} columns")
    good = bool(torch.isfinite(norms).all()) and bool((norms >= 0).all())
    expect(good, "norms", norms[:8].tolist(), "finite numbers of at least 0")
    return weight.abs() * norms.to(weight.dtype)


def row_masks(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Prune the lowest scores of each row: exactly ``round(sparsity·D)`` of its D.

    Args:
        scores: (R, D), floating point; higher means keep.
        sparsity: fraction of each row, 0 to 1.
    Returns:
        The mask, bool (R, D): True where a weight stays. Among equal scores of a row the first ones stay.
    Raises:
        ValueError: a sparsity outside [0, 1]; scores that are no matrix, empty, integers or NaN.

    >>> row_masks(torch.tensor([[3.0, 1.0, 2.0, 1.0], [30.0, 40.0, 10.0, 20.0]]), 0.5)
    tensor([[ True, False,  True, False],
            [ True,  True, False, False]])
    """
    expect(scores.dim() == 2, "scores", tuple(scores.shape), "a matrix (R, D)")
    expect(0 <= sparsity <= 1, "sparsity", sparsity, "a fraction between 0 and 1")
    require_rankable("scores", scores)
    rows, width = scores.shape
    drop = round(sparsity * width)
    if drop == 0:
        return torch.ones(rows, width, dtype=torch.bool)
    scores = scores.detach()
    scores = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()  # numpy knows no bfloat16
    threshold = torch.from_numpy(np.partition(scores.numpy(), drop - 1, axis=1)[:, drop - 1]).view(rows, 1)
    mask = scores > threshold
    short = width - drop - mask.sum(1, keepdim=True)  # where scores equal the threshold, the first so many stay
    tied = short.squeeze(1).nonzero().squeeze(1)
    if len(tied):
        equal = scores[tied] == threshold[tied]
        mask[tied] |= equal & (equal.cumsum(1) <= short[tied])
    return mask


def wanda_mask(weight: torch.Tensor, norms: torch.Tensor, sparsity: float | tuple[int, int] = 0.5) -> torch.Tensor:
    """The mask of :func:`wanda_scores`: a fraction of each row, or n of every m neighbours in it.

    Args:
        weight, norms: as for :func:`wanda_scores`.
        sparsity: the fraction of zeros; or ``(n, m)``: the best n of every m stay.
    Returns:
        bool (R, D), True where a weight stays. (Sun et al. 2023, 2306.11695)

    >>> wanda_mask(torch.tensor([[1.0, -2.0, 3.0, 0.5]]), torch.tensor([5.0, 1.0, 1.0, 9.0]), (2, 4))
    tensor([[ True, False, False,  True]])
    """
    scores = wanda_scores(weight, norms)
    return n_m_mask(scores, *sparsity) if isinstance(sparsity, tuple) else row_masks(scores, sparsity)
