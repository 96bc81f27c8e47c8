"""The same thing stored twice: equal and nearly equal rows, matrices and layers.

Equal ones are found by hashing their bytes, in one pass. Nearly equal ones are those whose cosine is close to 1, or to −1
(the same but for the sign): all pairs are looked at, in blocks, so that no n × n matrix is ever held.
"""

import hashlib
import itertools
from collections.abc import Hashable, Mapping

import torch
from torch import nn

from course_lib.errors import expect
from course_lib.models.surgery import encoder_layers
from course_lib.redundancy.low_rank import checked
from course_lib.redundancy.storage import shared_names

Pair = tuple[Hashable, Hashable, float]  # two names or numbers, and their cosine


def equal_rows(weight: torch.Tensor) -> list[list[int]]:
    """Groups of at least two rows of a matrix (R, D) that are equal to the bit (0 and −0 are equal), each ascending.

    >>> equal_rows(torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 2.0]]))
    [[0, 2]]
    """
    rows = checked(weight)
    return _groups({i: _digest(row) for i, row in enumerate(rows)})


def equal_tensors(model: nn.Module) -> list[list[str]]:
    """Groups of parameters that are equal to the bit and stored each for itself: what sharing would save without any change.

    Parameters that share a storage already count as one; single numbers repeated over a whole tensor (norms as they are made) count too.
    """
    shared = shared_names(model)
    return _groups({name: _digest(p.detach()) for name, p in model.named_parameters() if name not in shared and p.numel()})


def equal_layers(model: nn.Module) -> list[list[int]]:
    """Groups of layers of a BERT-like model whose parameters are all equal to the bit, whether they are shared or not.

    Raises:
        CourseError: not built like BERT.
    """
    layers = encoder_layers(model)
    return _groups({i: tuple((n, _digest(p.detach())) for n, p in layer.named_parameters()) for i, layer in enumerate(layers)})


def near_rows(weight: torch.Tensor, threshold: float = 0.99, block: int = 1024) -> list[Pair]:
    """Pairs of rows of a matrix (R, D) whose ``|cosine|`` is at least ``threshold``; rows of zeros are near to nothing.

    Args:
        weight: (R, D), finite.
        threshold: above 0, at most 1.
        block: rows that are compared at once: memory is block² numbers.
    Returns:
        (i, j, cosine) with i < j, the nearest first.
    Raises:
        ValueError: no matrix, or a threshold or block out of range.

    >>> near_rows(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    [(0, 2, -1.0)]
    """
    _check_threshold(threshold)
    expect(block >= 1, "block", block, "at least one row")
    w = checked(weight)
    norms = w.double().norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, w.double() / norms, 0).to(w.dtype)  # of length 1 or 0
    pairs = []
    for a in range(0, len(unit), block):
        for b in range(a, len(unit), block):
            cosines = unit[a : a + block] @ unit[b : b + block].T
            cosines = cosines.triu(1) if a == b else cosines  # each pair once, and no row with itself
            found = (
                cosines.abs() >= threshold - 4 * torch.finfo(w.dtype).eps
            ).nonzero()  # cosines of 1 are rounded to either side
            pairs += [(a + int(i), b + int(j), float(cosines[i, j])) for i, j in found]
    return sorted(pairs, key=lambda p: (-abs(p[2]), p[0], p[1]))


def near_tensors(tensors: Mapping[Hashable, torch.Tensor], threshold: float = 0.99) -> list[Pair]:
    """Pairs of tensors of one shape whose ``|cosine|``, as long vectors, is at least ``threshold``, the nearest first.

    Args:
        tensors: name → a tensor of any shape; only those of the same shape are compared.
        threshold: above 0, at most 1.
    """
    _check_threshold(threshold)
    pairs = []
    for (a, x), (b, y) in itertools.combinations(tensors.items(), 2):
        if x.shape == y.shape and x.numel():
            cosine = _cosine(x, y)
            if abs(cosine) >= threshold - 1e-12:  # float64 sums of some 10⁶ products
                pairs.append((a, b, cosine))
    return sorted(pairs, key=lambda p: -abs(p[2]))


def near_matrices(model: nn.Module, threshold: float = 0.99) -> list[Pair]:
    """:func:`near_tensors` of the model's weight matrices that are stored each for itself; vectors (biases, norms) are left out."""
    shared = shared_names(model)
    return near_tensors({n: p.detach() for n, p in model.named_parameters() if p.dim() > 1 and n not in shared}, threshold)


def near_layers(model: nn.Module, threshold: float = 0.99) -> list[Pair]:
    """:func:`near_tensors` of the layers of a BERT-like model, each the vector of all entries of its matrices.

    Raises:
        CourseError: not built like BERT.
    """
    flat = {
        i: torch.cat([p.detach().flatten() for p in m.parameters() if p.dim() > 1]) for i, m in enumerate(encoder_layers(model))
    }
    return near_tensors(flat, threshold)


def duplicate_bytes(groups: list[list[str]], model: nn.Module) -> int:
    """Bytes that would be saved if each group of :func:`equal_tensors` were stored once."""
    sizes = dict(model.named_parameters())
    return sum((len(group) - 1) * sizes[group[0]].nbytes for group in groups)


def _digest(tensor: torch.Tensor) -> tuple:
    """Equal for tensors of equal shape, type and numbers, and else different (but for a collision of sha256)."""
    numbers = (tensor + 0.0).contiguous().cpu()  # −0 + 0 is 0
    return tuple(tensor.shape), tensor.dtype, hashlib.sha256(numbers.view(torch.uint8).numpy().tobytes()).hexdigest()


def _groups(digests: Mapping) -> list[list]:
    """Keys of equal digests, where there are at least two."""
    groups: dict = {}
    for key, digest in digests.items():
        groups.setdefault(digest, []).append(key)
    return [group for group in groups.values() if len(group) > 1]


def _cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.double().flatten(), y.double().flatten()
    size = x.norm() * y.norm()
    return float(x @ y / size) if size > 0 else 0.0


def _check_threshold(threshold: float) -> None:
    expect(0 < threshold <= 1, "threshold", threshold, "a cosine above 0 and at most 1")
