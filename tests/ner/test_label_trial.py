"""Tests of course_lib/ner/label_trial.py and course_lib/measure/label_sweep.py."""

import pytest
import torch

from course_lib.data.conll import Sentence
from course_lib.data.labelling import first_pieces, specials_outside
from course_lib.measure import label_sweep
from course_lib.measure.sweeps import find_sweep
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
from course_lib.ner.label_trial import try_labels
from course_lib.ner.train import Settings

SENTENCES = [Sentence(("a", "b"), ("B-X", "O")), Sentence(("c", "a", "d", "e"), ("O", "B-X", "I-X", "O"))] * 3
SETTINGS = Settings(epochs=2, batch_size=2, learning_rate=1e-3)


def trial(way):
    folder = find_encoder("tiny")
    model = load_token_classifier(folder, ["O", "B-X", "I-X"])
    return try_labels(way, model, load_tokenizer(folder), SENTENCES, SENTENCES, SETTINGS), model


def test_labels_are_counted_and_scores_are_shares():
    found, model = trial(first_pieces)
    assert found.labels == sum(len(s.words) for s in SENTENCES)  # each word once, in each epoch
    assert 0 <= found.own_accuracy <= 1 and found.interval[1] <= found.interval[0] <= found.interval[2]
    assert not model.training


def test_padding_counts_where_the_rest_is_outside():
    few, _ = trial(first_pieces)
    many, _ = trial(specials_outside)
    assert many.labels >= few.labels + 2 * len(SENTENCES)  # [CLS] and [SEP] of each, and padding


def test_equal_seeds_give_equal_weights():
    (a, first), (b, second) = trial(first_pieces), trial(first_pieces)
    assert a == b
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))


def test_the_sweep_asks_for_every_way_with_three_seeds_and_finds_figures(monkeypatch):
    sweep = find_sweep("word_piece_labels")
    assert [p["way"] for p in sweep.points] == [way for way in label_sweep.WAYS for _ in range(3)]
    asked = []

    def fine_tune(*given, **named):
        asked.append((given, named))
        return trial(first_pieces)[0]

    monkeypatch.setattr(label_sweep, "fine_tune", fine_tune)
    figures = label_sweep.run({"way": "all_pieces", "seed": 2})
    (way, seed, encoder, training, validation), named = asked[0]
    assert (way, seed, encoder, named) == (label_sweep.WAYS["all_pieces"], 2, "minilm", {"epochs": 4})
    assert {"train": len(training), "validation": len(validation)} == label_sweep.SENTENCES
    assert set(figures) == {"labels", "own_accuracy", "own_f1", "f1"} and len(figures["f1"]) == 3


def test_fine_tuning_starts_from_an_encoder_with_a_head_for_the_tags():
    found = label_sweep.fine_tune(first_pieces, 0, "tiny", SENTENCES, SENTENCES, epochs=1)
    assert found.labels == sum(len(s.words) for s in SENTENCES)
    with pytest.raises(ValueError, match="epochs"):
        label_sweep.fine_tune(first_pieces, 0, "tiny", SENTENCES, SENTENCES, epochs=0)
