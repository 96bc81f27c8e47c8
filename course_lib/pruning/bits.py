"""A mask's bits, eight to a byte."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from course_lib.errors import expect


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """A bool tensor of any shape in row-major order, eight entries to a byte, the first in the lowest bit; (ceil(n/8),) uint8.

    >>> pack_bits(torch.tensor([True, False, True])), pack_bits(torch.ones(9, dtype=torch.bool)).tolist()
    (tensor([5], dtype=torch.uint8), [255, 1])
    """
    expect(mask.dtype == torch.bool, "mask.dtype", mask.dtype, "torch.bool")
    return torch.from_numpy(np.packbits(mask.reshape(-1).numpy(), bitorder="little"))


def unpack_bits(packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The bool tensor of ``shape`` that :func:`pack_bits` packed.

    Args:
        packed: uint8 (bytes,), exactly ``ceil(n/8)``.
        shape: any shape of n entries.
    Raises:
        ValueError: bytes of another number than the shape needs, or bits set behind the last entry.
    """
    entries = math.prod(shape)
    expect(packed.dtype == torch.uint8, "packed.dtype", packed.dtype, "torch.uint8")
    expect(packed.shape == (-(-entries // 8),), "packed", tuple(packed.shape), f"{-(-entries // 8)} bytes for {tuple(shape)}")
    bits = np.unpackbits(packed.numpy(), bitorder="little")
    expect(not bits[entries:].any(), "packed", "bits behind the last entry", f"{entries} bits and then zeros")
    return torch.from_numpy(bits[:entries].view(bool)).reshape(tuple(shape))
