"""NormalFloat 4: the 16 levels for weights that are normally distributed, scaled by the largest of each block.

Dettmers et al. 2023, 2305.14314. The levels are quantiles of the normal distribution, so that each is used about as often, with
an exact 0 and exact ends −1 and 1: 8 from the negative half, 9 from the positive one, where both have the same 0.
"""

import torch

from course_lib.errors import expect
from course_lib.granularity import Granularity, block_size, grid, spread, to_blocks
from course_lib.quantization.codebooks import nearest_codes
from course_lib.quantization.packing import packed_bytes

BLOCK = 64  # weights that share a scale, as published


def nf4_levels() -> torch.Tensor:
    """The levels (16,), float32, ascending from −1 to 1.

    With ``δ = ½ (1/30 + 1/32)`` the shares left out at the ends: the quantiles of 8 even steps from δ to ½ and of 9 from ½ to
    1 − δ, divided by the largest, ``Φ⁻¹(1 − δ)``.

    >>> nf4_levels()[[0, 1, 7, 8, 15]]
    tensor([-1.0000, -0.6962,  0.0000,  0.0796,  1.0000])
    """
    end = 1 - (1 / 30 + 1 / 32) / 2
    positive = torch.special.ndtri(torch.linspace(0.5, end, 9, dtype=torch.float64))
    negative = -torch.special.ndtri(torch.linspace(end, 0.5, 8, dtype=torch.float64))
    return (torch.cat([negative[:-1], positive]) / positive[-1]).float()


def quantize_nf4(x: torch.Tensor, granularity: Granularity = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of the nearest levels of ``x / max|x| of its block``.

    Args:
        x: floating point, at least one dimension and one entry, finite.
        granularity: which entries share a scale, see :func:`course_lib.granularity.block_size`; 64 neighbours in a row.
    Returns:
        Codes uint8, the shape of ``x``; scales float32 > 0, the shape of the grid of blocks (1 where all entries are 0).
    Raises:
        ValueError: an empty, integer, NaN or Inf tensor, or blocks that do not divide its shape.

    >>> quantize_nf4(torch.tensor([-2.0, 0.0, 0.1, 2.0]), "tensor")
    (tensor([ 0,  7,  8, 15], dtype=torch.uint8), tensor([2.]))
    """
    expect(x.is_floating_point() and x.numel() > 0, "x", (x.dtype, tuple(x.shape)), "at least one floating-point number")
    block = block_size(x.shape, granularity)
    scale = to_blocks(x.detach(), block).abs().amax(dim=1).float()
    expect(bool(torch.isfinite(scale).all()), "x", float(scale.max()), "finite numbers")
    scale = scale.masked_fill(scale == 0, 1.0)
    return nearest_codes(x.detach() / spread(scale, x.shape, block), nf4_levels()), scale.view(grid(x.shape, block))


def dequantize_nf4(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``level[code] · scale``, float32, the shape of the codes; ``scale`` as :func:`quantize_nf4` gives it.

    >>> dequantize_nf4(torch.tensor([0, 7, 15], dtype=torch.uint8), torch.tensor([2.0]))
    tensor([-2.,  0.,  2.])
    """
    fits = scale.dim() == codes.dim() and all(g > 0 and s % g == 0 for g, s in zip(scale.shape, codes.shape, strict=True))
    expect(fits, "scale", tuple(scale.shape), f"a scale for each block of {tuple(codes.shape)}")
    expect(
        not codes.is_floating_point() and (codes.numel() == 0 or int(codes.max()) < 16),
        "codes",
        codes.dtype,
        "integers below 16",
    )
    block = tuple(s // g for s, g in zip(codes.shape, scale.shape, strict=True))
    return nf4_levels()[codes.int()].mul_(spread(scale, codes.shape, block))


def nf4_bytes(count: int, blocks: int) -> int:
    """Bytes of ``count`` codes of 4 bits and a float32 scale for each block. (The levels are a constant of the format.)

    >>> nf4_bytes(768 * 3072, 768 * 3072 // 64)
    1327104
    """
    return packed_bytes(count, 4) + 4 * blocks
