"""Entity-level F1, per type, with bootstrap intervals, alone and paired."""

from collections.abc import Sequence

import numpy as np

from course_lib.data.tags import spans
from course_lib.errors import expect

Tags = Sequence[Sequence[str]]


def entity_f1(gold: Tags, predicted: Tags) -> float:
    """Micro F1 over entities: type and both boundaries must be right (seqeval, strict IOB2).

    Args:
        gold, predicted: IOB2 tags per sentence, of equal shapes.
    Returns:
        A fraction between 0 and 1; 0 where there are no entities at all.

    >>> entity_f1([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "O"]])
    1.0
    >>> entity_f1([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]])
    0.0
    """
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    _same_shape(gold, predicted)
    if not any(tag != "O" for tags in (*gold, *predicted) for tag in tags):
        return 0.0  # seqeval cannot average over no types
    return float(f1_score(_lists(gold), _lists(predicted), mode="strict", scheme=IOB2, zero_division=0))


def per_type(gold: Tags, predicted: Tags) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support by entity type (seqeval's report, strict IOB2), rounded to 4 digits."""
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    _same_shape(gold, predicted)
    if not any(tag != "O" for tags in (*gold, *predicted) for tag in tags):
        return {}
    lists = _lists(gold), _lists(predicted)
    report = classification_report(*lists, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    rename = {"f1-score": "f1"}
    return {
        kind: {rename.get(k, k): round(float(v), 4) for k, v in row.items()}
        for kind, row in report.items()
        if kind not in {"micro avg", "macro avg", "weighted avg"}
    }


def counts(gold: Tags, predicted: Tags) -> np.ndarray:
    """Per sentence: entities found rightly, predicted, and in gold; int64 (sentences, 3)."""
    _same_shape(gold, predicted)
    rows = []
    for g, p in zip(gold, predicted, strict=True):
        true, found = set(spans(g)), set(spans(p))
        rows.append((len(true & found), len(found), len(true)))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def f1_of_counts(table: np.ndarray) -> np.ndarray:
    """F1 = 2·right / (predicted + gold) from sums of :func:`counts`, over the last axis; 0 where both are 0."""
    right, predicted, gold = np.moveaxis(np.asarray(table, dtype=float), -1, 0)
    return 2 * right / np.maximum(predicted + gold, 1)


def _resampled(tables: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """F1 per model and bootstrap sample, sentences drawn with replacement, the same draw for every model."""
    expect(samples >= 100, "samples", samples, "at least 100 bootstrap samples")
    n = tables.shape[1]
    expect(n > 0, "gold", n, "at least one sentence to draw from")
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)  # (samples, sentences)
    return np.stack([f1_of_counts(weights @ table) for table in tables])


def _percentiles(values: np.ndarray, level: float) -> np.ndarray:
    """The two ends of the middle ``level`` of some values."""
    expect(0 < level < 1, "level", level, "a fraction between 0 and 1, such as 0.95")
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2])


def f1_interval(gold: Tags, predicted: Tags, samples: int = 1000, seed: int = 0, level: float = 0.95) -> list[float]:
    """``[F1, low, high]``: the percentile bootstrap interval over sentences (Efron 1979), rounded to 4 digits."""
    table = counts(gold, predicted)
    resampled = _resampled(table[None], samples, seed)[0]
    return [round(float(v), 4) for v in (f1_of_counts(table.sum(0)), *_percentiles(resampled, level))]


def f1_difference(gold: Tags, a: Tags, b: Tags, samples: int = 1000, seed: int = 0, level: float = 0.95) -> list[float]:
    """``[F1(a) − F1(b), low, high]`` by the paired bootstrap: both are scored on the same drawn sentences.

    Pairing removes the spread that comes from easy and hard sentences, which both models share
    (Berg-Kirkpatrick, Burkett, Klein 2012).
    """
    tables = np.stack([counts(gold, a), counts(gold, b)])
    resampled = _resampled(tables, samples, seed)
    point = f1_of_counts(tables[0].sum(0)) - f1_of_counts(tables[1].sum(0))
    return [round(float(v), 4) for v in (point, *_percentiles(resampled[0] - resampled[1], level))]


def _lists(tags: Tags) -> list[list[str]]:
    return [list(t) for t in tags]  # seqeval takes nothing else


def _same_shape(gold: Tags, predicted: Tags) -> None:
    expect(len(gold) == len(predicted), "predicted", len(predicted), f"tags for {len(gold)} sentences, as in gold")
    for i, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        expect(len(g) == len(p), f"predicted[{i}]", len(p), f"{len(g)} tags, as in gold")
