"""Which layer of the student learns from which layer of the teacher, and how: a table of matches (as in TextBrewer, 2002.12620).

Layers are counted as hidden states are: 0 is what the embeddings put out, i what layer i puts out, i from 1. So ``Match(6, 3, "hidden")``
teaches the states after the student's third layer to be those after the teacher's sixth, through a learnt projection where the student is
narrower (TinyBERT, Jiao et al. 2019, 1909.10351).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from tokenizers import Tokenizer
from torch import nn

from course_lib.data.align import Window, collate, pad_id
from course_lib.distillation.agreement import check_tags, check_tokenizers
from course_lib.distillation.attention import attention_log_probabilities, attention_loss
from course_lib.distillation.losses import hidden_state_loss, relation_loss
from course_lib.distillation.objective import label_loss
from course_lib.errors import CourseError, expect
from course_lib.models.surgery import encoder_layers
from course_lib.ner.train import Settings, make_optimizer

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
    :func:`course_lib.ner.train.train`, with ``own_optimizer=("matches", distillation.optimizer)``, which also trains the projections
    and keeps them in the checkpoints, so that a run that was stopped goes on to the bit. Another table needs another label there.

    Args:
        student, teacher: token classifiers with the same tags, that read the same pieces.
        tokenizers: the student's and the teacher's, which must be equal.
        windows: the training windows, of that tokenizer. A window may be labelled by the teacher alone
            (:data:`course_lib.distillation.objective.SOFT_ONLY`).
        matches: the table; may be empty.
        temperature: of the soft labels.
        hard: weight of the hard labels, 0 to 1.
        bf16: run the teacher under bf16 autocast.
        seed: draws the projections.
    Raises:
        CourseError: models with other tags, tokenizers or vocabularies, or a match with a layer or a number of heads that is not there.
        ValueError: a weight outside 0 to 1.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        tokenizers: tuple[Tokenizer, Tokenizer],
        windows: Sequence[Window],
        matches: Sequence[Match],
        temperature: float = 2.0,
        hard: float = 0.1,
        bf16: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        expect(0 <= hard <= 1, "hard", hard, "a weight from 0 to 1")
        check_models(student, teacher, tokenizers)
        self.matches, self.temperature, self.hard = list(matches), temperature, hard
        self._windows, self._padding, self._bf16 = windows, pad_id(tokenizers[0]), bf16
        self._teacher = [teacher.eval()]  # in a list: no part of what is trained here
        self._heard = {"student": Listener(student), "teacher": Listener(teacher)}
        widths = [m.config.hidden_size for m in (student, teacher)]
        for match in self.matches:
            self._check(match)
        needed = [m.loss == "hidden" and widths[0] != widths[1] for m in self.matches]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
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
        """AdamW of the student's parameters and the projections', whose state holds the projections themselves too."""
        optimizer = make_optimizer(model, settings)
        own = list(self.projections.parameters())
        if own:
            optimizer.add_param_group({"params": own, "weight_decay": 0.0})
        _keep_values(optimizer, own)
        return optimizer

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """The loss, a scalar, of the student's logits (B, L, T) with labels (B, L) for the windows of these indices."""
        ids, mask = (torch.from_numpy(a) for a in collate([self._windows[i] for i in indices], self._padding))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            said = self._teacher[0](input_ids=ids, attention_mask=mask).logits
        loss = label_loss(logits, said, labels, indices, self.temperature, self.hard)
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


VALUE = "value"  # name of a parameter's own value in an optimizer's state


def _keep_values(optimizer: torch.optim.Optimizer, own: Sequence[nn.Parameter]) -> None:
    """Let the saved state of an optimizer hold the values of some of its parameters, and set them when it is loaded.

    The parameters are none of the model's, whose state a checkpoint holds anyway. A state with other values is refused when loaded.
    """

    def numbered(saved: dict) -> dict[int, nn.Parameter]:
        numbers = (i for group in saved["param_groups"] for i in group["params"])
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        return {i: p for i, p in zip(numbers, parameters, strict=True) if any(p is q for q in own)}

    def add(_: torch.optim.Optimizer, saved: dict) -> dict:
        values = {i: {**saved["state"].get(i, {}), VALUE: p.detach().clone()} for i, p in numbered(saved).items()}
        return {**saved, "state": {**saved["state"], **values}}

    def take(_: torch.optim.Optimizer, saved: dict) -> dict:
        values, due = {i: s[VALUE] for i, s in saved["state"].items() if VALUE in s}, numbered(saved)
        if {i: v.shape for i, v in values.items()} != {i: p.shape for i, p in due.items()}:
            raise CourseError(
                "The checkpoint does not hold the projections of this table of matches: it is of another table or of a run that did not "
                "keep them. Delete the folder of checkpoints to start afresh, or give each table a label of its own."
            )
        with torch.no_grad():
            for i, p in due.items():
                p.copy_(values[i])
        rest = {i: {k: v for k, v in s.items() if k != VALUE} for i, s in saved["state"].items()}
        return {**saved, "state": {i: s for i, s in rest.items() if s}}

    optimizer.register_state_dict_post_hook(add)
    optimizer.register_load_state_dict_pre_hook(take)


def check_models(student: nn.Module, teacher: nn.Module, tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
    """Refuse a pair that cannot be compared piece by piece.

    Args:
        student, teacher: token classifiers.
        tokenizers: the student's and the teacher's.
    Raises:
        CourseError: other tags, other tokenizers, or vocabularies of other sizes.
    """
    names = ["the teacher", "the student"]
    check_tags([teacher, student], names)
    check_tokenizers(tokenizers[::-1], names)
    sizes = [m.get_input_embeddings().weight.shape[0] for m in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise CourseError(
            f"the student's vocabulary has {sizes[0]:,} pieces, the teacher's {sizes[1]:,}: they read different pieces. Trim both alike, "
            "or label the text by the teacher and align by words."
        )
