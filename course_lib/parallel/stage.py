"""One stage of a pipeline: a stretch of a BERT-like model's layers, the first with its embeddings, the last with its head.

Source: Huang et al. 2018, 1811.06965 (GPipe); for tied embeddings Narayanan et al. 2021, 2104.04473.
"""

from collections.abc import Sequence

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.models.gates import require_no_gates
from course_lib.models.surgery import encoder_layers


def even_counts(layers: int, stages: int) -> list[int]:
    """How many layers each stage has when all have the same number.

    Raises:
        ValueError: fewer layers than stages, or a number of stages that does not divide them.

    >>> even_counts(6, 3)
    [2, 2, 2]
    """
    expect(stages >= 1, "stages", stages, "at least 1")
    expect(stages <= layers, "stages", stages, f"at most one for each of {layers} layers")
    expect(layers % stages == 0, "stages", stages, f"a divisor of {layers} layers; else say how many layers each one has")
    return [layers // stages] * stages


class Stage(nn.Module):
    """What one worker of a pipeline computes.

    It shares the model's modules, so the rest is freed when the caller lets go of the model. Tied embeddings, of a model whose
    head reads its word embeddings, are on the first stage and on the last; their gradients must be summed.

    Args:
        model: a BERT-like model with a head: a token or sequence classifier, or a masked language model.
        stage: which one, from 0.
        counts: the number of layers of each stage, in order; all of the model's together (:func:`even_counts`).
    Attributes:
        parameter_names: names in the whole model → this stage's parameters.
        tied: the word embeddings if the head reads them too and this is the first or last of several stages, else None.
    Raises:
        ValueError: a stage without layers, other layers than the model has, or no such stage.
        CourseError: not built like BERT, no head that is known, or masked units.
    """

    def __init__(self, model: nn.Module, stage: int, counts: Sequence[int]) -> None:
        super().__init__()
        layers, counts = encoder_layers(model), list(counts)
        require_no_gates(model, "a pipeline")
        right = min(counts, default=0) >= 1 and sum(counts) == len(layers)
        expect(right, "counts", counts, f"at least one layer for each stage, {len(layers)} in all")
        expect(0 <= stage < len(counts), "stage", stage, f"between 0 and {len(counts) - 1}")
        first, last = stage == 0, stage == len(counts) - 1
        head, words = _head(model), model.get_input_embeddings().weight
        own = layers[sum(counts[:stage]) : sum(counts[: stage + 1])]
        self.embeddings = model.base_model.embeddings if first else None
        self.layers = nn.ModuleList(own)
        self.head = head if last else None
        self.hidden = model.config.hidden_size
        names = {id(p): name for name, p in model.named_parameters()}
        self.parameter_names = {names[id(p)]: p for p in self.parameters()}
        tied = any(p is words for p in head.parameters()) and first != last
        self.tied = words if tied and words.requires_grad else None

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Compute this stage.

        Args:
            x: piece ids, int64 (B, L), on the first stage; hidden states, float (B, L, D), on the others.
            attention_mask: int64 (B, L), 1 at real pieces.
        Returns:
            Hidden states, float (B, L, D); the head's logits on the last stage.
        """
        if self.embeddings is not None:
            x = self.embeddings(input_ids=x)
        blocked = torch.zeros_like(attention_mask, dtype=x.dtype).masked_fill(attention_mask == 0, torch.finfo(x.dtype).min)
        for layer in self.layers:
            x = layer(x, blocked[:, None, None, :])  # added to the scores (B, H, L, L)
        return x if self.head is None else self.head(x)


def _head(model: nn.Module) -> nn.Module:
    """What follows the layers, as one module: hidden states (B, L, D) → logits."""
    if hasattr(model, "cls"):
        return model.cls
    if hasattr(model, "classifier"):
        pooler = getattr(model.base_model, "pooler", None)
        return nn.Sequential(*([pooler] if pooler is not None else []), model.dropout, model.classifier)
    raise CourseError(f"{type(model).__name__}: expected a head, in a module called classifier or cls.")
