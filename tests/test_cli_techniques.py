"""``course techniques``: files it leaves, what it takes from the cache, and what it says to bad input."""

import json

import pytest
import torch

from course_lib.cli import main

GOOD = "Ana\tB-PER\nleft\tO\nOslo\tB-LOC\n\nBob\tB-PER\nstayed\tO\n\n" * 10
RECIPE = '[teacher]\nepochs = 1\n[[step]]\ndo = "distil"\nepochs = 1\n[[step]]\ndo = "quantize"\n'


@pytest.fixture
def course(capsys, monkeypatch, tmp_path):
    """Run ``course techniques`` on a small corpus in an empty folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = torch.get_num_threads()
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "train.txt").write_text(GOOD)
    (tmp_path / "r.toml").write_text(RECIPE)

    def run(*arguments):
        options = ("--data", "small", "--encoder", "tiny", "--recipe", "r.toml", "--threads", "1", "--artifacts", "out")
        with pytest.raises(SystemExit) as stop:
            main(["techniques", *options, *arguments])
        return stop.value.code, *capsys.readouterr()

    yield run
    torch.set_num_threads(before)


def test_it_leaves_the_table_twice_and_takes_finished_rows_from_the_cache(course, tmp_path):
    arguments = ("--only", "wanda-50", "--json", "figures.json")
    code, out, err = course(*arguments)
    assert code == 0, err
    table = json.loads((tmp_path / "out/techniques/small.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["dense", "magnitude-layer-50", "wanda-50"]
    assert table == json.loads((tmp_path / "figures.json").read_text())
    assert (tmp_path / "out/techniques/small.md").read_text().strip() == out.strip()
    assert "(`wanda-50`)" in out and "3 rows" in err
    made = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "out/cache").iterdir()}
    assert sum(folder.name.startswith("technique-") for folder in made) == 3
    assert course(*arguments)[:2] == (0, out)
    assert {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "out/cache").iterdir()} == made


def test_an_interrupted_run_exits_130_and_goes_on(course, tmp_path, monkeypatch):
    from course_lib.measure import techniques

    measure = techniques.measure

    def stopped(bench, technique, *rest):
        if technique.name == "wanda-50":
            raise KeyboardInterrupt
        return measure(bench, technique, *rest)

    monkeypatch.setattr(techniques, "measure", stopped)
    code, _, err = course("--only", "wanda-50")
    assert code == 130 and "Run the same command again" in err
    assert not (tmp_path / "out/techniques/small.json").exists()
    calls = []
    monkeypatch.setattr(
        techniques, "measure", lambda bench, technique, *rest: calls.append(technique.name) or measure(bench, technique, *rest)
    )
    assert course("--only", "wanda-50")[0] == 0 and calls == ["wanda-50"]


def test_a_failed_row_is_named_and_the_exit_status_says_so(course, tmp_path, monkeypatch):
    from course_lib.measure import techniques

    measure = techniques.measure

    def failing(bench, technique, *rest):
        if technique.name == "wanda-50":
            raise ValueError("a bad layer")
        return measure(bench, technique, *rest)

    monkeypatch.setattr(techniques, "measure", failing)
    code, out, err = course("--only", "wanda-50", "--no-recover")
    assert code == 1 and "failed: wanda-50" in err and "- wanda-50: ValueError: a bad layer" in out
    assert len(json.loads((tmp_path / "out/techniques/small.json").read_text())["rows"]) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--only", "wnada-50"), "--only wnada-50: matches no technique; expected a name like wanda-50"),
        (("--only", "movement-50", "--no-recover"), "--only movement-50: matches no technique"),
        (("--json", "small"), "--json small: this is a folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(course, tmp_path, arguments, message):
    code, _, err = course(*arguments)
    assert code == 2 and message in err
    assert not (tmp_path / "out/cache").exists()
