"""Labels of whole texts, read at the first piece."""

import numpy as np
import pytest

from course_lib.classification.predict import classify_text, label_probabilities, predict_labels, text_labels
from course_lib.data.align import IGNORED, make_windows
from course_lib.data.texts import Text
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_tokenizer
from course_lib.ner.evaluate import entity_f1, f1_interval
from course_lib.tasks import CLASSIFICATION, NER, find_task, task_of


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_encoder("tiny"))


def engine(ids, mask):
    """Logits at the first piece count the pieces; elsewhere they are misleading."""
    logits = np.full((*ids.shape, 2), [[0.0, 100.0]], dtype=np.float32)
    logits[:, 0, 0], logits[:, 0, 1] = mask.sum(1) - 6, 0
    return logits


def test_the_label_is_read_at_the_first_piece_alone(tokenizer):
    texts = [("a",) * 2, ("a",) * 20]
    assert predict_labels(texts, engine, tokenizer, ["long", "short"]) == [["B-short"], ["B-long"]]


def test_probabilities_are_the_softmax_and_of_a_long_text_the_mean_over_its_windows(tokenizer):
    long = ("a",) * 30
    windows = make_windows([long], tokenizer, max_pieces=16)
    assert len(windows) > 1
    (found,) = label_probabilities([long], engine, tokenizer, 2, max_pieces=16)
    due = np.mean([1 / (1 + np.exp(-(len(w.ids) - 6.0))) for w in windows])
    assert found == pytest.approx([due, 1 - due], rel=1e-12)
    assert label_probabilities([long], engine, tokenizer, 2).sum() == pytest.approx(1, rel=1e-12)


def test_a_text_without_pieces_gets_a_label_too(tokenizer):
    assert predict_labels([("�",), ("a",)], engine, tokenizer, ["long", "short"])[0] == ["B-long"]


def test_training_labels_stand_at_the_first_piece(tokenizer):
    text = Text("hello there", "b")
    (window,) = make_windows([text.words], tokenizer)
    labels = text_labels(window, text, {"a": 0, "b": 1})
    assert labels[0] == 1 and {*labels[1:]} == {IGNORED} and len(labels) == len(window.ids)
    assert [i for i, label in enumerate(labels) if label != IGNORED] == CLASSIFICATION.read_at(window)


def test_f1_of_labels_as_tags_is_their_accuracy():
    gold, said = [("B-a",), ("B-b",), ("B-c",), ("B-a",)], [["B-a"], ["B-a"], ["B-c"], ["B-b"]]
    assert entity_f1(gold, said) == 0.5 == f1_interval(gold, said)[0]


def test_prose_is_answered_by_a_label_with_all_probabilities(tokenizer):
    records = list(classify_text(["a a", "a " * 20], engine, tokenizer, ["long", "short"], at_once=8))
    assert [r["label"] for r in records] == ["short", "long"] and records[0]["text"] == "a a"
    assert all(abs(sum(r["probabilities"].values()) - 1) <= 1e-4 for r in records), "each is rounded to 4 digits"
    assert next(iter(records[1]["probabilities"])) == "long", "the likeliest first"


def test_a_models_config_says_its_task():
    assert task_of({}) is NER and task_of({"course_task": "classification"}) is CLASSIFICATION
    with pytest.raises(CourseError, match="task 'translation'; expected one of: ner, classification"):
        find_task("translation")
