"""Vector (product) quantization: neighbours in a row are coded together, as the number of the nearest codeword.

A matrix is cut into sub-vectors of d entries, and k codewords are found by k-means; a sub-vector then takes log₂(k) bits,
log₂(k)/d for each entry, which may be less than one. With a codebook for each position in a row it is product quantization
(Jégou et al. 2011, doi 10.1109/TPAMI.2010.57), with one for the whole matrix what Stock et al. 2019 (1907.05686) use for weights.
"""

import torch

from course_lib.errors import expect
from course_lib.quantization.packing import packed_bytes

_CHUNK = 1 << 13  # sub-vectors compared with all codewords at a time


def quantize_vectors(
    x: torch.Tensor, size: int, count: int, shared: bool = True, iterations: int = 25, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and codewords of a matrix.

    Args:
        x: floating point (R, D), finite, at least one entry.
        size: d, entries of a sub-vector; it divides D.
        count: k, codewords of a codebook, 2 to 256.
        shared: one codebook for the matrix; otherwise one for each of the D/d positions in a row.
        iterations: at most so many of Lloyd's steps.
        seed: of the first codewords.
    Returns:
        Codes uint8 (R, D/d), and codewords float32 (1 or D/d, k, d). Where there are at most k distinct sub-vectors these are
        the codewords, the last one repeated, and nothing is lost.
    Raises:
        ValueError: another number of dimensions, a size that does not divide D, k out of range, or values not finite.

    >>> codes, codewords = quantize_vectors(torch.tensor([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 1.0, 2.0]]), 2, 2)
    >>> dequantize_vectors(codes, codewords)
    tensor([[1., 2., 3., 4.],
            [3., 4., 1., 2.]])
    """
    expect(x.is_floating_point() and x.dim() == 2 and x.numel() > 0, "x", (x.dtype, tuple(x.shape)), "a matrix of floats")
    divides = type(size) is int and size >= 1 and x.shape[1] % size == 0
    expect(divides, "size", size, f"a number that divides the {x.shape[1]} columns")
    expect(type(count) is int and 2 <= count <= 256, "count", count, "2 to 256 codewords")
    expect(iterations >= 0, "iterations", iterations, "a number of steps")
    expect(bool(torch.isfinite(x).all()), "x", "NaN or Inf", "finite numbers")
    vectors = x.detach().float().reshape(len(x), -1, size).transpose(0, 1)  # (D/d, R, d)
    if shared:
        vectors = vectors.reshape(1, -1, size)
    generator = torch.Generator().manual_seed(seed)
    codewords = torch.stack([_codewords(own, count, iterations, generator) for own in vectors])  # (books, k, d)
    codes = torch.stack([nearest(own, words)[0] for own, words in zip(vectors, codewords, strict=True)])
    return codes.to(torch.uint8).view(-1, len(x)).t().contiguous(), codewords


def dequantize_vectors(codes: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
    """The codeword of each code, side by side: float32 (R, D).

    Args:
        codes: (R, D/d) integers; ``codewords``: (1 or D/d, k, d), as :func:`quantize_vectors` gives them.
    """
    expect(
        codes.dim() == 2 and not codes.is_floating_point(), "codes", (codes.dtype, tuple(codes.shape)), "a matrix of integers"
    )
    fits = codewords.dim() == 3 and len(codewords) in (1, codes.shape[1])
    expect(fits, "codewords", tuple(codewords.shape), f"1 or {codes.shape[1]} codebooks (books, k, d)")
    books, k, size = codewords.shape
    numbers = codes.long()
    expect(numbers.numel() == 0 or int(numbers.max()) < k, "codes", int(numbers.max()), f"numbers below {k}")
    if books > 1:
        numbers = numbers + torch.arange(books) * k
    return codewords.reshape(-1, size).index_select(0, numbers.reshape(-1)).view(len(codes), -1)


def vector_bytes(codes: torch.Tensor, codewords: torch.Tensor) -> int:
    """Bytes of the codes, ``ceil(log₂ k)`` bits each, packed, and of the codewords in float32.

    >>> vector_bytes(torch.zeros(768, 384, dtype=torch.uint8), torch.zeros(1, 256, 8))
    303104
    """
    return packed_bytes(codes.numel(), (codewords.shape[1] - 1).bit_length()) + 4 * codewords.numel()


def lloyd_vectors(vectors: torch.Tensor, codewords: torch.Tensor, iterations: int = 25) -> torch.Tensor:
    """Lloyd's steps: each codeword moves to the mean of the vectors nearest to it, until none changes sides.

    A codeword without vectors takes the vector that lies farthest from its own codeword. No step raises the squared error,
    but for rounding.

    Args:
        vectors: float32 (n, d); ``codewords``: (k, d), where to start; ``iterations``: at most so many steps.
    Returns:
        Codewords (k, d).
    """
    previous = None
    for _ in range(iterations):
        codes, distance = nearest(vectors, codewords)
        if previous is not None and torch.equal(codes, previous):
            break
        previous = codes
        sizes = torch.bincount(codes, minlength=len(codewords))
        sums = torch.zeros(codewords.shape, dtype=torch.float64).index_add_(0, codes, vectors.double())
        codewords = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], codewords).float()
        empty = (sizes == 0).nonzero()[:, 0]
        codewords[empty] = vectors[distance.topk(min(len(empty), len(vectors))).indices]
    return codewords


def nearest(vectors: torch.Tensor, codewords: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of the nearest codeword of each vector (n,), int64, and the squared distance, float32 (n,).

    ``‖v − c‖² = ‖v‖² − 2·v·c + ‖c‖²``: a matrix product finds the nearest; its distance is then taken from the difference.
    """
    half_squares = codewords.square().sum(dim=1) / 2
    codes = torch.cat([(half_squares - part @ codewords.t()).argmin(dim=1) for part in vectors.split(_CHUNK)])
    return codes, (vectors - codewords[codes]).square().sum(dim=1)


def _codewords(vectors: torch.Tensor, count: int, iterations: int, generator: torch.Generator) -> torch.Tensor:
    distinct = torch.unique(vectors, dim=0)
    if len(distinct) <= count:
        return torch.cat([distinct, distinct[-1:].expand(count - len(distinct), -1)])
    return lloyd_vectors(vectors, distinct[torch.randperm(len(distinct), generator=generator)[:count]], iterations)
