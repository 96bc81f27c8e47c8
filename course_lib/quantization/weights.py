"""A weight kept as packed codes, and made back into floats when it is read; here codes that are integers with scales."""

import math

import torch
from torch import nn

from course_lib.errors import expect
from course_lib.granularity import block_size, grid, spread
from course_lib.quantization.affine import choose_affine, dequantize, quantize
from course_lib.quantization.packing import pack, packed_bytes, unpack
from course_lib.quantization.scheme import Scheme


class PackedWeight(nn.Module):
    """The codes of a matrix in ``ceil(n·b/8)`` bytes; what they stand for is a subclass's business.

    Args:
        shape: rows and columns.
        scheme: bits and granularity.
        by_rows: lay the codes out so that single rows can be read, as an embedding does.
    Raises:
        ValueError: blocks that do not divide the shape; ``by_rows`` with rows that do not fill whole bytes or that share a
            scale with some of the others.
    """

    def __init__(self, shape: tuple[int, int], scheme: Scheme, by_rows: bool = False) -> None:
        super().__init__()
        self.shape, self.scheme, self.by_rows = tuple(shape), scheme, by_rows
        self.block, self.code_count = block_size(shape, scheme.granularity), math.prod(shape)
        expect(shape[1] % scheme.size == 0, "size", scheme.size, f"a number that divides a row of {shape[1]}")
        self.code_shape = (shape[0], shape[1] // scheme.size)
        self.fields = 8 // math.gcd(scheme.bits, 8)  # codes in the fewest whole bytes
        if by_rows:
            per_row = self.code_shape[1]
            expect(per_row % self.fields == 0, "bits", scheme.bits, f"bits with which a row of {per_row} fills whole bytes")
            expect(self.block[0] in (1, shape[0]), "granularity", self.block, "blocks within one row, or of all rows")
        size = packed_bytes(math.prod(self.code_shape), scheme.bits)
        self.register_buffer("packed", torch.zeros(size, dtype=torch.uint8))

    def store(self, codes: torch.Tensor) -> None:
        """Pack codes, (R, C) or as many as the class has."""
        expect(codes.shape == self.code_shape, "codes", tuple(codes.shape), f"the shape {self.code_shape}")
        if self.by_rows:
            # `pack` puts the codes i, m + i, 2m + i, … into the same bytes: let all of them come from one row.
            codes = codes.reshape(self.shape[0], self.fields, -1).transpose(0, 1)
        self.packed.copy_(pack(codes, self.scheme.bits))

    def codes(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The codes, (R, C), or those of some rows, (n, C); int8 where they are signed, else uint8."""
        bits, signed = self.scheme.bits, self.scheme.symmetric and self.scheme.codebook is None
        if not self.by_rows:
            expect(rows is None, "rows", rows, "None, as the codes are not laid out by rows")
            return unpack(self.packed, bits, math.prod(self.code_shape), signed).view(self.code_shape)
        planes = self.packed.view(bits * self.fields // 8, self.shape[0], -1)  # (bytes of a word, R, words of a row)
        if rows is not None:
            planes = planes.index_select(1, rows)
        fields = unpack(planes.reshape(-1), bits, planes.shape[1] * self.code_shape[1], signed)
        return fields.view(self.fields, planes.shape[1], -1).transpose(0, 1).reshape(-1, self.code_shape[1])


class IntegerWeight(PackedWeight):
    """``(code − zero_point) · scale``: for each block a scale (float32), and for asymmetric codes a zero point (uint8)."""

    def __init__(self, shape: tuple[int, int], scheme: Scheme, by_rows: bool = False) -> None:
        super().__init__(shape, scheme, by_rows)
        counts = grid(shape, self.block)
        self.register_buffer("scale", torch.ones(counts))
        self.register_buffer("zero_point", None if scheme.symmetric else torch.zeros(counts, dtype=torch.uint8))

    @classmethod
    def from_float(cls, weight: torch.Tensor, scheme: Scheme, by_rows: bool = False) -> "IntegerWeight":
        """Round a weight (R, C) to the nearest codes of each block's range.

        Raises:
            ValueError: a weight that is empty, of integers or not finite, or blocks that do not divide it.
        """
        scale, zero_point = choose_affine(weight, scheme.bits, scheme.symmetric, scheme.granularity)
        codes = quantize(weight, scale, zero_point, scheme.bits, scheme.symmetric)
        return cls.from_codes(codes, scale, zero_point, scheme, by_rows)

    @classmethod
    def from_codes(
        cls,
        codes: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor | None,
        scheme: Scheme,
        by_rows: bool = False,
    ) -> "IntegerWeight":
        """A weight whose codes are given, from rounding, GPTQ or training.

        Args:
            codes: (R, C), int8 for a symmetric scheme, else uint8.
            scale: float32, one per block; ``zero_point``: integers, one per block, for asymmetric schemes.
        Raises:
            ValueError: codes of another dtype or with too many bits, or scales that do not fit.
        """
        expected = torch.int8 if scheme.symmetric else torch.uint8
        expect(codes.dim() == 2 and codes.dtype == expected, "codes", (codes.dtype, codes.dim()), f"a matrix of {expected}")
        weight = cls(codes.shape, scheme, by_rows)
        blocks = weight.scale.numel()
        expect(scale.numel() == blocks, "scale", tuple(scale.shape), f"{blocks} numbers, one for each block")
        fits = scheme.symmetric or (zero_point is not None and zero_point.numel() == blocks)
        expect(fits, "zero_point", zero_point, f"{blocks} integers, one for each block")
        weight.store(codes)
        weight.scale.copy_(scale.detach().view_as(weight.scale))
        if weight.zero_point is not None:
            weight.zero_point.copy_(zero_point.view_as(weight.zero_point))
        return weight

    def zero_codes(self) -> torch.Tensor:
        """The codes (R, C) of a weight of zeros."""
        if self.zero_point is None:
            return torch.zeros(self.shape, dtype=torch.int8)
        return spread(self.zero_point, self.shape, self.block)

    def dequantize(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The weight in float32, (R, C), or some of its rows, (n, C); ``rows``: int64 (n,)."""
        scale = of_rows(self.scale, rows)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        if self.zero_point is not None:
            zero_point = of_rows(self.zero_point, rows).int()
        return dequantize(self.codes(rows), scale, zero_point)


def of_rows(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Of values per block, (G₁, G₂, …), those of the blocks in these rows; all where a block has all rows."""
    return values if rows is None or len(values) == 1 else values.index_select(0, rows)
