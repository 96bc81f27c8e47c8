"""A way of labelling word pieces put to the test: train briefly with it, and score by its own labels and by words."""

import random
from dataclasses import dataclass

import torch

from course_lib.data.align import IGNORED, pad, pad_id
from course_lib.data.conll import Sentence
from course_lib.data.labelling import Way, pieces_of, specials_outside
from course_lib.data.tags import tag_list
from course_lib.deploy.engines import TorchEngine
from course_lib.ner.evaluate import counts, f1_interval, f1_of_counts
from course_lib.ner.predict import predict_tags
from course_lib.ner.train import Settings, hard_labels, learning_rate, make_optimizer


@dataclass(frozen=True)
class Trial:
    """What came of a way of labelling.

    Attributes:
        labels: that counted in training, padding included where it counts.
        own_accuracy, own_f1: as a recipe reports them that scores pieces by its own labels.
        interval: entity F1 on words, each read at its first piece, with its 95 % bootstrap interval.
    """

    labels: int
    own_accuracy: float
    own_f1: float
    interval: list[float]


def try_labels(
    way: Way, model: torch.nn.Module, tokenizer, training: list[Sentence], validation: list[Sentence], settings: Settings
) -> Trial:
    """Train ``model`` in place with labels of one way, in batches drawn by seed and padded to the longest sentence.

    Args:
        way: of :mod:`course_lib.data.labelling`; with :func:`specials_outside` padding counts as O too.
        model: a token classifier with a new head for the tags of ``training``.
        tokenizer: the model's own.
        training, validation: sentences that fit the model.
        settings: epochs, batch size, rate and seed.
    """
    tags = tag_list(s.tags for s in training)
    index, padding = {tag: i for i, tag in enumerate(tags)}, pad_id(tokenizer)
    filler = index["O"] if way is specials_outside else IGNORED

    def batch(sentences: list[Sentence]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = [pieces_of(s.words, tokenizer) for s in sentences]
        labels = [way(word_ids, s.tags, index) for (_, _, word_ids), s in zip(rows, sentences, strict=True)]
        ids = [ids for _, ids, _ in rows]
        arrays = pad(ids, padding), pad([[1] * len(i) for i in ids], 0), pad(labels, filler)
        return tuple(map(torch.from_numpy, arrays))

    counted = _train(model, training, batch, settings)
    gold, guessed = [], []
    with torch.inference_mode():
        model.eval()
        for start in range(0, len(validation), 32):
            ids, mask, labels = batch(validation[start : start + 32])
            best = model(input_ids=ids, attention_mask=mask).logits.argmax(-1)
            for row, found in zip(labels, best, strict=True):
                gold.append([tags[i] for i in row[row != IGNORED].tolist()])
                guessed.append([tags[i] for i in found[row != IGNORED].tolist()])
    right = sum(g == p for a, b in zip(gold, guessed, strict=True) for g, p in zip(a, b, strict=True))
    own_f1 = float(f1_of_counts(counts(gold, guessed).sum(0)))
    words = predict_tags([s.words for s in validation], TorchEngine(model), tokenizer, tags)
    interval = f1_interval([s.tags for s in validation], words)
    return Trial(counted, round(right / sum(map(len, gold)), 4), round(own_f1, 4), interval)


def _train(model: torch.nn.Module, training: list[Sentence], batch, settings: Settings) -> int:
    """Plain training; returns how many labels counted in an epoch."""
    model.get_input_embeddings().weight.requires_grad_(not settings.freeze_embeddings)
    optimizer, rng, counted = make_optimizer(model, settings), random.Random(settings.seed), 0
    per_epoch = -(-len(training) // settings.batch_size)
    torch.manual_seed(settings.seed)
    model.train()
    for step in range(settings.epochs * per_epoch):
        if step % per_epoch == 0:
            order, counted = rng.sample(training, len(training)), 0
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings.epochs * per_epoch, settings)
        start = step % per_epoch * settings.batch_size
        ids, mask, labels = batch(order[start : start + settings.batch_size])
        counted += int((labels != IGNORED).sum())
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            logits = model(input_ids=ids, attention_mask=mask).logits
        optimizer.zero_grad()
        hard_labels(logits, labels, []).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
    return counted
