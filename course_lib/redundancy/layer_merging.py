"""Layer merging: neighbouring layers that do nearly the same replaced by one, and that one taught to do what they did.

Two things look alike and are not. *Averaging* two equal layers and using the result in both places changes nothing
(:func:`course_lib.redundancy.sharing.share_layers`): bytes are saved, both places still run. *Replacing* both places by one
is a change even then, as a layer applied once is not the layer applied twice; time is saved as well, and what is lost is
measured and recovered.

The average of two trained layers is no layer that anybody trained: their heads and neurons have no order in common, so neuron
7 of one is averaged with a stranger. Only what all layers have in common, the axes of the residual stream, fits. Keeping one
of the two (``weights="first"``) is dropping the other (:func:`course_lib.pruning.structure.drop_layers`). In
all-MiniLM-L6-v2, whichever two neighbours became one, the mean moved the last states farther than the better one of the two
layers by itself, about twice as far or more (squared error .30 of the states' square for the mean of layers 1 and 2, .14 and
.16 for either), so it is no way to merge without training afterwards.

Sources: Yang et al. 2024, 2402.11187 (layers folded into one before them, by weights); Men et al. 2024, 2403.03853 (which
layers do least); Hinton et al. 2015, 1503.02531 (teaching the smaller what the larger does).
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from course_lib.calibration import Batch, checked_batches
from course_lib.errors import CourseError, expect
from course_lib.layerwise import evaluating, real_rows
from course_lib.models.gates import require_no_gates
from course_lib.models.surgery import encoder_layers, record_shapes
from course_lib.redundancy.sharing import checked_groups, mean_of, refuse_uneven
from course_lib.redundancy.similarity import Similarity
from course_lib.report import Report, Reporting


def closest_neighbours(similarity: Similarity, count: int, by: str = "cosine") -> list[list[int]]:
    """The pairs of neighbouring layers between whose outputs there is least: the second layer of such a pair does least.

    Args:
        similarity: of :func:`course_lib.redundancy.similarity.layer_similarity`.
        count: pairs wanted; no layer is in two of them. Greedy: the best pair first.
        by: "cosine" or "cka" of what the two layers put out.
    Returns:
        ``[[i, i + 1], …]``, ascending.
    Raises:
        ValueError: more pairs than there can be, or another measure.
    """
    expect(by in ("cosine", "cka"), "by", by, "'cosine' or 'cka'")
    layers = len(similarity.names) - 1
    expect(1 <= count <= layers // 2, "count", count, f"between 1 and {layers // 2} pairs of {layers} layers")
    alike = getattr(similarity, by).diagonal(1)[1:].tolist()  # what layer i puts out beside what layer i + 1 does
    chosen: list[int] = []
    for i in sorted(range(layers - 1), key=lambda i: -alike[i]):
        blocked = {i - 1, i, i + 1} & set(chosen)
        if not blocked and len(chosen) < count:
            chosen.append(i)
    if len(chosen) < count:
        raise CourseError(f"count = {count}: the closest neighbours leave room for {len(chosen)} pairs only; ask for fewer.")
    return [[i, i + 1] for i in sorted(chosen)]


def merge_layers(model: nn.Module, groups: Sequence[Sequence[int]], weights: str | Sequence[float] = "mean") -> Report:
    """Replace each group of neighbouring layers by one, in place.

    Args:
        model: a BERT-like model; its config follows.
        groups: layer numbers, each group without gaps, no layer in two of them.
        weights: what the one is made of: the "mean" of the group, its "first", its "last", or a weight for each layer of the model.
    Raises:
        ValueError: groups or weights that cannot be.
        CourseError: not built like BERT, masked units, layers that share parameters or are of different sizes.
    """
    layers, groups = _checked(model, groups)
    expect(
        weights in ("mean", "first", "last") or len(weights) == len(layers),
        "weights",
        weights,
        "'mean', 'first', 'last' or a number for each layer",
    )
    require_no_gates(model, "merge_layers")
    refuse_uneven(model, groups)
    count, merged = Reporting(model), {}
    for group in groups:  # all of it, before anything is changed: weights may not fit
        used = _weights(weights, group)
        names = [name for name, _ in layers[group[0]].named_parameters()]
        merged[group[0]] = {name: mean_of([layers[i].get_parameter(name).detach() for i in group], used) for name in names}
    with torch.no_grad():
        for number, tensors in merged.items():
            for name, tensor in tensors.items():
                layers[number].get_parameter(name).copy_(tensor)
    gone = {i for group in groups for i in group[1:]}
    model.base_model.encoder.layer = nn.ModuleList(layer for i, layer in enumerate(layers) if i not in gone)
    record_shapes(model)
    return count.report([f"encoder.layer.{', '.join(map(str, g))}: replaced by one ({_said(weights)})" for g in groups])


def recover_merged(
    model: nn.Module,
    original: nn.Module,
    groups: Sequence[Sequence[int]],
    batches: Iterable[Batch],
    steps: int = 100,
    learning_rate: float = 1e-3,
) -> list[tuple[float, float]]:
    """Teach each merged layer to put out what its group did, given what went into it; without labels, one layer at a time, in place.

    Adam on the mean squared difference of the states after the group, over real tokens, one batch for each step, in turn. The rest of the
    model is neither run nor changed.

    Args:
        model: after :func:`merge_layers`.
        original: the model before it.
        groups: that were merged.
        batches: sentences, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
        steps, learning_rate: of each layer's training.
    Returns:
        For each group the error before and after, on these sentences.
    Raises:
        ValueError: groups that do not belong to the two models, batches that are empty or bad, or settings out of range.
    """
    layers, groups = _checked(original, groups)
    batches, gone = checked_batches(batches), sum(len(g) - 1 for g in groups)
    left = len(encoder_layers(model))
    expect(left == len(layers) - gone, "groups", groups, f"those that leave {left} of {len(layers)} layers")
    expect(
        steps >= 1 and 0 < learning_rate < 1,
        "steps, learning_rate",
        (steps, learning_rate),
        "at least 1 step, and a rate between 0 and 1",
    )
    errors, before = [], 0
    for group in groups:
        layer, states = encoder_layers(model)[group[0] - before], _states(original, group, batches)
        before += len(group) - 1
        errors.append(_teach(layer, states, [b["attention_mask"] for b in batches], steps, learning_rate))
    return errors


def merged_copy(model: nn.Module, groups: Sequence[Sequence[int]], weights: str | Sequence[float] = "mean") -> nn.Module:
    """A copy of a model with groups of layers merged (:func:`merge_layers`); the model itself is left as it is."""
    copied = copy.deepcopy(model)
    merge_layers(copied, groups, weights)
    return copied


State = tuple[torch.Tensor, tuple, dict, torch.Tensor]  # what went into a group with its other arguments, and what came out


def _states(model: nn.Module, group: Sequence[int], batches: Sequence[Batch]) -> list[State]:
    layers, states, caught = encoder_layers(model), [], []
    first = layers[group[0]].register_forward_pre_hook(
        lambda module, given, named: caught.append((given[0], given[1:], named)), with_kwargs=True
    )
    last = layers[group[-1]].register_forward_hook(lambda module, given, out: states.append((*caught.pop(), _hidden(out))))
    try:
        with evaluating(model):
            for batch in batches:
                model(**batch)
    finally:
        first.remove()
        last.remove()
    return states


def _teach(layer: nn.Module, states: list[State], masks: list[torch.Tensor], steps: int, rate: float) -> tuple[float, float]:
    def loss(number: int) -> torch.Tensor:
        hidden, rest, named, due = states[number]
        got = _hidden(layer(hidden, *rest, **named))
        return (real_rows(got, masks[number]) - real_rows(due, masks[number])).square().mean()

    def error() -> float:
        with torch.no_grad():
            tokens = [int(m.sum()) for m in masks]
            return sum(n * float(loss(i)) for i, n in enumerate(tokens)) / sum(tokens)

    training = layer.training
    layer.eval()  # no dropout: the target has none
    before, optimizer = error(), torch.optim.Adam(layer.parameters(), rate)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step % len(states)).backward()
        optimizer.step()
    optimizer.zero_grad()
    after = error()
    layer.train(training)
    return before, after


def _hidden(output: torch.Tensor | tuple) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _checked(model: nn.Module, groups: Sequence[Sequence[int]]) -> tuple[nn.ModuleList, list[list[int]]]:
    layers = encoder_layers(model)
    groups = checked_groups(groups, len(layers))
    expect(all(g == list(range(g[0], g[-1] + 1)) for g in groups), "groups", groups, "neighbouring layers, without gaps")
    return layers, sorted(groups)


def _weights(weights: str | Sequence[float], group: Sequence[int]) -> list[float]:
    if isinstance(weights, str):
        chosen = {"mean": None, "first": 0, "last": len(group) - 1}[weights]
        return [1.0 if chosen in (None, k) else 0.0 for k in range(len(group))]
    return [weights[i] for i in group]


def _said(weights: str | Sequence[float]) -> str:
    return weights if isinstance(weights, str) else f"weights {list(weights)}"
