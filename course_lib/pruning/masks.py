"""Masks: which weights stay. From scores to a mask of an exact sparsity, within one tensor or with one threshold for many.

A mask is a bool tensor, **True where a weight stays**; sparsity is the fraction of zeros. Ties go to the lower position, which
stays, so that every mask is determined by the scores alone and masks nest: what is pruned at 50 % is pruned at 60 % too.

Whole rows by their L2 norm are no way to prune an encoder without recovery: at 50 % F1 fell from .86 to .07, with single weights at the
same bytes to .78. A row of an output projection is a dimension of the residual stream, which all later layers read, and a row of a query
matrix is half of a product with the same row of the key.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from course_lib.artifacts import write_bytes
from course_lib.errors import CourseError, expect
from course_lib.granularity import Granularity, block_size, grid, spread, to_blocks
from course_lib.pruning.bits import pack_bits, unpack_bits
from course_lib.pruning.rank import first_true, kth_smallest, require_rankable


def sparsity(x: torch.Tensor) -> float:
    """The fraction of zeros of a mask or of a weight of any shape.

    >>> sparsity(torch.tensor([[True, False], [True, True]])), sparsity(torch.tensor([0.0, 0.0, 3.0, -1.0]))
    (0.25, 0.5)
    """
    expect(x.numel() > 0, "x", tuple(x.shape), "at least one entry")
    return (x.numel() - int(torch.count_nonzero(x))) / x.numel()


def block_scores(scores: torch.Tensor, granularity: Granularity = "weight", axis: int = 0) -> torch.Tensor:
    """Scores of blocks: the sum of their weights' scores.

    Args:
        scores: one per weight, any shape.
        granularity: ``"weight"``, every weight for itself; ``"channel"``, a block per index along ``axis`` (0: rows); a number,
            so many neighbours in a row; a block size. As in :mod:`course_lib.granularity`.
    Returns:
        One score per block, of the shape of :func:`course_lib.granularity.grid`; 16-bit scores are added up in fp32.

    >>> block_scores(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), "channel")
    tensor([[3.],
            [8.]])
    """
    if granularity == "weight":
        return scores
    block = block_size(scores.shape, granularity, axis)
    exact = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    return to_blocks(exact, block).sum(1).view(grid(scores.shape, block))


def mask_by_sparsity(scores: torch.Tensor, sparsity: float, granularity: Granularity = "weight", axis: int = 0) -> torch.Tensor:
    """Prune the lowest scores: exactly ``round(sparsity·n)`` of the n blocks (Han et al. 2015, 1506.02626).

    Args:
        scores: one per weight, floating point, any shape; higher means keep. Infinities rank last and first.
        sparsity: fraction of blocks to prune, 0 to 1.
        granularity, axis: of the blocks that stay or go whole; see :func:`block_scores`.
    Returns:
        The mask, bool, of the shape of ``scores``: True where a weight stays. Among equal scores the first ones stay.
    Raises:
        ValueError: a sparsity outside [0, 1]; scores that are empty, integers or NaN; blocks that do not divide the shape.

    >>> mask_by_sparsity(torch.tensor([3.0, 1.0, 2.0, 1.0]), 0.25)
    tensor([ True,  True,  True, False])
    """
    return global_masks({"scores": scores}, sparsity, granularity, axis)["scores"]


def global_masks(
    scores: Mapping[str, torch.Tensor], sparsity: float, granularity: Granularity = "weight", axis: int = 0
) -> dict[str, torch.Tensor]:
    """:func:`mask_by_sparsity` with one threshold for many tensors: where the scores are low, more is pruned.

    Blalock et al. 2020 (2003.03033) compare it with a threshold per layer.

    Args:
        scores: name → one score per weight, all of one dtype. Position, for ties, is the order of the names and then the
            place in the tensor.
        sparsity: fraction of the blocks of all tensors together.
        granularity, axis: as in :func:`mask_by_sparsity`.
    Returns:
        Name → mask of the scores' shape.

    >>> masks = global_masks({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}, 0.5)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([False, False], [True, True])
    """
    expect(len(scores) > 0, "scores", dict(scores), "at least one tensor")
    expect(0 <= sparsity <= 1, "sparsity", sparsity, "a fraction between 0 and 1")
    for name, s in scores.items():
        require_rankable(name, s)
    blocks = {name: block_scores(s.detach(), granularity, axis) for name, s in scores.items()}
    drop = round(sparsity * sum(b.numel() for b in blocks.values()))
    masks = dict(zip(blocks, _keep_highest(list(blocks.values()), drop), strict=True))
    if granularity == "weight":
        return masks
    return {n: spread(m, scores[n].shape, block_size(scores[n].shape, granularity, axis)) for n, m in masks.items()}


def n_m_mask(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Keep the best ``n`` of every ``m`` neighbours in a row; 2:4 is what sparse tensor cores read (Mishra et al. 2021, 2104.08378).

    Args:
        scores: (…, K) with K a multiple of m, floating point; higher means keep. Ties go to the lower position.
        n, m: 0 ≤ n ≤ m.
    Returns:
        The mask, bool, of the shape of ``scores``, with exactly n True in every group of m.
    Raises:
        ValueError: n > m, m that does not divide the last dimension, or scores that cannot be ranked.

    >>> n_m_mask(torch.tensor([1.0, 4.0, 3.0, 2.0]), 2, 4)
    tensor([False,  True,  True, False])
    """
    require_rankable("scores", scores)
    expect(m >= 1 and 0 <= n <= m, "n, m", (n, m), "0 ≤ n ≤ m, m at least 1")
    width = scores.shape[-1] if scores.dim() else 1
    expect(width % m == 0, "m", m, f"a number that divides the last dimension, {width}")
    columns = scores.detach().reshape(-1, m).unbind(1)
    kept = []
    for i, column in enumerate(columns):
        beaten_by = torch.zeros(column.shape, dtype=torch.int16)
        for j, other in enumerate(columns):
            if j != i:
                beaten_by += other >= column if j < i else other > column
        kept.append(beaten_by < n)
    return torch.stack(kept, dim=1).view(scores.shape)


