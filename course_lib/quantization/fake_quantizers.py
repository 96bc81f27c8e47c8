"""The fake quantizers of training: of weights and of activations, with scales that follow the values or are learned."""

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.granularity import Granularity, block_size, from_blocks, to_blocks
from course_lib.quantization.affine import choose_affine, choose_from_range, quantize
from course_lib.quantization.straight_through import least_squares_scale, step_gradient_factor, straight_through

Range = tuple[torch.Tensor, torch.Tensor]


class RoundedWeight(nn.Module):
    """Symmetric fake quantization of a weight, its scales taken from the largest entries at every call.

    Args:
        weight: (N, K), floating point, finite.
        bits: of the codes.
        granularity: which entries share a scale.
    """

    def __init__(self, weight: torch.Tensor, bits: int, granularity: Granularity) -> None:
        super().__init__()
        expect(weight.dtype == torch.float32, "weight", weight.dtype, "torch.float32, as training needs")
        choose_affine(weight, bits)  # refuses what is empty or not finite
        self.bits, self.block = bits, block_size(weight.shape, granularity)

    def scale(self, blocks: torch.Tensor) -> torch.Tensor:
        """Scales (blocks, 1) for the rows of a matrix."""
        return choose_affine(blocks.detach(), self.bits, granularity="channel")[0]

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """What the codes of the weight stand for, (N, K)."""
        blocks = to_blocks(weight, self.block)
        return from_blocks(self.rounded(blocks, self.scale(blocks)), weight.shape, self.block)

    def rounded(self, blocks: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Fake quantization of the rows of a matrix."""
        return straight_through(blocks, scale, torch.zeros_like(scale, dtype=torch.int32), self.bits)

    def codes(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes int8 (N, K) with which :meth:`forward` computes, and their scales (blocks, 1)."""
        blocks = to_blocks(weight, self.block)
        scale = self.scale(blocks)
        codes = quantize(blocks, scale, torch.zeros_like(scale, dtype=torch.int32), self.bits)
        return from_blocks(codes, weight.shape, self.block), scale


class LearnedWeight(RoundedWeight):
    """The same with scales that are learned (LSQ, 1902.08153), from those of the least squared error on.

    The parameter is the logarithm of the scale. A step of Adam has the size of the learning rate whatever the gradient: on a
    scale of 0.001 it would be far too long, on its logarithm it is a step of so many per cent, and the scale stays above 0
    (as in Jain et al. 2019, 1903.08066). The gradient of the scale itself is LSQ's.
    """

    def __init__(self, weight: torch.Tensor, bits: int, granularity: Granularity) -> None:
        super().__init__(weight, bits, granularity)
        blocks = to_blocks(weight, self.block)
        self.gradient_factor = step_gradient_factor(blocks.shape[1], bits)
        self.log_scale = nn.Parameter(least_squares_scale(blocks, bits).log().view(-1))  # one dimension: no weight decay

    def scale(self, blocks: torch.Tensor) -> torch.Tensor:
        """The learned scales (blocks, 1)."""
        return self.log_scale.exp().view(-1, 1)

    def rounded(self, blocks: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Fake quantization of the rows of ``blocks`` (blocks, size), with gradients for their scales (blocks, 1)."""
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return straight_through(blocks, scale, zero_point, self.bits, gradient_factor=self.gradient_factor)


class MovingRange(nn.Module):
    """Asymmetric fake quantization of activations; the range is a moving average of the ends of training's batches.

    ``low ← low + rate · (min(x) − low)``, in training mode only (Jacob et al. 2017, 1712.05877, section 3.1). Padding counts too:
    a layer does not know which tokens are real.

    Args:
        bits: of the codes.
        start: the range to start from; None: the first batch's.
        rate: weight of the newest batch.
    """

    def __init__(self, bits: int, start: Range | None = None, rate: float = 0.01) -> None:
        super().__init__()
        self.bits, self.rate = bits, rate
        low, high = (0.0, 0.0) if start is None else (float(end) for end in start)
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        self.register_buffer("started", torch.tensor(start is not None))

    def choose(self) -> Range:
        """Scale (float32) and zero point (int32) as they are now, each a scalar.

        Raises:
            CourseError: no range yet.
        """
        if not self.started:
            raise CourseError(
                "no batch of training has been seen, so there is no range of inputs; train first, or give ranges."
            )
        return choose_from_range(self.low, self.high, self.bits, symmetric=False)

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Move the range towards the ends of a batch ``x``, of any shape."""
        low, high = x.aminmax()
        rate = torch.where(self.started, self.rate, 1.0)
        self.low += rate * (low - self.low)
        self.high += rate * (high - self.high)
        self.started.fill_(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the codes of x stand for, float32, of its shape."""
        x = x.float()
        if self.training:
            self.observe(x.detach())
        return straight_through(x, *self.choose(), self.bits, symmetric=False)


class LearnedStep(nn.Module):
    """Asymmetric fake quantization of activations with a scale that is learned (LSQ, 1902.08153).

    The zero point is that of the starting range and stays: range and scale grow together. For ``log_scale`` see :class:`LearnedWeight`.

    Args:
        bits: of the codes.
        start: the range to start from; None: the first batch's of training.
    """

    def __init__(self, bits: int, start: Range | None = None) -> None:
        super().__init__()
        self.bits = bits
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("started", torch.tensor(False))
        if start is not None:
            self.start(*start)

    @torch.no_grad()
    def start(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Set scale and zero point to those of a range, two scalars."""
        scale, zero_point = choose_from_range(torch.as_tensor(low), torch.as_tensor(high), self.bits, symmetric=False)
        self.log_scale.copy_(scale.log())
        self.zero_point.copy_(zero_point)
        self.started.fill_(True)

    def choose(self) -> Range:
        """Scale (float32) and zero point (int32) as they are now, each a scalar.

        Raises:
            CourseError: no range yet.
        """
        if not self.started:
            raise CourseError(
                "no batch of training has been seen, so there is no range of inputs; train first, or give ranges."
            )
        return self.log_scale.exp(), self.zero_point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the codes of x stand for, float32, of its shape; gradients pass to x and the scale."""
        x = x.float()
        if self.training and not self.started:
            self.start(*x.detach().aminmax())
        factor = step_gradient_factor(x.numel(), self.bits, symmetric=False)
        return straight_through(x, *self.choose(), self.bits, symmetric=False, gradient_factor=factor)
