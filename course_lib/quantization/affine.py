"""Linear (affine) quantization: ``x ≈ (code − zero_point) · scale``, with an integer zero point, so that 0 stays exactly 0.

Symmetric codes lie in [−qmax, qmax] with qmax = 2^(b−1) − 1 and zero point 0; asymmetric ones in [0, 2^b − 1]. Scales and
zero points have one entry per block of the tensor (:mod:`course_lib.granularity`).
Source: Jacob et al. 2017, 1712.05877; Krishnamoorthi 2018, 1806.08342.

At 8 bits any granularity will do (F1 of a fine-tuned encoder .86 before and after). At 4 bits one scale for a whole matrix leaves .17,
one per row .85: the matrix's largest weight is twice, in places forty times, that of its median row, and more than half of all
weights round to zero against a fifth. At 2 bits symmetric codes are three levels and asymmetric ones four: .16 and .63 with a
scale for every 64 weights.
"""

import torch

from course_lib.errors import expect
from course_lib.granularity import Granularity, block_size, grid

BITS = (2, 3, 4, 5, 6, 7, 8, 16)


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """The smallest and the largest code.

    >>> code_range(8, True), code_range(4, False)
    ((-127, 127), (0, 15))
    """
    expect(bits in BITS and not isinstance(bits, bool), "bits", bits, "a whole number from 2 to 8, or 16")
    qmax = 2 ** (bits - 1) - 1
    return (-qmax, qmax) if symmetric else (0, 2**bits - 1)


def code_dtype(bits: int, symmetric: bool) -> torch.dtype:
    """What codes are stored as: int8 or uint8, at 16 bits int16 or (torch computes little with uint16) int32."""
    code_range(bits, symmetric)
    if bits == 16:
        return torch.int16 if symmetric else torch.int32
    return torch.int8 if symmetric else torch.uint8


def choose_from_range(
    low: torch.Tensor, high: torch.Tensor, bits: int = 8, symmetric: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point for ranges of values.

    ``scale = max(|low|, |high|) / qmax``, or asymmetric ``scale = (high − low) / (2^b − 1)``,
    ``zero_point = round(−low / scale)`` with the range first widened to hold 0 (Jacob et al. 2017, 1712.05877).

    Args:
        low, high: the ends of each range, finite, ``low ≤ high``, of one shape.
        bits: 2 to 8, or 16.
        symmetric: whether the range is made symmetric about 0.
    Returns:
        ``scale`` float32 > 0 (1 where the range is [0, 0]) and ``zero_point`` int32, both of the shape of ``low``.
    Raises:
        ValueError: other bits, a range with NaN or Inf, or one whose ends are the wrong way round.

    >>> choose_from_range(torch.tensor([-1.0]), torch.tensor([254.0]), symmetric=False)
    (tensor([1.]), tensor([1], dtype=torch.int32))
    """
    smallest, largest = code_range(bits, symmetric)
    expect(low.shape == high.shape, "high", tuple(high.shape), f"the shape of low, {tuple(low.shape)}")
    low, high = low.detach().double(), high.detach().double()  # in float32 high − low can overflow
    _expect_all(torch.isfinite(low) & torch.isfinite(high), low, high, "finite numbers")
    _expect_all(low <= high, low, high, "low ≤ high")
    low, high = low.clamp(max=0), high.clamp(min=0)
    width = torch.maximum(-low, high) if symmetric else high - low
    steps = largest if symmetric else largest - smallest
    # Never below the smallest normal number: an underflow to 0 would divide by zero.
    scale = (width / steps).clamp(min=torch.finfo(torch.float32).tiny).float().masked_fill(width == 0, 1.0)
    expect(bool(torch.isfinite(scale).all()), "low, high", float(width.max()), "a range that float32 can hold")
    zero_point = torch.zeros_like(scale) if symmetric else torch.round(-low / scale)
    return scale, zero_point.int()


def choose_affine(
    x: torch.Tensor, bits: int = 8, symmetric: bool = True, granularity: Granularity = "tensor", axis: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point from the smallest and the largest value of each block.

    Args:
        x: floating point, any shape, finite, at least one entry.
        bits: 2 to 8, or 16.
        symmetric: codes about 0, or a zero point.
        granularity, axis: which entries share a scale, see :func:`course_lib.granularity.block_size`.
    Returns:
        ``scale`` float32 and ``zero_point`` int32, both of the shape ``grid(x.shape, block)``.
    Raises:
        ValueError: bits, granularity, dtype, or an empty, NaN or Inf tensor.

    >>> choose_affine(torch.tensor([[-254.0, 5.0], [0.0, 0.0]]), granularity="channel")[0]
    tensor([[2.],
            [1.]])
    """
    code_range(bits, symmetric)
    _expect_floats(x)
    expect(x.numel() > 0, "x", tuple(x.shape), "at least one entry")
    shape = x.shape or (1,)
    split = _split(x, grid(shape, block_size(shape, granularity, axis)))
    places = tuple(range(1, split.dim(), 2))  # (G₁, b₁, G₂, b₂, …): the places inside a block
    return choose_from_range(split.amin(places), split.amax(places), bits, symmetric)


def quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    bits: int = 8,
    symmetric: bool = True,
    block: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """The code of each value: ``clamp(round(x / scale) + zero_point)``, ties to even. Values out of range get the end code.

    Args:
        x: floating point, any shape, no NaN.
        scale, zero_point: float32 > 0 and int32, one for each block, or one for all.
        bits, symmetric: which codes there are.
        block: the block size; derived from the shapes of ``scale`` and ``x`` when None.
    Returns:
        Codes of the shape of ``x``: int8 (symmetric) or uint8, at 16 bits int16 or int32.
    Raises:
        ValueError: bits, dtypes, NaN, or scales that do not fit the shape.

    >>> quantize(torch.tensor([-0.26, 0.0, 9.9]), torch.tensor([0.1]), torch.tensor([0], dtype=torch.int32), bits=4)
    tensor([-3,  0,  7], dtype=torch.int8)
    """
    smallest, largest = code_range(bits, symmetric)
    _expect_floats(x)
    expect(not _has_nan(x), "x", "NaN", "numbers")
    counts, scale, zero_point = _fit(x, scale, zero_point, block)
    expect(not symmetric or not zero_point.any(), "zero_point", int(zero_point.abs().max()), "0 for symmetric codes")
    codes = (_split(x, counts) / scale).round_()
    codes = codes if symmetric else codes.add_(zero_point)
    return codes.clamp_(smallest, largest).to(code_dtype(bits, symmetric)).reshape(x.shape)


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, block: tuple[int, ...] | None = None
) -> torch.Tensor:
    """The values codes stand for: ``(code − zero_point) · scale``, float32, of the shape of the codes.

    Args:
        codes: integers of any shape.
        scale, zero_point, block: as given to :func:`quantize`.
    Raises:
        ValueError: codes that are not integers, or scales that do not fit the shape.

    >>> dequantize(torch.tensor([0, 3], dtype=torch.uint8), torch.tensor([0.5]), torch.tensor([1], dtype=torch.int32))
    tensor([-0.5000,  1.0000])
    """
    expect(not codes.is_floating_point() and codes.dtype != torch.bool, "codes", codes.dtype, "an integer tensor")
    counts, scale, zero_point = _fit(codes, scale, zero_point, block)
    values = _split(codes, counts).to(torch.float32)  # codes and zero points are whole numbers below 2²⁴: exact
    return values.sub_(zero_point).mul_(scale).reshape(codes.shape)