def _keep_highest(parts: list[torch.Tensor], drop: int) -> list[torch.Tensor]:
    """Masks without the ``drop`` lowest entries of all parts; among equals the first ones stay."""
    if drop == 0:
        return [torch.ones(p.shape, dtype=torch.bool) for p in parts]
    threshold, smaller, equal = kth_smallest(parts, drop)
    stay = smaller + equal - drop  # of those equal to the threshold
    masks = []
    for part in parts:
        mask = part > threshold
        if stay:
            ties = first_true(part == threshold, stay)
            mask |= ties
            stay -= int(torch.count_nonzero(ties))
        masks.append(mask)
    return masks


class Masks(Mapping[str, torch.Tensor]):
    """Masks of a model's parameters: parameter name → bool tensor of the parameter's shape, True where a weight stays.

    Args:
        masks: name, as ``model.named_parameters()`` gives it, → mask.
    Raises:
        ValueError: no masks, or one that is not a bool tensor with at least one entry.
    """

    def __init__(self, masks: Mapping[str, torch.Tensor]) -> None:
        expect(len(masks) > 0, "masks", dict(masks), "at least one mask")
        for name, mask in masks.items():
            expect(mask.dtype == torch.bool, f"masks[{name!r}].dtype", mask.dtype, "torch.bool, True where a weight stays")
            expect(mask.numel() > 0, f"masks[{name!r}]", tuple(mask.shape), "at least one entry")
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __str__(self) -> str:
        lines = [f"{name}: {sparsity(mask):.1%} of {mask.numel():,}" for name, mask in self.items()]
        return "\n".join([f"{self.sparsity:.1%} of {sum(m.numel() for m in self.values()):,} weights pruned", *lines])

    @property
    def sparsity(self) -> float:
        """Fraction of all masked parameters' entries that are pruned."""
        entries, kept = (sum(count(m) for m in self.values()) for count in (torch.numel, torch.count_nonzero))
        return (entries - int(kept)) / entries

    def apply(self, model: nn.Module) -> None:
        """Set the pruned weights of ``model`` to zero, in place.

        Raises:
            CourseError: a name the model does not have, another shape, or two masks for one tensor (tied weights); nothing is changed.
        """
        pairs = [(parameter(model, name), mask) for name, mask in self.items()]
        owner: dict[int, str] = {}
        for (name, mask), (weight, _) in zip(self.items(), pairs, strict=True):
            if weight.shape != mask.shape:
                raise CourseError(
                    f"masks: {name} has the shape {tuple(weight.shape)}; expected its mask's, {tuple(mask.shape)}."
                )
            if id(weight) in owner:
                raise CourseError(f"masks: {owner[id(weight)]} and {name} are one tensor; expected one mask for it.")
            owner[id(weight)] = name
        with torch.no_grad():
            for weight, mask in pairs:
                weight.masked_fill_(~mask, 0)  # not a product: NaN · 0 is NaN

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Apply now and after every step of the optimizer: momentum and weight decay move pruned weights too.

        Returns:
            A handle; its ``remove()`` lets the weights grow again.
        """
        self.apply(model)
        return optimizer.register_step_post_hook(lambda *_: self.apply(model))

    def save(self, path: Path | str) -> None:
        """Write one safetensors file: eight weights a byte, the shapes as JSON in its header."""
        shapes = json.dumps({name: list(mask.shape) for name, mask in self.items()})
        packed = {name: pack_bits(mask) for name, mask in self.items()}
        write_bytes(path, safetensors.torch.save(packed, {"masks": shapes}))

    @classmethod
    def load(cls, path: Path | str) -> "Masks":
        """Read what :meth:`save` wrote.

        Raises:
            CourseError: a file that is missing, damaged or something else.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                shapes = json.loads((file.metadata() or {})["masks"])
                return cls({name: unpack_bits(file.get_tensor(name), shape) for name, shape in shapes.items()})
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise CourseError(f"Cannot read masks from {path}: {error}. Expected a file written by Masks.save.") from error


def parameter(model: nn.Module, name: str) -> nn.Parameter:
    """The parameter of that name; an unknown one is a :class:`CourseError` that names close ones."""
    named = dict(model.named_parameters(remove_duplicate=False))
    if name not in named:
        close = difflib.get_close_matches(name, named, n=2, cutoff=0.3) or list(named)[:2]
        raise CourseError(
            f"masks: {type(model).__name__} has no parameter {name!r}; expected a name like {' or '.join(close)}."
        )
    return named[name]
