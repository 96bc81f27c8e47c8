"""What cheaper training costs and gains: one task trained in each way from the same weights on the same batches."""

import contextlib
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data.corpus import Corpus
from course_lib.errors import expect
from course_lib.machine import cpu_info
from course_lib.precision.accumulation import loss_shares, micro_batches, real_tokens, token_loss_sum
from course_lib.precision.checkpointing import checkpointed
from course_lib.precision.live_bytes import LiveBytes
from course_lib.precision.loss_scaler import LossScaler, ScalerSettings
from course_lib.precision.memory import memory_account
from course_lib.precision.mixed import Precision, Step, alternating, always, train
from course_lib.redundancy.adapters import BOTH_BLOCKS, Adapter, attach_adapters
from course_lib.redundancy.lora import Lora, attach_lora
from course_lib.tracking import Tracker

Batch = Sequence[torch.Tensor]
POINTS = 200  # of a loss curve at most
LOOKED_AT = 8  # batches that underflow is counted on
NEVER = 2**62  # good steps until a loss scale grows


@dataclass(frozen=True)
class Task:
    """Something to train on.

    Attributes:
        name, metric: what it is, and what ``score`` gives.
        make: the model before training, the same each time.
        batches: the batches of an epoch, by its number; tensors (B, …).
        loss_sum, count: the summed loss of a part of a batch, a scalar, and over how many tokens or images it is summed.
        score: of a trained model, on validation data.
        optimizer: makes it for a model.
        rate: fraction of the training done → learning rate.
        layers: the modules of a model that can be checkpointed; none where there are none.
        epochs, clip, seed: of the training; the seed is that of dropout.
    """

    name: str
    metric: str
    make: Callable[[], nn.Module]
    batches: Callable[[int], list[Batch]]
    loss_sum: Callable[[nn.Module, Batch], torch.Tensor]
    count: Callable[[Batch], int]
    score: Callable[[nn.Module], float]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    rate: Callable[[float], float]
    layers: Callable[[nn.Module], list[nn.Module]]
    epochs: int
    clip: float = 1.0
    seed: int = 0

    def losses(self, model: nn.Module, batch: Batch, parts: int = 1) -> Iterator[torch.Tensor]:
        """The loss of a batch, tensors (B, …), in so many shares, scalars."""
        micro = micro_batches(batch, math.ceil(len(batch[0]) / parts))
        return loss_shares(micro, lambda part: self.loss_sum(model, part), self.count)


@dataclass(frozen=True)
class Way:
    """How to train.

    Attributes:
        schedule: step → precision.
        parts: in how many a batch is computed.
        checkpoint: layers are checkpointed.
        attach: adds weights to an encoder, which are then trained alone with the head.
        rate: times the task's learning rate.
        scaler: the rule of the loss scale; None: that of a new :class:`~course_lib.precision.loss_scaler.LossScaler`.
    """

    schedule: Callable[[int], torch.dtype]
    parts: int = 1
    checkpoint: bool = False
    attach: Callable[[nn.Module], object] | None = None
    rate: float = 1.0
    scaler: ScalerSettings | None = None


WAYS = {
    "fp32": Way(always(torch.float32)),
    "bf16": Way(always(torch.bfloat16)),
    "fp16": Way(always(torch.float16)),
    "alternating bf16": Way(alternating(torch.bfloat16)),
    "fp32, 4 parts": Way(always(torch.float32), parts=4),
    "fp32, checkpointed": Way(always(torch.float32), checkpoint=True),
    "fp32, LoRA of rank 8": Way(always(torch.float32), attach=lambda m: attach_lora(m, {"*.layer.*": Lora(rank=8)}), rate=10),
    "fp32, adapters of width 32": Way(
        always(torch.float32), attach=lambda m: attach_adapters(m, {BOTH_BLOCKS: Adapter()}), rate=10
    ),
}
CURVES = {name: WAYS[name] for name in ("fp32", "bf16", "fp16", "alternating bf16")} | {
    "fp16, not scaled": Way(always(torch.float16), scaler=ScalerSettings(first=1.0, interval=NEVER)),
}


