"""Fake quantization one can train through: the forward pass rounds, the backward pass looks away where it did."""

import math

import torch

from course_lib.errors import expect
from course_lib.quantization.affine import code_range, dequantize, quantize


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, zero_point, bits, symmetric, gradient_factor):
        ctx.save_for_backward(x, scale, zero_point)
        ctx.ends, ctx.gradient_factor = code_range(bits, symmetric), gradient_factor
        return dequantize(quantize(x, scale, zero_point, bits, symmetric), scale, zero_point)

    @staticmethod
    def backward(ctx, gradient):
        (x, scale, zero_point), (smallest, largest) = ctx.saved_tensors, ctx.ends
        steps = x / scale
        codes = steps.round() + zero_point
        inside = (codes >= smallest) & (codes <= largest)
        for_x = gradient * inside if ctx.needs_input_grad[0] else None
        for_scale = None
        if ctx.needs_input_grad[1]:
            slope = codes.clamp_(smallest, largest) - zero_point - steps * inside
            slope = (gradient * slope * ctx.gradient_factor).double()  # thousands of terms that cancel
            total = slope.sum() if scale.numel() == 1 else slope.sum_to_size(scale.shape)
            for_scale = total.view(scale.shape).float()
        return for_x, for_scale, None, None, None, None


def straight_through(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    bits: int = 8,
    symmetric: bool = True,
    gradient_factor: float = 1.0,
) -> torch.Tensor:
    """``dequantize(quantize(x))`` with a gradient for x and for the scale.

    Rounding has derivative 0 almost everywhere; the straight-through estimator takes 1 for it (Bengio et al. 2013, 1308.3432):
    ``∂x̂/∂x = 1`` inside the range and 0 where x is clipped. With that, ``∂x̂/∂s = round(x/s) − x/s`` inside, and at the ends
    the end code less the zero point (LSQ, Esser et al. 2019, 1902.08153).

    Args:
        x: float32, any shape, no NaN.
        scale, zero_point: float32 > 0 and int32; one number, or of as many dimensions as x, with 1 where they are shared.
        bits, symmetric: as for :func:`course_lib.quantization.affine.quantize`.
        gradient_factor: what the scale's gradient is multiplied with, see :func:`step_gradient_factor`.
    Returns:
        float32, of the shape of ``x``: exactly what the codes of ``quantize`` stand for.
    Raises:
        ValueError: as ``quantize``.

    >>> x, scale = torch.tensor([0.6, 9.0], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    >>> y = straight_through(x, scale, torch.tensor([0], dtype=torch.int32), bits=3)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist(), round(scale.grad.item(), 4)  # 0.6/0.5 rounds down by 0.2; 9 is clipped to 3 steps
    ([0.5, 1.5], [1.0, 0.0], 2.8)
    """
    return _FakeQuantize.apply(x, scale, zero_point, bits, symmetric, gradient_factor)


def step_gradient_factor(count: int, bits: int, symmetric: bool = True) -> float:
    """``1 / √(count · qmax)``: makes a scale's gradient as large, relative to the scale, as those of its values (1902.08153, 2.2).

    Args:
        count: how many values share the scale.
        bits, symmetric: of the codes; qmax is the largest one.
    """
    expect(count >= 1, "count", count, "at least one value")
    return 1 / math.sqrt(count * code_range(bits, symmetric)[1])


def least_squares_scale(blocks: torch.Tensor, bits: int, steps: int = 40) -> torch.Tensor:
    """For each row the symmetric scale with the least ``Σ (x − x̂)²`` of ``max|x| / qmax · i / steps``, i = 1 … steps.

    Args:
        blocks: float32 (rows, entries), finite.
        bits: of the codes.
        steps: scales tried; the last is that of min-max.
    Returns:
        float32 (rows, 1), above 0.

    >>> least_squares_scale(torch.tensor([[0.5, -0.5, 0.5, -0.5, 0.9]]), bits=2, steps=9)
    tensor([[0.6000]])
    """
    top = blocks.abs().amax(1, keepdim=True)
    widest = (top / code_range(bits, True)[1]).masked_fill(top == 0, 1.0).clamp(min=torch.finfo(torch.float32).tiny)
    best, least = widest, torch.full_like(widest, math.inf)
    zero_point = torch.zeros_like(widest, dtype=torch.int32)
    for i in range(1, steps + 1):
        scale = (widest * (i / steps)).clamp(min=torch.finfo(torch.float32).tiny)
        restored = dequantize(quantize(blocks, scale, zero_point, bits), scale, zero_point)
        error = (restored - blocks).square().sum(1, keepdim=True)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


class IntegerProduct(torch.autograd.Function):
    """``y = base(x)`` of an integer layer, with the gradient of its float form: ``∂L/∂x = ∂L/∂y · Ŵ``, Ŵ the dequantized weight.

    Rounding the inputs to codes counts as the identity (the straight-through estimator, Bengio et al. 2013, 1308.3432).
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, base: torch.nn.Module) -> torch.Tensor:
        """(…, K) → (…, N)"""
        ctx.base = base
        return base(x.detach())

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """(…, N) → (…, K)"""
        return gradient @ ctx.base.dequantize().to(gradient.dtype), None
