"""Pairs of ``make bench`` about tensors, on the shapes of BERT-base: each compares the results and returns itself."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from course_lib.errors import CourseError
from course_lib.pruning.masks import global_masks
from course_lib.pruning.storage import encode_csr
from course_lib.pruning.wanda import wanda_mask
from course_lib.quantization.exact_kmeans import optimal_levels
from course_lib.quantization.packing import pack, unpack


@dataclass(frozen=True)
class Sizes:
    """The shapes worked on: ``layers`` Transformer layers of ``width``, a word embedding of ``vocabulary`` rows, ``tokens`` in a batch."""

    width: int = 768
    vocabulary: int = 30522
    layers: int = 12
    tokens: int = 2048


@dataclass(frozen=True)
class Pair:
    """Two functions that do the same; ``fresh`` makes the argument of theirs outside the timed part."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[object], object]
    tensor_bytes: int
    fresh: Callable[[], object] = lambda: None


def agree(same: bool, what: str) -> None:
    """Refuse a pair whose results differ."""
    if not same:
        raise AssertionError(f"{what}: ours and theirs differ, timing them would mean nothing")


def oracle(name: str):
    """Import a package of the extra ``oracles``."""
    from importlib import import_module

    logging.disable(logging.WARNING)  # torchao tells of kernels that a CPU does not have
    try:
        return import_module(name)
    except ImportError as error:
        raise CourseError(f"{name} is needed to compare with: pip install -e .[oracles]") from error
    finally:
        logging.disable(logging.NOTSET)


def global_pruning(sizes: Sizes) -> Pair:
    """Half of all weights by one threshold; ours starts from the weights, as theirs does."""
    from torch import nn
    from torch.nn.utils.prune import L1Unstructured, global_unstructured

    w = sizes.width
    shapes = [(sizes.vocabulary, w)] + sizes.layers * (4 * [(w, w)] + [(4 * w, w), (w, 4 * w)])
    weights = {str(n): torch.randn(shape) for n, shape in enumerate(shapes)}

    def fresh() -> list[nn.Module]:
        modules = [nn.Module() for _ in weights]
        for module, weight in zip(modules, weights.values(), strict=True):
            module.weight = nn.Parameter(weight)
        return modules

    def theirs(modules: list[nn.Module]) -> list[torch.Tensor]:
        global_unstructured([(m, "weight") for m in modules], L1Unstructured, amount=0.5)
        return [m.weight_mask for m in modules]

    ours = lambda: global_masks({n: x.abs() for n, x in weights.items()}, 0.5)  # noqa: E731
    threshold = max(float(x.abs()[~m].max()) for x, m in zip(weights.values(), ours().values(), strict=True))
    for x, a, b in zip(weights.values(), ours().values(), theirs(fresh()), strict=True):
        agree(bool(((a == b.bool()) | (x.abs() == threshold)).all()), "global masks")  # equal but for ties
    count = sum(x.numel() for x in weights.values())
    return Pair(f"global masks, {count / 1e6:.1f} M weights (torch prune)", ours, theirs, 4 * count, fresh)


def kmeans(sizes: Sizes) -> Pair:
    """16 levels with the least squared error."""
    kmeans1d = oracle("kmeans1d")
    x = torch.randn(sizes.width, sizes.width)
    flat = x.flatten().double().numpy()
    ours, theirs = lambda: optimal_levels(x, 16), lambda _: kmeans1d.cluster(flat, 16)

    def cost(levels: torch.Tensor) -> float:
        middles = (levels[1:] + levels[:-1]) / 2
        return float((x.flatten().double() - levels[torch.bucketize(x.flatten().double(), middles)]).square().sum())

    a, b = cost(ours().double()), cost(torch.tensor(theirs(None).centroids, dtype=torch.float64).sort().values)
    # a level rounded to float32 is off by at most 2⁻²⁴ of it, which adds at most n · (2⁻²⁴ · max|x|)² to the least cost
    # (the first order vanishes at a mean); 1e-9 of the cost is for sums in float64
    agree(abs(a - b) <= x.numel() * (2**-24 * float(x.abs().max())) ** 2 + 1e-9 * b, "k-means")
    return Pair(f"exact k-means, 16 levels, {sizes.width} × {sizes.width} (kmeans1d)", ours, theirs, 4 * x.numel())


def csr(sizes: Sizes) -> Pair:
    """Dense to compressed sparse rows at 90 % zeros; ours also takes the narrowest integers."""
    sparse = oracle("scipy.sparse")
    w = torch.randn(4 * sizes.width, sizes.width)
    w[torch.rand_like(w) < 0.9] = 0
    ours, theirs = lambda: encode_csr(w), lambda _: sparse.csr_matrix(w.numpy())
    a, b = ours(), theirs(None)
    same = [(a.pointers.numpy() == b.indptr).all(), (a.columns.numpy() == b.indices).all(), (a.values.numpy() == b.data).all()]
    agree(all(same), "CSR")
    return Pair(f"dense to CSR, 90 % zeros, {tuple(w.shape)} (scipy)", ours, theirs, 4 * w.numel())


def packing(sizes: Sizes) -> Pair:
    """4-bit codes to bytes and back, against torchao, which packs neighbours in the other order; the round trips are compared."""
    kernels = oracle("torchao.prototype.mx_formats.kernels")
    codes = torch.randint(16, (4 * sizes.width, sizes.width), dtype=torch.uint8)
    ours = lambda: unpack(pack(codes, 4), 4, codes.numel())  # noqa: E731
    theirs = lambda _: kernels.unpack_uint4(kernels.pack_uint4(codes)).flatten()  # noqa: E731
    agree(torch.equal(ours(), codes.flatten()) and torch.equal(theirs(None), codes.flatten()), "4-bit packing")
    return Pair(f"4-bit pack and unpack, {tuple(codes.shape)} (torchao)", ours, theirs, codes.numel())


def wanda(sizes: Sizes) -> Pair:
    """Half of each row by ``|W|·‖X‖``, against a loop over rows; in equal scores the first stay on both sides."""
    w, norms = torch.randn(sizes.width, 4 * sizes.width), torch.rand(4 * sizes.width)

    def theirs(_) -> torch.Tensor:
        mask = torch.zeros(w.shape, dtype=torch.bool)
        for kept, row in zip(mask, w, strict=True):
            order = (row.abs() * norms).sort(descending=True, stable=True).indices
            kept[order[: len(row) - round(0.5 * len(row))]] = True
        return mask

    ours = lambda: wanda_mask(w, norms, 0.5)  # noqa: E731
    agree(torch.equal(ours(), theirs(None)), "Wanda")
    return Pair(f"Wanda mask, {tuple(w.shape)} (loop over rows)", ours, theirs, 4 * w.numel())


ALL = (global_pruning, kmeans, csr, packing, wanda)
