"""SparseGPT: prune the columns of a weight one after another, and let the weights that stay make up for those that go.

Frantar & Alistarh 2023, 2301.00774. The solver is :mod:`course_lib.obs`; what is special here is that the mask is chosen on
the way, block by block, from the weights as they are by then.
"""

import torch

from course_lib.errors import expect
from course_lib.obs import checked_layer, damped, inverse_factor, sweep
from course_lib.pruning.masks import mask_by_sparsity, n_m_mask


def sparsegpt(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float | tuple[int, int] = 0.5,
    damping: float = 0.01,
    block: int = 128,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune a weight for a small output error, in one pass over its columns.

    At the start of each block of columns its mask is chosen by ``w_j² / L[j,j]²``, what the output error grows by when w_j is
    removed and the columns after it are corrected; then, column by column, as in :func:`reconstruct`.
    Source: Frantar & Alistarh 2023, 2301.00774.

    Args:
        weight: W, (R, D), floating point.
        hessian: ``XᵀX/n`` of the layer's inputs, (D, D).
        sparsity: the fraction of zeros, reached in every block (±½ weight); or ``(n, m)``: n of every m neighbours in a row
            stay, and blocks are of m columns.
        damping: λ as a fraction of the mean diagonal of H. The weights of a dead input (a column of zeros in X) cost nothing
            and are the first of their block to go; those that stay are not changed.
        block: columns that share one choice of the mask, at least 1.
    Returns:
        The new weight, of the dtype of ``weight``, 0 where pruned; and the mask, bool (R, D), True where a weight stays.
    Raises:
        ValueError: shapes, dtypes, NaN, a sparsity outside [0, 1], n > m, m that does not divide D, a Hessian that stays
            singular.

    >>> w, h = torch.tensor([[1.0, 0.9]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> new, mask = sparsegpt(w, h, 0.5, damping=0.0)  # the smaller weight stays: it can make up for the larger one
    >>> new, mask
    (tensor([[0.0000, 1.8000]]), tensor([[False,  True]]))
    """
    checked_layer(weight, hessian)
    expect(block >= 1, "block", block, "at least one column")
    choose_mask(torch.ones_like(weight[:1]), sparsity)  # refuses a sparsity that cannot be, before any work
    weight, dtype = _wide(weight), weight.dtype
    factor = inverse_factor(damped(hessian, damping))
    kept = torch.empty(weight.T.shape, dtype=torch.bool)
    # A weight costs w²/L², but nothing at a dead input, which damping makes look alive. (Squares would rank alike.)
    cost = ((hessian.diagonal() > 0) / factor.diagonal()).to(weight.dtype).view(-1, 1)

    def begin(first: int, columns: torch.Tensor) -> None:
        some = slice(first, first + len(columns))
        kept[some] = choose_mask((columns.abs() * cost[some]).T, sparsity).T

    new, _ = sweep(weight, factor, _zero_unless(kept), begin, sparsity[1] if isinstance(sparsity, tuple) else block)
    return new.to(dtype), kept.T.contiguous()


def reconstruct(weight: torch.Tensor, hessian: torch.Tensor, mask: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    """SparseGPT's update for a mask that is given: column by column, ``e_j = w_j / L[j,j]`` where w_j is pruned (else 0) and
    ``w_k −= L[k,j]·e_j`` for k > j, with ``L·Lᵀ = (H + λI)⁻¹``. Source: Frantar & Alistarh 2023, 2301.00774.

    Only the columns after a pruned one are corrected; the best weights for a mask (least squares per row) can be better.

    Args:
        weight: W, (R, D); ``hessian``: XᵀX/n, (D, D).
        mask: bool (R, D), True where a weight stays.
        damping: λ as a fraction of the mean diagonal of H.
    Returns:
        The new weight, 0 where the mask is False.
    Raises:
        ValueError: shapes, dtypes, NaN, or a Hessian that stays singular.
    """
    checked_layer(weight, hessian)
    fits = mask.dtype == torch.bool and mask.shape == weight.shape
    expect(fits, "mask", (mask.dtype, tuple(mask.shape)), f"torch.bool of the shape {tuple(weight.shape)}")
    new, _ = sweep(_wide(weight), inverse_factor(damped(hessian, damping)), _zero_unless(mask.T.contiguous()))
    return new.to(weight.dtype)


def choose_mask(scores: torch.Tensor, sparsity: float | tuple[int, int]) -> torch.Tensor:
    """The mask for a fraction of a matrix, or for n of every m neighbours in a row.

    >>> choose_mask(torch.tensor([[4.0, 1.0, 2.0, 3.0]]), 0.25).tolist(), choose_mask(torch.tensor([[4.0, 1.0]]), (1, 2)).tolist()
    ([[True, False, True, True]], [[True, False]])
    """
    return n_m_mask(scores, *sparsity) if isinstance(sparsity, tuple) else mask_by_sparsity(scores, sparsity)


def _zero_unless(kept: torch.Tensor):
    zero = torch.zeros(())
    return lambda j, w: torch.where(kept[j], w, zero.to(w.dtype))


def _wide(weight: torch.Tensor) -> torch.Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))  # the sweep is not for 16 bits
