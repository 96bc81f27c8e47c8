"""Optimal brain surgery, one column after another: the solver that SparseGPT and GPTQ share.

A linear layer's squared output error, averaged over tokens, is ``tr((W − Q) H (W − Q)ᵀ)`` with ``H = XᵀX/n``. Fixing column j
of Q makes the columns after it want other values; with ``H⁻¹ = L·Lᵀ`` (Cholesky) the best correction of column k > j is
``−L[k,j]·e_j`` where ``e_j = (w_j − q_j)/L[j,j]``. Over all columns that gives ``(W − Q)ᵀ = L·E`` and, since ``LᵀHL = I``, a
total error of exactly ``‖E‖²``.

Source: Hassibi & Stork 1992 (the correction); Frantar & Alistarh 2022, 2208.11580 (rows of a layer);
Frantar et al. 2022, 2210.17323 (one column order for all rows, Cholesky, updates in blocks).
"""

from collections.abc import Callable

import torch

from course_lib.errors import expect

Choose = Callable[[int, torch.Tensor], torch.Tensor]
LEAF = 32  # columns corrected one by one; more of them at a time are corrected by a matrix product


def checked_layer(weight: torch.Tensor, hessian: torch.Tensor) -> None:
    """Refuse what cannot be a layer with its statistics.

    Args:
        weight: (R, D), floating point.
        hessian: (D, D).
    Raises:
        ValueError: other shapes, integers, NaN or infinity, or a Hessian that is not symmetric.
    """
    expect(weight.dim() == 2 and weight.numel() > 0, "weight", tuple(weight.shape), "a matrix (R, D)")
    expect(weight.is_floating_point(), "weight.dtype", weight.dtype, "floating point")
    expect(bool(torch.isfinite(weight).all()), "weight", "NaN or infinity", "finite numbers")
    due = (weight.shape[1], weight.shape[1])
    expect(tuple(hessian.shape) == due, "hessian", tuple(hessian.shape), f"{due}, the columns of weight")
    expect(hessian.is_floating_point(), "hessian.dtype", hessian.dtype, "floating point")
    expect(bool(torch.isfinite(hessian).all()), "hessian", "NaN or infinity", "finite numbers")
    skew = float((hessian - hessian.T).abs().max())
    # XᵀX is symmetric but for the rounding of its sums, which the largest diagonal entry bounds.
    tolerance = 1e-3 * float(hessian.diagonal().abs().max())
    expect(skew <= tolerance, "hessian", f"asymmetric by {skew:.3g}", "a symmetric matrix XᵀX/n")


def damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """``H + λI`` with ``λ = damping · mean(diag H)``, float64.

    λ makes the Hessian of too few tokens, or with dead inputs (columns of X that are zero), invertible. A dead input then has
    λ on its diagonal and zeros beside it: what happens to its weights moves no others. (The authors' code sets them all to
    zero besides. Here only those a mask takes are zero: an input dead in calibration need not be dead for good.)

    Args:
        hessian: (D, D).
        damping: a fraction ≥ 0; the papers use 0.01.
    Raises:
        ValueError: a negative damping.

    >>> damped(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 0.5)
    tensor([[4., 0.],
            [0., 2.]], dtype=torch.float64)
    """
    expect(0 <= damping < float("inf"), "damping", damping, "a fraction of the mean diagonal, such as 0.01")
    hessian = hessian.to(torch.float64, copy=True)
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    return hessian


def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The lower triangular L with ``L·Lᵀ = H⁻¹``, float64, without inverting H.

    H read from its last row and column to its first has a Cholesky factor; turned back it is upper triangular, ``H = R·Rᵀ``,
    and so ``L = R⁻ᵀ``: one factorisation and one triangular solve, where the papers' code factors, inverts and factors again.

    Args:
        hessian: (D, D), symmetric.
    Raises:
        ValueError: a matrix that is not positive definite; raise the damping.

    >>> inverse_factor(torch.tensor([[4.0, 0.0], [0.0, 0.25]]))
    tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]], dtype=torch.float64)
    """
    turned, failed = torch.linalg.cholesky_ex(hessian.double().flip(0, 1))
    expected = "a positive definite matrix; some inputs are zero or repeat others: give more tokens or a higher damping"
    expect(int(failed) == 0, "hessian", f"singular, rank < {len(hessian)}", expected)
    lower = turned.flip(0, 1).T  # Rᵀ
    return torch.linalg.solve_triangular(lower, torch.eye(len(hessian), dtype=torch.float64), upper=False)


def sweep(weight: torch.Tensor, factor: torch.Tensor, choose: Choose, begin: Choose | None = None, block: int = LEAF):
    """Replace the columns of a weight one after another; those still to come make up for the error.

    The columns are halved again and again: the second half is corrected by one product when the first is done, so that
    nearly all of the work is matrix products whatever the block.

    Args:
        weight: W, (R, D).
        factor: L, (D, D), of :func:`inverse_factor`.
        choose: given a column's number and its corrected values (R,), the values it gets.
        begin: called at the start of each block with its first column's number and the corrected values of its columns,
            (columns, R); may be used to decide for the block as a whole. What it returns is not used.
        block: columns of a block, at least 1; without ``begin`` it changes the speed only.
    Returns:
        Q (R, D), of the dtype of ``weight``, and E (D, R) with ``(W − Q)ᵀ = L·E``.
    """
    columns = weight.T.contiguous()  # (D, R): a column is contiguous
    factor = factor.to(weight.dtype).contiguous()  # its rows are read
    errors = torch.empty_like(columns)

    def visit(low: int, high: int, unit: int) -> None:
        parts = -(-(high - low) // unit)
        if parts > 1:
            middle = low + parts // 2 * unit
            visit(low, middle, unit)
            columns[middle:high] -= factor[middle:high, low:middle] @ errors[low:middle]
            visit(middle, high, unit)
            return
        if begin and unit == block:  # the columns of this block are corrected for all before it
            begin(low, columns[low:high])
        if unit > LEAF:
            visit(low, high, LEAF)
            return
        for j in range(low, high):
            corrected = columns[j] - factor[j, low:j] @ errors[low:j]
            columns[j] = choose(j, corrected)
            errors[j] = (corrected - columns[j]) / factor[j, j]

    visit(0, len(columns), block)
    return columns.T.contiguous(), errors


def output_error(weight: torch.Tensor, other: torch.Tensor, hessian: torch.Tensor) -> float:
    """Squared error of a layer's output, averaged over tokens and summed over outputs: ``tr(Δ H Δᵀ)``, Δ = other − weight.

    Args:
        weight, other: (R, D); the products are in their precision.
        hessian: XᵀX/n, (D, D), not damped.

    >>> output_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
    4.0
    """
    change = other - weight
    return float(((change @ hessian.to(change.dtype)) * change).sum(dtype=torch.float64))
