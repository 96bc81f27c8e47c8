"""Weights whose packed codes are numbers: of levels (k-means, NF4), or of codewords for several weights at once."""

import torch

from course_lib.errors import expect
from course_lib.granularity import grid, spread
from course_lib.quantization.codebooks import dequantize_codebook, quantize_codebook
from course_lib.quantization.nf4 import dequantize_nf4, nf4_levels, quantize_nf4
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.vector import dequantize_vectors, quantize_vectors
from course_lib.quantization.weights import IntegerWeight, PackedWeight, of_rows

EXACT_BITS = 6  # exact levels take minutes when there are 128 or 256 of them


class CodebookWeight(PackedWeight):
    """``codebook[block, code]``: 2^b levels (float32) for each block."""

    def __init__(self, shape: tuple[int, int], scheme: Scheme, by_rows: bool = False) -> None:
        super().__init__(shape, scheme, by_rows)
        self.register_buffer("codebook", torch.zeros(*grid(shape, self.block), 2**scheme.bits))

    @classmethod
    def from_float(
        cls, weight: torch.Tensor, scheme: Scheme, by_rows: bool = False, importance: torch.Tensor | None = None
    ) -> "CodebookWeight":
        """The best levels for each block of a weight (R, C), by k-means, and the nearest of them for each entry.

        Args:
            importance: how much the error of an entry counts, ≥ 0, of a shape that broadcasts to (R, C): the mean square
                of each input (C,), or the Fisher diagonal (R, C); None: all the same.
        Raises:
            ValueError: a weight that is empty, of integers or not finite, or blocks or an importance that do not fit it.
        """
        expect(weight.numel() > 0, "weight", tuple(weight.shape), "at least one entry")
        method = "exact" if scheme.bits <= EXACT_BITS else "lloyd"
        codes = quantize_codebook(weight, scheme.bits, scheme.granularity, method=method, weights=importance)
        return cls.from_codes(*codes, scheme, by_rows)

    @classmethod
    def from_codes(cls, codes: torch.Tensor, codebook: torch.Tensor, scheme: Scheme, by_rows: bool = False) -> "CodebookWeight":
        """A weight whose codes are given: uint8 (R, C), numbers of the levels ``codebook``, (*grid of blocks*, 2^b).

        Raises:
            ValueError: codes of another dtype or too large, or levels that do not fit.
        """
        _expect_numbers(codes)
        return _filled(cls(codes.shape, scheme, by_rows), codes, codebook=codebook)

    def zero_codes(self) -> torch.Tensor:
        """The codes (R, C) of the levels nearest to zero."""
        return spread(self.codebook.abs().argmin(-1).to(torch.uint8), self.shape, self.block)

    def dequantize(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The weight in float32, (R, C), or some of its rows, (n, C); ``rows``: int64 (n,)."""
        return dequantize_codebook(self.codes(rows), of_rows(self.codebook, rows))


class Nf4Weight(PackedWeight):
    """``level[code] · scale``: the 16 levels of NF4, and a scale (float32) for each block."""

    def __init__(self, shape: tuple[int, int], scheme: Scheme, by_rows: bool = False) -> None:
        super().__init__(shape, scheme, by_rows)
        self.register_buffer("scale", torch.ones(grid(shape, self.block)))

    @classmethod
    def from_float(cls, weight: torch.Tensor, scheme: Scheme, by_rows: bool = False) -> "Nf4Weight":
        """The nearest levels of a weight (R, C), scaled by the largest magnitude of each block.

        Raises:
            ValueError: a weight that is empty, of integers or not finite, or blocks that do not divide it.
        """
        return cls.from_codes(*quantize_nf4(weight, scheme.granularity), scheme, by_rows)

    @classmethod
    def from_codes(cls, codes: torch.Tensor, scale: torch.Tensor, scheme: Scheme, by_rows: bool = False) -> "Nf4Weight":
        """A weight whose codes are given: uint8 (R, C), and ``scale``, one per block.

        Raises:
            ValueError: codes of another dtype or too large, or scales that do not fit.
        """
        _expect_numbers(codes)
        return _filled(cls(codes.shape, scheme, by_rows), codes, scale=scale)

    def zero_codes(self) -> torch.Tensor:
        """The codes (R, C) of a weight of zeros."""
        return torch.full(self.shape, int(nf4_levels().abs().argmin()), dtype=torch.uint8)

    def dequantize(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The weight in float32, (R, C), or some of its rows, (n, C); ``rows``: int64 (n,)."""
        return dequantize_nf4(self.codes(rows), of_rows(self.scale, rows))


class VectorWeight(PackedWeight):
    """``codewords[code]`` side by side: a code for ``size`` neighbours in a row, of one list of 2^b codewords."""

    def __init__(self, shape: tuple[int, int], scheme: Scheme, by_rows: bool = False) -> None:
        super().__init__(shape, scheme, by_rows)
        self.register_buffer("codewords", torch.zeros(1, 2**scheme.bits, scheme.size))

    @classmethod
    def from_float(cls, weight: torch.Tensor, scheme: Scheme, by_rows: bool = False) -> "VectorWeight":
        """Codewords for a weight (R, C), by k-means, and the nearest of them for each of its vectors.

        Raises:
            ValueError: a weight that is empty, of integers or not finite, or a size that does not divide its rows.
        """
        return cls.from_codes(*quantize_vectors(weight, scheme.size, 2**scheme.bits), scheme, by_rows)

    @classmethod
    def from_codes(cls, codes: torch.Tensor, codewords: torch.Tensor, scheme: Scheme, by_rows: bool = False) -> "VectorWeight":
        """A weight whose codes are given: uint8 (R, C/size), numbers of ``codewords`` (1, 2^b, size).

        Raises:
            ValueError: codes of another dtype or too large, or codewords that do not fit.
        """
        _expect_numbers(codes)
        return _filled(cls((codes.shape[0], codes.shape[1] * scheme.size), scheme, by_rows), codes, codewords=codewords)

    def zero_codes(self) -> torch.Tensor:
        """The codes (R, C/size) of the codeword nearest to zero."""
        return torch.full(self.code_shape, int(self.codewords[0].square().sum(1).argmin()), dtype=torch.uint8)

    def dequantize(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The weight in float32, (R, C), or some of its rows, (n, C); ``rows``: int64 (n,)."""
        return dequantize_vectors(self.codes(rows), self.codewords)


KINDS = {None: IntegerWeight, "kmeans": CodebookWeight, "nf4": Nf4Weight, "vectors": VectorWeight}


def empty_weight(shape: tuple[int, int], scheme: Scheme, by_rows: bool = False) -> PackedWeight:
    """A weight for a scheme, to be filled from a file; arguments as of :class:`course_lib.quantization.weights.PackedWeight`."""
    return KINDS[scheme.codebook](shape, scheme, by_rows)


def quantized_weight(
    weight: torch.Tensor, scheme: Scheme, by_rows: bool = False, importance: torch.Tensor | None = None
) -> PackedWeight:
    """Quantize a weight (R, C), by the class of its scheme.

    Args:
        weight, scheme, by_rows: as of :class:`course_lib.quantization.weights.PackedWeight`.
        importance: for k-means alone, see :meth:`CodebookWeight.from_float`.
    Raises:
        ValueError: a weight that is empty, of integers or not finite, blocks that do not divide it, or an importance
            that the scheme has no use for.
    """
    if importance is not None:
        expect(scheme.codebook == "kmeans", "importance", tuple(importance.shape), "None but for k-means codebooks")
        return CodebookWeight.from_float(weight, scheme, by_rows, importance)
    return KINDS[scheme.codebook].from_float(weight, scheme, by_rows)


def _expect_numbers(codes: torch.Tensor) -> None:
    good = codes.dim() == 2 and codes.dtype == torch.uint8
    expect(good, "codes", (codes.dtype, codes.dim()), "a matrix of torch.uint8")


def _filled(weight: PackedWeight, codes: torch.Tensor, **numbers: torch.Tensor) -> PackedWeight:
    """A weight with these codes, and the numbers that belong to them."""
    for name, given in numbers.items():
        due = getattr(weight, name)
        expect(given.numel() == due.numel(), name, tuple(given.shape), str(tuple(due.shape)))
        due.copy_(given.detach().view_as(due))
    weight.store(codes)
    return weight
