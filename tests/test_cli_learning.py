"""``course progress`` and ``course check``."""

import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.classroom.points import count_points
from course_lib.cli import main
from course_lib.commands.learning import summarise
from course_lib.exercises.progress import open_hint, read_progress, record_answer, record_check, record_prediction
from course_lib.exercises.registry import LESSONS

GOOD = "def sparsity(w):\n    return float((w == 0).double().mean())"
WRONG = "def sparsity(w):\n    return float((w != 0).double().mean())"
MEGABYTES = "def megabytes(parameters, bits):\n    raise NotImplementedError()"
IMPORTS = "from course_lib.exercises import check, hint, predict, use"


@pytest.fixture
def course(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder as the process would; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "mine.json"))
    monkeypatch.delenv("COURSE_CHECK_SEED", raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        return stop.value.code or 0, *capsys.readouterr()

    return run


def row(out: str, name: str) -> list[str]:
    """The cells of a table's row."""
    line = next(line for line in out.splitlines() if f" {name} " in line)
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def checking(exercise: str):
    return new_code_cell(f'check("{exercise}", {exercise})', metadata={"course": {"check": exercise}})


def write(path: Path, *cells) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nb = new_notebook(cells=[new_markdown_cell("# A lesson"), *(new_code_cell(c) if isinstance(c, str) else c for c in cells)])
    nbformat.write(nb, path)
    return path


# course progress -----------------------------------------------------------------------------------------------------


def test_a_beginners_progress_is_all_zeros(course, tmp_path):
    code, out, err = course("progress")
    assert (code, err) == (0, "") and not (tmp_path / "mine.json").exists()
    for stem in LESSONS:
        assert row(out, stem)[1].startswith("0 of ")
    assert out.splitlines()[-1] == f"0 predictions made. Kept in {tmp_path / 'mine.json'}"


def test_points_questions_hints_and_predictions_are_shown(course):
    record_check("sparsity", "wrong", 1.0, 2, "density")
    record_check("sparsity", "passed", 2.0, 2, None)
    record_check("megabytes", "wrong", 1.0, 2, None)
    open_hint("megabytes", 2)
    record_answer("why_predict", True)
    record_answer("zeros_and_bytes", False)
    record_prediction("size", 75, "%")
    record_prediction("[red]which", "rows", "")
    code, out, err = course("progress", "--json", "progress.json")
    assert (code, err) == (0, "")
    assert row(out, "00_start_here") == ["00_start_here", "3 of 4", "1 of 2", "3", "1", "1 of 3"]
    assert row(out, "all")[1].startswith("3 of ")
    assert row(out, "size") == ["size", "75 %", "not yet"] and row(out, "[red]which") == ["[red]which", "rows", "not yet"]
    assert "2 predictions made." in out
    told = json.loads(Path("progress.json").read_text())
    first = {"lesson": "00_start_here", "points": 3.0, "of": 4, "passed": 1, "exercises": 2}
    assert told["lessons"][0] == {**first, "attempts": 3, "hints": 1, "right": 1, "questions": 3}
    assert told["all"]["points"] == 3 and len(told["lessons"]) == len(LESSONS)
    assert told["predictions"][0] == {"name": "size", "value": 75, "unit": "%", "measured": None}


def test_points_of_an_exercise_that_is_worth_less_today_are_cut(course):
    record_check("sparsity", "passed", 9.0, 9, None)
    assert summarise(read_progress())["lessons"][0]["points"] == 2


def test_a_measured_prediction_is_shown_beside_it(course, tmp_path):
    kept = read_progress()
    kept["predictions"]["size"] = {"value": 75, "unit": "%", "measured": 80.25}
    (tmp_path / "mine.json").write_text(json.dumps(kept))
    assert row(course("progress")[1], "size") == ["size", "75 %", "80.2 %"]


def test_a_damaged_progress_file_is_set_aside_by_the_command_too(course, tmp_path):
    (tmp_path / "mine.json").write_text("{")
    assert course("progress")[0] == 0
    assert (tmp_path / "mine.damaged-1.json").read_text() == "{"


def test_figures_that_cannot_be_written_are_said_before_the_work(course):
    for command in (("progress",), ("check", "missing.ipynb")):
        code, out, err = course(*command, "--json", ".")
        assert (code, out) == (2, "") and "--json .: this is a folder" in err


# course check --------------------------------------------------------------------------------------------------------


def test_a_notebook_earns_the_points_of_its_checks_and_errors_are_tolerated(course, tmp_path):
    notebook = write(
        tmp_path / "work" / "lesson.ipynb",
        IMPORTS,
        GOOD,
        checking("sparsity"),
        "raise ValueError('a cell\\nof mine')",
        "undefined",
        "assert False",
        MEGABYTES,
        checking("megabytes"),
        "predict('size', 'How large?', answer=75)",
    )
    before = notebook.read_bytes()
    code, out, err = course("check", notebook, "--json", "points.json")
    assert code == 0 and err == f"{notebook}: running; a lesson takes up to three minutes\n"
    assert out.splitlines() == [
        f"{notebook}: 2 of 4 points",
        "  sparsity   2 of 2  passed",
        "  megabytes  0 of 2  not attempted",
        "  cell 5: ValueError: a cell",
        "  cell 6: NameError: name 'undefined' is not defined",
        "  cell 7: AssertionError",
    ]
    assert notebook.read_bytes() == before and not (tmp_path / "mine.json").exists()
    told = json.loads(Path("points.json").read_text())["notebooks"][0]
    assert (told["points"], told["of"], told["errors"][0]) == (2.0, 4, {"cell": 5, "error": "ValueError: a cell"})
    sparsity = {"exercise": "sparsity", "points": 2.0, "of": 2, "state": "passed", "misconception": False}
    assert told["exercises"][0] == sparsity


def test_several_notebooks_are_added_up_and_each_starts_afresh(course, tmp_path):
    first = write(tmp_path / "first.ipynb", IMPORTS, WRONG, checking("sparsity"), MEGABYTES)
    second = write(tmp_path / "second.ipynb", IMPORTS, checking("sparsity"))  # its own function is not defined
    code, out, _ = course("check", first, second)
    assert code == 0 and out.splitlines() == [
        f"{first}: 0 of 2 points",
        "  sparsity  0 of 2  wrong, a known mistake",
        f"{second}: 0 of 2 points",
        "  sparsity  0 of 2  not checked",
        "  cell 3: NameError: name 'sparsity' is not defined",
        "all: 0 of 4 points",
    ]


def test_what_was_earned_before_the_kernel_died_counts(course, tmp_path):
    notebook = write(tmp_path / "dies.ipynb", IMPORTS, GOOD, checking("sparsity"), "import os\nos._exit(1)", "print(1)")
    code, out, _ = course("check", notebook)
    assert code == 0 and out.splitlines() == [
        f"{notebook}: 2 of 2 points",
        "  sparsity  2 of 2  passed",
        "  cell 5: ended the kernel; the cells after it were not run",
    ]


def test_a_cell_that_never_ends_ends_the_run(tmp_path):
    notebook = write(tmp_path / "stands.ipynb", "import time\ntime.sleep(600)", IMPORTS, GOOD, checking("sparsity"))
    result = count_points(notebook, cell_seconds=1)
    assert result.errors == [(2, "did not end within 1 seconds; the cells after it were not run")]
    assert [e.state for e in result.exercises] == ["not checked"]


def test_the_seed_of_the_environment_is_that_of_the_notebook(course, tmp_path, monkeypatch):
    cell = new_code_cell(
        "from course_lib.exercises.checks import check_seed\nassert check_seed() == 7\nimport os\nassert os.environ['COURSE_HEADLESS']"
    )
    notebook = write(tmp_path / "lesson.ipynb", IMPORTS, cell, GOOD, checking("sparsity"))
    monkeypatch.setenv("COURSE_CHECK_SEED", "7")
    assert course("check", notebook)[1].splitlines() == [f"{notebook}: 2 of 2 points", "  sparsity  2 of 2  passed"]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "Cannot read lesson.ipynb: No such file or directory."),
        ("{", "lesson.ipynb is no notebook (NotJSONError): expected a file made by Jupyter."),
        ("[]", "lesson.ipynb is no notebook ("),
        ('{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "lesson.ipynb is no notebook ("),
    ],
)
def test_what_is_no_notebook_is_said_so(course, content, words):
    if content is not None:
        Path("lesson.ipynb").write_text(content)
    code, out, err = course("check", "lesson.ipynb")
    assert (code, out) == (2, "") and words in err


def test_a_notebook_without_checks_is_no_lesson(course, tmp_path):
    write(tmp_path / "mine.ipynb", "1 + 1")
    code, _, err = course("check", "mine.ipynb")
    assert code == 2 and "expected a lesson of the course, and this has no checks. Get a copy with: course start" in err


def test_a_notebook_with_an_unknown_exercise_is_said_so(course, tmp_path):
    write(tmp_path / "lesson.ipynb", checking("sparcity"))
    code, _, err = course("check", "lesson.ipynb")
    assert code == 2 and "There is no exercise 'sparcity'; did you mean 'sparsity'" in err
