"""Two kinds of parallelism at once: workers as a grid, with replicas of the model as its rows and the parts of one as its columns.

Worker ``r`` of ``data × model`` is part ``r mod model`` of replica ``r // model``. A replica's workers share one model, by
tensor parallelism or as a pipeline, and work on one share of the batch; the workers of a column hold the same part and sum its
gradients. Neighbouring ranks, which are likely to be on one host, are in one replica, whose parts talk the most.
Source: Narayanan et al. 2021, 2104.04473.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from course_lib.data.align import IGNORED
from course_lib.errors import expect
from course_lib.parallel.agree import fingerprints, gathered, require_equal
from course_lib.parallel.buckets import Bucket
from course_lib.parallel.collectives import Traffic, ring_all_reduce
from course_lib.parallel.data_parallel import part_of
from course_lib.parallel.norms import require_no_gradients
from course_lib.parallel.pipeline import Pipeline, token_loss
from course_lib.parallel.tensor_bert import TensorParallel

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # ids, attention mask and labels, int64 (B, L) each


@dataclass(frozen=True)
class Mesh:
    """Where this worker is in the grid, and whom it works with.

    Attributes:
        ranks: the grid: replica → part → rank.
        replica, part: this worker's row and column.
        model_group: the workers of this replica, part by part.
        data_group: the workers of all replicas that have this part.
    """

    ranks: tuple[tuple[int, ...], ...]
    replica: int
    part: int
    model_group: dist.ProcessGroup
    data_group: dist.ProcessGroup


def mesh_ranks(data: int, model: int) -> tuple[tuple[int, ...], ...]:
    """The grid of ranks.

    Args:
        data: replicas of the model.
        model: workers that a replica is split among.

    >>> mesh_ranks(2, 3)
    ((0, 1, 2), (3, 4, 5))
    """
    expect(data >= 1, "data", data, "at least 1 replica")
    expect(model >= 1, "model", model, "at least 1 worker for each replica")
    return tuple(tuple(range(replica * model, (replica + 1) * model)) for replica in range(data))


def make_mesh(data: int, model: int) -> Mesh:
    """Arrange all workers in a grid; every worker makes every group, in the same order, also those it is not in.

    Args:
        data, model: as of :func:`mesh_ranks`; together they are all workers.
    Raises:
        ValueError: the numbers do not multiply to the number of workers.
    """
    ranks, workers = mesh_ranks(data, model), dist.get_world_size()
    expect(data * model == workers, "data × model", (data, model), f"a product of {workers}, the number of workers")
    replica, part = divmod(dist.get_rank(), model)
    rows = [dist.new_group(row) for row in ranks]
    columns = [dist.new_group(column) for column in zip(*ranks, strict=True)]
    return Mesh(ranks, replica, part, rows[replica], columns[part])


def tensor_step(split: TensorParallel, mesh: Mesh, batch: Batch, traffic: Traffic | None = None) -> float:
    """Gradients of one batch by data × tensor parallelism, into ``.grad``.

    Args:
        split: this worker's slices, made with ``group=mesh.model_group``; a token classifier.
        mesh: the grid.
        batch: ids, attention mask and labels, int64 (B, L) each, the same on every worker; each replica takes its share.
        traffic: counts what the sum over replicas sends.
    Returns:
        The loss of the whole batch, on every worker.
    Raises:
        ValueError: batches that differ between any two workers, tensors of different shapes, fewer sentences than replicas, no
            token with a label, or gradients of an earlier step.
    """
    (ids, mask, labels), tokens = _share(batch, mesh)
    require_no_gradients(split.model)
    loss = token_loss(split.model(input_ids=ids, attention_mask=mask).logits, labels) / tokens
    loss.backward()
    sum_gradients(split.model.parameters(), mesh.data_group, traffic)
    return sum(gathered(float(loss.detach()), mesh.data_group))


def pipeline_step(pipeline: Pipeline, mesh: Mesh, batch: Batch, traffic: Traffic | None = None) -> float:
    """Gradients of one batch by data × pipeline parallelism, into ``.grad``.

    Args:
        pipeline: made with ``group=mesh.model_group``.
        mesh, batch, traffic: as of :func:`tensor_step`; the batch's tensors are (B, L).
    Returns:
        The loss of the whole batch, on every worker.
    Raises:
        ValueError: as :func:`tensor_step` and :meth:`course_lib.parallel.pipeline.Pipeline.step`; where a replica's share has fewer
            sentences than micro-batches, all workers raise.
    """
    own, tokens = _share(batch, mesh, pipeline.schedule.micro_batches)
    loss = pipeline.step(*own, tokens=tokens)
    sum_gradients(pipeline.stage.parameters(), mesh.data_group, traffic)
    return sum(gathered(loss, mesh.data_group))


def sum_gradients(
    parameters: Iterable[torch.nn.Parameter], group: dist.ProcessGroup | None, traffic: Traffic | None = None
) -> None:
    """Sum the gradients of the parameters, in place, over the workers that hold the same ones: in one bucket.

    Nothing is sent where nothing is trained.
    """
    bucket = Bucket(tuple(p for p in parameters if p.requires_grad))
    if bucket.parameters:
        bucket.unpack(ring_all_reduce(bucket.pack(), group, traffic))


def _share(batch: Batch, mesh: Mesh, micro_batches: int = 1) -> tuple[Batch, int]:
    """This replica's sentences, and the number of tokens with labels in the whole batch; all workers refuse alike what any would."""
    ids, mask, labels = batch
    replicas = len(mesh.ranks)
    forms = fingerprints({"ids": ids, "attention_mask": mask, "labels": labels})
    require_equal("batch and micro-batches", (forms, micro_batches))
    expect(mask.shape == ids.shape, "attention_mask", tuple(mask.shape), f"the ids' {tuple(ids.shape)}")
    expect(len(labels) == len(ids), "labels", tuple(labels.shape), f"the ids' {len(ids)} sentences")
    due = f"at least {replicas * micro_batches} sentences, {micro_batches} for each replica"
    expect(len(ids) >= replicas * micro_batches, "batch", tuple(ids.shape), due)
    tokens = int((labels != IGNORED).sum())
    expect(tokens > 0, "tokens", tokens, "at least one token with a label")
    return tuple(part_of(t, mesh.data_group) for t in batch), tokens
