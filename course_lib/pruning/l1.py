"""The L1 penalty: why its proximal step gives exact zeros, and the lasso, where that can be checked to the last digit.

``min_w L(w) + λ‖w‖₁`` is solved by alternating a gradient step on L with the proximal step of the penalty, which is the soft
threshold: ``argmin_u ½(u − w)² + t|u| = sign(w)·max(|w| − t, 0)``.
"""

import math
from collections.abc import Iterable

import torch

from course_lib.errors import expect
from course_lib.pruning.rank import kth_smallest, require_rankable


def soft_threshold(w: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
    """The proximal step of ``t·‖w‖₁``: every entry moves towards zero by t, and stops there.

    ``sign(w) · max(|w| − t, 0)``; Donoho 1995, "De-noising by soft-thresholding".

    Args:
        w: floating point, any shape. NaN stays NaN.
        threshold: t ≥ 0, finite; a number or a tensor that broadcasts against ``w``.
    Returns:
        A new tensor of the shape and dtype of ``w``; with t = 0, the values of ``w``.
    Raises:
        ValueError: a threshold that is negative or not finite, or integer ``w``.

    >>> soft_threshold(torch.tensor([-3.0, -1.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  0.,  1.])
    """
    expect(w.is_floating_point(), "w.dtype", w.dtype, "floating-point weights")
    t = torch.as_tensor(threshold, dtype=w.dtype, device=w.device)
    expect(bool(((t >= 0) & (t < math.inf)).all()), "threshold", threshold, "finite and at least 0")
    return w - w.clamp(-t, t)  # what is left when the part inside [−t, t] is taken away


def ista_step(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    """One step of the iterative soft-thresholding algorithm: ``soft_threshold(w − step·∇L(w), step·λ)``.

    Daubechies, Defrise and De Mol 2004 (math/0307152); Beck and Teboulle 2009.

    Args:
        w: weights, any shape; ``gradient``: ∇L(w), same shape.
        step: step size > 0; the objective never rises where it is at most 1/(Lipschitz constant of ∇L).
        lam: λ ≥ 0, weight of ``‖w‖₁``.
    Returns:
        The new weights. The threshold is ``step·λ``, not λ: the penalty is taken along the same way as the gradient.

    >>> ista_step(torch.tensor([1.0]), torch.tensor([2.0]), step=0.25, lam=1.0)
    tensor([0.2500])
    """
    expect(gradient.shape == w.shape, "gradient", tuple(gradient.shape), f"the shape of w, {tuple(w.shape)}")
    expect(0 < step < math.inf, "step", step, "a finite number above 0")
    expect(0 <= lam < math.inf, "lam", lam, "a finite number of at least 0")
    return soft_threshold(w - step * gradient, step * lam)


def lasso_loss(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, lam: float) -> torch.Tensor:
    """``1/(2n)·‖y − Xw‖² + λ‖w‖₁``, as in scikit-learn's ``Lasso`` (Tibshirani 1996).

    Args:
        x: X, (n, d); ``y``: (n,); ``w``: (d,); ``lam``: λ.
    Returns:
        A scalar.
    """
    return (y - x @ w).square().sum() / (2 * len(y)) + lam * w.abs().sum()


def lasso_gradient(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Gradient of the smooth part of :func:`lasso_loss`: ``Xᵀ(Xw − y)/n``, (d,)."""
    return x.T @ (x @ w - y) / len(y)


def lasso_violation(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    """How far ``w`` is from a minimum of ``L(w) + λ‖w‖₁``: 0 exactly at one.

    The conditions are ``|∇_j| ≤ λ`` where ``w_j = 0`` and ``∇_j = −λ·sign(w_j)`` elsewhere. They are sufficient too when L is
    convex, so this needs no other solution to compare with (Tibshirani 1996).

    Args:
        gradient: ∇L(w) of the part without the penalty, any shape; ``w``: same shape; ``lam``: λ ≥ 0.
    Returns:
        The largest amount by which a condition is missed, in the gradient's unit.

    >>> lasso_violation(torch.tensor([-0.5, 0.2]), torch.tensor([1.0, 0.0]), lam=0.5)
    0.0
    """
    at_zero = (gradient.abs() - lam).clamp(min=0)
    elsewhere = (gradient + lam * w.sign()).abs()
    return float(torch.where(w == 0, at_zero, elsewhere).max())


def lambda_max(x: torch.Tensor, y: torch.Tensor) -> float:
    """The smallest λ at which the lasso's solution is all zeros: ``max_j |X_jᵀy|/n``, the largest gradient at zero.

    Args:
        x, y: (n, d) and (n,), as for the solvers.
    """
    return float((x.T @ y).abs().max() / len(y))


def ista(
    x: torch.Tensor,
    y: torch.Tensor,
    lam: float,
    start: torch.Tensor | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 100_000,
) -> torch.Tensor:
    """Solve the lasso ``min_w 1/(2n)·‖y − Xw‖² + λ‖w‖₁`` by :func:`ista_step`.

    The step is 1/(largest eigenvalue of XᵀX/n), at which the objective never rises.

    Args:
        x: X, (n, d) floating point; ``y``: (n,); ``lam``: λ ≥ 0.
        start: first weights (d,); zeros when None.
        tolerance: stop when :func:`lasso_violation` is at most this fraction of :func:`lambda_max`.
        max_steps: of the iteration.
    Returns:
        The weights (d,), many of them exactly zero.
    Raises:
        ValueError: shapes that do not fit, values that are not finite, X all zero, or no solution in ``max_steps`` (with how far it is from one).
    """
    expect(x.dim() == 2 and x.numel() > 0, "x", tuple(x.shape), "a matrix (n, d) that is not empty")
    expect(y.shape == (len(x),), "y", tuple(y.shape), f"the shape ({len(x)},)")
    expect(bool(x.isfinite().all() and y.isfinite().all()), "x, y", "NaN or infinity", "finite values")
    expect(0 <= lam < math.inf, "lam", lam, "a finite number of at least 0")
    curvature = float(torch.linalg.matrix_norm(x, 2)) ** 2 / len(x)
    expect(curvature > 0, "x", "all zero", "a column that is not zero")
    w = torch.zeros(x.shape[1], dtype=x.dtype) if start is None else start.clone()
    enough, violation = tolerance * max(lambda_max(x, y), lam), math.inf
    for _ in range(max_steps):
        gradient = lasso_gradient(x, y, w)
        violation = lasso_violation(gradient, w, lam)
        if violation <= enough:
            return w
        w = ista_step(w, gradient, 1 / curvature, lam)
    raise ValueError(
        f"max_steps = {max_steps}: expected more; the conditions are still missed by {violation:.3g} > {enough:.3g}"
    )


def lasso_path(x: torch.Tensor, y: torch.Tensor, lams: Iterable[float], tolerance: float = 1e-6) -> torch.Tensor:
    """Lasso solutions for a list of λ, each started from the one before (a warm start; Friedman et al. 2010).

    Args:
        x, y, tolerance: as in :func:`ista`.
        lams: λ values; descending from :func:`lambda_max` is the quick order.
    Returns:
        (λs, d), in the order given.
    """
    w, path = None, []
    for lam in lams:
        w = ista(x, y, lam, start=w, tolerance=tolerance)
        path.append(w)
    expect(len(path) > 0, "lams", path, "at least one λ")
    return torch.stack(path)


def threshold_for_sparsity(w: torch.Tensor, sparsity: float) -> float:
    """The threshold t at which ``|w| ≤ t`` holds for the asked fraction of the entries: an exact rank, no estimate.

    ``t = the k-th smallest |w|, k = round(sparsity·n)``; 0 when k = 0. Entries that tie with t are at or below it too, so the
    fraction can only be exceeded, and only by ties. (``torch.quantile`` refuses more than 16 million entries.)

    Args:
        w: floating point, any shape, without NaN.
        sparsity: fraction of zeros asked for, 0 to 1.
    Returns:
        The threshold, a value that occurs in ``|w|``; :func:`soft_threshold` with it makes the asked zeros.

    >>> threshold_for_sparsity(torch.tensor([3.0, -1.0, 2.0, -4.0]), 0.5)
    2.0
    """
    require_rankable("w", w)
    expect(0 <= sparsity <= 1, "sparsity", sparsity, "a fraction between 0 and 1")
    k = round(sparsity * w.numel())
    return float(kth_smallest([w.detach().abs()], k)[0]) if k else 0.0


def norm_ratio_threshold(w: torch.Tensor, ratio: float) -> float:
    """A threshold found in print that is **wrong**: ``‖w‖₂ · ratio``. Kept to be measured, never to be used.

    A norm grows with the number of entries and a single entry does not: for n entries of typical size s, ``‖w‖₂ ≈ s·√n``. A
    768×768 matrix of normal weights has a norm of 768 standard deviations, so at ratio 0.5 *every* weight is below the threshold.

    Args:
        w: any shape; ``ratio``: what the recipe calls the sparsity.
    """
    return float(w.detach().norm()) * ratio
