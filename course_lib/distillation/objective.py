"""What a student is trained on: its teacher's logits and last hidden states, computed once, and the hard labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from course_lib.data.align import IGNORED, Window, batches, collate
from course_lib.distillation.agreement import check_tags
from course_lib.distillation.losses import hidden_state_loss, relation_loss, token_kd_loss
from course_lib.errors import expect
from course_lib.models.surgery import encoder_layers
from course_lib.ner.train import Objective, hard_labels

SOFT_ONLY = -1  # label of pieces that are read, but that only the teacher has labelled


@dataclass
class TeacherTargets:
    """What the teacher says to every training window, by its index.

    Attributes:
        logits: float32 (pieces, T) each.
        hidden: states after the last layer, float16 (pieces, D) each, to halve the memory; empty where they are not known, as of
            :func:`course_lib.distillation.labelled_text.label_text`.
        values: value vectors of the last layer's attention, float16 (pieces, E) each; empty where nobody asked for them.
    """

    logits: list[np.ndarray]
    hidden: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)


class LastHidden:
    """Keeps the last hidden states (B, L, D), and the last layer's value vectors (B, L, E), of a model's latest forward pass."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.states: torch.Tensor | None = None
        self.values: torch.Tensor | None = None
        value = encoder_layers(model)[-1].attention.self.value
        self._handles = [model.base_model.register_forward_hook(self._keep), value.register_forward_hook(self._keep_values)]

    def _keep(self, module: torch.nn.Module, inputs: tuple, output) -> None:
        self.states = output.last_hidden_state

    def _keep_values(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.values = output

    def remove(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()


def teacher_targets(
    teachers: torch.nn.Module | Sequence[torch.nn.Module],
    windows: Sequence[Window],
    padding: int,
    bf16: bool,
    progress: Callable[[int], None] | None = None,
    values: bool = False,
) -> TeacherTargets:
    """Run the teacher over all windows once, in evaluation mode.

    Args:
        teachers: a token classifier, or several with the same tags that read the same pieces
            (:func:`course_lib.distillation.agreement.check_tokenizers`): an ensemble, whose logits are averaged. Hidden states
            and values are those of the first.
        windows: the training windows.
        padding: id of the padding piece.
        bf16: under bf16 autocast.
        progress: called with the number of windows after each batch.
        values: keep the value vectors too.
    Raises:
        CourseError: teachers with other tags than the first one's.
        ValueError: no teacher.
    """
    teachers = [teachers] if isinstance(teachers, torch.nn.Module) else list(teachers)
    expect(len(teachers) > 0, "teachers", 0, "at least one model")
    check_tags(teachers, [f"teachers[{i}]" for i in range(len(teachers))])
    logits, hidden, vectors = ([np.empty(0)] * len(windows) for _ in range(3))
    listener, training = LastHidden(teachers[0]), [teacher.training for teacher in teachers]
    for teacher in teachers:
        teacher.eval()
    try:
        for indices in batches(windows, 32):
            ids, mask = (torch.from_numpy(a) for a in collate([windows[i] for i in indices], padding))
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                said = [teacher(input_ids=ids, attention_mask=mask).logits.float() for teacher in teachers]
            out = sum(said) / len(said)
            for row, i in enumerate(indices):
                length = len(windows[i].ids)
                logits[i] = out[row, :length].numpy().copy()
                hidden[i] = listener.states[row, :length].to(torch.float16).numpy().copy()
                if values:
                    vectors[i] = listener.values[row, :length].to(torch.float16).numpy().copy()
            if progress:
                progress(len(indices))
    finally:
        listener.remove()
        for teacher, mode in zip(teachers, training, strict=True):
            teacher.train(mode)
    return TeacherTargets(logits, hidden, vectors if values else [])


def label_loss(
    logits: torch.Tensor, soft: torch.Tensor, labels: torch.Tensor, indices: list[int], temperature: float, hard: float
) -> torch.Tensor:
    """``(1 − hard)·KD + hard·cross-entropy`` of a batch, each over the pieces that it has something to say about.

    A term without any such piece is left out: the cross-entropy where all labels are :data:`SOFT_ONLY`, both where all are ignored.
    Then the loss is 0, and so is its gradient.

    Args:
        logits: (B, L, T) of the student; soft: (B, L, T), the teacher's.
        labels: int64 (B, L): a tag, SOFT_ONLY, or −100 where nothing is read.
        indices: of the batch's windows.
        temperature: of the soft labels.
        hard: weight of the hard labels, 0 to 1.
    Returns:
        A scalar.
    """
    read, known = labels != IGNORED, labels >= 0
    nothing = 0.0 * logits.float().sum()  # with a gradient of zeros: a step is taken all the same
    loss = (1 - hard) * (token_kd_loss(logits, soft, read, temperature) if bool(read.any()) else nothing)
    if hard and bool(known.any()):
        loss = loss + hard * hard_labels(logits, labels.where(known, IGNORED), indices)
    return loss


def soft_only_labels(windows: Sequence[Window], read_at: Callable[[Window], Sequence[int]]) -> list[list[int]]:
    """A label per piece for windows that only a teacher has labelled: :data:`SOFT_ONLY` where they are read, −100 elsewhere.

    Args:
        windows: of any text.
        read_at: window → positions of the pieces at which the model is read (:class:`course_lib.tasks.Task`).
    """
    places = [{*read_at(w)} for w in windows]
    return [[SOFT_ONLY if i in read else IGNORED for i in range(len(w.ids))] for w, read in zip(windows, places, strict=True)]


def distil_objective(
    listener: LastHidden,
    targets: TeacherTargets,
    temperature: float,
    hard: float,
    hidden: float,
    relations: float = 0.0,
    heads: int = 1,
) -> Objective:
    """``(1 − hard)·KD + hard·cross-entropy + hidden·hidden_state_loss + relations·relation_loss``.

    Soft and hard labels count at the first piece of each word, which is where the model is read; hidden states and relations at
    every real piece. A window without hard labels, which the teacher alone has labelled, says :data:`SOFT_ONLY` where it is read.
    What becomes of a batch without a label of one kind, see :func:`label_loss`.

    Args:
        listener: hears the student's last hidden states and values.
        targets: of the teacher, with hidden states and values where these have a weight.
        temperature: of the soft labels.
        hard: weight of the hard labels, 0 to 1.
        hidden: weight of the hidden states, 0 or more.
        relations: weight of the relations of the last layer's values, 0 or more; needs targets with values.
        heads: parts that both value widths are cut into.
    Raises:
        ValueError: a weight out of its range, or targets without what a weight is for.
    """
    expect(0 <= hard <= 1, "hard", hard, "a fraction between 0 and 1")
    expect(hidden >= 0, "hidden", hidden, "a weight of at least 0")
    expect(relations >= 0, "relations", relations, "a weight of at least 0")
    for weight, name in ((hidden, "hidden"), (relations, "values")):
        count, due = len(getattr(targets, name)), len(targets.logits)
        expect(not weight or count == due, f"targets.{name}", f"{count} rows", f"{due}, one for each window with logits")

    def objective(logits: torch.Tensor, labels: torch.Tensor, indices: list[int]) -> torch.Tensor:
        length = logits.shape[1]
        soft = _stack([targets.logits[i] for i in indices], length)
        loss = label_loss(logits, soft, labels, indices, temperature, hard)
        real = torch.arange(length) < torch.tensor([len(targets.logits[i]) for i in indices])[:, None]  # (B, L)
        if hidden:
            loss = loss + hidden * hidden_state_loss(
                listener.states, _stack([targets.hidden[i] for i in indices], length), real
            )
        if relations:
            theirs = _stack([targets.values[i] for i in indices], length)
            loss = loss + relations * relation_loss(listener.values, theirs, real, heads)
        return loss

    return objective


def _stack(rows: list[np.ndarray], length: int) -> torch.Tensor:
    """Rows (pieces, N) as one float32 tensor (B, L, N), zeros behind each row's end."""
    out = torch.zeros(len(rows), length, rows[0].shape[1])
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(row.astype(np.float32))
    return out
