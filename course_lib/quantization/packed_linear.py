"""A linear layer that keeps its weight packed and computes in floats: memory and disk are saved, time is not."""

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.errors import expect
from course_lib.quantization.codebook_weights import empty_weight, quantized_weight
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.weights import PackedWeight


class PackedLinear(nn.Module):
    """``y = x·Ŵᵀ + b`` with Ŵ unpacked at every call; gradients pass to ``x``, so that adapters can be trained on top.

    Args:
        in_features, out_features: K and N.
        scheme: one that leaves activations in float.
        bias: whether there is one.
    """

    def __init__(self, in_features: int, out_features: int, scheme: Scheme, bias: bool = True) -> None:
        super().__init__()
        expect(scheme.activation == "none", "scheme", str(scheme), "float activations")
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        self.weight = empty_weight((out_features, in_features), scheme)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    @classmethod
    def from_float(cls, linear: nn.Linear, scheme: Scheme, importance: torch.Tensor | None = None) -> "PackedLinear":
        """Quantize the weight of a layer, to the nearest codes.

        Args:
            linear: floating point, finite.
            scheme: one that leaves activations in float.
            importance: of the weight's shape; see :func:`course_lib.quantization.codebook_weights.quantized_weight`.
        Raises:
            ValueError: a weight that is empty, of integers or not finite, or blocks that do not divide it.
        """
        return cls.from_weight(quantized_weight(linear.weight.detach(), scheme, importance=importance), linear.bias)

    @classmethod
    def from_weight(cls, weight: PackedWeight, bias: torch.Tensor | None) -> "PackedLinear":
        """A layer whose codes somebody else chose, as ``IntegerWeight.from_codes`` makes a weight of; bias (out,)."""
        layer = cls(weight.shape[1], weight.shape[0], weight.scheme, bias is not None)
        layer.weight = weight
        if bias is not None:
            layer.bias.data.copy_(bias.detach())
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) → (…, N), in the dtype of ``x``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.dequantize().to(x.dtype), bias)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.scheme}"


class Int4Linear(PackedLinear):
    """A :class:`PackedLinear` of 4 bits a weight, two to a byte, usually with a scale for each group of a row."""


class CodebookLinear(PackedLinear):
    """A :class:`PackedLinear` whose codes are numbers: of the levels of k-means or NF4, or of codewords for several weights."""
