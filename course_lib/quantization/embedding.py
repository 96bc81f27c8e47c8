"""An embedding whose rows are packed codes; a look-up unpacks only the rows it needs."""

import torch
from torch import nn

from course_lib.errors import expect
from course_lib.quantization.codebook_weights import empty_weight, quantized_weight
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.weights import PackedWeight


class QuantizedEmbedding(nn.Module):
    """Rows of a quantized table, float32: usually with a scale for each row ("channel"), as words differ in size.

    Args:
        num_embeddings, embedding_dim: V rows of D entries.
        scheme: float activations, and blocks within a row or of the whole table.
    Raises:
        ValueError: a scheme with integer activations, or rows that do not fill whole bytes.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, scheme: Scheme) -> None:
        super().__init__()
        expect(scheme.activation == "none", "scheme", str(scheme), "float activations: an embedding reads ids")
        self.num_embeddings, self.embedding_dim, self.scheme = num_embeddings, embedding_dim, scheme
        self.weight = empty_weight((num_embeddings, embedding_dim), scheme, by_rows=True)

    @classmethod
    def from_float(
        cls, embedding: nn.Embedding, scheme: Scheme, importance: torch.Tensor | None = None
    ) -> "QuantizedEmbedding":
        """Quantize a table, to the nearest codes; ``importance`` of the table's shape, as for ``PackedLinear.from_float``.

        Raises:
            ValueError: as the class, or a table that is empty, of integers or not finite.
        """
        return cls.from_weight(quantized_weight(embedding.weight.detach(), scheme, True, importance))

    @classmethod
    def from_weight(cls, weight: PackedWeight) -> "QuantizedEmbedding":
        """A table whose codes somebody else chose."""
        table = cls(*weight.shape, weight.scheme)
        table.weight = weight
        return table

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of any shape → (…, D) float32. An id out of range is an IndexError."""
        if ids.numel() == 0:
            return torch.zeros(*ids.shape, self.embedding_dim)
        return self.weight.dequantize(ids.reshape(-1)).view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.scheme}"
