"""The integer product: int8 codes in, int32 sums out, exact on every machine.

``torch._int_mm`` is fast where the processor multiplies int8 (VNNI, AMX, tensor cores). On x86 without VNNI its kernels move one
factor to 0 … 255 and add two products in 16 bits, which saturate: 255·127 + 255·127 becomes 32 767. So it is used only
where it is exact for a product made to saturate, which is tried once per device; elsewhere the product is taken in float64,
which is exact for integers below 2⁵³.
"""

import functools

import torch

from course_lib.errors import expect

LARGEST_SUM = 2**31 - 1


def int_matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` of int8 codes as int32, exact.

    Args:
        a: int8 (M, K), any strides.
        b: int8 (K, N), any strides; the transpose of a contiguous (N, K) weight costs no copy.
    Returns:
        int32 (M, N): equal to the float64 product of the codes.
    Raises:
        ValueError: not two int8 matrices that can be multiplied, or K so large that a sum may not fit 32 bits.

    >>> int_matmul(torch.full((1, 2), 127, dtype=torch.int8), torch.full((2, 1), 127, dtype=torch.int8))
    tensor([[32258]], dtype=torch.int32)
    """
    expect(a.dim() == 2 and a.dtype == torch.int8, "a", (a.dtype, tuple(a.shape)), "an int8 matrix")
    expect(b.dim() == 2 and b.dtype == torch.int8, "b", (b.dtype, tuple(b.shape)), "an int8 matrix")
    expect(a.shape[1] == b.shape[0], "b", tuple(b.shape), f"{a.shape[1]} rows, one for each column of a")
    expect(a.shape[1] * 128 * 128 <= LARGEST_SUM, "a", tuple(a.shape), "at most 131 071 columns, so that sums fit 32 bits")
    if a.shape[1] > 1 and int_mm_is_exact(a.device):  # with K = 1 torch 2.13's kernel reads other memory than b's
        try:
            return torch._int_mm(a, b)
        except RuntimeError:  # a shape this device's kernel refuses: CUDA wants more than 16 rows and multiples of 8
            return _float64_matmul(a, b)
    return _float64_matmul(a, b)


def centred_matmul(
    a: torch.Tensor,
    a_zero: torch.Tensor | None,
    b: torch.Tensor,
    b_zero: torch.Tensor | None,
    b_sums: torch.Tensor | None = None,
) -> torch.Tensor:
    """``Σ_k (a_mk − z_m)·(b_kn − z_n)`` of codes with zero points as int32, exact.

    Multiplied out, the product of the codes themselves and three corrections (Jacob et al. 2017, 1712.05877, eq. 7):
    ``Σ a·b − z_m·Σ_k b_kn − z_n·Σ_k a_mk + K·z_m·z_n``. Sums that pass 32 bits on the way wrap around and come back.

    Args:
        a: int8 or uint8 codes (M, K); ``b``: int8 or uint8 codes (K, N).
        a_zero: int32, one for all or (M, 1); None for 0. ``b_zero``: int32, one for all or (N,); None for 0.
        b_sums: ``Σ_k b_kn`` int32 (N,) where it is known beforehand, of the int8 codes (of uint8 codes less 128).
    Returns:
        int32 (M, N).
    Raises:
        ValueError: as :func:`int_matmul`, or K so large that the centred sums may not fit 32 bits.

    >>> a, b = torch.tensor([[200, 0]], dtype=torch.uint8), torch.tensor([[3], [5]], dtype=torch.int8)
    >>> centred_matmul(a, torch.tensor(10), b, None)  # 190 · 3 − 10 · 5
    tensor([[520]], dtype=torch.int32)
    """
    inner = a.shape[-1]
    widest = (128 if a_zero is None else 255) * (128 if b_zero is None else 255)
    expect(inner * widest <= LARGEST_SUM, "a", tuple(a.shape), f"at most {LARGEST_SUM // widest:,} columns")
    a, a_zero = to_int8(a, a_zero)
    b, b_zero = to_int8(b, b_zero)
    sums = int_matmul(a, b)
    if a_zero is not None:
        b_sums = b.sum(0, dtype=torch.int32) if b_sums is None else b_sums
        sums -= a_zero * b_sums
    if b_zero is not None:
        sums -= a.sum(1, keepdim=True, dtype=torch.int32) * b_zero
        if a_zero is not None:
            sums += inner * a_zero * b_zero
    return sums


def to_int8(codes: torch.Tensor, zero_point: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same numbers as int8 codes, of any shape.

    uint8 codes and their zero point (a scalar) are both moved by −128, which changes no difference.

    >>> to_int8(torch.tensor([0, 255], dtype=torch.uint8), torch.tensor(3, dtype=torch.int32))
    (tensor([-128,  127], dtype=torch.int8), tensor(-125, dtype=torch.int32))
    """
    if codes.dtype != torch.uint8:
        return codes, zero_point
    moved = codes.bitwise_xor(128).view(torch.int8)  # flipping the top bit is taking 128 away in two's complement
    return moved, torch.tensor(-128, dtype=torch.int32) if zero_point is None else (zero_point - 128).to(torch.int32)


@functools.cache
def int_mm_is_exact(device: torch.device) -> bool:
    """Whether ``torch._int_mm`` multiplies int8 exactly on this device: asked with the largest codes, for few and many rows.

    (x86 without VNNI does not: pytorch issue 136746, oneDNN's guide to int8 computations.)
    """
    for rows in (1, 64) if device.type == "cpu" else (64,):  # one row may have a kernel of its own
        for sign in (1, -1):
            a = torch.full((rows, 256), 127, dtype=torch.int8, device=device)
            b = torch.full((64, 256), 127 * sign, dtype=torch.int8, device=device).t()
            try:
                sums = torch._int_mm(a, b)
            except (RuntimeError, AttributeError):  # no such kernel for this device, or no such function in this torch
                return False
            if not bool((sums == sign * 127 * 127 * 256).all()):
                return False
    return True


def _float64_matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Exact: every partial sum is a whole number below 2⁵³. (float32 would do for K ≤ 1024, but autocast and TF32 round it.)"""
    return (a.double() @ b.double()).to(torch.int32)
