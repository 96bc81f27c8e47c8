"""Dynamic loss scaling: the loss times a power of two, so that small gradients do not fall below what fp16 can hold.

Multiplied by S, the loss has gradients S times as large; before the step they are divided by S again, in fp32. S is looked
for while training: after an overflow (a gradient that is infinite or NaN) the step is skipped and S halved, after so many good
steps in a row it is doubled.

Source: Micikevicius et al. 2017, 1710.03740, section 3.2; the dynamic rule is that of ``torch.amp.GradScaler``.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from course_lib.errors import CourseError, expect


@dataclass(frozen=True)
class ScalerSettings:
    """The rule of a loss scaler; what is not about stopping is torch's own.

    Attributes:
        first: the scale to begin with. Powers of two (with factors that are such too) make scaling exact.
        growth: factor above 1 after ``interval`` good steps in a row.
        backoff: factor between 0 and 1 after an overflow.
        interval: good steps between growths.
        most_skips: as many steps may be skipped in a row; one more is an error.
        smallest: a scale below it is an error: a loss made so small cannot overflow fp16, so it is infinite or NaN by itself.
    """

    first: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    most_skips: int = 40
    smallest: float = 2.0**-40

    def __post_init__(self) -> None:
        expect(0 < self.first < math.inf, "first", self.first, "a finite scale above 0, such as 65536")
        expect(1 < self.growth < math.inf, "growth", self.growth, "a factor above 1, such as 2")
        expect(0 < self.backoff < 1, "backoff", self.backoff, "a factor between 0 and 1, such as 0.5")
        expect(self.interval >= 1, "interval", self.interval, "at least 1 step")
        expect(self.most_skips >= 0, "most_skips", self.most_skips, "0 or more steps")
        expect(0 < self.smallest <= self.first, "smallest", self.smallest, f"above 0 and at most the first scale, {self.first}")


@dataclass(frozen=True)
class ScalerState:
    """Where a loss scaler is.

    Attributes:
        scale: what the next loss is multiplied with, a float32 number.
        good: steps since the last overflow or growth.
        skips: steps skipped in a row.
    """

    scale: float
    good: int = 0
    skips: int = 0


def next_state(state: ScalerState, overflow: bool, settings: ScalerSettings) -> ScalerState:
    """The state after a step: backed off after an overflow, grown after ``interval`` good steps; never grown to infinity.

    Args:
        state: before the step.
        overflow: whether a gradient was infinite or NaN.
        settings: the rule.
    Raises:
        CourseError: more skips in a row than allowed, or a scale below the smallest; waiting longer would train nothing.

    >>> rule = ScalerSettings(first=8.0, interval=2)
    >>> next_state(ScalerState(8.0, good=1), False, rule), next_state(ScalerState(8.0, good=1), True, rule)
    (ScalerState(scale=16.0, good=0, skips=0), ScalerState(scale=4.0, good=0, skips=1))
    """
    if overflow:
        after = ScalerState(_float32(state.scale * settings.backoff), 0, state.skips + 1)
        if after.skips > settings.most_skips or after.scale < settings.smallest:
            raise CourseError(
                f"The gradients were infinite or NaN in {after.skips} steps in a row, down to a loss scale of {state.scale:g}: expected a "
                f"finite step within {settings.most_skips} skips and at a scale of {settings.smallest:g} or more. The loss itself is "
                "probably infinite or NaN: look at the data, lower the learning rate, or train in bf16 or fp32."
            )
        return after
    if state.good + 1 < settings.interval:
        return ScalerState(state.scale, state.good + 1)
    grown = _float32(state.scale * settings.growth)
    return ScalerState(grown if math.isfinite(grown) else state.scale)


class LossScaler:
    """A loss scaler for a training loop: scale the loss, unscale the gradients, step only where they are finite.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> scaler, optimizer = LossScaler(), torch.optim.SGD([w], lr=0.5)
    >>> scaler.scaled((3 * w).sum()).backward()
    >>> scaler.step(optimizer), w.tolist()  # 1 − 0.5 · 3
    (True, [-0.5])
    """

    def __init__(self, settings: ScalerSettings | None = None) -> None:
        self.settings = settings or ScalerSettings()
        self.state = ScalerState(_float32(self.settings.first))

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, times the scale, in fp32 at least (in fp16 a loss above 1 would overflow at once)."""
        expect(loss.dim() == 0 and loss.is_floating_point(), "loss", tuple(loss.shape), "a scalar")
        return (loss if loss.dtype == torch.float64 else loss.float()) * self.state.scale

    def step(self, optimizer: torch.optim.Optimizer, clip: float | None = None) -> bool:
        """Unscale the gradients, step if all are finite, and go on to the next state.

        Args:
            optimizer: over parameters with gradients of scaled losses.
            clip: the largest norm of the gradient, unscaled; None leaves it as it is.
        Returns:
            Whether the step was taken. A skipped one changes no weight and nothing of the optimizer.
        Raises:
            CourseError: see :func:`next_state`.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        finite = unscale(gradients, self.state.scale)
        self.state = next_state(self.state, not finite, self.settings)
        if finite:
            clipped_step(optimizer, clip)
        return finite


def unscale(gradients: Iterable[torch.Tensor], scale: float) -> bool:
    """Divide gradients by the scale, in place, and say whether all of them are finite.

    They are multiplied by ``1/scale``, rounded to float32: exact for a power of two, but where the result is subnormal in fp32.

    Args:
        gradients: float32 or float64, any shapes. Not fp16: what was too small for it would be lost here again.
        scale: above 0.
    Raises:
        ValueError: no gradients, gradients in half precision, or a scale that is no positive number.
    """
    gradients = list(gradients)
    expect(len(gradients) > 0, "gradients", 0, "at least one gradient; did the backward pass run?")
    expect(0 < scale < math.inf, "scale", scale, "a finite number above 0")
    for gradient in gradients:
        expect(gradient.dtype in (torch.float32, torch.float64), "gradient.dtype", gradient.dtype, "float32 or float64")
    for gradient in gradients:
        gradient.mul_(_float32(1 / scale))
    return all(is_finite(gradient) for gradient in gradients)


def is_finite(x: torch.Tensor) -> bool:
    """Whether no entry of x, any shape, is infinite or NaN; without a temporary tensor of its size, as ``x.isfinite()`` makes."""
    return x.numel() == 0 or all(math.isfinite(end) for end in torch.aminmax(x.detach()))


def clipped_step(optimizer: torch.optim.Optimizer, clip: float | None = None) -> None:
    """Shrink all gradients by one factor, to a norm of at most ``clip`` together (None leaves them as they are), and step."""
    if clip is not None:
        expect(clip > 0, "clip", clip, "a positive norm")
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def _float32(x: float) -> float:
    return float(torch.tensor(x, dtype=torch.float32))
