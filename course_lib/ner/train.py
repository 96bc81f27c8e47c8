"""The training loop of every NER model in this course: resumable to the bit, best epoch by validation F1."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from course_lib.artifacts import digest
from course_lib.data.align import IGNORED, Window, batches, collate, pad
from course_lib.errors import expect
from course_lib.ner.checkpoint import Checkpoints, weights_sha256

Objective = Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]
MakeOptimizer = Callable[[torch.nn.Module, "Settings"], torch.optim.Optimizer]


@dataclass(frozen=True)
class Settings:
    """How to train; all of it goes into the cache key of what is trained.

    Attributes:
        epochs: passes over the training windows.
        batch_size: windows per step.
        learning_rate: its peak, reached after ``warmup`` of the steps, then falling linearly to 0.
        warmup: fraction of the steps spent warming up.
        weight_decay: AdamW's, on matrices only (never biases and LayerNorm).
        clip: largest norm of the gradient.
        freeze_embeddings: leave the word embeddings as they are. They are half of a small encoder; fine-tuning moves only
            the words it meets and leaves all others behind, and skipping them saves a fifth of the time.
        bf16: forward and backward under bf16 autocast (weights and optimizer stay fp32).
        patience: epochs without a better validation F1 before stopping; None trains all epochs.
        seed: order of the batches and dropout.
    """

    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 3e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    freeze_embeddings: bool = False
    bf16: bool = False
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        expect(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        expect(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        expect(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "a number between 0 and 1, such as 3e-4")
        expect(0 <= self.warmup < 1, "warmup", self.warmup, "a fraction of the steps")
        expect(self.clip > 0, "clip", self.clip, "a positive norm")


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Rate of step ``step`` (from 0) of ``steps``: linear warm-up, linear decay to 0 after the last step.

    >>> s = Settings(learning_rate=0.1, warmup=0.5)
    >>> [round(learning_rate(i, 4, s), 3) for i in range(4)]
    [0.05, 0.1, 0.1, 0.05]
    """
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * (steps - step) / max(1, steps - warm)


def hard_labels(logits: torch.Tensor, labels: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """Cross-entropy at the first piece of each word; logits (B, L, T), labels (B, L) with −100 elsewhere."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def make_optimizer(model: torch.nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2017, 1711.05101) with weight decay on matrices only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def train(
    model: torch.nn.Module,
    windows: Sequence[Window],
    labels: Sequence[Sequence[int]],
    padding: int,
    validate: Callable[[torch.nn.Module], float],
    settings: Settings,
    folder: Path,
    objective: Objective = hard_labels,
    progress: Callable[[dict], None] | None = None,
    checkpoint_every: float = 60.0,
    own_optimizer: tuple[str, MakeOptimizer] | None = None,
) -> list[dict]:
    """Train in place and leave the best epoch's weights in ``model``.

    A run that is killed at any moment and started again with the same arguments goes on from its last
    checkpoint and ends with the same weights, bit for bit, as one that was left alone (fp32, same threads).

    Args:
        model: a token classifier.
        windows, labels: training windows and a label per piece (:func:`course_lib.data.align.window_labels`).
        padding: id of the padding piece.
        validate: validation F1 of the model, called after each epoch.
        settings: see :class:`Settings`.
        folder: where checkpoints live, of one objective; delete it to start afresh. Checkpoints that other data,
            settings or initial weights left there are not used.
        objective: ``(logits, labels, window indices) -> loss``.
        progress: called after each step with ``epoch, step, steps, loss`` (and ``f1`` after an epoch).
        checkpoint_every: seconds between checkpoints inside an epoch; each epoch ends with one.
        own_optimizer: a label and what makes the optimizer instead of :func:`make_optimizer`, with groups and step hooks of its
            own, such as those of :meth:`course_lib.pruning.masks.Masks.keep` and :mod:`course_lib.pruning.proximal`. It is called
            once, before anything is restored, and the optimizer and its hooks end with the run. Its learning rates are those
            of the settings. The label goes into the checkpoints' key: another λ or other masks need another one.
    Returns:
        The history: per epoch ``epoch, loss, validation_f1, seconds``.
    Raises:
        ValueError: no windows, or an optimizer of one's own without a label.
    """
    expect(len(windows) > 0, "windows", len(windows), "at least one training window")
    label, make = own_optimizer or ("", make_optimizer)
    expect(bool(label) == bool(own_optimizer), "own_optimizer", label, "a label that tells its checkpoints from others")
    per_epoch = math.ceil(len(windows) / settings.batch_size)
    steps = per_epoch * settings.epochs
    words = model.get_input_embeddings().weight
    learnt = words.requires_grad  # a caller may have frozen them already
    words.requires_grad_(learnt and not settings.freeze_embeddings)
    optimizer = make(model, settings)
    own = [label] if label else []  # the keys of runs without stay what they were
    made_of = digest(asdict(settings), [w.ids for w in windows], labels, weights_sha256(model), *own)
    checkpoints = Checkpoints(folder, made_of)
    if not checkpoints.resume(model, optimizer):
        torch.manual_seed(settings.seed)
    state = checkpoints.state
    saved = time.monotonic()
    while state.epoch < settings.epochs and not _exhausted(state.history, settings.patience):
        began = time.monotonic()
        for indices in _rest_of_epoch(windows, settings, state.epoch, state.step - state.epoch * per_epoch):
            rate = learning_rate(state.step, steps, settings)
            loss = _step(model, optimizer, windows, labels, padding, indices, objective, settings, rate)
            state.step += 1
            state.losses += loss
            if progress:
                progress({"epoch": state.epoch, "step": state.step, "steps": steps, "loss": loss})
            if time.monotonic() - saved > checkpoint_every:
                state.seconds += time.monotonic() - began
                checkpoints.save(model, optimizer)
                saved = began = time.monotonic()
        f1 = validate(model)
        seconds = round(state.seconds + time.monotonic() - began, 1)
        entry = {"epoch": state.epoch + 1, "loss": round(state.losses / per_epoch, 5), "validation_f1": f1, "seconds": seconds}
        if f1 > max((h["validation_f1"] for h in state.history), default=-1.0):
            checkpoints.save_best(model, state.epoch + 1)
        state.history.append(entry)
        state.epoch, state.losses, state.seconds = state.epoch + 1, 0.0, 0.0
        checkpoints.save(model, optimizer)
        saved = time.monotonic()
        if progress:
            progress({"epoch": state.epoch, "step": state.step, "steps": steps, "loss": entry["loss"], "f1": f1})
    words.requires_grad_(learnt)
    checkpoints.load_best(model)
    return state.history


def _exhausted(history: list[dict], patience: int | None) -> bool:
    """True when the best epoch lies ``patience`` epochs or more behind the last one."""
    if patience is None or not history:
        return False
    scores = [h["validation_f1"] for h in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def _rest_of_epoch(windows: Sequence[Window], settings: Settings, epoch: int, done: int) -> Iterator[list[int]]:
    """Batches of an epoch after the first ``done``: their order depends on seed and epoch alone."""
    order = batches(windows, settings.batch_size, random.Random(f"{settings.seed}/{epoch}"))
    return (indices for i, indices in enumerate(order) if i >= done)


def _step(model, optimizer, windows, labels, padding, indices, objective, settings, rate) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    ids, mask = collate([windows[i] for i in indices], padding)
    target = torch.from_numpy(pad([labels[i] for i in indices], IGNORED))
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
    loss = objective(logits, target, indices)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    return loss.item()
