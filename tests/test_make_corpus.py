"""The script that writes the generated corpus: files that read back the same, and nothing of others replaced."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from course_lib.data.conll import read_conll
from course_lib.data.corpus import load_corpus
from course_lib.data.generated import generate

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "make_corpus.py"
SMALL = ["--train", 60, "--validation", 20, "--test", 30]
SIZES = {"train": 60, "validation": 20, "test": 30}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command line in an empty folder; the result has exit_code, stdout and stderr."""
    spec = importlib.util.spec_from_file_location("make_corpus", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(module.main)

    def invoke(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def test_the_files_hold_the_corpus_of_this_seed(run):
    result = run("--out", "here/new", "--seed", 3, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in Path("here/new").iterdir()) == ["dev.txt", "test.txt", "train.txt"]
    assert [p.name for p in Path("here").iterdir()] == ["new"]  # no temporary folder is left
    corpus, expected = load_corpus("here/new"), generate(3, SIZES)
    assert (corpus.train, corpus.validation, corpus.test) == (expected.train, expected.validation, expected.test)
    assert read_conll("here/new/train.txt").scheme == "IOB2"


def test_the_report_gives_each_files_size_and_the_fingerprint(run):
    out = run("--out", "new", *SMALL).stdout.splitlines()
    corpus = load_corpus("new")
    assert out == [
        *(
            f"{Path('new') / name}.txt: {len(part)} sentences, {sum(len(s.words) for s in part)} words"
            for name, part in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test))
        ),
        f"fingerprint {corpus.fingerprint()}",
    ]


def test_an_earlier_result_is_replaced(run):
    run("--out", "new", "--seed", 1, *SMALL)
    first = Path("new/train.txt").read_bytes()
    assert run("--out", "new", "--seed", 2, *SMALL).exit_code == 0
    second = Path("new/train.txt").read_bytes()
    assert first != second
    assert run("--out", "new", "--seed", 1, *SMALL).exit_code == 0
    assert Path("new/train.txt").read_bytes() == first


def test_a_folder_that_holds_anything_else_is_left_alone(run):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("all I have")
    result = run("--out", "mine", *SMALL)
    assert result.exit_code == 2
    assert "--out mine is not a folder that this script made (thesis.txt is there). Choose another" in result.stderr
    assert [p.read_text() for p in Path("mine").iterdir()] == ["all I have"]


def test_a_file_is_not_replaced_by_a_folder(run):
    Path("mine").write_text("all I have")
    result = run("--out", "mine", *SMALL)
    assert result.exit_code == 2
    assert "--out mine is not a folder that this script made (it is a file)" in result.stderr
    assert Path("mine").read_text() == "all I have"


def test_a_place_where_nothing_can_be_written_is_an_error_without_a_traceback(run):
    Path("file").write_text("")
    result = run("--out", "file/new", *SMALL)
    assert result.exit_code == 2
    assert "Cannot write file/new" in result.stderr


@pytest.mark.parametrize(
    "option, value", [("--train", 0), ("--validation", 0), ("--test", -1), ("--seed", -1), ("--seed", "x")]
)
def test_impossible_numbers_are_refused_by_name(run, option, value):
    result = run("--out", "new", option, value)
    assert result.exit_code == 2
    assert option in result.stderr
    assert not Path("new").exists()


def test_the_script_runs_by_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", "new", *map(str, SMALL)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"fingerprint {generate(0, SIZES).fingerprint()}"