def encoder_curves() -> list[str]:
    """The keys of :data:`CURVES` that an encoder's losses are drawn for: fp16 only where the processor has products of it."""
    fast = bool(cpu_info()[1] & {"avx512_fp16", "amx_fp16"})
    return ["fp32", "bf16", "fp16"] if fast else ["fp32", "bf16"]


def digits_task(epochs: int = 20, images: int | None = None, seed: int = 0) -> Task:
    """The digits' multilayer perceptron, AdamW with a falling rate, batches of 64; ``images`` keeps only so many."""
    from course_lib.data.digits import load_digits
    from course_lib.models.digits import accuracy, batches, digits_mlp

    data = load_digits(train=images)
    return Task(
        name="digits",
        metric="validation accuracy",
        make=lambda: digits_mlp(seed),
        batches=lambda epoch: list(batches(data.train, 64, 1000 * seed + epoch)),
        loss_sum=lambda model, part: F.cross_entropy(model(part[0]), part[1], reduction="sum"),
        count=lambda part: len(part[1]),
        score=lambda model: accuracy(model, data.validation),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), fused=True),
        rate=lambda done: 3e-3 * (1 - done),
        layers=lambda model: [],
        epochs=epochs,
        seed=seed,
    )


def encoder_task(corpus: Corpus, encoder: str = "minilm", epochs: int = 3, batch_size: int = 16, seed: int = 0) -> Task:
    """Named entities with an encoder and a new head, trained as :func:`course_lib.ner.train.train` does.

    Args:
        corpus: trained on and validated with.
        encoder: a name or folder for :func:`course_lib.models.zoo.find_encoder`.
        epochs, batch_size, seed: of the training.
    """
    from course_lib.data import align
    from course_lib.deploy.engines import TorchEngine
    from course_lib.models.surgery import encoder_layers
    from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
    from course_lib.ner.evaluate import entity_f1
    from course_lib.ner.predict import predict_tags
    from course_lib.ner.train import Settings, learning_rate, make_optimizer

    folder, tags = find_encoder(encoder), corpus.tags
    tokenizer = load_tokenizer(folder)
    windows, index = align.make_windows([s.words for s in corpus.train], tokenizer), {tag: i for i, tag in enumerate(tags)}
    labels = [align.window_labels(w, corpus.train[w.sentence].tags, index) for w in windows]
    padding, settings = align.pad_id(tokenizer), Settings(epochs=epochs, batch_size=batch_size, seed=seed)

    def batches(epoch: int) -> list[Batch]:
        made = []
        for rows in align.batches(windows, batch_size, random.Random(f"{seed}/{epoch}")):
            ids, mask = align.collate([windows[i] for i in rows], padding)
            made.append([torch.from_numpy(x) for x in (ids, mask, align.pad([labels[i] for i in rows], align.IGNORED))])
        return made

    def score(model: nn.Module) -> float:
        words, gold = [s.words for s in corpus.validation], [s.tags for s in corpus.validation]
        return entity_f1(gold, predict_tags(words, TorchEngine(model), tokenizer, tags))

    return Task(
        name=f"{encoder} on {corpus.name}",
        metric="validation F1",
        make=lambda: load_token_classifier(folder, tags, seed).train(),
        batches=batches,
        loss_sum=lambda model, part: token_loss_sum(model(input_ids=part[0], attention_mask=part[1]).logits, part[2]),
        count=lambda part: real_tokens(part[2]),
        score=score,
        optimizer=lambda model: make_optimizer(model, settings),
        rate=lambda done: learning_rate(round(done * 10**6), 10**6, settings),
        layers=lambda model: list(encoder_layers(model)),
        epochs=epochs,
        clip=settings.clip,
        seed=seed,
    )


