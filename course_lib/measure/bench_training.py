"""Pairs of ``make bench`` about training: the mixed-precision step, and activation checkpointing, on two layers of an encoder."""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as theirs_checkpoint

from course_lib.measure.bench_tensors import Pair, Sizes, agree
from course_lib.precision.checkpointing import checkpointed
from course_lib.precision.loss_scaler import LossScaler
from course_lib.precision.mixed import Step, train_step

LAYERS, LENGTH, CLIP = 2, 64, 1.0


class Encoder(nn.Module):
    """Layers of BERT over vectors (B, L, D); the mean over tokens is classified: (B, 10)."""

    def __init__(self, width: int) -> None:
        from course_lib.models.zoo import hugging_face

        super().__init__()
        config = hugging_face().BertConfig(
            vocab_size=1, hidden_size=width, num_hidden_layers=LAYERS, num_attention_heads=max(1, width // 64),
            intermediate_size=4 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.layers = hugging_face().BertModel(config, add_pooling_layer=False).encoder.layer
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor, around=None) -> torch.Tensor:
        """Logits; ``around(layer, x)`` calls a layer otherwise."""
        for layer in self.layers:
            x = around(layer, x) if around else layer(x)
        return self.classifier(x.mean(dim=1))


def mixed_bf16(sizes: Sizes) -> Pair:
    """A step in bf16, against torch.autocast."""
    return _mixed(sizes, torch.bfloat16, False)


def mixed_fp16(sizes: Sizes) -> Pair:
    """A step in fp16 with a scaled loss, against torch.autocast and torch.amp.GradScaler."""
    return _mixed(sizes, torch.float16, True)


def checkpoints(sizes: Sizes) -> Pair:
    """Forward and backward with each layer checkpointed, against torch.utils.checkpoint."""
    x, y, model = _problem(sizes)

    def ours() -> list[torch.Tensor]:
        with checkpointed(model.layers):
            loss = F.cross_entropy(model(x), y)
        return torch.autograd.grad(loss, list(model.parameters()))

    def theirs(_) -> list[torch.Tensor]:
        loss = F.cross_entropy(model(x, partial(theirs_checkpoint, use_reentrant=False)), y)
        return torch.autograd.grad(loss, list(model.parameters()))

    agree(all(map(torch.equal, ours(), theirs(None))), "checkpointing")
    return Pair(f"training, {LAYERS} layers checkpointed, {_shape(x)} (torch.utils.checkpoint)", ours, theirs, _bytes(model))


def _mixed(sizes: Sizes, dtype: torch.dtype, scaled: bool) -> Pair:
    x, y, model = _problem(sizes, 8 if scaled else 1)  # without fp16 arithmetic in the processor a step takes very long
    copied = copy.deepcopy(model)
    optimizer, their_optimizer = (torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for m in (model, copied))
    scaler, their_scaler = LossScaler() if scaled else None, torch.amp.GradScaler("cpu", enabled=scaled)

    def ours() -> Step:
        return train_step((F.cross_entropy(model(x), y) for _ in range(1)), optimizer, dtype, scaler, CLIP)

    def theirs(_) -> None:
        their_optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = F.cross_entropy(copied(x), y)
        their_scaler.scale(loss).backward()
        their_scaler.unscale_(their_optimizer)
        nn.utils.clip_grad_norm_(copied.parameters(), CLIP)
        their_scaler.step(their_optimizer)
        their_scaler.update()

    taken = ours().taken
    theirs(None)
    agree(taken and all(map(torch.equal, model.parameters(), copied.parameters())), f"a step in {dtype}")
    name = "autocast, GradScaler" if scaled else "autocast"
    kind = "fp16" if scaled else "bf16"
    return Pair(f"training step in {kind}, {LAYERS} layers, {_shape(x)} ({name})", ours, theirs, _bytes(model))


def _problem(sizes: Sizes, smaller: int = 1) -> tuple[torch.Tensor, torch.Tensor, Encoder]:
    rows = max(1, sizes.tokens // 4 // LENGTH // smaller)
    return torch.randn(rows, LENGTH, sizes.width), torch.randint(10, (rows,)), Encoder(sizes.width)


def _shape(x: torch.Tensor) -> str:
    return " × ".join(str(n) for n in x.shape)


def _bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters())


ALL = (mixed_bf16, mixed_fp16, checkpoints)
