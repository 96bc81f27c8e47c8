"""Pipelines in worker processes, beside one process."""

import torch
import torch.distributed as dist
from model_jobs import WORDS, Batch, distance, drawn_batch, one_process, real, refused, small, tolerance
from torch import nn

from course_lib.parallel.agree import gathered
from course_lib.parallel.pipeline import Pipeline, token_loss
from course_lib.parallel.schedule import Schedule, gpipe, one_f_one_b, peak_activations, start_ticks
from course_lib.parallel.stage import Stage

REAL_COUNTS = {2: [3, 3], 4: [2, 2, 1, 1]}


def everything() -> dict:
    """All checks, on every rank in the same order."""
    workers = dist.get_world_size()
    even = [4 // workers] * workers
    return {
        "GPipe": staged_and_whole(small(), gpipe(workers, 3), drawn_batch(130), even),
        "1F1B": staged_and_whole(small(), one_f_one_b(workers, 5), drawn_batch(130), even),
        "one micro-batch": staged_and_whole(small(), one_f_one_b(workers, 1), drawn_batch(130), even),
        "tied": staged_and_whole(small("MaskedLM"), one_f_one_b(workers, 3), drawn_batch(130), even),
        "real": staged_and_whole(real(), one_f_one_b(workers, 3), drawn_batch(WORDS, 4, 8), REAL_COUNTS[workers]),
        "torch": against_torch(even),
        "refused": refusals(even),
    }


def own_gradients(stage: Stage) -> dict[str, torch.Tensor]:
    """The gradients of this stage's parameters, by name."""
    return {name: p.grad for name, p in stage.parameter_names.items()}


def tied_alike(stage: Stage) -> bool:
    """Whether the stages that share a matrix have the same gradient of it, to the bit."""
    copies = [g for g in gathered(None if stage.tied is None else stage.tied.grad) if g is not None]
    return all(torch.equal(g, copies[0]) for g in copies)


def staged_and_whole(model: nn.Module, schedule: Schedule, batch: Batch, counts: list[int]) -> dict:
    """A step of the pipeline, then clipping: distances from one process, clocks, and what was sent."""
    due_loss, due = one_process(model, batch)
    rank = dist.get_rank()
    stage = Stage(model, rank, counts)
    pipeline = Pipeline(stage, schedule)
    loss = pipeline.step(*batch)
    unclipped = distance(own_gradients(stage), due)
    norm = pipeline.clip(0.1)
    due_norm = torch.cat([g.flatten() for g in due.values()]).norm()
    clipped = {name: g * min(1.0, 0.1 / (float(due_norm) + 1e-6)) for name, g in due.items()}
    return {
        "tolerance": tolerance(model, batch),
        "loss": abs(loss - due_loss) / due_loss,
        "gradients": unclipped,
        "names": list(stage.parameter_names),
        "all_names": list(due),
        "tied_alike": tied_alike(stage),
        "values": sum(g.numel() for g in due.values()),
        "norm": abs(norm - float(due_norm)) / norm,
        "clipped": distance(own_gradients(stage), clipped),
        "clocks_as_scheduled": pipeline.starts == start_ticks(schedule)[rank],
        "order_as_scheduled": tuple(pipeline.starts) == schedule.actions[rank],
        "peaks": (pipeline.peak, peak_activations(schedule)[rank]),
        "traffic": pipeline.traffic,
        "tied_bytes": 0 if stage.tied is None else stage.tied.numel() * stage.tied.element_size(),
    }


def against_torch(counts: list[int]) -> dict:
    """Losses and gradients of ``torch.distributed.pipelining`` with the same stages."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    rank, workers = dist.get_rank(), dist.get_world_size()
    ids, mask, labels = drawn_batch(130, sentences=8)
    tokens, model, found = int((labels != -100).sum()), small(), {"tolerance": tolerance(small(), (ids, mask, labels))}
    stage = Stage(model, rank, counts)
    for theirs, ours in ((ScheduleGPipe, gpipe), (Schedule1F1B, one_f_one_b)):
        model.zero_grad()
        loss = Pipeline(stage, ours(workers, 4)).step(ids, mask, labels)
        gradients = own_gradients(stage)
        model.zero_grad()
        runner = theirs(
            PipelineStage(stage, rank, workers, torch.device("cpu")), 4,
            loss_fn=lambda y, target: token_loss(y, target) / tokens, scale_grads=False,
        )  # fmt: skip
        losses: list = []
        first, last = ([ids] if rank == 0 else []), (labels if rank == workers - 1 else None)
        runner.step(*first, attention_mask=mask, target=last, losses=losses)
        their_loss = gathered(float(sum(losses).detach() if losses else 0))[-1]
        found[ours.__name__] = {
            "loss": abs(loss - their_loss) / loss, "gradients": distance(own_gradients(stage), gradients)
        }  # fmt: skip
    return found


def circle(workers: int) -> Schedule:
    """An order in which each stage waits for another one."""
    first, others = gpipe(1, 2).actions[0], one_f_one_b(1, 2).actions[0]
    return Schedule("circle", (others, *(first,) * (workers - 1)))


def refusals(counts: list[int]) -> dict:
    """What is refused, on every rank, and that the pipeline still runs afterwards."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    stage = Stage(small(), rank, counts)
    pipeline = Pipeline(stage, gpipe(workers, 3))
    ids, mask, labels = drawn_batch(130)
    found = {
        "workers": refused(lambda: Pipeline(stage, gpipe(workers + 1, 3))),
        "circle": refused(lambda: Pipeline(stage, circle(workers))),
        "schedule": refused(lambda: Pipeline(stage, gpipe(workers, 3) if rank else one_f_one_b(workers, 3))),
        "shapes": refused(lambda: pipeline.step(*drawn_batch(130, sentences=7 if rank else 6))),
        "mask": refused(lambda: pipeline.step(ids, mask[:, 1:], labels)),
        "few": refused(lambda: pipeline.step(ids[:2], mask[:2], labels[:2])),
        "labels": refused(lambda: pipeline.step(ids, mask, labels[:-1])),
        "no label": refused(lambda: pipeline.step(ids, mask, torch.full_like(labels, -100))),
        "agreed": refused(lambda: pipeline.step(ids, mask, labels)),
        "again": refused(lambda: pipeline.step(ids, mask, labels)),
        "norm": refused(lambda: pipeline.clip(0.0)),
    }
    if rank == workers - 1:
        next(iter(stage.parameters())).grad[0] = float("inf")
    return found | {"inf": refused(lambda: pipeline.clip(1.0))}
