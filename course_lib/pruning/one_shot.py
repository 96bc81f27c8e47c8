"""Wanda and SparseGPT on an encoder: calibrate and prune, one Transformer layer after another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from course_lib.calibration import Batch, Channels, Hessian
from course_lib.errors import expect
from course_lib.layerwise import layer_by_layer, linear_layers
from course_lib.obs import output_error
from course_lib.pruning.masks import Masks, sparsity
from course_lib.pruning.sparsegpt import choose_mask, sparsegpt
from course_lib.pruning.wanda import wanda_mask
from course_lib.report import Report, Reporting


@dataclass(frozen=True)
class Wanda:
    """Wanda of a layer.

    Attributes:
        sparsity: fraction of each row to prune, or ``(n, m)``: n of every m neighbours in a row stay.
    """

    sparsity: float | tuple[int, int] = 0.5

    def __post_init__(self) -> None:
        _expect_sparsity(self.sparsity)


@dataclass(frozen=True)
class SparseGpt:
    """SparseGPT of a layer.

    Attributes:
        sparsity: fraction to prune, or ``(n, m)``: n of every m neighbours in a row stay.
        damping: of the Hessian, a fraction of its mean diagonal.
        block: columns that share one choice of the mask.
    """

    sparsity: float | tuple[int, int] = 0.5
    damping: float = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        _expect_sparsity(self.sparsity)
        expect(0 <= self.damping < float("inf"), "damping", self.damping, "a fraction of the mean diagonal, such as 0.01")
        expect(self.block >= 1, "block", self.block, "at least one column")


def apply_wanda(model: nn.Module, plan: Mapping[str, Wanda], batches: Iterable[Batch]) -> tuple[Masks, Report]:
    """Prune linear layers by Wanda, layer by layer (Sun et al. 2023, 2306.11695): weights go, those that stay do not change.

    Args:
        model: a BERT-like model, changed in place; its matrices keep their size.
        plan: module name or pattern → :class:`Wanda`.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
    Returns:
        The masks, each of its weight's shape, to train on with or to store by, and what was changed.
    Raises:
        CourseError: a plan that matches nothing or a model that is not built like BERT.
        ValueError: a calibration set that is empty or of the wrong type, or m that does not divide a row.
    """
    matches, count = linear_layers(model, plan, Wanda), Reporting(model)
    masks, changed = {}, []
    for linear, config in matches.found.values():
        choose_mask(linear.weight.detach()[:1], config.sparsity)  # refuses an m that does not divide, before any change

    def solve(name: str, channels: Channels) -> None:
        linear, config = matches.found[name]
        mask = wanda_mask(linear.weight.detach(), channels.norms(), config.sparsity)
        linear.weight.masked_fill_(~mask, 0)
        masks[f"{name}.weight"] = mask
        changed.append(f"{name}: {sparsity(mask):.1%} pruned")

    layer_by_layer(model, {n: linear for n, (linear, _) in matches.found.items()}, batches, Channels, solve)
    return Masks(masks), count.report(changed, matches.skipped)


def apply_sparsegpt(model: nn.Module, plan: Mapping[str, SparseGpt], batches: Iterable[Batch]) -> tuple[Masks, Report]:
    """Prune linear layers by SparseGPT, layer by layer (Frantar & Alistarh 2023, 2301.00774).

    Args:
        model: a BERT-like model, changed in place; its matrices keep their size.
        plan: module name or pattern → :class:`SparseGpt`.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
    Returns:
        The masks, each of its weight's shape, to train on with or to store by, and what was changed, with the output error on
        the calibration set beside that of magnitude pruning.
    Raises:
        CourseError: a plan that matches nothing or a model that is not built like BERT.
        ValueError: a calibration set that is empty or of the wrong type, or m that does not divide a row.
    """
    matches, count = linear_layers(model, plan, SparseGpt), Reporting(model)
    masks, changed = {}, []
    for linear, config in matches.found.values():
        choose_mask(linear.weight.detach()[:1], config.sparsity)  # refuses an m that does not divide, before any change

    def solve(name: str, statistic: Hessian) -> None:
        (linear, config), hessian = matches.found[name], statistic.matrix()
        weight = linear.weight.detach()
        new, mask = sparsegpt(weight, hessian, config.sparsity, config.damping, config.block)
        smallest = weight.masked_fill(~choose_mask(weight.abs(), config.sparsity), 0)
        errors = [output_error(weight, other, hessian) for other in (new, smallest)]
        linear.weight.copy_(new)
        masks[f"{name}.weight"] = mask
        changed.append(f"{name}: {sparsity(mask):.1%} pruned; output error {errors[0]:.4g}, by magnitude {errors[1]:.4g}")

    layer_by_layer(model, {n: linear for n, (linear, _) in matches.found.items()}, batches, Hessian, solve)
    return Masks(masks), count.report(changed, matches.skipped)


def _expect_sparsity(sparsity: float | tuple[int, int]) -> None:
    if isinstance(sparsity, tuple):
        whole = len(sparsity) == 2 and all(isinstance(v, int) for v in sparsity)
        expect(whole and 0 <= sparsity[0] <= sparsity[1] and sparsity[1] >= 1, "sparsity", sparsity, "(n, m) with n ≤ m")
    else:
        expect(0 <= sparsity <= 1, "sparsity", sparsity, "a fraction between 0 and 1, or (n, m)")
