"""Grids of workers, beside one process."""

import copy

import torch
import torch.distributed as dist
from model_jobs import WORDS, Batch, distance, drawn_batch, one_process, real, refused, small, tolerance
from pipeline_jobs import own_gradients
from tensor_jobs import loss_of, ring

from course_lib.models.surgery import encoder_layers
from course_lib.parallel.agree import gathered
from course_lib.parallel.collectives import Traffic
from course_lib.parallel.data_parallel import part_of
from course_lib.parallel.hybrid import Mesh, make_mesh, pipeline_step, sum_gradients, tensor_step
from course_lib.parallel.pipeline import Pipeline, token_loss
from course_lib.parallel.schedule import gpipe, one_f_one_b
from course_lib.parallel.stage import Stage
from course_lib.parallel.tensor_bert import apply

SHAPES = {2: [(2, 1), (1, 2)], 4: [(2, 2), (4, 1), (1, 4)]}  # replicas × parts
SENTENCES, MICRO_BATCHES, CLIP = 9, 2, 0.1


def everything() -> dict:
    """All checks on all grids of these workers, on every rank in the same order; what needs one grid alone, on 2 × 2."""
    found = {}
    for shape in SHAPES[dist.get_world_size()]:
        mesh = make_mesh(*shape)
        found[shape] = {
            "mesh": {
                "place": (mesh.replica, mesh.part),
                "model": dist.get_process_group_ranks(mesh.model_group),
                "data": dist.get_process_group_ranks(mesh.data_group),
            },
            "torch": torchs_mesh(shape),
            "tensor": data_and_tensor(mesh, small(), drawn_batch(130, SENTENCES)),
            "tied tensor": data_and_tensor(mesh, small("MaskedLM"), drawn_batch(130, SENTENCES)),
            "pipeline": data_and_pipeline(mesh, small("MaskedLM"), drawn_batch(130, SENTENCES)),
        }
        if shape == (2, 2):
            found[shape]["real tensor"] = data_and_tensor(mesh, real(), drawn_batch(WORDS, 4, 8))
            found[shape]["real pipeline"] = data_and_pipeline(mesh, real(), drawn_batch(WORDS, 4, 8))
            found |= {"oracle": against_torch(mesh), "summed": summed(mesh), "frozen": frozen(mesh), "refused": refusals(mesh)}
    return found


def summed(mesh: Mesh) -> list:
    """What is left of gradients that all replicas have, only the first has, and none has."""
    everywhere, first, nowhere = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    everywhere.grad = torch.full((2,), 1.0 + dist.get_rank())
    if mesh.replica == 0:
        first.grad = torch.tensor([5.0, 6.0])
    sum_gradients([everywhere, first, nowhere], mesh.data_group)
    return [None if p.grad is None else p.grad.tolist() for p in (everywhere, first, nowhere)]


def torchs_mesh(shape: tuple[int, int]) -> dict:
    """Ranks and groups of ``init_device_mesh``."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "model"))
    ranks = {name: dist.get_process_group_ranks(mesh.get_group(name)) for name in ("data", "model")}
    return {"ranks": mesh.mesh.tolist(), "place": tuple(mesh.get_coordinate()), **ranks}


def against_torch(mesh: Mesh) -> dict:
    """This worker's slices of the gradients by ``parallelize_module`` and ``DistributedDataParallel`` on a device mesh."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, batch = small(), drawn_batch(130, SENTENCES)
    theirs = copy.deepcopy(model)
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    columns = ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense")
    plan = dict.fromkeys(columns, ColwiseParallel) | dict.fromkeys(("attention.output.dense", "output.dense"), RowwiseParallel)
    for layer in encoder_layers(theirs):
        parallelize_module(layer, grid["model"], {name: style() for name, style in plan.items()})
    averaging = torch.nn.parallel.DistributedDataParallel(theirs, device_mesh=grid["data"])
    local = dict(theirs.named_parameters())  # its forward pass puts others in their place, made of these
    ids, mask, labels = (part_of(t, mesh.data_group) for t in batch)
    tokens, replicas = int((batch[2] != -100).sum()), 2
    (replicas * token_loss(averaging(input_ids=ids, attention_mask=mask).logits, labels) / tokens).backward()
    split, _ = apply(model, mesh.model_group)
    tensor_step(split, mesh, batch)
    own, due = ({name: p.grad for name, p in parameters} for parameters in (model.named_parameters(), local.items()))
    return {"distance": distance(own, due), "names": own.keys() == due.keys(), "tolerance": tolerance(model, batch)}


