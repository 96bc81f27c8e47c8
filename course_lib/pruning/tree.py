"""Pruning a tree of modules: in each round the subtree goes that costs the least per parameter it frees.

The tree is model → layer → attention or feed-forward block → head or group of neurons. A layer removed is led around; a block
removed loses all its units, and its output bias and LayerNorm stay. What is removed is masked, so nothing is final before
:func:`course_lib.pruning.unit_masks.compact`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from course_lib.artifacts import digest, read_json, write_json
from course_lib.errors import CourseError, expect
from course_lib.models.gates import LayerGate, remove_gates
from course_lib.models.groups import unit_parameters
from course_lib.models.surgery import encoder_layers, layer_names
from course_lib.ner.checkpoint import weights_sha256
from course_lib.pruning.unit_masks import (
    encoder_groups,
    hidden_parameters,
    mask_units,
    masked_layers,
    masks_of,
    visible_parameters,
)
from course_lib.pruning.unit_scores import group_weight_scores
from course_lib.report import parameter_count


@dataclass(frozen=True)
class Node:
    """A subtree that can be removed.

    Attributes:
        name: such as ``encoder.layer.0``, ``encoder.layer.0.heads`` (the block) or ``encoder.layer.0.heads.3``.
        layer: name of the layer it is (in).
        group, units: the coupled group, and those of its units that it holds; None and none for a layer.
    """

    name: str
    layer: str
    group: str | None = None
    units: tuple[int, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One choice of a round: what it frees (parameters) and what it costs (change of the loss)."""

    name: str
    freed: int
    cost: float


@dataclass(frozen=True)
class Round:
    """One decision: all candidates, the chosen one, and the parameters before and after it."""

    number: int
    before: int
    after: int
    chosen: str
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        (best,) = (c for c in self.candidates if c.name == self.chosen)
        gain = f"−{best.freed:,} parameters for {best.cost:+.5f} of loss"
        return f"{self.number}. {best.name}: {gain}; best of {len(self.candidates)}, {self.after:,} parameters left"


Costs = Callable[[nn.Module, Sequence[Node]], Sequence[float]]


def module_tree(model: nn.Module, neurons: int, scores: dict[str, torch.Tensor] | None = None) -> list[Node]:
    """The nodes of the tree below the model, layer by layer, each before its children.

    Args:
        model: a BERT-like model.
        neurons: feed-forward neurons in a leaf (the last one may hold fewer). Neurons of like score share a leaf, the lowest
            first, so that a leaf of neurons that do little can go at once.
        scores: ``….neurons`` → (units,); None takes :func:`course_lib.pruning.unit_scores.group_weight_scores`.
    """
    expect(neurons >= 1, "neurons", neurons, "at least 1 neuron in a leaf")
    groups, nodes = encoder_groups(model), []
    scores = group_weight_scores(model, groups) if scores is None else scores
    for layer in layer_names(model):
        nodes.append(Node(layer, layer))
        for group in (g for g in groups if g.name.rpartition(".")[0] == layer):
            nodes.append(Node(group.name, layer, group.name, tuple(range(group.units))))
            order, size = list(range(group.units)), 1
            if group.name.endswith(".neurons"):
                order, size = torch.argsort(scores[group.name], stable=True).tolist(), neurons
            leaves = [tuple(sorted(order[i : i + size])) for i in range(0, group.units, size)]
            nodes += [Node(f"{group.name}.{i}", layer, group.name, units) for i, units in enumerate(leaves)]
    return nodes


def candidates(model: nn.Module, tree: Sequence[Node]) -> list[tuple[Node, int]]:
    """The nodes that can be removed now, and the parameters each would free.

    Left out: what is gone already, the last layer, and a block with a single leaf left (it is that leaf).
    """
    groups, gone = encoder_groups(model), masked_layers(model)
    masks, each = masks_of(model, groups), {g.name: unit_parameters(model, g) for g in groups}
    found = []
    for node in tree:
        if node.layer in gone:
            continue
        if node.group is None:
            if len(gone) + 1 < len(layer_names(model)):
                inside = parameter_count(model.get_submodule(node.layer))
                found.append((node, inside - hidden_parameters(model, node.layer, groups)))
            continue
        leaves = [n for n in tree if n.group == node.group and n.name != node.group and masks[n.group][list(n.units)].any()]
        left = int(masks[node.group][list(node.units)].sum())
        if left and not (node.name == node.group and len(leaves) == 1):
            found.append((node, left * each[node.group]))
    return found


