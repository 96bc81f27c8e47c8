"""Scoring a folder as it ships: seqeval's figures, and which types count."""

import numpy as np
import pytest
import torch
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from course_lib.artifacts import write_json
from course_lib.data.conll import Sentence
from course_lib.data.natural import load_natural
from course_lib.deploy.engines import TorchEngine
from course_lib.deploy.scoring import score_model
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.ner.predict import predict_tags

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def sentences(types):
    """Twenty sentences with names of these types."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(20):
        words = [str(rng.choice(["ana", "bob", "oslo", "the", "club", "in"])) for _ in range(6)]
        tags = [str(rng.choice(["O", *(f"B-{t}" for t in types)])) for _ in words]
        rows.append(Sentence(tuple(words), tuple(tags)))
    return rows


@pytest.fixture(scope="module")
def model():
    """A classifier that predicts every tag somewhere: a random head, each logit centred over some text."""
    model = load_token_classifier(find_encoder("tiny"), TAGS, seed=4)
    tokenizer = load_tokenizer(find_encoder("tiny"))
    ids = np.array([tokenizer.encode("ana bob oslo the club in").ids])
    model.classifier.weight.data *= 50
    model.classifier.bias.data -= torch.from_numpy(TorchEngine(model)(ids, np.ones_like(ids))[0].mean(0))
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(model, load_tokenizer(find_encoder("tiny")), folder)
    return folder


def predictions(model, rows):
    return predict_tags([s.words for s in rows], TorchEngine(model), load_tokenizer(find_encoder("tiny")), TAGS)


def only(types, rows):
    return [[t if t[2:] in types else "O" for t in row] for row in rows]


def seqeval(gold, predicted):
    return f1_score([list(g) for g in gold], predicted, mode="strict", scheme=IOB2, zero_division=0)


def test_figures_are_seqevals_on_the_tags_the_folder_predicts(model, folder):
    rows = sentences(["LOC", "PER"])
    gold, predicted = [list(s.tags) for s in rows], predictions(model, rows)
    assert {t for row in predicted for t in row} >= {"O", "B-LOC", "B-PER"}, "or there is nothing to score"
    figures = score_model(folder, rows, threads=1)
    value, low, high = figures["f1"]
    assert value == round(seqeval(gold, predicted), 4) > 0
    assert low <= value <= high
    report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    assert set(figures["types"]) == {"LOC", "PER"}
    for kind, row in figures["types"].items():
        theirs = report[kind]
        assert row == {
            "precision": round(theirs["precision"], 4),
            "recall": round(theirs["recall"], 4),
            "f1": round(theirs["f1-score"], 4),
            "support": theirs["support"],
        }


def test_the_interval_follows_the_seed_and_the_value_does_not(folder):
    rows = sentences(["LOC", "PER"])
    a, b, again = (score_model(folder, rows, 1, seed)["f1"] for seed in (0, 1, 0))
    assert a == again and a[0] == b[0] and a != b


def test_bytes_are_what_one_ships(folder, tmp_path):
    expected = sum((folder / name).stat().st_size for name in ("config.json", "model.safetensors", "tokenizer.json"))
    assert score_model(folder, sentences(["PER"]), 1)["bytes"] == expected
    for name in ("history.json", "scorecard.json"):
        write_json(folder / name, {"not": "shipped"})
    assert score_model(folder, sentences(["PER"]), 1)["bytes"] == expected
    for name in ("history.json", "scorecard.json"):
        (folder / name).unlink()


def test_a_type_the_data_never_annotates_is_left_out(model, folder):
    """Predicted LOC cannot be judged where nobody marked LOC; counted as wrong it would lower the precision of all."""
    rows = sentences(["PER"])
    gold, predicted = [s.tags for s in rows], predictions(model, rows)
    assert any("LOC" in t for row in predicted for t in row)
    figures = score_model(folder, rows, 1)
    assert figures["f1"][0] == round(seqeval(gold, only({"PER"}, predicted)), 4) != round(seqeval(gold, predicted), 4)
    assert set(figures["types"]) == {"PER"}


def test_a_type_the_model_never_learnt_is_missed_unless_only_known_ones_count(model, folder):
    rows = sentences(["PER", "DISEASE"])
    gold, predicted = [s.tags for s in rows], only({"PER"}, predictions(model, rows))
    strict, shared = (score_model(folder, rows, 1, known_types_only=known) for known in (False, True))
    assert strict["f1"][0] == round(seqeval(gold, predicted), 4)
    assert strict["types"]["DISEASE"]["recall"] == 0 < strict["types"]["DISEASE"]["support"]
    assert shared["f1"][0] == round(seqeval(only({"PER"}, gold), predicted), 4) > strict["f1"][0]
    assert set(shared["types"]) == {"PER"}


@pytest.mark.parametrize("known_types_only", [True, False])
def test_without_any_type_in_common_there_is_nothing_to_score(folder, known_types_only):
    with pytest.raises(CourseError, match=r"knows \['LOC', 'PER'\], the data \['DISEASE'\]: expected a type in common"):
        score_model(folder, sentences(["DISEASE"]), 1, known_types_only=known_types_only)
    assert score_model(folder, sentences([]), 1)["f1"] == [0.0, 0.0, 0.0], "data without names have no types to compare"


def test_types_that_the_model_never_learnt_are_named(folder):
    assert score_model(folder, sentences(["PER", "DISEASE", "GENE"]), 1)["unknown_types"] == ["DISEASE", "GENE"]
    assert score_model(folder, sentences(["PER"]), 1)["unknown_types"] == []


def test_the_natural_set_is_scored_as_any_other(folder):
    figures = score_model(folder, [n.sentence for n in load_natural()][:30], 1, known_types_only=True)
    assert set(figures["types"]) <= {"LOC", "PER"} and 0 <= figures["f1"][0] <= 1
