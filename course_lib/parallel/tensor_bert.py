"""Tensor parallelism applied to a BERT-like encoder: whole heads and feed-forward neurons go to workers, layer by layer.

Source: Shoeybi et al. 2019, 1909.08053 (Megatron-LM).
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.gates import require_no_gates
from course_lib.models.surgery import encoder_layers, head_groups, layer_names, layer_shapes, neuron_groups
from course_lib.parallel.agree import fingerprints, require_equal
from course_lib.parallel.norms import clip_gradients
from course_lib.parallel.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    Sum,
    VocabularyParallelEmbedding,
    copy_to_workers,
    even_part,
    slice_rows,
    torch_sum,
)
from course_lib.plan import replace_module
from course_lib.report import Report, Reporting


@dataclass
class TensorParallel:
    """A model of which this worker holds slices.

    Attributes:
        model: computes what the whole model does, on the same batch on every worker; parameters keep their names.
        split: name of each parameter that is sliced → the dimension; all others are whole, and the same, on every worker.
        group: the workers; None: all.
    """

    model: nn.Module
    split: dict[str, int]
    group: dist.ProcessGroup | None

    def whole(self, kind: str = "weight") -> dict[str, torch.Tensor]:
        """Every parameter (or every gradient) of the whole model by name, on every worker, of its shape before the split.

        Args:
            kind: ``"weight"`` or ``"gradient"``; parameters without a gradient are left out then.
        """
        found = {}
        for name, p in self.model.named_parameters():
            tensor = p.detach() if kind == "weight" else p.grad
            if tensor is not None:
                found[name] = joined(tensor, self.split[name], self.group) if name in self.split else tensor
        return found

    def clip(self, max_norm: float) -> float:
        """:func:`course_lib.parallel.norms.clip_gradients`: slices count on every worker, what is whole on the first."""
        first = dist.get_rank(self.group) == 0
        counted = [p for name, p in self.model.named_parameters() if first or name in self.split]
        return clip_gradients(list(self.model.parameters()), counted, max_norm, self.group)


def apply(
    model: nn.Module, group: dist.ProcessGroup | None = None, total: Sum | None = None, vocabulary: bool = False
) -> tuple[TensorParallel, Report]:
    """Keep this worker's slices of a model that every worker has loaded whole, in place.

    Query, key, value and the first feed-forward matrix are split by outputs, the attention's output projection and the second
    matrix by inputs: two sums over the workers in a layer's forward pass, two in its backward pass, each of (B, L, D).

    In training mode workers drop out the same entries outside of attention if they start from the same seed; whether results
    equal one process's can be said in evaluation mode only, or without dropout.

    Args:
        model: a BERT-like model, the same on every worker.
        group: the workers; None: all.
        total: sums a tensor over them; None: torch's all-reduce.
        vocabulary: split the word embeddings by rows too.
    Returns:
        The model with what is needed to use it, and the report of this worker.
    Raises:
        ValueError: the number of workers does not divide the heads or neurons of a layer.
        CourseError: not built like BERT, or sliced already; units are masked, or weights that would be split are tied.
    """
    rank, workers = dist.get_rank(group), dist.get_world_size(group)
    total = total or torch_sum(group)
    if any(isinstance(module, ColumnParallelLinear) for module in model.modules()):
        raise CourseError(f"{type(model).__name__} holds slices already; load it whole again.")
    names, shapes = layer_names(model), layer_shapes(model)
    require_no_gates(model, "tensor parallelism")
    head_groups(model)  # these two refuse what cannot be sliced
    neuron_groups(model)
    for name, heads, neurons in zip(names, shapes["heads"], shapes["ffn"], strict=True):
        even_part(f"attention heads of {name}", heads, rank, workers)
        even_part(f"feed-forward neurons of {name}", neurons, rank, workers)
    words = model.get_input_embeddings()
    if vocabulary:
        _refuse_tied(model, words.weight)
    count, split, changed = Reporting(model), {}, []
    for name, layer, heads, neurons in zip(names, encoder_layers(model), shapes["heads"], shapes["ffn"], strict=True):
        split |= {
            f"{name}.{parameter}": dimension for parameter, dimension in _split_layer(layer, rank, workers, total).items()
        }
        changed.append(f"{name}: {heads} → {heads // workers} heads, {neurons} → {neurons // workers} feed-forward neurons")
    if vocabulary:
        name = next(name for name, module in model.named_modules() if module is words)
        replace_module(model, name, VocabularyParallelEmbedding(words, rank, workers, total))
        split[f"{name}.weight"] = 0
        changed.append(f"{name}: {words.num_embeddings} → {len(model.get_submodule(name).weight)} rows")
    model.register_forward_pre_hook(_same_batch(group), with_kwargs=True)
    return TensorParallel(model, split, group), count.report(changed)


def _split_layer(layer: nn.Module, rank: int, workers: int, total: Sum) -> dict[str, int]:
    """Slice one layer; returns the names in it of the parameters that are sliced, each with its dimension."""
    attention = layer.attention.self
    heads = even_part("attention heads", attention.num_attention_heads, rank, workers)
    size = attention.attention_head_size
    rows = slice(heads.start * size, heads.stop * size)
    for name in ("query", "key", "value"):
        replace_module(attention, name, slice_rows(getattr(attention, name), rows))
    attention.num_attention_heads = heads.stop - heads.start
    attention.all_head_size = rows.stop - rows.start
    # The three read the same input: its gradient is summed once, for all of them together.
    attention.register_forward_pre_hook(lambda module, args: (copy_to_workers(args[0], total), *args[1:]))
    layer.attention.output.dense = RowParallelLinear(layer.attention.output.dense, rank, workers, total)
    layer.intermediate.dense = ColumnParallelLinear(layer.intermediate.dense, rank, workers, total)
    layer.output.dense = RowParallelLinear(layer.output.dense, rank, workers, total)
    by_rows = [*(f"attention.self.{name}" for name in ("query", "key", "value")), "intermediate.dense"]
    by_columns = ["attention.output.dense", "output.dense"]
    split = {f"{name}.{kind}": 0 for name in by_rows for kind in ("weight", "bias")}
    return split | {f"{name}.weight": 1 for name in by_columns}


def _same_batch(group: dist.ProcessGroup | None):
    """A hook that refuses batches that differ between the workers: their sums would have mixed unlike things."""

    def check(module: nn.Module, args: tuple, given: dict) -> None:
        tensors = {**{str(i): a for i, a in enumerate(args)}, **given}
        require_equal("inputs", fingerprints({k: t for k, t in tensors.items() if isinstance(t, torch.Tensor)}), group)

    return check


def _refuse_tied(model: nn.Module, weight: torch.Tensor) -> None:
    holders = [name for name, p in model.named_parameters(remove_duplicate=False) if p is weight]
    if len(holders) > 1:
        raise CourseError(f"vocabulary: {' and '.join(holders)} are one matrix (tied); tensor parallelism keeps it whole.")


def joined(own: torch.Tensor, dimension: int, group: dist.ProcessGroup | None) -> torch.Tensor:
    """The workers' slices, of lengths that differ by at most one, as one tensor."""
    own = own.movedim(dimension, 0).contiguous()
    lengths: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(lengths, len(own), group)
    padded = own.new_zeros(max(lengths), *own.shape[1:])
    padded[: len(own)] = own
    slices = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(slices, padded, group=group)
    return torch.cat([s[:n] for s, n in zip(slices, lengths, strict=True)]).movedim(0, dimension).contiguous()
