"""Tensor parallelism in worker processes, beside one process."""

import copy

import torch
import torch.distributed as dist
from model_jobs import WORDS, Batch, distance, drawn_batch, one_process, real, refused, small, tolerance
from torch import nn

from course_lib.models.gates import gates
from course_lib.models.surgery import encoder_layers
from course_lib.parallel.agree import gathered
from course_lib.parallel.collectives import Traffic, ring_all_reduce
from course_lib.parallel.pipeline import token_loss
from course_lib.parallel.tensor_bert import apply
from course_lib.parallel.tensor_parallel import VocabularyParallelEmbedding, torch_sum


def everything() -> dict:
    """All checks, on every rank in the same order."""
    return {
        "tiny": split_and_whole(small(), drawn_batch(130), vocabulary=True),
        "tied": split_and_whole(small("MaskedLM"), drawn_batch(130), vocabulary=False),
        "real": split_and_whole(real(), drawn_batch(WORDS, 3, 8), vocabulary=True),
        "clipped": clipped(),
        "embedding": embedding(),
        "torch": against_torch(),
        "refused": refusals(),
    }


def ring(traffic: Traffic, group=None):
    """A sum over the workers by the ring, counted."""
    return lambda x: ring_all_reduce(x.clone(memory_format=torch.contiguous_format), group, traffic, check=False)


def loss_of(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits
    return logits.detach(), token_loss(logits, labels) / (labels != -100).sum()


def split_and_whole(model: nn.Module, batch: Batch, vocabulary: bool) -> dict:
    """A step of the split model, its distance from one process, and what it sent and holds."""
    due_logits = loss_of(model, batch)[0]
    due_loss, due = one_process(model, batch)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    traffic = Traffic()
    split, report = apply(model, total=ring(traffic), vocabulary=vocabulary)
    logits, loss = loss_of(model, batch)
    loss.backward()
    own = {name: p.grad.clone() for name, p in model.named_parameters() if name not in split.split}
    firsts = [gathered(t)[0] for t in own.values()]  # all, whatever they are: every worker must ask for each
    again, gradients = split.whole(), split.whole("gradient")
    found = {
        "tolerance": tolerance(model, batch),
        "logits": distance({"logits": logits}, {"logits": due_logits}),
        "loss": abs(float(loss.detach()) - due_loss) / due_loss,
        "gradients": distance(gradients, due),
        "names": sorted(gradients) == sorted(due),
        "parameters": len(due),
        "weights_equal": all(torch.equal(again[name], weights[name]) for name in weights) and again.keys() == weights.keys(),
        "whole_gradients_equal": all(map(torch.equal, own.values(), firsts)),
        "traffic": traffic,
        "changed": report.changed,
        "bytes": (report.bytes_before, report.bytes_after),
        "split": sum(p.numel() for name, p in model.named_parameters() if name in split.split),
        "in_layers": sum(w.numel() for name, w in weights.items() if name in split.split),
    }
    assert not list(gates(model))
    return found


def clipped() -> dict:
    """Norm before and gradients after clipping, of slices and of one process."""
    model, batch = small(), drawn_batch(130)
    whole = copy.deepcopy(model)
    loss_of(whole, batch)[1].backward()
    due_norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), 0.1)
    split, _ = apply(model)
    loss_of(model, batch)[1].backward()
    norm = split.clip(0.1)
    due = {name: p.grad for name, p in whole.named_parameters()}
    found = {"norm": abs(norm - float(due_norm)) / norm, "gradients": distance(split.whole("gradient"), due)}
    if dist.get_rank() == 1:
        next(p for n, p in model.named_parameters() if n in split.split).grad[0] = float("nan")
    return found | {"tolerance": tolerance(model, batch), "nan": refused(lambda: split.clip(0.1))}


def embedding() -> dict:
    """Rows of an embedding that do not divide, with a padding row, forward and backward."""
    torch.manual_seed(0)
    whole, rank, workers = nn.Embedding(11, 3, padding_idx=0).double(), dist.get_rank(), dist.get_world_size()
    nn.init.normal_(whole.weight)
    made = VocabularyParallelEmbedding(whole, rank, workers, torch_sum())
    ids = torch.tensor([[0, 10, 3, 3], [5, 1, 0, 7]])
    y, due = made(ids), whole(ids)
    weight = torch.randn_like(due)
    (y * weight).sum().backward()
    (due * weight).sum().backward()
    rows = slice(made.first, made.first + len(made.weight))
    return {"outputs": torch.equal(y, due), "gradients": torch.equal(made.weight.grad, whole.weight.grad[rows]), "rows": rows}


def against_torch() -> dict:
    """Outputs and gradients of the same split by ``parallelize_module``."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, batch = small(layers=2), drawn_batch(130)
    theirs = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    columns = ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense")
    plan = dict.fromkeys(columns, ColwiseParallel) | dict.fromkeys(("attention.output.dense", "output.dense"), RowwiseParallel)
    for layer in encoder_layers(theirs):
        parallelize_module(layer, mesh, {name: style() for name, style in plan.items()})
    their_logits, loss = loss_of(theirs, batch)
    loss.backward()
    split, _ = apply(model)
    logits, loss = loss_of(model, batch)
    loss.backward()
    gradients = {n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for n, p in theirs.named_parameters()}
    own = {n: tuple(p.to_local().shape) for n, p in theirs.named_parameters() if hasattr(p, "to_local")}
    return {
        "tolerance": tolerance(model, batch),
        "logits": distance({"logits": logits}, {"logits": their_logits}),
        "gradients": distance(split.whole("gradient"), gradients),
        "same_slices": all(tuple(model.get_parameter(n).shape) == shape for n, shape in own.items()),
    }


def refusals() -> dict:
    """What is refused, on every rank; and that a refused model is as it was."""
    rank, batch = dist.get_rank(), drawn_batch(130)
    heads, neurons = small(heads=5), small(neurons=63)
    before = [p.shape for p in neurons.parameters()]
    mine = drawn_batch(130, sentences=7 if rank else 6)
    unlike = drawn_batch(130, seed=rank)
    model = small()
    apply(model)
    return {
        "heads": refused(lambda: apply(heads)),
        "neurons": refused(lambda: apply(neurons)),
        "unchanged": [p.shape for p in neurons.parameters()] == before,
        "twice": refused(lambda: apply(model)),
        "tied": refused(lambda: apply(small("MaskedLM"), vocabulary=True)),
        "shapes": refused(lambda: loss_of(model, mine)),
        "values": refused(lambda: loss_of(model, unlike)),
        "agreed": refused(lambda: loss_of(model, batch)),
    }
