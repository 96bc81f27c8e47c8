"""What a student is trained on: its teacher's logits and last hidden states, computed once, and the hard labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from course_lib.data.align import IGNORED, Window, batches, collate
from course_lib.distillation.losses import hidden_state_loss, token_kd_loss
from course_lib.errors import expect
from course_lib.ner.train import Objective, hard_labels


@dataclass
class TeacherTargets:
    """What the teacher says to every training window, by its index.

    Attributes:
        logits: float32 (pieces, T) each.
        hidden: states after the last layer, float16 (pieces, D) each, to halve the memory.
    """

    logits: list[np.ndarray]
    hidden: list[np.ndarray]


class LastHidden:
    """Keeps the last hidden states (B, L, D) of a model's latest forward pass."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.states: torch.Tensor | None = None
        self._handle = model.base_model.register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: tuple, output) -> None:
        self.states = output.last_hidden_state

    def remove(self) -> None:
        """Stop listening."""
        self._handle.remove()


def teacher_targets(
    teacher: torch.nn.Module, windows: Sequence[Window], padding: int, bf16: bool, progress: Callable[[int], None] | None = None
) -> TeacherTargets:
    """Run the teacher over all windows once, in evaluation mode.

    Args:
        teacher: a token classifier.
        windows: the training windows.
        padding: id of the padding piece.
        bf16: under bf16 autocast.
        progress: called with the number of windows after each batch.
    """
    logits, hidden = ([np.empty(0)] * len(windows) for _ in range(2))
    listener, training = LastHidden(teacher), teacher.training
    teacher.eval()
    try:
        for indices in batches(windows, 32):
            ids, mask = (torch.from_numpy(a) for a in collate([windows[i] for i in indices], padding))
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = teacher(input_ids=ids, attention_mask=mask).logits
            for row, i in enumerate(indices):
                length = len(windows[i].ids)
                logits[i] = out[row, :length].float().numpy().copy()
                hidden[i] = listener.states[row, :length].to(torch.float16).numpy().copy()
            if progress:
                progress(len(indices))
    finally:
        listener.remove()
        teacher.train(training)
    return TeacherTargets(logits, hidden)


def distil_objective(
    listener: LastHidden, targets: TeacherTargets, temperature: float, hard: float, hidden: float
) -> Objective:
    """``(1 − hard)·KD + hard·cross-entropy + hidden·hidden_state_loss``.

    Soft and hard labels count at the first piece of each word, which is where the model is read; hidden states at
    every real piece.

    Args:
        listener: hears the student's last hidden states.
        targets: of the teacher.
        temperature: of the soft labels.
        hard: weight of the hard labels, 0 to 1.
        hidden: weight of the hidden states, 0 or more.
    """
    expect(0 <= hard <= 1, "hard", hard, "a fraction between 0 and 1")
    expect(hidden >= 0, "hidden", hidden, "a weight of at least 0")

    def objective(logits: torch.Tensor, labels: torch.Tensor, indices: list[int]) -> torch.Tensor:
        soft = _stack([targets.logits[i] for i in indices], logits.shape[1])
        loss = (1 - hard) * token_kd_loss(logits, soft, labels != IGNORED, temperature)
        if hard:
            loss = loss + hard * hard_labels(logits, labels, indices)
        if hidden:
            real = torch.arange(logits.shape[1]) < torch.tensor([len(targets.hidden[i]) for i in indices])[:, None]  # (B, L)
            loss = loss + hidden * hidden_state_loss(
                listener.states, _stack([targets.hidden[i] for i in indices], logits.shape[1]), real
            )
        return loss

    return objective


def _stack(rows: list[np.ndarray], length: int) -> torch.Tensor:
    """Rows (pieces, N) as one float32 tensor (B, L, N), zeros behind each row's end."""
    out = torch.zeros(len(rows), length, rows[0].shape[1])
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(row.astype(np.float32))
    return out
