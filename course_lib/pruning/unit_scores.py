"""How much a unit (a head, a neuron, a channel) or a layer matters: from its weights alone, or from the gradient at its gate.

A gate multiplies what a unit puts out by g. At g = 1 nothing changes, and removing the unit moves g to 0: so the loss changes
by ``−∂L/∂g`` to first order, whatever kind of unit it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.errors import expect
from course_lib.models.groups import CoupledGroup
from course_lib.models.surgery import encoder_layers, layer_names


@dataclass(frozen=True)
class TaylorScores:
    """First-order effects of removing each unit, by group (and by layer, where a layer's name has one score).

    Attributes:
        signed: ``−Σ ∂L/∂g`` over the sentences: the change of the summed loss, negative where removing helps. It adds up over
            units that go together.
        absolute: ``Σ |∂L/∂g|``: sentences cannot cancel each other (Michel et al. 2019, 1905.10650). To rank with.
    """

    signed: dict[str, torch.Tensor]
    absolute: dict[str, torch.Tensor]


def group_weight_scores(model: nn.Module, groups: Sequence[CoupledGroup]) -> dict[str, torch.Tensor]:
    """Data-free scores: the Frobenius norm of the linear map that goes through a unit, ``‖W_out[:, u] · W_in[u, :]‖``.

    For a neuron, where the map has rank one, it is the product of the two norms; for a head it is that of its value and output
    projections; a BatchNorm on the way counts with its scale, ``|γ| / √(var + ε)``.

    Args:
        groups: of the model.
    Returns:
        Group name → scores (units,).
    """
    return {group.name: _through(model, group) for group in groups}


def _through(model: nn.Module, group: CoupledGroup) -> torch.Tensor:
    width, out = group.reader.width, model.get_submodule(group.reader.module).weight.detach()
    made = [model.get_submodule(part.module) for part in group.parts[:-1]]
    into = [m for m in made if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))][-1].weight.detach()  # of a head: value
    scale = torch.ones(len(into), device=into.device)
    for norm in made:
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            gamma = 1.0 if norm.weight is None else norm.weight.detach().abs()
            scale = gamma * (norm.running_var + norm.eps).rsqrt()
    rows = (into.flatten(1) * scale[:, None]).view(group.units, -1, into[0].numel())  # (U, rows of a unit, in)
    columns = out.transpose(0, 1).flatten(1).reshape(group.units, width, -1)  # (U, columns of a unit, out)
    if rows.shape[1] == 1:  # one number goes through: the map has rank one
        return rows.flatten(1).norm(dim=1) * columns.flatten(1).norm(dim=1)
    # ‖O V‖² = trace(OᵀO · VVᵀ): matrices of a head's size instead of the map itself
    return ((rows @ rows.mT) * (columns @ columns.mT)).sum(dim=(1, 2)).clamp(min=0).sqrt()


def group_taylor_scores(
    model: nn.Module, losses: Iterable[torch.Tensor], groups: Sequence[CoupledGroup], layers: bool = False
) -> TaylorScores:
    """Gradients of the loss at the gates of units, and of layers.

    Molchanov et al. 2016 (1611.06440), with gates as Michel et al. 2019 (1905.10650). What is masked already scores 0.

    Args:
        model: dropout is switched off while scoring; gradients of its parameters are left alone.
        losses: a lazy iterable; each item is a scalar loss just computed with ``model``. A padded token must not reach it.
        groups: of the model.
        layers: score whole layers of a BERT-like model too, under their names: the gate blends a layer with its input.
    Returns:
        See :class:`TaylorScores`; float32, (units,) per group and (1,) per layer.
    Raises:
        ValueError: no loss, one that is no finite scalar, or one that was computed before it was asked for (as those of a list
            are).
    """
    probes = {g.name: _UnitProbe(g) for g in groups}
    handles = [model.get_submodule(g.reader.module).register_forward_pre_hook(probes[g.name]) for g in groups]
    if layers:
        for name, layer in zip(layer_names(model), encoder_layers(model), strict=True):
            probes[name] = _LayerProbe()
            handles.append(layer.register_forward_hook(probes[name]))
    training, count = model.training, 0
    signed = {name: torch.zeros(probe.units) for name, probe in probes.items()}
    absolute = {name: torch.zeros(probe.units) for name, probe in probes.items()}
    model.eval()
    try:
        for loss in losses:
            expect(loss.dim() == 0 and bool(loss.isfinite()), f"losses[{count}]", loss, "a finite scalar")
            fresh = all(probe.gate is not None for probe in probes.values())
            expect(fresh, "losses", loss, "a generator that computes each loss when asked for it")
            gradients = torch.autograd.grad(loss, [probe.gate for probe in probes.values()], allow_unused=True)
            for (name, probe), gradient in zip(probes.items(), gradients, strict=True):  # (B, units) each
                probe.gate = None
                if gradient is not None:  # None inside a masked layer: the loss does not depend on it
                    signed[name] -= gradient.sum(dim=0).float().cpu()
                    absolute[name] += gradient.abs().sum(dim=0).float().cpu()
            count += 1
        expect(count > 0, "losses", count, "at least one loss")
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return TaylorScores(signed, absolute)


class _UnitProbe:
    """A gate of ones for each sentence and unit, before the module that reads the units."""

    def __init__(self, group: CoupledGroup) -> None:
        self.units, self.width, self.gate = group.units, group.reader.width, None

    def __call__(self, module: nn.Module, args: tuple) -> tuple:
        x, *rest = args
        self.gate = x.new_ones(len(x), self.units, requires_grad=True)
        wide = self.gate.repeat_interleave(self.width, dim=1)  # (B, columns of the reader)
        inner = [1] * (x.dim() - 2)
        return x * (wide.view(len(x), *inner, -1) if isinstance(module, nn.Linear) else wide.view(*wide.shape, *inner)), *rest


class _LayerProbe:
    """A gate of one for each sentence, between a layer's input and its output."""

    units, gate = 1, None

    def __call__(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        self.gate = output.new_ones(len(output), 1, requires_grad=True)
        return args[0] + self.gate[:, :, None] * (output - args[0])  # (B, L, D)
