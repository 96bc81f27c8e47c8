"""One classifier from fine-tuning to int8 on a tiny encoder: pruned, distilled, quantized, scored and asked, as an NER model is."""

import json

import pytest

from course_lib.artifacts import read_json
from course_lib.cli import main
from course_lib.data.texts import generate_texts, write_texts
from course_lib.deploy.runtime import Runtime

RECIPE = """name = "small"
[teacher]
epochs = 2
batch_size = 16
learning_rate = 5e-3
[[step]]
do = "trim_vocabulary"
[[step]]
do = "drop_layers"
keep = [0]
[[step]]
do = "remove_heads"
keep = 1
sentences = 8
[[step]]
do = "remove_ffn_neurons"
keep = 16
sentences = 8
[[step]]
do = "distil"
epochs = 1
batch_size = 16
learning_rate = 5e-3
hidden_weight = 1.0
generated = 20
EXTRA
[[step]]
do = "quantize"
"""
pytestmark = pytest.mark.timeout(1200)


def run(*arguments):
    with pytest.raises(SystemExit) as done:
        main([*arguments])
    return done.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with texts, in which a classifier was compressed."""
    root = tmp_path_factory.mktemp("classifier")
    corpus = generate_texts(0, {"train": 120, "validation": 30, "test": 40})
    (root / "notes").mkdir()
    for name, part in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test)):
        write_texts(root / "notes" / f"{name}.tsv", part)
    (root / "unlabelled.txt").write_text("The bill is wrong.\nNobody came on Monday.\n", "utf-8")
    (root / "small.toml").write_text(RECIPE.replace("EXTRA", f"text = {json.dumps(str(root / 'unlabelled.txt'))}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        options = ("--task", "classification", "--data", "notes", "--encoder", "tiny", "--threads", "1")
        assert run("compress", *options, "--recipe", "small.toml", "--log-dir", "log") == 0
        yield root


def test_every_contender_is_scored_and_timed_and_the_shipped_folder_says_its_task(folder):
    card = read_json(folder / "artifacts" / "notes" / "scorecard.json")
    assert len(card["contenders"]) == 6 and all(c["error"] is None for c in card["contenders"])
    assert all(0 <= c["f1"]["test"][0] <= 1 and c["ms_per_sentence"]["1"]["median"] > 0 for c in card["contenders"])
    assert any("F1 is the accuracy" in note for note in card["notes"])
    config = read_json(folder / "artifacts" / "notes" / "model" / "config.json")
    assert config["course_task"] == "classification" and len(config["id2label"]) == 6


def test_the_student_has_fewer_of_everything(folder):
    teacher, *_, student = read_json(folder / "artifacts" / "notes" / "scorecard.json")["contenders"]
    assert student["bytes"] < teacher["bytes"] and student["macs_per_token"] < teacher["macs_per_token"]
    assert student["parameters_stored"] < teacher["parameters_stored"]


def test_score_agrees_with_the_scorecard(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = ("--task", "classification", "--data", "notes", "--threads", "1", "--json", "score.json")
    assert run("score", "--model", "artifacts/notes/model", *options) == 0
    shipped = read_json(folder / "artifacts" / "notes" / "scorecard.json")["contenders"][-1]
    figures = read_json(folder / "score.json")
    assert figures["f1"][0] == shipped["f1"]["test"][0] and figures["unknown_types"] == []
    assert {*figures["types"]} <= {"account", "appointment", "billing", "delivery", "fault", "staff"}


def test_it_answers_text_with_and_without_pytorch_alike(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run("predict", "--model", "artifacts/notes/model", "--threads", "1", "My invoice is wrong.") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["label"] == next(iter(said["probabilities"])) and len(said["probabilities"]) == 6
    assert list(Runtime(folder / "artifacts" / "notes" / "model", threads=1).entities(["My invoice is wrong."])) == [said]


def test_the_run_was_tracked(folder):
    assert {p.name.split("-")[0] for p in (folder / "log").iterdir()} == {"teacher", "student"}


def test_what_belongs_to_named_entities_is_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "copies.toml").write_text(RECIPE.replace("EXTRA", "copies = 2"))
    options = ("--task", "classification", "--data", "notes", "--encoder", "tiny", "--threads", "1")
    assert run("compress", *options, "--recipe", "copies.toml") == 2
    assert "copies = 2 swaps names" in capsys.readouterr().err
    assert run("compress", "--task", "classification", "--data", "nowhere") == 2
    assert "no train.tsv there" in capsys.readouterr().err