def compare(
    task: Task,
    ways: Sequence[str] = tuple(WAYS),
    progress: Callable[[str], None] | None = None,
    tracker: Tracker | None = None,
) -> list[dict]:
    """A row for each way, all from the same weights and batches; what is attached learns at a rate of its own (:attr:`Way.rate`).

    Args:
        task: what to train.
        ways: keys of :data:`WAYS`; those that checkpoint or attach are for tasks with layers.
        progress: called with each way's name when it begins.
        tracker: where losses and loss scales are written, each way a run; None: nowhere.
    Returns:
        ``{"task", "way", "metric", "score", "losses", "seconds", "peak_bytes", "account", "skipped", "scale", "rate"}``: the loss of each
        step, seconds of all steps, the live tensor bytes of a step with the largest batch where they are most (each precision of
        the schedule once), the parts of its account in bytes, steps skipped, the last loss scale, and :attr:`Way.rate`.
    Raises:
        ValueError: a way that is not known, or one that checkpoints what has no layers.
    """
    with torch.random.fork_rng(devices=[]):
        for name in ways:
            expect(name in WAYS, "ways", name, f"some of {list(WAYS)}")
            fits = not (WAYS[name].checkpoint or WAYS[name].attach) or bool(task.layers(task.make()))
            expect(fits, "ways", name, "a task with layers to checkpoint or to attach weights to")
        rows = []
        for name in ways:
            if progress:
                progress(name)
            done = _run(task, WAYS[name], tracker, _run_name(task, name))
            score = task.score(done.model)
            peak, account = _memory(task, done.model, done.optimizer, WAYS[name], max(done.batches, key=lambda b: b[0].numel()))
            rows.append(
                {
                    "task": task.name,
                    "way": name,
                    "metric": task.metric,
                    "score": score,
                    "losses": [step.loss for step in done.steps],
                    "seconds": done.seconds,
                    "peak_bytes": peak,
                    "account": account,
                    "skipped": done.skipped,
                    "scale": done.scaler.state.scale,
                    "rate": WAYS[name].rate,
                }
            )
    return rows


def curves(
    task: Task,
    ways: Sequence[str] = tuple(CURVES),
    progress: Callable[[str], None] | None = None,
    tracker: Tracker | None = None,
) -> list[dict]:
    """Loss curves: a row for each way, all from the same weights, batches and learning rates.

    Args:
        task: what to train.
        ways: keys of :data:`CURVES`.
        progress, tracker: as of :func:`compare`.
    Returns:
        ``{"task", "way", "metric", "score", "loss", "losses", "steps_per_point", "steps", "skipped", "scale", "underflow"}``: the mean
        loss of the last epoch; at most :data:`POINTS` losses, each the mean of so many steps (the last of the rest); the number of steps
        and of those skipped; the last loss scale; and :func:`underflow` of the trained weights on the first batches of the last epoch.
    Raises:
        ValueError: a way that is not known.
    """
    for name in ways:
        expect(name in CURVES, "ways", name, f"some of {list(CURVES)}")
    rows = []
    with torch.random.fork_rng(devices=[]):
        for name in ways:
            if progress:
                progress(f"{task.name}, {name}")
            way = CURVES[name]
            done = _run(task, way, tracker, _run_name(task, name))
            losses, epoch = [step.loss for step in done.steps], len(done.steps) // task.epochs
            width = math.ceil(len(losses) / POINTS)
            points = [losses[i : i + width] for i in range(0, len(losses), width)]
            seen = done.batches[-epoch:][:LOOKED_AT]
            rows.append(
                {
                    "task": task.name,
                    "way": name,
                    "metric": task.metric,
                    "score": task.score(done.model),
                    "loss": sum(losses[-epoch:]) / epoch,
                    "losses": [float(f"{sum(p) / len(p):.5g}") for p in points],
                    "steps_per_point": width,
                    "steps": len(losses),
                    "skipped": done.skipped,
                    "scale": done.scaler.state.scale,
                    "underflow": underflow(task, done.model, seen, way.schedule(0), done.scaler.state.scale),
                }
            )
    return rows


