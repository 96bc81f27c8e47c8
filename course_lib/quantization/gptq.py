"""GPTQ: round the columns of a weight one after another, and let the columns still in float make up for the error.

The rounding is that of :mod:`course_lib.quantization.affine` with scales chosen beforehand, so that codes and scales are
what the quantized modules hold, whatever the column order. Frantar et al. 2022, 2210.17323.
"""

import torch

from course_lib.granularity import block_size, grid
from course_lib.obs import checked_layer, damped, inverse_factor, sweep
from course_lib.quantization.affine import code_range, quantize


def gptq(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    bits: int = 4,
    symmetric: bool = True,
    block: tuple[int, int] | None = None,
    damping: float = 0.01,
    act_order: bool = False,
) -> torch.Tensor:
    """Codes of a weight whose layer output is close to the float one's.

    Column by column, ``q_j = dequantize(quantize(w_j))``, ``e_j = (w_j − q_j)/L[j,j]``, ``w_k −= L[k,j]·e_j`` for k > j,
    where ``L·Lᵀ = (H + λI)⁻¹`` (Frantar et al. 2022, 2210.17323).

    Args:
        weight: W, (R, D), floating point.
        hessian: ``XᵀX/n`` of the layer's inputs, (D, D).
        scale, zero_point: float32 and int32, one for each block of the weight; those of the weight as it is, from
            ``choose_affine`` or an observer. They stay as they are.
        bits, symmetric, block: as for :func:`course_lib.quantization.affine.quantize`.
        damping: λ as a fraction of the mean diagonal of H.
        act_order: take the columns with the largest ``H[j,j]`` first (ties: the leftmost first).
    Returns:
        Codes (R, D), int8 (symmetric) or uint8, for the columns in their own order.
    Raises:
        ValueError: shapes, dtypes, NaN, bits, or a Hessian that stays singular.

    >>> w, h = torch.tensor([[0.6, 0.6]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> scale, zero_point = torch.tensor([[1.0]]), torch.tensor([[0]], dtype=torch.int32)
    >>> quantize(w, scale, zero_point, 4), gptq(w, h, scale, zero_point)  # inputs so alike: rounding up twice is too much
    (tensor([[1, 1]], dtype=torch.int8), tensor([[1, 0]], dtype=torch.int8))
    """
    checked_layer(weight, hessian)
    quantize(weight, scale, zero_point, bits, symmetric, block)  # refuses scales that do not fit, before any work
    low, high = code_range(bits, symmetric)
    rows, columns = weight.shape
    counts = _counts(weight, scale, block)
    scales, zeros = (t.reshape(counts).T.repeat_interleave(rows // counts[0], 1) for t in (scale, zero_point))  # (groups, R)
    group = columns // counts[1]
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(columns)
    groups = (order // group).tolist()

    def rounded(j: int, w: torch.Tensor) -> torch.Tensor:
        s, z = scales[groups[j]], zeros[groups[j]]
        return ((w / s).round_().add_(z).clamp_(low, high).sub_(z)).mul_(s)

    factor = inverse_factor(damped(hessian, damping)[order][:, order])
    chosen, _ = sweep(weight[:, order].to(torch.promote_types(weight.dtype, torch.float32)), factor, rounded)
    values = torch.empty_like(chosen)
    values[:, order] = chosen
    return quantize(values, scale, zero_point, bits, symmetric, block)  # values on the grid: each gets its own code


def _counts(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, int] | None) -> tuple[int, int]:
    """How many blocks of the weight there are along each dimension."""
    if block is not None:
        return grid(weight.shape, block_size(weight.shape, tuple(block)))
    return (1, 1) if scale.numel() == 1 else tuple(scale.shape)