def remove_node(model: nn.Module, node: Node) -> None:
    """Mask a subtree, beside what is masked already."""
    if node.group is None:
        model.get_submodule(node.layer).register_forward_hook(LayerGate())
        return
    groups = encoder_groups(model)
    mask = masks_of(model, groups)[node.group]
    mask[list(node.units)] = False
    mask_units(model, {node.group: mask}, groups)


@contextlib.contextmanager
def without(model: nn.Module, node: Node) -> Iterator[None]:
    """The model without a subtree, for as long as the context lasts."""
    groups = encoder_groups(model)
    before = masks_of(model, groups)
    try:
        remove_node(model, node)
        yield
    finally:
        if node.group is None:
            remove_gates(model.get_submodule(node.layer))
        else:
            mask_units(model, {node.group: before[node.group]}, groups)


def prune_tree(
    model: nn.Module,
    tree: Sequence[Node],
    costs: Costs,
    parameters: int,
    log: Path | None = None,
    progress: Callable[[Round], None] | None = None,
) -> list[Round]:
    """Remove subtrees, cheapest per parameter first, until at most ``parameters`` are visible; costs are new in each round.

    Args:
        model: a BERT-like model; it is masked in place.
        tree: of :func:`module_tree`.
        costs: of the candidates of a round (:mod:`course_lib.pruning.tree_costs`); negative where removing helps.
        parameters: to end with, at most.
        log: a JSON file of all decisions, whole after each round. When it is there, its decisions are made again without
            being measured, and the search goes on from there: with the same model, tree and costs to the same end.
        progress: called after each round.
    Returns:
        The rounds, in order. Among equals the first in the tree is chosen.
    Raises:
        CourseError: a tree of another model, or a log of another model or tree.
        ValueError: a number of parameters that cannot be reached or is there already, or a cost that is not finite.
    """
    known = {*layer_names(model), *(g.name for g in encoder_groups(model))}
    if strange := [node.name for node in tree if (node.group or node.layer) not in known]:
        raise CourseError(f"tree: {strange[0]} is no part of this model; make the tree of it by module_tree.")
    now, least = visible_parameters(model), _least(model)
    expect(least <= parameters < now, "parameters", parameters, f"a number from {least} up to {now - 1}")
    made_of = digest(weights_sha256(model), [asdict(n) for n in tree], now)
    rounds: list[Round] = []
    for decision in _decisions(log, made_of):
        if now > parameters:
            remove_node(model, next(n for n in tree if n.name == decision.chosen))
            rounds.append(decision)
            now = decision.after
    while now > parameters:
        choices = candidates(model, tree)
        prices = [float(c) for c in costs(model, [node for node, _ in choices])]
        for (node, _), price in zip(choices, prices, strict=True):
            expect(abs(price) < float("inf"), f"cost of {node.name}", price, "a finite number")
        best = min(range(len(choices)), key=lambda i: prices[i] / choices[i][1])
        remove_node(model, choices[best][0])
        offered = tuple(Candidate(node.name, freed, price) for (node, freed), price in zip(choices, prices, strict=True))
        before, now = now, now - choices[best][1]
        rounds.append(Round(len(rounds) + 1, before, now, choices[best][0].name, offered))
        if log:
            write_json(log, {"made_of": made_of, "rounds": [asdict(r) for r in rounds]})
        if progress:
            progress(rounds[-1])
    return rounds


def _decisions(log: Path | None, made_of: str) -> list[Round]:
    found = read_json(log) if log and Path(log).exists() else {"made_of": made_of, "rounds": []}
    if found.get("made_of") != made_of:
        raise CourseError(
            f"{log}: its decisions are of another model or tree. Give another file, or delete it to start afresh."
        )
    return [Round(**{**r, "candidates": tuple(Candidate(**c) for c in r["candidates"])}) for r in found["rounds"]]


def _least(model: nn.Module) -> int:
    """Parameters with one layer left, and no unit in it."""
    gone = masked_layers(model)
    bare = {name: parameter_count(model.get_submodule(name)) for name in layer_names(model) if name not in gone}
    for group in encoder_groups(model):
        if (layer := group.name.rpartition(".")[0]) in bare:
            bare[layer] -= group.units * unit_parameters(model, group)
    return parameter_count(model) - parameter_count(encoder_layers(model)) + min(bare.values())
