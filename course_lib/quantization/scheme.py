"""What a plan says about a module: how many bits, which entries share a scale, what becomes of the activations."""

import math
from dataclasses import asdict, dataclass

from course_lib.errors import expect
from course_lib.granularity import Granularity, block_size, grid
from course_lib.quantization.packing import packed_bytes

ACTIVATIONS = ("none", "dynamic", "static")
CODEBOOKS = (None, "kmeans", "nf4", "vectors")


@dataclass(frozen=True)
class Scheme:
    """How one module is quantized.

    Attributes:
        bits: of a code, 2 to 8: of a weight, or of ``size`` weights with vectors.
        granularity: which weights share a scale or a codebook: "tensor", "channel" (an output row, a word), a number (so many
            neighbours in a row) or a block size; see :mod:`course_lib.granularity`.
        symmetric: codes about 0, or with a zero point.
        codebook: None for a uniform grid; "kmeans", the best 2^bits levels for each block (Han et al. 2015, 1510.00149; with
            7 and 8 bits those of Lloyd's steps, as exact ones take minutes);
            "nf4", the 16 levels of normal-float 4, with the largest magnitude of each block as its scale (Dettmers et al.
            2023, 2305.14314); "vectors", the numbers of codewords of ``size`` neighbours in a row, from one list for the
            tensor (Stock et al. 2019, 1907.05686).
        activation: "none" leaves them in float (the weights are turned back into floats at every call); "dynamic" gives each
            token its own symmetric scale when it comes; "static" uses one asymmetric range measured beforehand. With the
            last two the product is of integers.
        activation_bits: of a static activation, 2 to 8.
        size: how many weights share a code, with vectors; else 1.
    Raises:
        ValueError: a value out of range, or fields that exclude each other.
    """

    bits: int = 8
    granularity: Granularity = "channel"
    symmetric: bool = True
    codebook: str | None = None
    activation: str = "none"
    activation_bits: int = 8
    size: int = 1

    def __post_init__(self) -> None:
        for name in ("bits", "activation_bits"):
            value = getattr(self, name)
            expect(type(value) is int and 2 <= value <= 8, name, value, "a whole number from 2 to 8")
        expect(self.activation in ACTIVATIONS, "activation", self.activation, f"one of {', '.join(ACTIVATIONS)}")
        expect(self.codebook in CODEBOOKS, "codebook", self.codebook, "None, 'kmeans', 'nf4' or 'vectors'")
        expect(self.codebook != "nf4" or self.bits == 4, "bits", self.bits, "4 for nf4, which has 16 levels")
        expect(self.codebook is None or self.symmetric, "symmetric", self.symmetric, "True: a codebook has no zero point")
        vectors = self.codebook == "vectors"
        good = type(self.size) is int and (self.size >= 2 if vectors else self.size == 1)
        expect(good, "size", self.size, "a number of at least 2 with vectors, else 1")
        expect(not vectors or self.granularity == "tensor", "granularity", self.granularity, "'tensor' with vectors")
        if self.activation != "none":
            fits = self.granularity in ("tensor", "channel")
            expect(fits, "granularity", self.granularity, "'tensor' or 'channel': an integer sum runs over a whole row")
            expect(self.codebook is None, "codebook", self.codebook, "None with integer activations: levels are floats")
        if self.activation != "static":
            expect(self.activation_bits == 8, "activation_bits", self.activation_bits, "8 unless activations are static")

    def __str__(self) -> str:
        kind = self.codebook or ("symmetric" if self.symmetric else "asymmetric")
        where = f"groups of {self.granularity}" if isinstance(self.granularity, int) else f"per {self.granularity}"
        inputs = {"none": "float inputs", "dynamic": "int8 inputs per token", "static": f"int{self.activation_bits} inputs"}
        shared = f" for {self.size} weights" if self.size > 1 else ""
        return f"{self.bits} bits{shared}, {kind}, {where}, {inputs[self.activation]}"

    def to_json(self) -> dict:
        """The fields as JSON values; :meth:`from_json` reads them."""
        fields = asdict(self)
        return {**fields, "granularity": list(self.granularity)} if isinstance(self.granularity, tuple) else fields

    @classmethod
    def from_json(cls, fields: dict) -> "Scheme":
        """The scheme of :meth:`to_json`; ValueError or TypeError when it is none."""
        granularity = fields.get("granularity")
        return cls(**{**fields, "granularity": tuple(granularity) if isinstance(granularity, list) else granularity})


def weight_bytes(shape: tuple[int, int], scheme: Scheme) -> int:
    """Bytes of a quantized weight as it is stored: ``ceil(n·b/8)`` for codes, and what it takes to read them.

    With G blocks: 4·G for scales, G for the zero points (uint8) of asymmetric ones; a k-means codebook takes 4·G·2^b instead,
    NF4 4·G for scales (its levels are a constant). Vectors have n/size codes, and 4·size·2^b for the codewords.

    >>> weight_bytes((768, 768), Scheme(bits=4, granularity=64)) == 768 * 768 // 2 + 4 * 768 * 768 // 64
    True
    """
    if scheme.codebook == "vectors":
        return packed_bytes(math.prod(shape) // scheme.size, scheme.bits) + 4 * scheme.size * 2**scheme.bits
    blocks = math.prod(grid(shape, block_size(shape, scheme.granularity)))
    codes = packed_bytes(math.prod(shape), scheme.bits)
    if scheme.codebook == "kmeans":
        return codes + 4 * blocks * 2**scheme.bits
    if scheme.codebook == "nf4":
        return codes + 4 * blocks
    return codes + 4 * blocks + (0 if scheme.symmetric else blocks)


def linear_bytes(shape: tuple[int, int], scheme: Scheme, bias: bool = True) -> int:
    """Bytes of a quantized linear layer as it is stored: :func:`weight_bytes`, a float32 bias, and for static activations
    a scale (4) and a zero point (1).

    >>> linear_bytes((768, 768), Scheme(activation="static")) == 768 * 768 + 4 * 768 + 4 * 768 + 5
    True
    """
    return weight_bytes(shape, scheme) + (4 * shape[0] if bias else 0) + (5 if scheme.activation == "static" else 0)
