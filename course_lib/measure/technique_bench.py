"""What all techniques of the table share: the teacher, calibration sentences, losses, a quick metric, a short training, a clock."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from course_lib.calibration import Batch, calibration_batches
from course_lib.data.align import IGNORED, Window, batches, collate, make_windows, pad, pad_id, window_labels
from course_lib.deploy.engines import TorchEngine
from course_lib.deploy.worker import padded
from course_lib.models.zoo import load_token_classifier, load_tokenizer, model_tags
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags
from course_lib.ner.train import Settings, hard_labels, learning_rate, make_optimizer
from course_lib.recipes.compress import timed_rows
from course_lib.recipes.teacher import Context, Prepared, max_pieces

BATCH = 32  # sentences that are timed at once


@dataclass(frozen=True)
class Sizes:
    """How many sentences each purpose gets.

    Attributes:
        calibration: training sentences for statistics and gradients.
        recovery: training sentences of a short training, each seen once.
        search: validation sentences by which a technique makes its own choices.
        passes: over the timed sentences, after a batch that does not count.
    """

    calibration: int = 128
    recovery: int = 2000
    search: int = 200
    passes: int = 2


class Bench:
    """The workbench of the table.

    Args:
        context: corpus, seed, threads.
        teacher: folder of the fine-tuned model.
        settings: of the short training; its epochs do not count, there is one.
        sizes: numbers of sentences.
    """

    def __init__(self, context: Context, teacher: Path, settings: Settings, sizes: Sizes | None = None) -> None:
        self.context, self.teacher, self.sizes = context, teacher, sizes or Sizes()
        self.settings = replace(settings, epochs=1)
        self.tokenizer = load_tokenizer(teacher)
        model = self.fresh()
        self.tags, self.limit = model_tags(model), max_pieces(model)

    def made_of(self) -> list:
        """What a row depends on beside its technique and the code."""
        return [self.teacher.name, self.context.corpus.fingerprint(), asdict(self.settings), asdict(self.sizes)]

    def fresh(self) -> nn.Module:
        """The teacher, loaded anew."""
        return load_token_classifier(self.teacher)

    @cached_property
    def dense(self) -> nn.Module:
        """The teacher as it is, to be timed beside others."""
        return self.fresh()

    @cached_property
    def prepared(self) -> Prepared:
        """Training windows with labels."""
        return Prepared.of(self.context.corpus, self.tokenizer, self.tags, self.limit)

    def drawn(self, count: int, purpose: str) -> tuple[list[Window], list[list[int]]]:
        """Training windows and their labels, drawn without replacement; another purpose draws others."""
        windows, labels = self.prepared.windows, self.prepared.labels
        chosen = random.Random(f"{self.context.seed}/{purpose}").sample(range(len(windows)), min(count, len(windows)))
        return [windows[i] for i in chosen], [labels[i] for i in chosen]

    def batches(self) -> list[Batch]:
        """The calibration sentences without labels."""
        windows, _ = self.drawn(self.sizes.calibration, "calibration")
        return calibration_batches(windows, pad_id(self.tokenizer), len(windows))

    def losses(self, model: nn.Module, size: int = 16) -> Iterator[torch.Tensor]:
        """Losses of the calibration sentences, ``size`` at a time, each computed when it is asked for."""
        windows, labels = self.drawn(self.sizes.calibration, "calibration")
        for indices in batches(windows, size):
            yield self._loss(model, windows, labels, indices)

    def metric(self, model: nn.Module) -> float:
        """F1 on a few validation sentences, for a technique's own choices."""
        few = self.context.corpus.validation[: self.sizes.search]
        return entity_f1([s.tags for s in few], self.predict(model, few))

    @torch.no_grad()
    def search_loss(self, model: nn.Module) -> float:
        """Mean loss of a few validation sentences, for choices that F1 is too coarse for."""
        few = self.context.corpus.validation[: self.sizes.search]
        windows, index = (
            make_windows([s.words for s in few], self.tokenizer, self.limit),
            {t: i for i, t in enumerate(self.tags)},
        )
        labels = [window_labels(w, few[w.sentence].tags, index) for w in windows]
        losses = [(len(chosen), float(self._loss(model, windows, labels, chosen))) for chosen in batches(windows, BATCH)]
        return sum(count * loss for count, loss in losses) / len(windows)

    def predict(self, model: nn.Module, sentences: list) -> list[list[str]]:
        """Tags of sentences, in fp32."""
        words = [s.words for s in sentences]
        return predict_tags(words, TorchEngine(model), self.tokenizer, self.tags, max_pieces=self.limit)

    def train(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        before_step: Callable[[], None] | None = None,
        after_step: Callable[[int, int], None] | None = None,
    ) -> None:
        """The short training, in place: one pass over the recovery sentences with the teacher's own settings.

        Args:
            model: what can learn in it learns; its word embeddings do not where the settings freeze them.
            optimizer: None takes the one that trained the teacher.
            before_step: called when the gradients are there.
            after_step: called with the steps done and the number of steps.
        """
        windows, labels = self.drawn(self.sizes.recovery, "recovery")
        steps = math.ceil(len(windows) / self.settings.batch_size)
        freeze_words(model, self.settings)
        optimizer = optimizer or make_optimizer(model, self.settings)
        torch.manual_seed(self.settings.seed)
        model.train()
        order = batches(windows, self.settings.batch_size, random.Random(self.settings.seed))
        for done, indices in enumerate(order, start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done - 1, steps, self.settings)
            loss = self._loss(model, windows, labels, indices)
            optimizer.zero_grad()
            loss.backward()
            if before_step:
                before_step()
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings.clip)
            optimizer.step()
            if after_step:
                after_step(done, steps)
        model.eval()

    def _loss(self, model: nn.Module, windows: list[Window], labels: list[list[int]], indices: list[int]) -> torch.Tensor:
        ids, mask = collate([windows[i] for i in indices], pad_id(self.tokenizer))
        target = torch.from_numpy(pad([labels[i] for i in indices], IGNORED))
        with torch.autocast("cpu", torch.bfloat16, enabled=model.training and self.settings.bf16):
            logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        return hard_labels(logits, target, indices)

    def pace(self, model: nn.Module) -> tuple[float, float]:
        """Milliseconds per sentence in batches of 32, in PyTorch, and how many times as fast as the teacher that is.

        The two take turns, batch by batch, after one batch each that does not count; both figures are medians.
        """
        rows = timed_rows(self.context.corpus.test, self.tokenizer, self.limit, self.context.seed)
        engines, batches_of_rows = (TorchEngine(self.dense), TorchEngine(model)), padded(rows, BATCH)
        times: tuple[list[float], list[float]] = ([], [])
        for number, (ids, mask) in enumerate(batches_of_rows[:1] + batches_of_rows * self.sizes.passes):
            for engine, kept in zip(engines, times, strict=True):
                start = time.perf_counter()
                engine(ids, mask)
                if number:
                    kept.append((time.perf_counter() - start) * 1000 / BATCH)
        ratios = [dense / ours for dense, ours in zip(*times, strict=True)]
        return round(statistics.median(times[1]), 4), round(statistics.median(ratios), 3)


def freeze_words(model: nn.Module, settings: Settings) -> None:
    """Leave the word embeddings as they are, where the settings say so."""
    if settings.freeze_embeddings:
        for parameter in model.get_input_embeddings().parameters():
            parameter.requires_grad_(False)
