"""Grids of workers, beside one process."""

import torch
import torch.distributed as dist
from model_jobs import WORDS, distance, drawn_batch, one_process, real, refused, small, tolerance
from pipeline_jobs import own_gradients
from tensor_jobs import ring

from course_lib.parallel.agree import gathered
from course_lib.parallel.collectives import Traffic
from course_lib.parallel.hybrid import Mesh, make_mesh, pipeline_step, sum_gradients, tensor_step
from course_lib.parallel.pipeline import Pipeline
from course_lib.parallel.schedule import gpipe, one_f_one_b
from course_lib.parallel.stage import Stage
from course_lib.parallel.tensor_bert import apply


def everything() -> dict:
    """All checks on a grid of 2 × 2, on every rank in the same order."""
    mesh = make_mesh(2, 2)
    return {
        "mesh": {
            "place": (mesh.replica, mesh.part),
            "model": dist.get_process_group_ranks(mesh.model_group),
            "data": dist.get_process_group_ranks(mesh.data_group),
        },
        "torch": torchs_mesh(),
        "tensor": data_and_tensor(mesh, small(), drawn_batch(130)),
        "pipeline": data_and_pipeline(mesh, small("MaskedLM"), drawn_batch(130)),
        "real tensor": data_and_tensor(mesh, real(), drawn_batch(WORDS, 4, 8)),
        "real pipeline": data_and_pipeline(mesh, real(), drawn_batch(WORDS, 4, 8)),
        "summed": summed(mesh),
        "refused": {
            "grid": refused(lambda: make_mesh(3, 2)),
            "few": refused(lambda: tensor_step(None, mesh, drawn_batch(130, sentences=1))),
            "no label": refused(lambda: tensor_step(None, mesh, (*drawn_batch(130)[:2], torch.full((7, 12), -100)))),
        },
    }


def summed(mesh: Mesh) -> list:
    """What is left of gradients that all replicas have, only the first has, and none has."""
    everywhere, first, nowhere = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    everywhere.grad = torch.full((2,), 1.0 + dist.get_rank())
    if mesh.replica == 0:
        first.grad = torch.tensor([5.0, 6.0])
    sum_gradients([everywhere, first, nowhere], mesh.data_group)
    return [None if p.grad is None else p.grad.tolist() for p in (everywhere, first, nowhere)]


def torchs_mesh() -> dict:
    """Ranks and groups of ``init_device_mesh``."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    ranks = {name: dist.get_process_group_ranks(mesh.get_group(name)) for name in ("data", "model")}
    return {"ranks": mesh.mesh.tolist(), "place": tuple(mesh.get_coordinate()), **ranks}


def clip_distance(norm: float, due: dict[str, torch.Tensor]) -> float:
    due_norm = float(torch.cat([g.flatten() for g in due.values()]).norm())
    return abs(norm - due_norm) / due_norm


def data_and_tensor(mesh: Mesh, model: torch.nn.Module, batch) -> dict:
    """A step of two replicas, each split by tensor parallelism."""
    due_loss, due = one_process(model, batch)
    inside, between = Traffic(), Traffic()
    split, _ = apply(model, mesh.model_group, ring(inside, mesh.model_group))
    loss = tensor_step(split, mesh, batch, between)
    gradients = split.whole("gradient")
    again = refused(lambda: tensor_step(split, mesh, batch))
    return {
        "again": again,
        "names": sorted(gradients) == sorted(due),
        "tolerance": tolerance(model, batch),
        "loss": abs(loss - due_loss) / due_loss,
        "gradients": distance(gradients, due),
        "norm": clip_distance(split.clip(1.0), due),
        "inside": inside,
        "between": between,
        "bucket": sum(p.numel() + 1 for p in model.parameters()),
        "values": sum(g.numel() for g in due.values()),
    }


def data_and_pipeline(mesh: Mesh, model: torch.nn.Module, batch) -> dict:
    """A step of two replicas, each a pipeline: GPipe, then 1F1B."""
    due_loss, due = one_process(model, batch)
    stage = Stage(model, mesh.part, [len(model.base_model.encoder.layer) // 2] * 2)
    between, found = Traffic(), {}
    for kind in (gpipe, one_f_one_b):
        model.zero_grad()
        pipeline = Pipeline(stage, kind(2, 2), mesh.model_group)
        between = Traffic()
        loss = pipeline_step(pipeline, mesh, batch, between)
        found[kind.__name__] = {
            "loss": abs(loss - due_loss) / due_loss,
            "gradients": distance(own_gradients(stage), due),
            "norm": clip_distance(pipeline.clip(1.0), due),
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
