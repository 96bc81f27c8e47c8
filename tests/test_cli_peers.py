"""``course peers``: a race of both models in each way, what it leaves, and what it says to bad input."""

import json

import pytest
import torch

from course_lib.cli import main

GOOD = "Ana\tB-PER\nleft\tO\nOslo\tB-LOC\n\nBob\tB-PER\nstayed\tO\n\n" * 40
RECIPE = '[teacher]\nepochs = 1\n[[step]]\ndo = "distil"\nepochs = 1\n[[step]]\ndo = "quantize"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    (folder / "small").mkdir()
    (folder / "small" / "train.txt").write_text(GOOD)
    (folder / "r.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def course(capsys, monkeypatch, folder):
    """Run ``course peers`` on a small corpus; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    before = torch.get_num_threads()

    def run(*arguments):
        options = ("--data", "small", "--encoder", "tiny", "--recipe", "r.toml", "--threads", "1", "--artifacts", "out")
        with pytest.raises(SystemExit) as stop:
            main(["peers", *options, *arguments])
        return stop.value.code, *capsys.readouterr()

    yield run
    torch.set_num_threads(before)


def test_models_and_ways_race_and_a_way_that_cannot_be_made_is_a_row(course, folder, monkeypatch):
    from course_lib.measure import peers as measured

    make = measured.make_way

    def failing(way, source, *rest):
        if way.name == "ORT int8":
            from course_lib.errors import CourseError

            raise CourseError("ORT int8: making it ended with exit status -11: nothing on stderr")
        return make(way, source, *rest)

    monkeypatch.setattr(measured, "make_way", failing)
    code, out, err = course("--only", "ORT int8*", "--rounds", "1", "--json", "figures.json")
    assert code == 0, err
    card = json.loads((folder / "out/peers-small.json").read_text())
    assert card == json.loads((folder / "figures.json").read_text())
    assert (folder / "out/peers-small.png").stat().st_size > 5000
    assert (folder / "out/peers-small.md").read_text().strip() == out.strip()
    by_name = {c["name"]: c for c in card["contenders"]}
    ways = ["PyTorch fp32", "ORT int8", "ORT int8, static", "ORT int8, fused", "ORT int8, mended"]
    assert list(by_name) == [*(f"{model}, {way}" for model in ("teacher", "student") for way in ways), "student, as shipped"]
    for name, c in by_name.items():
        if name.endswith("ORT int8"):
            assert "exit status -11" in c["error"] and c["f1"]["test"] is None and c["bytes"] is None
            assert f"- {name}: ORT int8: making it ended" in out
        else:
            assert c["error"] is None and c["bytes"] > 0 and 0 <= c["f1"]["test"][0] <= 1
            for figure in ("ms_per_sentence", "end_to_end_ms_per_sentence"):
                assert c[figure]["1"]["median"] > 0 and c[figure]["32"]["median"] > 0
            assert (c["difference"] is None) == (name == "teacher, PyTorch fp32")
    assert [c["name"] for c in card["contenders"] if c["final"]] == ["student, as shipped"]
    assert "| ms per sentence, batch 32 | teacher | student |" in out and "| ORT int8 | – | – |" in out


def test_f1_is_that_of_the_model_as_scored_apart(course, folder):
    """What the race predicts in PyTorch is what the model predicts in this process."""
    from course_lib.data.corpus import load_corpus
    from course_lib.deploy.scoring import score_model

    assert course("--only", "PyTorch fp32", "--rounds", "1")[0] == 0
    card = json.loads((folder / "out/peers-small.json").read_text())
    (teacher,) = folder.glob("out/cache/teacher-*")
    test = load_corpus("small", 0).test
    assert card["contenders"][0]["f1"]["test"] == score_model(teacher, test, 1)["f1"]


def test_a_pattern_that_matches_nothing_names_what_there_is(course):
    code, _, err = course("--only", "TensorRT*")
    assert code == 2 and "--only TensorRT*: matches nothing; expected one of PyTorch fp32, PyTorch bf16" in err