def underflow(task: Task, model: nn.Module, batches: Sequence[Batch], dtype: torch.dtype, scale: float = 1.0) -> float:
    """Of the entries of gradients that are not 0 in fp32, the fraction that are 0 in another precision; the weights stay as they are.

    Few of these are no underflow: sums that happen to be 0 in coarser numbers, in bf16 too.

    Args:
        task: whose loss it is.
        model: in fp32; looked at without dropout, and left in the mode it was in. Its gradients are gone.
        batches: at least one, of tensors (B, …); what counts are the entries of all of them together.
        dtype: of the products.
        scale: of the loss.
    """
    expect(len(batches) > 0, "batches", 0, "at least one batch")
    training, there, lost = model.training, 0, 0
    model.eval()
    for batch in batches:
        full, half = (_gradients(task, model, batch, *how) for how in ((torch.float32, 1.0), (dtype, scale)))
        for f, h in zip(full, half, strict=True):
            there += int((f != 0).sum())
            lost += int(((f != 0) & (h == 0)).sum())
    model.train(training)
    return lost / there if there else 0.0


def _gradients(task: Task, model: nn.Module, batch: Batch, dtype: torch.dtype, scale: float) -> list[torch.Tensor]:
    model.zero_grad()
    with Precision(dtype):
        loss = task.loss_sum(model, batch) / task.count(batch)
    (loss.float() * scale).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return gradients


@dataclass(frozen=True)
class _Done:
    """A training that is over: the model and all that trained it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: LossScaler
    batches: list[Batch]
    steps: list[Step]
    seconds: float

    @property
    def skipped(self) -> int:
        return sum(not step.taken for step in self.steps)


def _run_name(task: Task, way: str) -> str:
    """A run's folder: a word, whatever the task is called."""
    return re.sub(r"[^\w.]+", "-", f"{task.name} {way}").strip("-.")


def _run(task: Task, way: Way, tracker: Tracker | None, run: str) -> _Done:
    model, scaler = task.make(), LossScaler(way.scaler)
    if way.attach:
        way.attach(model)
    optimizer, epochs = task.optimizer(model), [task.batches(epoch) for epoch in range(task.epochs)]
    steps = [batch for epoch in epochs for batch in epoch]
    torch.manual_seed(task.seed)  # of dropout
    with _around(task, model, way):
        began = time.perf_counter()
        done = train(
            steps, lambda b: task.losses(model, b, way.parts), optimizer, way.schedule, scaler, task.clip,
            lambda number: way.rate * task.rate(number / len(steps)), tracker, run,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    return _Done(model, optimizer, scaler, steps, done, seconds)


def _memory(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, way: Way, batch: Batch) -> tuple[int, list[dict]]:
    """Live bytes at most in a step of each precision, and the account of the first; the model is trained a few steps further."""
    batch = [x.clone() for x in batch]  # a slice counts with all that it was cut from
    part = micro_batches(batch, math.ceil(len(batch[0]) / way.parts))[0]
    precisions = list(dict.fromkeys(way.schedule(step) for step in range(100)))
    optimizer.zero_grad()
    with _around(task, model, way):
        account = memory_account(model, lambda: task.loss_sum(model, part), batch, optimizer, precisions[0]).rows()
    with LiveBytes(model, optimizer, batch) as live, _around(task, model, way):
        for dtype in precisions:
            train([batch], lambda b: task.losses(model, b, way.parts), optimizer, always(dtype), LossScaler(), task.clip)
            optimizer.zero_grad()
    return live.peak, account


def _around(task: Task, model: nn.Module, way: Way) -> contextlib.AbstractContextManager:
    return checkpointed(task.layers(model)) if way.checkpoint else contextlib.nullcontext()
