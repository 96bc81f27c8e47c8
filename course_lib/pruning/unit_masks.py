"""Masks for units and layers, and ``compact``, which really removes what they hide: the output stays the same.

``score → mask → compact``: while a unit is masked its weights are still there, so it can come back; a masked unit gets no
gradient. Nothing becomes smaller before :func:`compact`. Masks of heads as factors of their outputs: Michel et al. 2019,
1905.10650.
"""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.models.gates import LayerGate, UnitGate, gates, remove_gates
from course_lib.models.groups import CoupledGroup, check_groups, unit_parameters
from course_lib.models.surgery import cut_units, encoder_layers, head_groups, layer_names, neuron_groups, record_shapes
from course_lib.pruning.masks import mask_by_sparsity
from course_lib.pruning.structure import checked_layers
from course_lib.pruning.unit_scores import group_weight_scores
from course_lib.report import Report, Reporting, parameter_count


def encoder_groups(model: nn.Module) -> list[CoupledGroup]:
    """Heads and feed-forward neurons of every layer, ``….heads`` and ``….neurons``, in the model's order."""
    order = layer_names(model)
    return sorted(head_groups(model) + neuron_groups(model), key=lambda group: order.index(group.name.rpartition(".")[0]))


def mask_units(model: nn.Module, masks: Mapping[str, torch.Tensor], groups: Sequence[CoupledGroup] | None = None) -> Report:
    """Hide units, in place, without touching a weight.

    Args:
        model: a BERT-like model, or any whose groups are given.
        masks: group name → bool (units,), True where a unit stays. A group that has a mask gets this one instead; those
            not named keep theirs. Of a layer all heads or neurons may go: its block then adds its output bias alone.
        groups: of the model; None takes its heads and neurons.
    Returns:
        A line per group; the bytes are as before.
    Raises:
        CourseError: an unknown name, or modules that cannot be cut.
        ValueError: a mask of another size or dtype, or one that leaves a convolution without channels.
    """
    known = {g.name: g for g in (encoder_groups(model) if groups is None else groups)}
    expect(len(masks) > 0, "masks", dict(masks), "at least one group's mask")
    for name, mask in masks.items():
        _known(name, known)
        size = known[name].units
        right = mask.dtype == torch.bool and mask.shape == (size,)
        expect(right, f"masks[{name!r}]", f"{mask.dtype} {tuple(mask.shape)}", f"bool ({size},)")
        expect(bool(mask.any()) or not name.endswith(".channels"), f"masks[{name!r}]", "no channel", "at least one channel")
    check_groups(model, [known[name] for name in masks])
    count = Reporting(model)
    for name, mask in masks.items():
        reader = model.get_submodule(known[name].reader.module)
        remove_gates(reader)
        if not mask.all():
            reader.register_forward_pre_hook(UnitGate(known[name], mask.clone()))
    return count.report([f"{name}: {int((~mask).sum())} of {len(mask)} units masked" for name, mask in masks.items()])


def mask_by_plan(
    model: nn.Module,
    plan: Mapping[str, float],
    scores: Mapping[str, torch.Tensor] | None = None,
    groups: Sequence[CoupledGroup] | None = None,
) -> Report:
    """Mask the lowest-scoring units of each group: ``round(sparsity·units)`` of them.

    Args:
        model, groups: as for :func:`mask_units`.
        plan: group name, or pattern with ``*`` and ``?``, → sparsity: the fraction of units to mask, such as
            ``{"*.heads": 0.5, "*.neurons": 0.75}``.
        scores: group name → (units,); None takes :func:`course_lib.pruning.unit_scores.group_weight_scores`. For one threshold over
            groups, give the result of :func:`course_lib.pruning.masks.global_masks` to :func:`mask_units`.
    Raises:
        CourseError: a pattern that matches no group, or a group that two patterns match.
        ValueError: a sparsity outside [0, 1], or no scores for a group.
    """
    groups = encoder_groups(model) if groups is None else groups
    chosen = match_groups(groups, plan)
    scores = group_weight_scores(model, groups) if scores is None else scores
    for name in chosen:
        expect(name in scores, "scores", sorted(scores)[:3], f"scores of {name}")
    return mask_units(model, {name: mask_by_sparsity(scores[name], s) for name, s in chosen.items()}, groups)


def match_groups(groups: Sequence[CoupledGroup], plan: Mapping[str, float]) -> dict[str, float]:
    """What a plan says for each group, in the order of the groups.

    Raises:
        CourseError: an empty plan, a pattern that matches no group, or a group that two patterns match.
    """
    expect(len(plan) > 0, "plan", dict(plan), "at least one group name or pattern")
    names = {g.name: [p for p in plan if fnmatch.fnmatchcase(g.name, p)] for g in groups}
    for pattern in plan:
        if not any(pattern in patterns for patterns in names.values()):
            _known(pattern, names)
    for name, patterns in names.items():
        if len(patterns) > 1:
            raise CourseError(
                f"plan: {name} is matched by {' and by '.join(map(repr, patterns))}; expected one pattern for it."
            )
    return {name: plan[patterns[0]] for name, patterns in names.items() if patterns}


