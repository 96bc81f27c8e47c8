"""Position trimming: an encoder without the position embeddings of sentences longer than one meets."""

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.report import Report, Reporting


def trim_positions(model: nn.Module, count: int) -> Report:
    """Keep the first ``count`` position embeddings (P, D) of a BERT-like model, in place; its config follows.

    Sentences of up to ``count`` pieces, special ones included, give the same logits; longer ones are read in more and shorter
    windows (:func:`course_lib.data.align.make_windows`).

    Raises:
        ValueError: no position left, or more than there are.
        CourseError: no table of position embeddings.
    """
    embeddings = getattr(model.base_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding) or model.config.model_type != "bert":
        raise CourseError(f"{type(model).__name__}: expected a BERT-like encoder (base_model.embeddings.position_embeddings).")
    before = table.num_embeddings
    expect(1 <= count <= before, "count", count, f"between 1 and {before} positions")
    report = Reporting(model)
    fresh = nn.Embedding(count, table.embedding_dim, dtype=table.weight.dtype, device=table.weight.device)
    fresh.weight = nn.Parameter(table.weight.detach()[:count].clone(), requires_grad=table.weight.requires_grad)
    embeddings.position_embeddings = fresh
    for name in ("position_ids", "token_type_ids"):  # buffers of the table's length
        buffer = getattr(embeddings, name, None)
        if isinstance(buffer, torch.Tensor):
            setattr(embeddings, name, buffer[:, :count].clone())
    model.config.max_position_embeddings = count
    return report.report([f"base_model.embeddings.position_embeddings: {before} → {count} positions"])
