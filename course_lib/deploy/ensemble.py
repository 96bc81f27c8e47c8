"""An ensemble: several shipped models whose logits are averaged, and what that costs, which is the sum of all."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from course_lib.artifacts import folder_bytes, read_json
from course_lib.data.conll import Sentence
from course_lib.deploy.engines import Engine, max_pieces, open_model
from course_lib.deploy.scoring import NOT_SHIPPED
from course_lib.errors import CourseError, expect
from course_lib.models.zoo import TOKENIZER, load_tokenizer
from course_lib.ner.evaluate import f1_interval
from course_lib.tasks import task_of


class Ensemble:
    """An engine that asks several and averages their logits, so that sure members count for more than those in doubt.

    Averaged weights (:mod:`course_lib.recipes.soup`) cost what one model costs, but only models of one start can be averaged so;
    averaged logits (Hansen & Salamon 1990) take any models, and cost the sum.

    Args:
        members: engines that give logits (B, L, T) of the same tags for the same pieces.
        weights: of each in the average, above 0; None: alike.
    Raises:
        ValueError: no member, or weights that do not fit.
    """

    def __init__(self, members: Sequence[Engine], weights: Sequence[float] | None = None) -> None:
        expect(len(members) > 0, "members", len(members), "at least one engine")
        weights = [1.0] * len(members) if weights is None else list(weights)
        expect(len(weights) == len(members) and min(weights) > 0, "weights", weights, f"{len(members)} numbers above 0")
        self.members, self.weights = list(members), [w / sum(weights) for w in weights]

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mean logits, float32 (B, L, T), for ids and mask (B, L), int64."""
        return sum(np.float32(w) * member(ids, mask) for w, member in zip(self.weights, self.members, strict=True))


def open_ensemble(folders: Sequence[Path], threads: int) -> tuple[Ensemble, list[str]]:
    """Open model folders as one engine.

    Args:
        folders: with the same tags in the same order, and the same tokenizer.
        threads: of each; they run one after the other.
    Returns:
        The engine, and the tags its logits stand for.
    Raises:
        CourseError: a bad folder, or members that read or say other things than the first.
    """
    opened = [open_model(folder, threads) for folder in folders]
    for folder, (_, tags) in zip(folders, opened, strict=True):
        if tags != opened[0][1]:
            raise CourseError(f"{folder} says {tags}, {folders[0]} {opened[0][1]}: expected the same tags in the same order.")
        if (folder / TOKENIZER).read_bytes() != (folders[0] / TOKENIZER).read_bytes():
            raise CourseError(
                f"{folder} has another tokenizer than {folders[0]}: they number pieces differently, so logits cannot be averaged."
            )
    return Ensemble([engine for engine, _ in opened]), opened[0][1]


def score_ensemble(folders: Sequence[Path], sentences: Sequence[Sentence], threads: int, seed: int = 0) -> dict:
    """F1 of the members and of their average on sentences, with the bytes and the time of each and of all.

    Args:
        folders: of :func:`open_ensemble`.
        sentences: with gold tags; each is predicted by itself, members in turn on the same sentence.
        threads, seed: of the engines, and of the bootstrap.
    Returns:
        ``members``, a list, and ``ensemble``: dicts of ``f1`` ([value, low, high]), ``bytes`` (the ensemble's tokenizer once) and
        ``ms`` (median of a sentence, tokenizing included).
    Raises:
        CourseError: see :func:`open_ensemble`.
    """
    ensemble, tags = open_ensemble(folders, threads)
    config, tokenizer = read_json(folders[0] / "config.json"), load_tokenizer(folders[0])
    task, limit = task_of(config), max_pieces(config)
    engines = [*ensemble.members, ensemble]
    said, times = [[] for _ in engines], [[] for _ in engines]
    for number, sentence in enumerate([sentences[0], *sentences]):  # the first one twice, to warm up
        for tagged, taken, engine in zip(said, times, engines, strict=True):
            began = time.perf_counter()
            (found,) = task.predict([sentence.words], engine, tokenizer, tags, max_pieces=limit)
            if number:
                taken.append(1000 * (time.perf_counter() - began))
                tagged.append(found)
    gold, size = [s.tags for s in sentences], [folder_bytes(f, without=NOT_SHIPPED) for f in folders]
    shared = (len(folders) - 1) * (folders[0] / TOKENIZER).stat().st_size
    rows = [
        {"f1": f1_interval(gold, tagged, seed=seed), "bytes": b, "ms": round(statistics.median(taken), 4)}
        for tagged, taken, b in zip(said, times, [*size, sum(size) - shared], strict=True)
    ]
    return {"members": rows[:-1], "ensemble": rows[-1]}