def clipped_to(due: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """The norm of one process's gradients, and the gradients clipped."""
    norm = float(torch.cat([g.flatten() for g in due.values()]).norm())
    return norm, {name: g * min(1.0, CLIP / (norm + 1e-6)) for name, g in due.items()}


def data_and_tensor(mesh: Mesh, model: torch.nn.Module, batch: Batch) -> dict:
    """A step of replicas, each split by tensor parallelism, and clipping."""
    due_loss, due = one_process(model, batch)
    due_norm, clipped = clipped_to(due)
    inside, between = Traffic(), Traffic()
    split, _ = apply(model, mesh.model_group, ring(inside, mesh.model_group))
    loss = tensor_step(split, mesh, batch, between)
    gradients = split.whole("gradient")
    apart = distance(gradients, due)  # before clipping: what is whole on every worker is its gradient itself
    again = refused(lambda: tensor_step(split, mesh, batch))
    norm = split.clip(CLIP)
    return {
        "again": again,
        "names": sorted(gradients) == sorted(due),
        "tolerance": tolerance(model, batch),
        "loss": abs(loss - due_loss) / due_loss,
        "gradients": apart,
        "norm": abs(norm - due_norm) / due_norm,
        "shrunk": due_norm > 2 * CLIP,
        "clipped": distance(split.whole("gradient"), clipped),
        "inside": inside,
        "between": between,
        "bucket": sum(p.numel() + 1 for p in model.parameters()),
        "values": sum(g.numel() for g in due.values()),
    }


def data_and_pipeline(mesh: Mesh, model: torch.nn.Module, batch: Batch) -> dict:
    """A step of replicas, each a pipeline, and clipping: GPipe, then 1F1B."""
    due_loss, due = one_process(model, batch)
    due_norm, clipped = clipped_to(due)
    parts, layers = len(mesh.ranks[0]), len(model.base_model.encoder.layer)
    stage = Stage(model, mesh.part, [layers // parts] * parts)
    between, found = Traffic(), {}
    for kind in (gpipe, one_f_one_b):
        model.zero_grad()
        pipeline = Pipeline(stage, kind(parts, MICRO_BATCHES), mesh.model_group)
        between = Traffic()
        loss = pipeline_step(pipeline, mesh, batch, between)
        gradients = distance(own_gradients(stage), due)
        norm = pipeline.clip(CLIP)
        found[kind.__name__] = {
            "loss": abs(loss - due_loss) / due_loss,
            "gradients": gradients,
            "norm": abs(norm - due_norm) / due_norm,
            "clipped": distance(own_gradients(stage), clipped),
        }
    return {
        "tolerance": tolerance(model, batch),
        "runs": found,
        "inside": pipeline.traffic,
        "between": between,
        "buckets": gathered(sum(p.numel() + 1 for p in stage.parameters())),
        "tied": 0 if stage.tied is None else stage.tied.numel() * stage.tied.element_size(),
        "values": sum(g.numel() for g in due.values()),
        "ticks": 1 + max(max(starts) for starts in gathered(list(pipeline.starts.values()))),
    }


def frozen(mesh: Mesh) -> dict:
    """A step in which the first stage, then the last one, has nothing to train."""
    found = {}
    for number in range(2):
        model, batch = small(), drawn_batch(130, SENTENCES)
        due_loss, due = one_process(model, batch)
        stages = [Stage(model, n, [2, 2]) for n in range(2)]
        stages[number].requires_grad_(False)
        stage = stages[mesh.part]
        traffic = Traffic()
        loss = pipeline_step(Pipeline(stage, one_f_one_b(2, MICRO_BATCHES), mesh.model_group), mesh, batch, traffic)
        gradients = {name: g for name, g in own_gradients(stage).items() if g is not None}
        found[number] = {
            "loss": abs(loss - due_loss) / due_loss,
            "trained": len(gradients),
            "gradients": distance(gradients, due) if gradients else 0.0,
            "sent": traffic.bytes,
            "tolerance": tolerance(model, batch),
        }
    return found


def refusals(mesh: Mesh) -> dict[str, str]:
    """What is refused, on every worker alike; a worker that waited for another would end the whole launch."""
    model = small()
    split, _ = apply(model, mesh.model_group)
    pipeline = Pipeline(Stage(small(), mesh.part, [2, 2]), gpipe(2, MICRO_BATCHES), mesh.model_group)
    more = Pipeline(pipeline.stage, gpipe(2, MICRO_BATCHES + mesh.replica), mesh.model_group)
    unlike = drawn_batch(130, SENTENCES, seed=mesh.replica)
    ids, mask, labels = drawn_batch(130, SENTENCES)
    few = drawn_batch(130, sentences=3)
    return {
        "grid": refused(lambda: make_mesh(3, 2)),
        "few": refused(lambda: tensor_step(split, mesh, drawn_batch(130, sentences=1))),
        "no label": refused(lambda: tensor_step(split, mesh, (ids, mask, torch.full_like(labels, -100)))),
        "unlike tensor": refused(lambda: tensor_step(split, mesh, unlike)),
        "unlike pipeline": refused(lambda: pipeline_step(pipeline, mesh, unlike)),
        "few for micro-batches": refused(lambda: pipeline_step(pipeline, mesh, few)),
        "micro-batches": refused(lambda: pipeline_step(more, mesh, (ids, mask, labels))),
        "mask": refused(lambda: pipeline_step(pipeline, mesh, (ids, mask[:, 1:], labels))),
        "labels": refused(
            lambda: pipeline_step(pipeline, mesh, (ids, mask, labels[:-1]))
        ),  # one replica's alone would be short
        "agreed": refused(lambda: [tensor_step(split, mesh, (ids, mask, labels)), loss_of(model, (ids, mask, labels))]),
        "agreed pipeline": refused(lambda: pipeline_step(pipeline, mesh, (ids, mask, labels))),
    }