def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    bits: int = 8,
    symmetric: bool = True,
    block: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """``dequantize(quantize(x))``, x of any shape, the result like ``x``: floats that lie on the grid. Arguments as there.

    Gradients do not flow through the rounding; a straight-through estimator is another function's business.
    """
    codes = quantize(x.detach(), scale, zero_point, bits, symmetric, block)
    return dequantize(codes, scale, zero_point, block).to(x.dtype)


def error_bound(scale: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """How far a value inside the chosen range can lie from what its code stands for: ``scale · (1/2 + 2^b · 2^−22)``.

    Exact arithmetic gives scale / 2. In float32 (u = 2^−24) a code is at most Q = 2^b − 1 steps from the zero point, so
    the division x / scale, the rounding of the scale itself, and the product that dequantizes err by Q·u steps each:
    3·Q·u in all, less than 2^b · 2^−22.

    Args:
        scale: any shape.
        bits: as it was quantized.
    Returns:
        float64, the shape of ``scale``.

    >>> error_bound(torch.tensor([1.0]), 8).item() - 0.5 == 2**-14
    True
    """
    code_range(bits, True)
    return scale.double() * (0.5 + 2.0 ** (bits - 22))


def _expect_floats(x: torch.Tensor) -> None:
    expect(x.is_floating_point(), "x", x.dtype, "a floating-point tensor")


def _expect_all(good: torch.Tensor, low: torch.Tensor, high: torch.Tensor, expected: str) -> None:
    if not good.all():
        expect(False, "low, high", (low[~good][0].item(), high[~good][0].item()), expected)


def _has_nan(x: torch.Tensor) -> bool:
    """A sum is one pass without a copy; it can also be NaN by +Inf − Inf, so only then are the entries looked at."""
    return bool(torch.isnan(x.sum())) and bool(torch.isnan(x).any())


def _split(x: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
    """The tensor as (G₁, b₁, G₂, b₂, …), a view where possible, for one value per block to broadcast over."""
    return x.reshape([n for g, s in zip(counts, x.shape or (1,), strict=True) for n in (g, s // g)])


def _fit(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, block: tuple[int, ...] | None
) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    """How many blocks there are along each dimension; scale and zero point as (G₁, 1, G₂, 1, …)."""
    shape = tuple(x.shape) or (1,)
    same = zero_point.shape == scale.shape
    expect(same, "zero_point", tuple(zero_point.shape), f"the shape of scale, {tuple(scale.shape)}")
    expect(scale.dtype == torch.float32, "scale", scale.dtype, "torch.float32")
    expect(bool((scale > 0).all()), "scale", scale.detach().min().item(), "numbers above 0")
    expect(not zero_point.is_floating_point(), "zero_point", zero_point.dtype, "an integer tensor")
    if block is not None:
        counts = grid(shape, block_size(shape, tuple(block)))
    else:
        counts = (1,) * len(shape) if scale.numel() == 1 else tuple(scale.shape)
    fits = len(counts) == len(shape) and all(g > 0 and s % g == 0 for g, s in zip(counts, shape, strict=True))
    fits = fits and scale.numel() == torch.Size(counts).numel()
    expect(fits, "scale", tuple(scale.shape), f"a scale for each block of {shape}, or one for all")
    wide = [n for g in counts for n in (g, 1)]
    return counts, scale.reshape(wide), zero_point.reshape(wide)
