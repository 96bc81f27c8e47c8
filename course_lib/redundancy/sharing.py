"""Parameter sharing: several layers of an encoder with one set of weights, as ALBERT has it (Lan et al. 2019, 1909.11942).

Sharing saves bytes, not time: every layer still runs. The gradient of a shared weight is the sum of those at all the places
it is used, which autograd gives by itself once the places hold one and the same parameter. ALBERT is trained so from the
start; a finished model whose layers are made to share is another model, and needs training to recover.
"""

from collections.abc import Sequence

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.models.gates import require_no_gates
from course_lib.models.surgery import encoder_layers, layer_names
from course_lib.redundancy.storage import share, shared_names, stored_tensors
from course_lib.report import Report, Reporting, tensor_bytes

PARTS = {"all": ("",), "attention": ("attention.",), "ffn": ("intermediate.", "output.")}


def mean_of(tensors: Sequence[torch.Tensor], weights: Sequence[float] | None = None) -> torch.Tensor:
    """The weighted mean of tensors of the same shape, like them in shape and dtype; sums in float64, so that equal ones come back to the bit.

    Args:
        tensors: at least one, floating point.
        weights: at least 0, their sum above 0; None: all alike.
    Raises:
        ValueError: no tensors, different shapes, or weights that do not fit.

    >>> mean_of([torch.tensor([1.0, 4.0]), torch.tensor([3.0, 4.0])])
    tensor([2., 4.])
    """
    shapes = [tuple(t.shape) for t in tensors]
    expect(len(set(shapes)) == 1, "tensors", shapes, "at least one, all of one shape")
    given = [1.0] * len(tensors) if weights is None else list(weights)
    good = len(given) == len(tensors) and all(w >= 0 for w in given) and 0 < sum(given) < float("inf")
    expect(good, "weights", given, f"{len(tensors)} numbers of at least 0, not all 0")
    first = tensors[0].double()  # the mean of the differences from it: exactly 0 where all are equal
    change = sum(w * (t.double() - first) for w, t in zip(given, tensors, strict=True)) / sum(given)
    return (first + change).to(tensors[0].dtype)


def share_layers(
    model: nn.Module, groups: Sequence[Sequence[int]], part: str = "all", weights: str | Sequence[float] = "mean"
) -> Report:
    """Let the layers of each group share their parameters, in place.

    Args:
        model: a BERT-like model.
        groups: layer numbers, ascending, at least two in a group and none in two groups.
        part: "all", "attention" (its norm too) or "ffn" (its norm too), which ALBERT compares.
        weights: what the shared ones start from: "mean" of the group's, "first" of them, or a weight for each layer of the model.
    Raises:
        ValueError: groups or a part that cannot be.
        CourseError: not built like BERT, masked units, layers that share already, or of different sizes.
    """
    layers = encoder_layers(model)
    groups = checked_groups(groups, len(layers))
    expect(part in PARTS, "part", part, f"one of {', '.join(PARTS)}")
    expect(
        weights in ("mean", "first") or len(weights) == len(layers), "weights", weights, "'mean', 'first' or one for each layer"
    )
    require_no_gates(model, "share_layers")
    refuse_uneven(model, groups)
    count, changed, names = Reporting(model), [], layer_names(model)
    for group in groups:
        used = [name for name, _ in layers[group[0]].named_parameters() if name.startswith(PARTS[part])]
        with torch.no_grad():
            for name in used:
                of = [layers[i].get_parameter(name) for i in group]
                of[0].copy_(mean_of(of, _weights(weights, group)))
        share(model, {f"{names[i]}.{name}": f"{names[group[0]]}.{name}" for i in group[1:] for name in used})
        changed.append(f"encoder.layer.{', '.join(map(str, group))}: share {part} ({len(used)} tensors)")
    return count.report(changed)


def unshare(model: nn.Module) -> Report:
    """Give every place a copy of its own of what it shares, in place; the model computes what it did.

    Raises:
        CourseError: nothing is shared.
    """
    names, count = shared_names(model), Reporting(model)
    if not names:
        raise CourseError("model: no parameter is shared. Nothing was changed.")
    for alias, name in names.items():
        parent, _, attribute = alias.rpartition(".")
        shared = model.get_parameter(name)
        setattr(model.get_submodule(parent), attribute, nn.Parameter(shared.detach().clone(), shared.requires_grad))
    return count.report([f"{alias}: a copy of {name}" for alias, name in names.items()])


def storage_account(model: nn.Module) -> dict[str, int]:
    """Bytes of a model, counted three ways.

    Returns:
        ``unique``, of all storages, each once, which is what memory holds; ``state_dict``, as if every name had its own, which is what saving name
        by name would write; ``file``, of the tensors that :func:`course_lib.redundancy.storage.save_reduced` writes.
    """
    return {
        "unique": tensor_bytes(model),
        "state_dict": sum(t.nbytes for t in model.state_dict().values()),
        "file": sum(t.nbytes for t in stored_tensors(model).values()),
    }


def checked_groups(groups: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Groups of layer numbers, after they were found to be ascending, of at least two, and no layer in two of them.

    Raises:
        ValueError: they are not.
    """
    groups = [list(g) for g in groups]
    used = [i for group in groups for i in group]
    good = bool(groups) and all(len(g) > 1 and g == sorted(set(g)) for g in groups) and len(set(used)) == len(used)
    good = good and all(isinstance(i, int) and 0 <= i < count for i in used)
    expect(good, "groups", groups, f"ascending numbers from 0 to {count - 1}, at least two in a group and none in two groups")
    return groups


def refuse_uneven(model: nn.Module, groups: Sequence[Sequence[int]]) -> None:
    """Refuse layers of a group that are of different sizes or already share parameters.

    Raises:
        CourseError: they are or do.
    """
    layers, names, shared = encoder_layers(model), layer_names(model), shared_names(model)
    for group in groups:
        shapes = [{n: tuple(p.shape) for n, p in layers[i].named_parameters()} for i in group]
        for number, other in zip(group[1:], shapes[1:], strict=True):
            if other != shapes[0]:
                differ = sorted(n for n in shapes[0].keys() | other.keys() if shapes[0].get(n) != other.get(n))
                raise CourseError(f"groups: layers {group[0]} and {number} differ in {differ[0]}; expected layers of one size.")
        tied = [a for a in shared if any(a.startswith(f"{names[i]}.") for i in group)]
        if tied:
            raise CourseError(f"groups: {tied[0]} is shared already; call unshare(model) first.")


def _weights(weights: str | Sequence[float], group: Sequence[int]) -> list[float]:
    if weights == "mean":
        return [1.0] * len(group)
    return [1.0] + [0.0] * (len(group) - 1) if weights == "first" else [weights[i] for i in group]
