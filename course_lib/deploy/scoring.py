"""Scoring a model folder as it ships."""

from collections.abc import Sequence
from pathlib import Path

from course_lib.artifacts import folder_bytes, read_json
from course_lib.data.conll import Sentence
from course_lib.data.tags import keep_types, split_tag
from course_lib.deploy.engines import max_pieces, open_model
from course_lib.errors import CourseError
from course_lib.models.zoo import load_tokenizer
from course_lib.ner.evaluate import f1_interval, per_type
from course_lib.tasks import NER, task_of

NOT_SHIPPED = ("history.json", "scorecard.json")


def score_model(
    folder: Path, sentences: Sequence[Sentence], threads: int, seed: int = 0, known_types_only: bool = False
) -> dict:
    """Entity F1 of a model folder on sentences, or the accuracy of a classifier on texts.

    Args:
        folder: a model folder, opened with the engine it ships for.
        sentences: with gold tags. Types that the data never annotates cannot be judged and are left out.
        threads: threads of the engine.
        seed: of the bootstrap.
        known_types_only: leave out gold types the model does not know (for data of another corpus); otherwise they
            count as misses.
    Returns:
        ``{"f1": [value, low, high], "types": {type: {precision, recall, f1, support}}, "bytes", "unknown_types"}``; the last are
        types of the data that the model never learnt.
    Raises:
        CourseError: a bad folder, or data with types none of which the model knows.
    """
    engine, tags = open_model(folder, threads)
    config = read_json(folder / "config.json")
    gold = [s.tags for s in sentences]
    task = task_of(config)
    annotated, learnt = _types(gold), _types([tags]) if task is NER else {*tags}
    if annotated and not annotated & learnt:
        raise CourseError(f"{folder} knows {sorted(learnt)}, the data {sorted(annotated)}: expected a type in common.")
    words, limit = [s.words for s in sentences], max_pieces(config)
    predicted = task.predict(words, engine, load_tokenizer(folder), tags, max_pieces=limit)
    if known_types_only:
        gold = [keep_types(t, learnt) for t in gold]
    predicted = [keep_types(t, annotated) for t in predicted]
    return {
        "f1": f1_interval(gold, predicted, seed=seed),
        "types": per_type(gold, predicted),
        "bytes": folder_bytes(folder, without=NOT_SHIPPED),
        "unknown_types": sorted(annotated - learnt),
    }


def _types(tags: Sequence[Sequence[str]]) -> set[str]:
    return {split_tag(t)[1] for row in tags for t in row} - {""}
