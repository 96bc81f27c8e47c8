"""How alike the outputs of layers are, over the tokens of real sentences: linear CKA and cosine.

*Centred kernel alignment* asks whether two sets of vectors lie in the same way to each other, whatever the axes: with columns
centred,

    CKA(X, Y) = ‖YᵀX‖² / (‖XᵀX‖·‖YᵀY‖)

is 1 where Y is X turned, mirrored, moved or scaled. Source: Kornblith et al. 2019, 1905.00414. The *cosine* of a token's
vectors before and after a layer asks more: that nothing was turned either. It is what tells whether a layer may go, as the
layers around it read these very axes; 1 − cosine is the layer's "block influence" (Men et al. 2024, 2403.03853).

Both are taken in one pass over the sentences: CKA needs the moments of all the outputs together, which are summed up batch by
batch.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from course_lib.calibration import Batch, Statistic, checked_batches
from course_lib.errors import expect
from course_lib.layerwise import evaluating, real_rows
from course_lib.models.surgery import encoder_layers


class Covariance(Statistic):
    """``(X − mean)ᵀ(X − mean) / n`` of rows that come in batches, float64.

    Rows are taken relative to the first one, so that a mean far larger than the spread costs no digits.

    >>> covariance = Covariance(2)
    >>> covariance.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    >>> covariance.matrix()
    tensor([[1., 0.],
            [0., 0.]], dtype=torch.float64)
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self._origin = torch.zeros(features, dtype=torch.float64)
        self._sum = torch.zeros(features, dtype=torch.float64)
        self._products = torch.zeros(features, features, dtype=torch.float64)

    def _add(self, x: torch.Tensor) -> None:
        x = x.double()
        if not self.rows and len(x):
            self._origin = x[0].clone()
        x = x - self._origin
        self._sum += x.sum(0)
        self._products += x.T @ x

    def matrix(self) -> torch.Tensor:
        """The covariance (D, D), symmetric."""
        mean = self._sum / self._seen()
        return self._products / self.rows - torch.outer(mean, mean)


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """CKA of the same n examples as two sets of vectors, by the formula: through the features, never an n × n matrix.

    Args:
        x: (n, D), floating point; y: (n, E).
    Returns:
        Between 0 and 1; 1 for an orthogonal map, a shift or a scale of all.
    Raises:
        ValueError: other shapes, fewer than two examples, or vectors that are all the same.
    """
    fits = x.dim() == 2 and y.dim() == 2 and len(x) == len(y) and len(x) > 1
    expect(fits, "x, y", (tuple(x.shape), tuple(y.shape)), "the same two examples or more, (n, D) and (n, E)")
    covariance = Covariance(x.shape[1] + y.shape[1])
    covariance.add(torch.cat([x.double(), y.double()], dim=1))
    return float(cka_of(covariance.matrix(), [x.shape[1], y.shape[1]])[0, 1])


def cka_of(covariance: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """CKA of every two sets of features, from the covariance of all of them side by side.

    Args:
        covariance: (ΣD, ΣD), symmetric.
        widths: D of each set.
    Returns:
        (sets, sets), symmetric, float64, 1 on the diagonal.
    Raises:
        ValueError: widths that do not fit, or a set of which all vectors are the same.
    """
    expect(sum(widths) == len(covariance), "widths", widths, f"numbers that add up to {len(covariance)}")
    blocks = [columns.split(widths) for columns in covariance.split(widths, dim=1)]
    norms = torch.stack([torch.stack([block.norm() for block in row]) for row in blocks])  # ‖Cov(i, j)‖
    own = norms.diagonal()
    expect(bool((own > 0).all()), "covariance", own.tolist(), "vectors that differ in every set")
    return norms.square() / torch.outer(own, own)


@dataclass(frozen=True)
class Similarity:
    """How alike the states between the layers of an encoder are.

    Attributes:
        names: of the states: "embeddings", then "layer 0" and so on for what each layer puts out.
        cka: (states, states), float64, symmetric.
        cosine: (states, states), float64, symmetric: the mean over tokens of the cosine of their two vectors.
        tokens: that were looked at.
    """

    names: list[str]
    cka: torch.Tensor
    cosine: torch.Tensor
    tokens: int

    def neighbours(self) -> list[float]:
        """The cosine of what goes into each layer and what comes out of it."""
        return self.cosine.diagonal(1).tolist()


@torch.no_grad()
def layer_similarity(model: nn.Module, batches: Iterable[Batch]) -> Similarity:
    """Similarity of the states before, between and after the layers of a BERT-like model, over real tokens only.

    Args:
        model: called as ``model(**batch)``, without dropout.
        batches: sentences, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`. Memory: 16·((layers + 1)·D)² bytes.
    Raises:
        CourseError: not built like BERT.
        ValueError: batches that are empty or bad, or states that are not finite.
    """
    layers, batches = encoder_layers(model), checked_batches(batches)
    count, covariance, cosines = len(layers) + 1, None, 0.0
    with evaluating(model), states_of(layers) as states:
        for batch in batches:
            states.clear()
            model(**batch)
            rows = [real_rows(state, batch["attention_mask"]).double() for state in states]  # (tokens, D) each
            covariance = covariance or Covariance(count * rows[0].shape[1])
            covariance.add(torch.cat(rows, dim=1))
            unit = torch.nn.functional.normalize(torch.stack(rows, dim=1), dim=-1)  # (tokens, states, D)
            cosines = cosines + torch.einsum("nid,njd->ij", unit, unit)
    names = ["embeddings", *(f"layer {i}" for i in range(len(layers)))]
    width = covariance.features // count
    return Similarity(names, cka_of(covariance.matrix(), [width] * count), cosines / covariance.rows, covariance.rows)


@contextlib.contextmanager
def states_of(layers: nn.ModuleList) -> Iterator[list[torch.Tensor]]:
    """While this lasts, each run adds what goes into the first layer and what every layer puts out, (B, L, D), to the list it gives."""
    states: list[torch.Tensor] = []
    first = layers[0].register_forward_pre_hook(lambda module, given: states.append(given[0]))
    keep = [
        layer.register_forward_hook(lambda module, given, out: states.append(out[0] if isinstance(out, tuple) else out))
        for layer in layers
    ]
    try:
        yield states
    finally:
        for handle in (first, *keep):
            handle.remove()
