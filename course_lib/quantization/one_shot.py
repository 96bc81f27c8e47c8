"""GPTQ and AWQ on an encoder: calibrate, solve and store, one Transformer layer after another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.calibration import Batch, Hessian, Sample, Statistic
from course_lib.errors import expect
from course_lib.layerwise import layer_by_layer, linear_layers
from course_lib.obs import output_error
from course_lib.plan import replace_module
from course_lib.quantization.affine import choose_affine, dequantize, quantize
from course_lib.quantization.apply import packed_class
from course_lib.quantization.awq import awq, expect_uniform
from course_lib.quantization.gptq import gptq
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.packed_linear import PackedLinear
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.smooth import InputScaledLinear, layers_to_scale, scaled_columns
from course_lib.quantization.weights import IntegerWeight
from course_lib.report import Report, Reporting

FOUR_BITS = Scheme(bits=4, granularity=64)


@dataclass(frozen=True)
class Gptq:
    """GPTQ of a layer.

    Attributes:
        scheme: of the codes: a uniform grid, activations in float or dynamic.
        damping: of the Hessian, a fraction of its mean diagonal.
        act_order: take the columns with the largest inputs first.
    """

    scheme: Scheme = FOUR_BITS
    damping: float = 0.01
    act_order: bool = False

    def __post_init__(self) -> None:
        _expect_storable(self.scheme)
        expect(0 <= self.damping < float("inf"), "damping", self.damping, "a fraction of the mean diagonal, such as 0.01")


@dataclass(frozen=True)
class Awq:
    """AWQ of a layer.

    Attributes:
        scheme: of the codes: a uniform grid, activations in float or dynamic.
        steps: exponents tried are 0, 1/steps, …, 1.
    """

    scheme: Scheme = FOUR_BITS
    steps: int = 20

    def __post_init__(self) -> None:
        _expect_storable(self.scheme)
        expect(self.steps >= 1, "steps", self.steps, "at least 1")


def apply_gptq(model: nn.Module, plan: Mapping[str, Gptq], batches: Iterable[Batch]) -> Report:
    """Quantize linear layers by GPTQ, layer by layer (Frantar et al. 2022, 2210.17323).

    Each layer's Hessian comes from inputs that the layers quantized before it put out. Scales are those of the weights as they
    were, so the codes are stored as rounded ones are.

    Args:
        model: a BERT-like model, changed in place.
        plan: module name or pattern → :class:`Gptq`.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
    Returns:
        What was changed, with the output error on the calibration set beside that of rounding to nearest.
    Raises:
        CourseError: a plan that matches nothing or a model that is not built like BERT.
        ValueError: a calibration set that is empty or of the wrong type, or blocks that do not divide a weight.
    """
    matches = linear_layers(model, plan, Gptq)
    count, changed = Reporting(model), []
    scales = {name: _scales(linear.weight.detach(), config.scheme) for name, (linear, config) in matches.found.items()}

    def solve(name: str, statistic: Hessian) -> None:
        (linear, config), (scale, zero_point), hessian = matches.found[name], scales[name], statistic.matrix()
        weight, scheme = linear.weight.detach(), config.scheme
        settings = (scale, zero_point, scheme.bits, scheme.symmetric)
        codes = gptq(weight, hessian, *settings, damping=config.damping, act_order=config.act_order)
        nearest = quantize(weight, *settings)
        replace_module(model, name, quantized_layer(codes, scale, zero_point, linear.bias, scheme))
        errors = [output_error(weight, dequantize(c, scale, zero_point), hessian) for c in (codes, nearest)]
        changed.append(f"{name}: {scheme}; output error {errors[0]:.4g}, rounding to nearest {errors[1]:.4g}")

    layer_by_layer(model, {name: linear for name, (linear, _) in matches.found.items()}, batches, Hessian, solve)
    return count.report(changed, matches.skipped)


def apply_awq(model: nn.Module, plan: Mapping[str, Awq], batches: Iterable[Batch], rows: int = 512, seed: int = 0) -> Report:
    """Quantize linear layers by AWQ, layer by layer (Lin et al. 2023, 2306.00978), each behind a division of its input.

    Args:
        model: a BERT-like model, changed in place.
        plan: module name or pattern → :class:`Awq`.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
        rows: tokens on which the exponents of a layer are judged, at most.
        seed: draws them.
    Returns:
        What was changed, with the output error on those tokens beside that of rounding to nearest.
    Raises:
        CourseError: a plan that matches nothing, a layer whose input is scaled already, or a model that is not built like BERT.
        ValueError: a calibration set that is empty or of the wrong type, or blocks that do not divide a weight.
    """
    matches = layers_to_scale(model, plan, Awq)
    count, changed = Reporting(model), []
    for linear, config in matches.found.values():
        _scales(linear.weight.detach(), config.scheme)  # refuses blocks that do not divide it, before anything is changed

    def solve(name: str, statistic: Sample) -> None:
        linear, config = matches.found[name]
        input_scale, errors = awq(linear.weight.detach(), statistic.matrix(), config.scheme, config.steps)
        weight = scaled_columns(linear.weight.detach(), input_scale)
        scale, zero_point = _scales(weight, config.scheme)
        codes = quantize(weight, scale, zero_point, config.scheme.bits, config.scheme.symmetric)
        layer = quantized_layer(codes, scale, zero_point, linear.bias, config.scheme)
        replace_module(model, name, InputScaledLinear(layer, input_scale))
        exponent = int(errors.argmin()) / config.steps
        found = f"exponent {exponent:g}, output error {errors.min():.4g}, rounding to nearest {errors[0]:.4g}"
        changed.append(f"{name}: {config.scheme}; {found}")

    def gather(features: int) -> Statistic:
        return Sample(features, rows, seed)

    layer_by_layer(model, {name: linear for name, (linear, _) in matches.found.items()}, batches, gather, solve)
    return count.report(changed, matches.skipped)


def quantized_layer(
    codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bias: torch.Tensor | None, scheme: Scheme
) -> Int8Linear | PackedLinear:
    """The layer that holds given codes: of integer products for dynamic activations, else packed.

    Args:
        codes: (R, D), int8 for a symmetric scheme, else uint8; ``scale``, ``zero_point``: one per block; ``bias``: (R,).
        scheme: what the codes are of.
    """
    zeros = None if scheme.symmetric else zero_point
    if scheme.activation == "dynamic":
        return Int8Linear.from_codes(codes, scale, zeros, bias, scheme)
    return packed_class(scheme).from_weight(IntegerWeight.from_codes(codes, scale, zeros, scheme), bias)


def _scales(weight: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    return choose_affine(weight, scheme.bits, scheme.symmetric, scheme.granularity)


def _expect_storable(scheme: Scheme) -> None:
    expect(isinstance(scheme, Scheme), "scheme", scheme, "a Scheme")
    expect_uniform(scheme)
    expected = "activations in float or dynamic; a static range is measured on the finished model"
    expect(scheme.activation != "static", "scheme", str(scheme), expected)
