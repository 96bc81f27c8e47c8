"""`course search` on a tiny corpus: killed, gone on with, and its recipe followed by `course compress`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from course_lib.artifacts import read_json
from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.recipes import compress as compress_module
from course_lib.recipes.budget import Budget
from course_lib.recipes.found import report, result, unmet, write_found
from course_lib.recipes.search import measured, open_study
from course_lib.recipes.space import load_space

GOOD = "Ana\tB-PER\nleft\tO\nOslo\tB-LOC\n\nBob\tB-PER\nstayed\tO\n\n" * 12
SPACE = """name = "small"
[teacher]
epochs = 3
batch_size = 8
learning_rate = 5e-3
[[step]]
do = "drop_layers"
keep = [[0], [0, 1]]
[[step]]
do = "remove_ffn_neurons"
keep = [16, 48]
sentences = 8
[[step]]
do = "distil"
epochs = 1
batch_size = 8
learning_rate = 5e-3
[[step]]
do = "quantize"
"""
OPTIONS = ("--space", "small.toml", "--data", "small", "--encoder", "tiny", "--threads", "1")
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a corpus and a space, in which a search was killed in its second trial and then gone on with."""
    root = tmp_path_factory.mktemp("search")
    (root / "small").mkdir()
    for split in ("train", "dev", "test"):
        (root / "small" / f"{split}.txt").write_text(GOOD, "utf-8")
    (root / "small.toml").write_text(SPACE, "utf-8")
    command = [sys.executable, "-m", "course_lib.cli", "search", *OPTIONS]
    with open(root / "killed.txt", "w") as log:
        first = subprocess.Popen([*command, "--trials", "3"], cwd=root, stdout=log, stderr=log)
        until = time.monotonic() + 600
        while "trial 0:" not in (root / "killed.txt").read_text() or len(list(root.glob("artifacts/cache/student-*"))) < 2:
            assert first.poll() is None and time.monotonic() < until, (root / "killed.txt").read_text()
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    second = subprocess.run([*command, "--trials", "3", "--json", "found.json"], cwd=root, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    (root / "out.md").write_text(second.stdout, "utf-8")
    return root


@pytest.fixture
def course(folder, capsys, monkeypatch):
    """Run a command in that folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_search_goes_on_and_what_died_is_tried_again(folder):
    found = read_json(folder / "found.json")
    study = open_study(f"sqlite:///{folder / 'artifacts' / 'search' / 'small-small.db'}", found["study"])
    states = [t.state.name for t in study.get_trials()]
    assert states[:2] == ["COMPLETE", "FAIL"] and "RUNNING" not in states and "WAITING" not in states
    assert len(measured(study)) == 3 == len(found["trials"]) and len({json.dumps(r["picked"]) for r in found["trials"]}) == 3
    assert "trial 0:" in (folder / "killed.txt").read_text() and found["failed"] == []


def test_front_and_choice_are_written_in_every_form(folder):
    target = folder / "artifacts" / "search"
    found = read_json(target / "small-small.json")
    assert found == read_json(folder / "found.json")
    assert (target / "small-small.png").read_bytes().startswith(b"\x89PNG")
    table = (target / "small-small.md").read_text("utf-8")
    assert (folder / "out.md").read_text("utf-8") == table
    best = next(r for r in found["trials"] if r["trial"] == found["chosen"])
    assert f"| {best['trial']} ★ | {best['picked']['drop_layers.keep']} |" in table
    assert best["front"] and best["loss"] == min(r["loss"] for r in found["trials"])
    assert all(r["ms"] > 0 and r["reference_ms"] > 0 and r["bytes"] > 0 and 0 <= r["f1"] <= 1 for r in found["trials"])
    assert all(abs(100 * (found["teacher_f1"] - r["f1"]) - r["loss"]) < 2e-3 for r in found["trials"]), (
        "rounded to 5 and 3 digits"
    )


def test_compress_follows_the_recipe_to_the_same_model(folder, course, monkeypatch):
    """Same bytes, same F1 on validation, and no student is trained again."""
    monkeypatch.setattr(compress_module, "PLAN", compress_module.PLAN[-2:])  # the students in ONNX Runtime, to save time
    students = {p.name for p in (folder / "artifacts" / "cache").glob("student-*")}
    recipe = "artifacts/search/small-small.toml"
    assert tomllib.loads((folder / recipe).read_text("utf-8"))["name"] == "small"
    code, _, err = course("compress", "--recipe", recipe, *OPTIONS[2:])
    assert code == 0, err
    assert {p.name for p in (folder / "artifacts" / "cache").glob("student-*")} == students
    found = read_json(folder / "found.json")
    best = next(r for r in found["trials"] if r["trial"] == found["chosen"])
    final = next(c for c in read_json(folder / "artifacts" / "small" / "scorecard.json")["contenders"] if c["final"])
    assert final["bytes"] == best["bytes"] and final["f1"]["validation"][0] == pytest.approx(best["f1"], abs=6e-5)


def test_a_budget_that_nothing_keeps_names_the_nearest_and_writes_no_recipe(folder, course):
    recipe = folder / "artifacts" / "search" / "small-small.toml"
    kept = recipe.read_bytes()
    try:
        code, out, err = course("search", *OPTIONS, "--trials", "3", "--max-bytes", "1000", "--max-loss", "100")
        text = " ".join(err.split())
        assert code == 2 and "Traceback" not in err and out.startswith("| trial |")
        assert re.search(
            r"None of 3 recipes keeps the budget\. The nearest is trial \d+ with drop_layers\.keep = \[0\].*: [\d.-]+ points of F1 lost "
            r"\(allowed: 100\.0; kept\); [\d,]+ bytes \(allowed: 1,000; [\d.]+% too many\)\.",
            text,
        )
        assert "artifacts/search/small-small.md" in text and not recipe.exists()
    finally:
        recipe.write_bytes(kept)


@pytest.mark.parametrize(
    "options, said",
    [
        (("--space", "quick"), "nothing to choose"),
        (("--space", "atuo"), "Did you mean 'auto'?"),
        (("--storage", "what://x"), "--storage what://x: "),
        (("--goal", "speed"), "'speed' is not one of 'f1', 'bytes', 'ms'"),
        (("--trials", "0"), "greater than or equal to 1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(options, said, course, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    before = {p.name for p in (folder / "artifacts" / "cache").iterdir()}
    code, _, err = course("search", *OPTIONS, *options)
    assert code == 2 and said in " ".join(err.split()), err
    assert {p.name for p in (folder / "artifacts" / "cache").iterdir()} == before


def test_a_space_for_another_encoder_is_refused(course, folder):
    (folder / "deep.toml").write_text(SPACE.replace("[0, 1]]", "[0, 9]]"), "utf-8")
    code, _, err = course("search", *OPTIONS, "--space", "deep.toml")
    assert code == 2 and "drop_layers keeps [0, 9], but there are only layers" in err


def test_two_searches_at_a_time_would_disturb_each_other(course, folder):
    from filelock import FileLock

    with FileLock(folder / "artifacts" / "search" / ".lock"):
        code, _, err = course("search", *OPTIONS)
    assert code == 2 and "Another search runs with artifacts" in err


ROWS = [
    {"trial": 0, "picked": {"keep": 1}, "f1": 0.8, "loss": 1.0, "bytes": 2_000_000, "ms": 0.2},
    {"trial": 2, "picked": {"keep": 2}, "f1": 0.79, "loss": 2.0, "bytes": 1_000_000, "ms": 0.1},
    {"trial": 3, "picked": {"keep": 3}, "f1": 0.7, "loss": 11.0, "bytes": 3_000_000, "ms": 0.3},
]
ABOUT = {"name": "n", "size": 9, "machine": {"threads": 1, "cpu": "c"}, "data": {"name": "d"}, "teacher_f1": 0.81}


def test_a_report_marks_the_chosen_and_those_within_the_budget():
    found = result(ROWS, [{"trial": 1, "picked": {"keep": 0}, "error": "too thin"}], Budget(ms=0.25), "bytes", ABOUT)
    assert (found["chosen"], found["nearest"]) == (2, None)
    assert [r["front"] for r in found["trials"]] == [True, True, False]
    text = report(found)
    assert "| 2 ★ | 2 | 0.7900 | 2.00 | 1.00 | 0.100 |" in text and "| 0 ✓ | 1 |" in text and "| 3" not in text
    assert "Budget: at most 0.25 ms per sentence" in text and "Not tried: {'keep': 0}: too thin" in text


def test_an_unmet_budget_says_how_far_each_figure_is():
    found = result(ROWS, [], Budget(loss=1.5, bytes=1_500_000, ms=0.5), "loss", ABOUT)
    assert (found["chosen"], found["nearest"]) == (None, 0)
    said = (
        "1.0 points of F1 lost (allowed: 1.5; kept); 2,000,000 bytes (allowed: 1,500,000; 33.3% too many); "
        "0.2 ms per sentence (allowed: 0.5; kept)."
    )
    assert said in unmet(found) and "The nearest is trial 0 with keep = 1:" in unmet(found)


def test_without_anything_measured_the_last_failure_is_told():
    with pytest.raises(CourseError, match=r"No recipe was measured\. The last one that failed: too thin"):
        result([], [{"trial": 1, "picked": {}, "error": "too thin"}], Budget(), "loss", ABOUT)


def test_an_older_recipe_does_not_survive_a_budget_that_nothing_keeps(tmp_path):
    (tmp_path / "n.toml").write_text("old")
    found = result(ROWS, [], Budget(ms=0.01), "loss", ABOUT)
    with pytest.raises(CourseError, match=r"The front of all that was tried is in .*n\.md and .*n\.png"):
        write_found(found, load_space("auto"), Path(tmp_path / "n"))
    assert {p.name for p in tmp_path.iterdir()} == {"n.json", "n.md", "n.png"}
