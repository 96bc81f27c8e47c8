"""Linear quantization written out in its four steps, for one range or one product, as lesson 06 builds it.

:mod:`course_lib.quantization.affine` and :mod:`course_lib.quantization.int_matmul` do the same for blocks of a tensor and at speed.
Source: Jacob et al. 2017, 1712.05877.
"""

import torch

from course_lib.errors import expect
from course_lib.quantization.affine import code_range


def scale_and_zero_point(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """Scale and zero point of the codes 0 … 2^b − 1 for a range, which is first widened to hold 0.

    ``scale = (high − low) / (2^b − 1)``, ``zero_point = round(−low / scale)``.

    Args:
        low, high: the ends of the range, finite, low ≤ high, not both 0.
        bits: 2 to 8, or 16.
    Returns:
        The scale, above 0, and the zero point, one of the codes: that of the real number 0.
    Raises:
        ValueError: other bits, or a range with its ends the wrong way round, or of no width.

    >>> scale_and_zero_point(-1.0, 254.0)
    (1.0, 1)
    """
    _, top = code_range(bits, symmetric=False)
    expect(-float("inf") < low <= high < float("inf"), "low, high", (low, high), "finite numbers, low ≤ high")
    low, high = min(low, 0.0), max(high, 0.0)
    expect(low < high, "low, high", (low, high), "a range of some width")
    scale = (high - low) / top
    return scale, round(-low / scale)


def to_codes(x: torch.Tensor, scale: float, zero_point: int, bits: int = 8) -> torch.Tensor:
    """The code of each value: ``clamp(round(x / scale) + zero_point, 0, 2^b − 1)``.

    Args:
        x: floating point, any shape, no NaN.
        scale: above 0; ``zero_point``: one of the codes.
        bits: 2 to 8.
    Returns:
        uint8, the shape of ``x``.
    Raises:
        ValueError: other bits, a scale of 0 or below, a zero point that is no code.

    >>> to_codes(torch.tensor([-0.3, 0.0, 0.26, 99.0]), scale=0.1, zero_point=3, bits=4)
    tensor([ 0,  3,  6, 15], dtype=torch.uint8)
    """
    expect(bits in range(2, 9), "bits", bits, "a whole number from 2 to 8")
    expect(scale > 0, "scale", scale, "a number above 0")
    top = 2**bits - 1
    expect(0 <= zero_point <= top, "zero_point", zero_point, f"a code from 0 to {top}")
    return (torch.round(x / scale) + zero_point).clamp(0, top).to(torch.uint8)


def error_bounds(x: torch.Tensor, clip: float, bits: int = 8) -> torch.Tensor:
    """How far each value can be from what its symmetric code stands for, when the range is cut at ±clip.

    With ``scale = clip / (2^(b−1) − 1)``: half a scale inside the range; outside it the value becomes the end, so the
    error is what lies beyond, ``|x| − clip``.

    Args:
        x: floating point, any shape.
        clip: above 0.
        bits: 2 to 8, or 16.
    Returns:
        The shape of ``x``, in exact arithmetic (:func:`course_lib.quantization.affine.error_bound` adds that of float32).
    Raises:
        ValueError: other bits, or a clip of 0 or below.

    >>> error_bounds(torch.tensor([0.3, -127.0, 130.0]), clip=127.0)
    tensor([0.5000, 0.5000, 3.0000])
    """
    _, largest = code_range(bits, symmetric=True)
    expect(clip > 0, "clip", clip, "a number above 0")
    half = clip / largest / 2
    return torch.where(x.abs() <= clip, torch.full_like(x, half), x.abs() - clip)


def correct_sums(
    products: torch.Tensor, a_sums: torch.Tensor, b_sums: torch.Tensor, inner: int, a_zero: int, b_zero: torch.Tensor
) -> torch.Tensor:
    """``Σ_k (a_mk − z)(b_kn − z_n)`` from the product of the codes themselves and their sums.

    Multiplied out: ``Σ a·b − z·Σ_k b_kn − z_n·Σ_k a_mk + K·z·z_n`` (Jacob et al. 2017, 1712.05877, eq. 7).

    Args:
        products: ``Σ_k a_mk·b_kn``, int32 (M, N).
        a_sums: ``Σ_k a_mk``, int32 (M,); ``b_sums``: ``Σ_k b_kn``, int32 (N,).
        inner: K, over how many products each sum runs.
        a_zero: the zero point of all of a; ``b_zero``: those of the columns of b, int32 (N,).
    Returns:
        int32 (M, N), exact.
    Raises:
        ValueError: sums or zero points that do not fit the shape of the products.

    >>> one = torch.ones(1, dtype=torch.int32)
    >>> correct_sums(torch.tensor([[12 + 20]]), 7 * one, 9 * one, inner=2, a_zero=1, b_zero=2 * one)  # 3·4 + 4·5
    tensor([[13]])
    """
    rows, columns = products.shape
    expect(a_sums.shape == (rows,), "a_sums", tuple(a_sums.shape), f"one for each of {rows} rows")
    expect(b_sums.shape == (columns,), "b_sums", tuple(b_sums.shape), f"one for each of {columns} columns")
    expect(b_zero.shape == (columns,), "b_zero", tuple(b_zero.shape), f"one for each of {columns} columns")
    return products - a_zero * b_sums - a_sums[:, None] * b_zero + inner * a_zero * b_zero
