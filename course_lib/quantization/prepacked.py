"""The integer product with a weight that is laid out once for the processor's int8 instructions, not anew at every call.

``torch._int_mm`` rearranges the weight each time, which for a few tokens takes longer than the product. oneDNN, which torch brings
along, keeps it as it wants it (once more the weight's bytes in memory, in a form that is neither stored nor copied) and
multiplies the sums by the weight's scales on the way out. VNNI multiplies uint8 by int8: for two int8 tensors oneDNN has a kernel with
AMX alone, and a reference thousands of times slower elsewhere. So the inputs go to it as uint8, 128 more, with a zero point 128 more.
"""

import functools

import torch

Prepacked = torch.Tensor  # opaque: of oneDNN's layout


def prepack(codes: torch.Tensor) -> Prepacked | None:
    """A weight laid out for :func:`prepacked_matmul`.

    Args:
        codes: int8 (N, K), contiguous.
    Returns:
        An opaque tensor; None where this machine has no such product or not an exact one.
    """
    usable = codes.dtype == torch.int8 and codes.device.type == "cpu" and codes.numel() > 0 and prepacked_is_exact()
    return torch.ops.onednn.qlinear_prepack(codes, None) if usable else None


def prepacked_matmul(a: torch.Tensor, a_zero: int, weight: Prepacked, scale: torch.Tensor) -> torch.Tensor:
    """``(Σ_k (a_mk − z)·w_nk) · scale_n``: the sum exact in int32, then rounded to float32, then the product.

    Args:
        a: int8 codes (M, K).
        a_zero: z, −128 to 127.
        weight: of :func:`prepack`, of codes (N, K) with zero point 0.
        scale: float32 (N,), or (1,) for all.
    Returns:
        float32 (M, N).
    """
    zeros = torch.zeros(len(scale), dtype=torch.int32)  # of the weight
    rest = (None, 1.0, 0, torch.float32, "none", [], "")  # no bias, output in float32 as it is, nothing after it
    moved = a.bitwise_xor(-128).view(torch.uint8)  # 128 more
    return torch.ops.onednn.qlinear_pointwise(moved, 1.0, a_zero + 128, weight, scale, zeros, *rest)


@functools.cache
def prepacked_is_exact() -> bool:
    """Whether oneDNN's product is there and exact: tried with the largest codes and with drawn ones, few and many rows."""
    generator = torch.Generator().manual_seed(0)
    try:
        for inner in (768, 40):
            drawn = torch.randint(-127, 128, (64 + 33, inner), dtype=torch.int8, generator=generator)
            for w, a in (drawn.split([64, 33]), torch.full_like(drawn, 127).split([64, 33])):
                for rows, zero in ((1, 0), (33, 0), (1, -128), (33, -128)):
                    exact = (a[:rows].double() - zero) @ w.double().t()
                    packed = torch.ops.onednn.qlinear_prepack(w, None)
                    if not torch.equal(prepacked_matmul(a[:rows], zero, packed, torch.ones(64)), exact.float()):
                        return False
    except (RuntimeError, AttributeError):  # no such function in this torch, or no such kernel for this processor
        return False
    return True
