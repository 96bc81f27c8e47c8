"""Static int8: ranges of activations measured beforehand, and the search for the layers that cannot bear it.

One scale for all tokens has to hold the largest activation; a layer with a few huge ones leaves hardly any codes for the rest.
So: measure the ranges, quantize one layer at a time to see what each costs, and leave the costly ones in float
(sensitivity analysis: Wu et al. 2020, 2004.09602; outliers in BERT: Bondarenko et al. 2021, 2109.12948).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.calibration import Batch, Statistic
from course_lib.errors import expect
from course_lib.layerwise import collect
from course_lib.plan import match, replace_module
from course_lib.quantization.apply import Range, quantized_modules
from course_lib.quantization.observers import MinMax
from course_lib.quantization.scheme import Scheme

Metric = Callable[[nn.Module], float]


class InputRange(Statistic):
    """The range of a layer's inputs, as an observer sees it.

    Args:
        features: columns of the input.
        observer: of :mod:`course_lib.quantization.observers`, with ``update`` and ``range``.
    """

    def __init__(self, features: int, observer: MinMax) -> None:
        super().__init__(features)
        self.observer = observer

    def _add(self, x: torch.Tensor) -> None:
        self.observer.update(x)


def input_ranges(
    model: nn.Module, patterns: Iterable[str], batches: Iterable[Batch], observer: Callable[[], MinMax] = MinMax
) -> dict[str, Range]:
    """The ranges of the inputs of linear layers over a calibration set, real tokens only, streamed batch by batch.

    Args:
        model: called as ``model(**batch)``, without dropout; not changed.
        patterns: names or patterns of linear layers.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
        observer: makes an empty observer for a layer: ``MinMax``, or ``lambda: Mse(symmetric=False)``.
    Returns:
        Name → smallest and largest input, float32 scalars.
    Raises:
        CourseError: a pattern that matches no linear layer.
        ValueError: a calibration set that is empty or of the wrong type, or inputs that are not finite.
    """
    expect(not isinstance(patterns, str), "patterns", patterns, "a list of names and patterns, not one string")
    modules = {name: module for name, (module, _) in match(model, dict.fromkeys(patterns)).found.items()}
    statistics = collect(model, modules, batches, lambda features: InputRange(features, observer()))
    return {name: statistic.observer.range() for name, statistic in statistics.items()}


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer alone does.

    Attributes:
        name: of the layer.
        metric: of the model with this layer quantized and all others as they are.
        drop: metric of the model as it is, less that.
    """

    name: str
    metric: float
    drop: float


def sensitivity_scan(
    model: nn.Module,
    plan: Mapping[str, Scheme],
    metric: Metric,
    ranges: Mapping[str, Range] | None = None,
    progress: Callable[[Sensitivity], None] | None = None,
) -> list[Sensitivity]:
    """Quantize each layer of a plan alone, and measure.

    Args:
        model: floating point; as it was afterwards, to the bit.
        plan, ranges: as for :func:`course_lib.quantization.apply.apply`; each end of a range is a scalar.
        metric: of a model, higher is better, such as F1 **on validation data**.
        progress: called after each layer.
    Returns:
        One entry per layer, the largest drop first; equal ones in the model's order.
    Raises:
        CourseError: as ``apply``.
    """
    new, _ = quantized_modules(model, plan, ranges)
    whole, found = metric(model), []
    for name, module in new.items():
        with swapped(model, {name: module}):
            value = metric(model)
        found.append(Sensitivity(name, value, whole - value))
        if progress:
            progress(found[-1])
    return sorted(found, key=lambda s: -s.drop)


def find_exclusions(
    model: nn.Module,
    plan: Mapping[str, Scheme],
    metric: Metric,
    scan: list[Sensitivity],
    budget: float,
    ranges: Mapping[str, Range] | None = None,
) -> list[str]:
    """The layers to leave in float: the most sensitive of a scan, as few of them as keep the metric within a budget.

    Args:
        model, plan, metric, ranges: as for :func:`sensitivity_scan` (each end of a range is a scalar).
        scan: its result.
        budget: how far the metric may lie below that of the model as it is, ≥ 0.
    Returns:
        Names for ``apply(…, exclude=…)``, the most sensitive first. Leaving all in float costs nothing, so there is an answer.
    """
    expect(budget >= 0, "budget", budget, "a drop of the metric of at least 0")
    new, _ = quantized_modules(model, plan, ranges)
    order = [s.name for s in scan]
    same = sorted(order) == sorted(new)
    expect(same, "scan", order[:4], f"a scan of the {len(new)} layers of this plan")
    floor = metric(model) - budget
    for count in range(len(order)):
        with swapped(model, {name: new[name] for name in order[count:]}):
            if metric(model) >= floor:
                return order[:count]
    return order


@contextlib.contextmanager
def swapped(model: nn.Module, new: Mapping[str, nn.Module]) -> Iterator[None]:
    """Other modules in the place of some while this lasts; their own come back afterwards."""
    own = {name: model.get_submodule(name) for name in new}
    try:
        for name, module in new.items():
            replace_module(model, name, module)
        yield
    finally:
        for name, module in own.items():
            replace_module(model, name, module)
