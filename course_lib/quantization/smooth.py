"""SmoothQuant: move the difficulty of quantizing from a layer's inputs to its weights, column by column.

``y = (x / s)·(W·diag(s))ᵀ`` for any s > 0. Inputs of Transformers have a few columns far larger than the rest, which spoil a
scale shared by a token; divided by s they are even, and the weight takes s up. Xiao et al. 2022, 2211.10438.

There the division is folded into the LayerNorm before, for free. In BERT that changes the model: the residual connection reads
the LayerNorm's output too (:func:`fold_into_layer_norm` is here to show it). So the division is a step of its own,
:class:`InputScaledLinear`: exact wherever it stands, and it costs one pass over the input.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from course_lib.calibration import Batch, Channels
from course_lib.errors import CourseError, expect
from course_lib.layerwise import collect, linear_layers
from course_lib.plan import Matches, replace_module
from course_lib.report import Report, Reporting


class InputScaledLinear(nn.Module):
    """``linear(x / input_scale)``: a linear layer, float or quantized, behind a division of each input column.

    Args:
        linear: the layer inside, with ``in_features`` and ``out_features``, its weight already multiplied by the scale.
        input_scale: (D,), above 0; a buffer, stored with the model.
    Raises:
        ValueError: a scale for another number of columns, or not above 0.
    """

    def __init__(self, linear: nn.Module, input_scale: torch.Tensor) -> None:
        super().__init__()
        _expect_scale(input_scale, linear.in_features)
        self.linear = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("input_scale", input_scale.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) → (…, R)"""
        return self.linear(x / self.input_scale)


@dataclass(frozen=True)
class Smooth:
    """SmoothQuant of a layer.

    Attributes:
        alpha: how much of the difficulty moves to the weights, 0 to 1; the paper uses 0.5.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        expect(0 <= self.alpha <= 1, "alpha", self.alpha, "a number between 0 and 1")


def smooth_scale(absmax: torch.Tensor, weight: torch.Tensor, alpha: float = 0.5) -> torch.Tensor:
    """``s_j = max|X_j|^α / max|W_j|^(1−α)`` for each input column j (Xiao et al. 2022, 2211.10438, equation 4).

    With α = ½ the largest input and the largest weight of a column become equal: ``√(max|X_j|·max|W_j|)`` both.

    Args:
        absmax: ``max_t |X_tj|`` over the calibration tokens, (D,), finite, at least 0.
        weight: W, (R, D).
        alpha: 0 to 1.
    Returns:
        s (D,), of the dtype of ``weight``; 1 for a dead column (all its inputs or all its weights are 0): nothing to balance.
    Raises:
        ValueError: other shapes, numbers that are not finite, alpha out of range.

    >>> smooth_scale(torch.tensor([16.0, 1.0]), torch.tensor([[1.0, -4.0], [0.5, 2.0]]))
    tensor([4.0000, 0.5000])
    """
    expect(0 <= alpha <= 1, "alpha", alpha, "a number between 0 and 1")
    expect(weight.dim() == 2 and bool(torch.isfinite(weight).all()), "weight", tuple(weight.shape), "a finite matrix (R, D)")
    expect(absmax.shape == weight.shape[1:], "absmax", tuple(absmax.shape), f"one for each of {weight.shape[1]} columns")
    good = bool(torch.isfinite(absmax).all()) and bool((absmax >= 0).all())
    expect(good, "absmax", absmax[:8].tolist(), "finite numbers of at least 0")
    inputs, weights = absmax.double(), weight.detach().abs().amax(0).double()
    scale = inputs.pow(alpha) / weights.pow(1 - alpha)
    return scale.masked_fill((inputs == 0) | (weights == 0), 1.0).to(weight.dtype)


def scaled_columns(weight: torch.Tensor, input_scale: torch.Tensor) -> torch.Tensor:
    """``W·diag(s)``, W (out, in) and s (in,): the weight that belongs behind a division of the input by s.

    >>> scaled_columns(torch.tensor([[1.0, 2.0]]), torch.tensor([10.0, 0.5]))
    tensor([[10.,  1.]])
    """
    _expect_scale(input_scale, weight.shape[1])
    return weight * input_scale.to(weight.dtype)


def fold_into_layer_norm(norm: nn.LayerNorm, input_scale: torch.Tensor) -> None:
    """Let a LayerNorm put out ``x / s``, in place: ``γ/s`` and ``β/s``.

    Exact only where nothing but layers that take s up reads the output. In a post-LayerNorm encoder such as BERT the residual
    connection does (Xiao et al. 2022, 2211.10438, have pre-LayerNorm models).

    Args:
        norm: with weight and bias (D,).
        input_scale: s, (D,), above 0.
    """
    _expect_scale(input_scale, norm.normalized_shape[-1])
    with torch.no_grad():
        norm.weight.div_(input_scale)
        norm.bias.div_(input_scale)


def apply_smooth(model: nn.Module, plan: Mapping[str, Smooth], batches: Iterable[Batch]) -> Report:
    """Put a division of the inputs before linear layers and its inverse into their weights; the output stays as it was.

    Quantize afterwards: the layers inside are called as before with ``.linear`` after it. Source: 2211.10438.

    Args:
        model: called as ``model(**batch)``, changed in place.
        plan: module name or pattern → :class:`Smooth`.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
    Returns:
        What was changed, with the ratio of the largest to the median input column before and after.
    Raises:
        CourseError: a plan that matches nothing, or a layer whose input is scaled already.
        ValueError: a calibration set that is empty or of the wrong type.
    """
    matches = layers_to_scale(model, plan, Smooth)
    channels = collect(model, {name: linear for name, (linear, _) in matches.found.items()}, batches, Channels)
    scales = {n: smooth_scale(channels[n].absmax(), m.weight, config.alpha) for n, (m, config) in matches.found.items()}
    count, changed = Reporting(model), []
    for name, (linear, _) in matches.found.items():
        with torch.no_grad():
            linear.weight.copy_(scaled_columns(linear.weight, scales[name]))
        replace_module(model, name, InputScaledLinear(linear, scales[name]).train(linear.training))
        before = channels[name].absmax()
        after = before / scales[name]
        ratios = f"{before.max() / before.median():.1f} → {after.max() / after.median():.1f}"
        changed.append(f"{name}: largest over median input column {ratios}")
    return count.report(changed, matches.skipped)


def layers_to_scale(model: nn.Module, plan: Mapping[str, Any], kind: type) -> Matches:
    """The linear layers of a plan for a method that scales inputs.

    Args:
        kind: what the plan's configurations are.
    Raises:
        CourseError: a plan that matches nothing, or a layer inside an :class:`InputScaledLinear`.
        ValueError: a configuration of another kind.
    """
    matches = linear_layers(model, plan, kind)
    for name in matches.found:
        if isinstance(model.get_submodule(name.rpartition(".")[0]), InputScaledLinear):
            raise CourseError(f"plan: the input of {name} is scaled already; expected a layer that is as it was trained.")
    return matches


def _expect_scale(input_scale: torch.Tensor, columns: int) -> None:
    expect(
        tuple(input_scale.shape) == (columns,), "input_scale", tuple(input_scale.shape), f"one for each of {columns} columns"
    )
    good = bool(torch.isfinite(input_scale).all()) and bool((input_scale > 0).all())
    expect(good, "input_scale", input_scale[:8].tolist(), "finite numbers above 0")
