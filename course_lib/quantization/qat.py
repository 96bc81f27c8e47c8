"""Quantization-aware training: ``prepare_qat`` puts fake quantization into a model, any loop trains it, ``export`` makes integers of it.

The forward pass of training computes with what the codes will stand for, so that the weights learn to live with it. Codes in
training and codes of the export come from the same functions with the same scales: they are equal, not close.

Straight-through gradients never settle: a weight on the border of two codes jumps between them, and with a constant learning
rate the loss rises again (oscillations: Nagel et al. 2022, 2203.11086). Let the rate fall to 0, as the course's loop does.
Sources: Jacob et al. 2017, 1712.05877 (moving ranges); Esser et al. 2019, 1902.08153 (learned step size, LSQ).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.granularity import Granularity
from course_lib.plan import match, replace_module
from course_lib.quantization.apply import Range, packed_class
from course_lib.quantization.fake_quantizers import LearnedStep, LearnedWeight, MovingRange, RoundedWeight
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.weights import IntegerWeight
from course_lib.report import Report, Reporting, tensor_bytes


@dataclass(frozen=True)
class Qat:
    """How one linear layer is trained to be quantized; weights symmetric, activations asymmetric with one scale.

    Attributes:
        bits: of a weight, 2 to 8.
        granularity: which weights share a scale; "tensor" or "channel" unless activations stay in float.
        activation_bits: 2 to 8, or None to leave activations in float.
        step: "moving": weights' scales follow their largest entries, the activations' range is a moving average of the
            batches' ends; "learned": scales are parameters (LSQ).
        rate: weight of the newest batch in the moving average.
    """

    bits: int = 8
    granularity: Granularity = "channel"
    activation_bits: int | None = 8
    step: str = "moving"
    rate: float = 0.01

    def __post_init__(self) -> None:
        expect(self.step in ("moving", "learned"), "step", self.step, "'moving' or 'learned'")
        expect(0 < self.rate <= 1, "rate", self.rate, "a number above 0 and at most 1")
        self.scheme()  # its own checks

    def scheme(self) -> Scheme:
        """What the layer becomes."""
        if self.activation_bits is None:
            return Scheme(self.bits, self.granularity)
        return Scheme(self.bits, self.granularity, activation="static", activation_bits=self.activation_bits)


class QatLinear(nn.Linear):
    """A linear layer that computes with fake-quantized weights and inputs; its weight and bias keep their names.

    Args:
        linear: the layer; its parameters are taken over, not copied.
        config: how.
        input_range: where the range of the inputs starts; None: with the first batch of training.
    """

    def __init__(self, linear: nn.Linear, config: Qat, input_range: Range | None = None) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias, self.config = linear.weight, linear.bias, config
        learned = config.step == "learned"
        kind = LearnedWeight if learned else RoundedWeight
        self.weight_quantizer = kind(linear.weight.detach(), config.bits, config.granularity)
        self.input_quantizer = None
        if config.activation_bits is not None:
            start = (config.activation_bits, input_range)
            self.input_quantizer = LearnedStep(*start) if learned else MovingRange(*start, config.rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) → (…, N)"""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        return F.linear(x, self.weight_quantizer(self.weight), self.bias)

    @torch.no_grad()
    def export(self) -> nn.Module:
        """The layer of integers with exactly these codes.

        Raises:
            CourseError: inputs of which no batch was seen.
        """
        scheme, (codes, scale) = self.config.scheme(), self.weight_quantizer.codes(self.weight)
        if self.input_quantizer is None:
            return packed_class(scheme).from_weight(IntegerWeight.from_codes(codes, scale, None, scheme), self.bias)
        return Int8Linear.from_codes(codes, scale, None, self.bias, scheme, *self.input_quantizer.choose())


def prepare_qat(model: nn.Module, plan: Mapping[str, Qat], ranges: Mapping[str, Range] | None = None) -> Report:
    """Put fake quantization into the linear layers a plan names, in place; then train the model as any other.

    Weights and biases stay the same parameters under the same names. Learned scales are parameters of one dimension or none,
    so that no weight decay falls on them; ranges are buffers: checkpoints have all of it.

    Args:
        model: floating point.
        plan: module name or pattern → :class:`Qat`.
        ranges: module name → smallest and largest input, scalars, to start from (:func:`course_lib.quantization.static.input_ranges`);
            the others start with their first batch of training. For few bits or learned steps, start from an MSE range.
    Returns:
        What was changed, and skipped.
    Raises:
        CourseError: a plan that matches nothing, or layers that are prepared already; a granularity that does not fit.
    """
    for pattern, config in plan.items():
        expect(isinstance(config, Qat), f"plan[{pattern!r}]", config, "a Qat")
    prepared = [name for name, module in model.named_modules() if isinstance(module, QatLinear)]
    if prepared:
        raise CourseError(f"{prepared[0]} is prepared for training already; export the model, or prepare the float one once.")
    matches, new = match(model, plan), {}
    for name, (module, config) in matches.found.items():
        try:
            new[name] = QatLinear(module, config, (ranges or {}).get(name)).train(module.training)
        except ValueError as error:
            raise CourseError(f"{name}: {error}. Nothing was changed.") from error
    count = Reporting(model)
    for name, module in new.items():
        replace_module(model, name, module)
    return count.report(
        [f"{n}: trained for {m.config.scheme()}, {m.config.step} steps" for n, m in new.items()], matches.skipped
    )


def export(model: nn.Module) -> Report:
    """Replace what :func:`prepare_qat` put in by layers of integers, in place: their codes are those of training.

    Raises:
        CourseError: a model that was not prepared, or a layer that has not seen a batch.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, QatLinear)}
    if not layers:
        raise CourseError(f"{type(model).__name__} has no layer prepared by prepare_qat; nothing to export.")
    new = {}
    for name, module in layers.items():
        try:
            new[name] = module.export().train(module.training)
        except CourseError as error:
            raise CourseError(f"{name}: {error}") from error
    count, changed = Reporting(model), []
    for name, module in new.items():
        replace_module(model, name, module)
        changed.append(f"{name}: {tensor_bytes(layers[name]):,} → {tensor_bytes(module):,} bytes ({module.scheme})")
    return count.report(changed)
