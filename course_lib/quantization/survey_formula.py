"""The formula surveys give for linear quantization, without an integer zero point, to see what that loses.

``code = round((w − w_min) / (w_max − w_min) · (2^b − 1))`` spends no code outside [w_min, w_max], so where all values have one
sign its step is finer than that of :mod:`course_lib.quantization.affine`. The price: 0 lies between two codes. A pruned weight, a
padding position or a dead neuron comes back as up to half a step, each in the same direction, and an integer matrix product
needs the real number w_min beside the codes.
"""

import torch

from course_lib.errors import expect
from course_lib.quantization.affine import code_range


def quantize_by_formula(w: torch.Tensor, bits: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes ``round((w − w_min) / (w_max − w_min) · (2^b − 1))`` of a tensor.

    Args:
        w: floating point, any shape, finite, at least one entry.
        bits: 2 to 8, or 16.
    Returns:
        Codes (int32, the shape of ``w``), ``w_min`` and ``w_max`` (float32 scalars). All codes of a constant tensor are 0.
    Raises:
        ValueError: other bits, or an empty, NaN or Inf tensor.

    >>> quantize_by_formula(torch.tensor([-1.0, 0.0, 2.0]), 2)[0]
    tensor([0, 1, 3], dtype=torch.int32)
    """
    _, largest = code_range(bits, symmetric=False)
    expect(w.is_floating_point() and w.numel() > 0, "w", (w.dtype, tuple(w.shape)), "at least one floating-point number")
    low, high = w.double().aminmax()
    expect(bool(torch.isfinite(low) & torch.isfinite(high)), "w", (low.item(), high.item()), "finite numbers")
    width = torch.where(high > low, high - low, 1.0)
    return torch.round((w.double() - low) / width * largest).int(), low.float(), high.float()


def dequantize_by_formula(codes: torch.Tensor, w_min: torch.Tensor, w_max: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """The values: ``w_min + code · (w_max − w_min) / (2^b − 1)``, float32.

    Args:
        codes: integers, any shape; ``w_min``, ``w_max``: scalars, as :func:`quantize_by_formula` gives them.
        bits: as there.

    >>> dequantize_by_formula(torch.tensor([0, 1, 3]), torch.tensor(-1.0), torch.tensor(2.0), 2)
    tensor([-1.,  0.,  2.])
    """
    _, largest = code_range(bits, symmetric=False)
    return (w_min.double() + codes * ((w_max.double() - w_min.double()) / largest)).float()