def mask_layers(model: nn.Module, keep: Sequence[int]) -> Report:
    """Lead around all layers but ``keep`` (ascending), in place; layers masked before and kept now are back.

    Raises:
        ValueError: no layer kept, one out of range, or not ascending.
    """
    keep, count, changed = checked_layers(model, keep), Reporting(model), []
    for number, (name, layer) in enumerate(zip(layer_names(model), encoder_layers(model), strict=True)):
        remove_gates(layer)
        if number not in keep:
            layer.register_forward_hook(LayerGate())
            changed.append(f"{name}: masked")
    return count.report(changed)


def dead_units(model: nn.Module, groups: Sequence[CoupledGroup] | None = None) -> dict[str, torch.Tensor]:
    """Masks without the units that nothing reads, because all their columns in the reader are zero: free to remove.

    So zeroed columns (:func:`course_lib.pruning.apply.apply` with ``granularity="channel", axis=1``, or a group penalty) become
    smaller matrices. Zeroed *rows* are not enough: a neuron without weights still puts out ``GELU(b)``.

    Returns:
        Group name → bool (units,), for the groups that have such units; for :func:`mask_units`.
    """
    masks = {}
    for group in encoder_groups(model) if groups is None else groups:
        columns = model.get_submodule(group.reader.module).weight.detach().transpose(0, 1)
        read = columns.reshape(group.units, -1).ne(0).any(dim=1)
        masks |= {} if read.all() else {group.name: read}
    return masks


def masks_of(model: nn.Module, groups: Sequence[CoupledGroup] | None = None) -> dict[str, torch.Tensor]:
    """The masks in force: group name → bool (units,), a copy; all True where a group has none."""
    found = {gate.group.name: gate.keep for _, gate in gates(model) if isinstance(gate, UnitGate)}
    groups = encoder_groups(model) if groups is None else groups
    return {g.name: found[g.name].clone() if g.name in found else torch.ones(g.units, dtype=torch.bool) for g in groups}


def unmask(model: nn.Module) -> None:
    """Take off every mask; the model is what it was, to the bit."""
    for module in model.modules():
        remove_gates(module)


def compact(model: nn.Module) -> Report:
    """Remove what the masks hide, in place: smaller matrices, fewer layers, the same output.

    Only the order of additions can change: a sum of K terms loses those that are zero.

    Raises:
        CourseError: nothing is masked, or the masks were made through another model that holds this one.
    """
    found = list(gates(model))
    if not found:
        raise CourseError("compact: no unit or layer of this model is masked; expected masks from mask_units or mask_layers.")
    skip = masked_layers(model)
    units = [(n, g) for n, g in found if isinstance(g, UnitGate) and not any(n.startswith(f"{layer}.") for layer in skip)]
    for name, gate in units:
        if name != gate.group.reader.module:
            raise CourseError(
                f"compact: {name} was masked as {gate.group.reader.module}; compact the model that it is named in."
            )
    check_groups(model, [gate.group for _, gate in units])
    count, changed = Reporting(model), []
    for name, gate in units:
        remove_gates(model.get_submodule(name))
        cut_units(model, gate.group, gate.keep.nonzero()[:, 0])
        changed.append(f"{gate.group.name}: {gate.group.units} → {int(gate.keep.sum())} units")
    if skip:
        layers = [(n, layer) for n, layer in zip(layer_names(model), encoder_layers(model), strict=True) if n not in skip]
        model.base_model.encoder.layer = nn.ModuleList(layer for _, layer in layers)
    if skip or any(not gate.group.name.endswith(".channels") for _, gate in units):
        record_shapes(model)
    return count.report(changed + [f"{name}: dropped" for name in skip])


def visible_parameters(model: nn.Module) -> int:
    """Parameters of a BERT-like model that no mask hides: what :func:`compact` leaves."""
    groups = encoder_groups(model)
    return parameter_count(model) - sum(hidden_parameters(model, layer, groups) for layer in layer_names(model))


def hidden_parameters(model: nn.Module, layer: str, groups: Sequence[CoupledGroup]) -> int:
    """Parameters of one layer that masks hide; ``groups`` are those of the model."""
    if layer in masked_layers(model):
        return parameter_count(model.get_submodule(layer))
    own = [g for g in groups if g.name.rpartition(".")[0] == layer]
    return sum(
        int((~mask).sum()) * unit_parameters(model, g) for g, mask in zip(own, masks_of(model, own).values(), strict=True)
    )


def masked_layers(model: nn.Module) -> list[str]:
    """Names of the layers that are led around."""
    return [name for name, gate in gates(model) if isinstance(gate, LayerGate)]


def _known(name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.3) or list(known)[:2]
        raise CourseError(
            f"{name!r} is no group of this model; expected a name like {' or '.join(close)}. Nothing was changed."
        )
