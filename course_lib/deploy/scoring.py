"""Scoring a model folder as it ships."""

from collections.abc import Sequence
from pathlib import Path

from course_lib.artifacts import folder_bytes, read_json
from course_lib.data.conll import Sentence
from course_lib.data.tags import keep_types, split_tag
from course_lib.deploy.engines import open_model
from course_lib.models.zoo import load_tokenizer
from course_lib.ner.evaluate import f1_interval, per_type
from course_lib.ner.predict import predict_tags

NOT_SHIPPED = ("history.json", "scorecard.json")


def score_model(folder: Path, sentences: Sequence[Sentence], threads: int, seed: int = 0) -> dict:
    """Entity F1 of a model folder on sentences.

    Args:
        folder: a model folder, opened with the engine it ships for.
        sentences: with gold tags; gold types the model does not know count as misses, unless it shares only
            some types with the data: then types are compared where the data has them.
        threads: threads of the engine.
        seed: of the bootstrap.
    Returns:
        ``{"f1": [value, low, high], "types": {type: {precision, recall, f1, support}}, "bytes"}``.
    """
    engine, tags = open_model(folder, threads)
    limit = read_json(folder / "config.json").get("max_position_embeddings", 512)
    predicted = predict_tags([s.words for s in sentences], engine, load_tokenizer(folder), tags, max_pieces=limit)
    gold = [s.tags for s in sentences]
    known = {split_tag(t)[1] for s in gold for t in s} - {""}
    predicted = [keep_types(t, known) for t in predicted]  # a type the data never annotates cannot be judged
    return {
        "f1": f1_interval(gold, predicted, seed=seed),
        "types": per_type(gold, predicted),
        "bytes": folder_bytes(folder, without=NOT_SHIPPED),
    }
