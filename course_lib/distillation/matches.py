"""Which layer of the student learns from which layer of the teacher, and how: a table of matches (as in TextBrewer, 2002.12620).

Layers are counted as hidden states are: 0 is what the embeddings put out, i what layer i puts out, i from 1. So ``Match(6, 3, "hidden")``
teaches the states after the student's third layer to be those after the teacher's sixth, through a learnt projection where the student is
narrower (TinyBERT, Jiao et al. 2019, 1909.10351).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import nn

from course_lib.data.align import IGNORED, Window, collate
from course_lib.distillation.attention import attention_log_probabilities, attention_loss
from course_lib.distillation.losses import hidden_state_loss, relation_loss, token_kd_loss
from course_lib.errors import CourseError, expect
from course_lib.models.surgery import encoder_layers
from course_lib.ner.train import Settings, hard_labels, make_optimizer

LOSSES = ("hidden", "attention", "relations")


@dataclass(frozen=True)
class Match:
    """One row of the table.

    Attributes:
        teacher, student: layers; 0, the embeddings, only for "hidden".
        loss: "hidden" (states, through a projection where widths differ), "attention" (where tokens look; equal numbers of heads), or
            "relations" (of the value vectors; any widths and heads).
        weight: of this loss in the sum.
    """

    teacher: int
    student: int
    loss: str = "hidden"
    weight: float = 1.0

    def __post_init__(self) -> None:
        expect(self.loss in LOSSES, "loss", self.loss, f"one of {', '.join(LOSSES)}")
        first = 0 if self.loss == "hidden" else 1
        for name in ("teacher", "student"):
            expect(getattr(self, name) >= first, name, getattr(self, name), f"a layer from {first}")
        expect(self.weight > 0, "weight", self.weight, "a number above 0")


def spread_matches(teacher_layers: int, student_layers: int, loss: str = "hidden", weight: float = 1.0) -> list[Match]:
    """Every layer of the student with the teacher's layer at the same relative depth; the last ones always meet.

    >>> [(m.teacher, m.student) for m in spread_matches(6, 3)]
    [(2, 1), (4, 2), (6, 3)]
    """
    expect(1 <= student_layers <= teacher_layers, "student_layers", student_layers, f"1 to {teacher_layers}, the teacher's")
    return [Match(-(-i * teacher_layers // student_layers), i, loss, weight) for i in range(1, student_layers + 1)]


class Listener:
    """Keeps what the layers of a model last put out: states (B, L, D), and query, key and value of attention (B, L, H·d)."""

    def __init__(self, model: nn.Module) -> None:
        self.states: dict[int, torch.Tensor] = {}
        self.attention: dict[int, dict[str, torch.Tensor]] = {}
        layers = encoder_layers(model)
        self.layers = len(layers)
        self.heads = {i: layer.attention.self.num_attention_heads for i, layer in enumerate(layers, start=1)}
        self._handles = [layers[0].register_forward_pre_hook(lambda _, inputs: self.states.update({0: inputs[0]}))]
        for i, layer in enumerate(layers, start=1):
            self._handles.append(layer.register_forward_hook(self._keep_state(i)))
            parts = self.attention.setdefault(i, {})
            for name in ("query", "key", "value"):
                part = getattr(layer.attention.self, name)
                self._handles.append(part.register_forward_hook(self._keep_part(parts, name)))

    def _keep_state(self, i: int):
        return lambda _, inputs, out: self.states.update({i: out[0] if isinstance(out, tuple) else out})

    def _keep_part(self, parts: dict, name: str):
        return lambda _, inputs, out: parts.update({name: out})

    def remove(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()


class MatchedDistillation(nn.Module):
    """A training objective: soft labels, hard labels and the losses of the table, the teacher running beside the student.

    ``(1 − hard)·KD + hard·cross-entropy + Σ weight·loss(teacher layer, student layer)``. Call it as ``objective`` of
    :func:`course_lib.ner.train.train`, with ``own_optimizer=("matches", distillation.optimizer)``, which also trains the projections.

    Args:
        student, teacher: token classifiers with the same tags, that read the same pieces.
        windows: the training windows; padding: id of the padding piece.
        matches: the table; may be empty.
        temperature: of the soft labels.
        hard: weight of the hard labels, 0 to 1.
        bf16: run the teacher under bf16 autocast.
        seed: draws the projections.
    Raises:
        CourseError: models with other tags or vocabularies, or a match with a layer or a number of heads that is not there.
        ValueError: a weight outside 0 to 1.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        windows: Sequence[Window],
        padding: int,
        matches: Sequence[Match],
        temperature: float = 2.0,
        hard: float = 0.1,
        bf16: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        expect(0 <= hard <= 1, "hard", hard, "a weight from 0 to 1")
        check_models(student, teacher)
        self.matches, self.temperature, self.hard = list(matches), temperature, hard
        self._windows, self._padding, self._bf16 = windows, padding, bf16
        self._teacher = [teacher.eval()]  # in a list: no part of what is trained here
        self._heard = {"student": Listener(student), "teacher": Listener(teacher)}
        widths = [m.config.hidden_size for m in (student, teacher)]
        for match in self.matches:
            self._check(match)
        torch.manual_seed(seed)
        needed = [m.loss == "hidden" and widths[0] != widths[1] for m in self.matches]
        self.projections = nn.ModuleList(nn.Linear(*widths) if yes else nn.Identity() for yes in needed)

    def _check(self, match: Match) -> None:
        for side in ("teacher", "student"):
            layers = self._heard[side].layers
            if getattr(match, side) > layers:
                raise CourseError(f"{match}: the {side} has {layers} layers.")
        heads = [self._heard[side].heads.get(getattr(match, side)) for side in ("student", "teacher")]
        if match.loss == "attention" and heads[0] != heads[1]:
            raise CourseError(f"{match}: the student has {heads[0]} heads, the teacher {heads[1]}; use loss='relations'.")

    def optimizer(self, model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
        """AdamW of the student's parameters and the projections'."""
        optimizer = make_optimizer(model, settings)
        own = list(self.projections.parameters())
        if own:
            optimizer.add_param_group({"params": own, "weight_decay": 0.0})
        return optimizer

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """The loss, a scalar, of the student's logits (B, L, T) with labels (B, L) for the windows of these indices."""
        ids, mask = (torch.from_numpy(a) for a in collate([self._windows[i] for i in indices], self._padding))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            said = self._teacher[0](input_ids=ids, attention_mask=mask).logits
        loss = (1 - self.hard) * token_kd_loss(logits, said, labels != IGNORED, self.temperature)
        if self.hard:
            loss = loss + self.hard * hard_labels(logits, labels, indices)
        for match, projection in zip(self.matches, self.projections, strict=True):
            loss = loss + match.weight * self._loss(match, projection, mask.bool())
        return loss

    def _loss(self, match: Match, projection: nn.Module, mask: torch.Tensor) -> torch.Tensor:
        student, teacher = self._heard["student"], self._heard["teacher"]
        if match.loss == "hidden":
            return hidden_state_loss(projection(student.states[match.student].float()), teacher.states[match.teacher], mask)
        own, due = student.attention[match.student], teacher.attention[match.teacher]
        heads = gcd(student.heads[match.student], teacher.heads[match.teacher])  # into which both widths can be cut
        if match.loss == "relations":
            return relation_loss(own["value"], due["value"], mask, heads)
        log_q, log_p = (attention_log_probabilities(m["query"], m["key"], mask, heads) for m in (own, due))
        return attention_loss(log_q, log_p, mask)

    def remove(self) -> None:
        """Stop listening to both models."""
        for listener in self._heard.values():
            listener.remove()


def check_models(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a pair that cannot be compared token by token.

    Raises:
        CourseError: other tags, or vocabularies of other sizes.
    """
    if student.config.id2label != teacher.config.id2label:
        raise CourseError(
            f"the student's tags are {list(student.config.id2label.values())}, the teacher's {list(teacher.config.id2label.values())}; "
            "expected the same, in the same order."
        )
    sizes = [m.get_input_embeddings().weight.shape[0] for m in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise CourseError(
            f"the student's vocabulary has {sizes[0]:,} pieces, the teacher's {sizes[1]:,}: they read different pieces. Trim both alike, "
            "or label the text by the teacher and align by words."
        )
