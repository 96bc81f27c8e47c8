"""`course build`, `start` and `list` as a person types them."""

import re
import sys

import pytest

from course_lib.cli import main
from course_lib.exercises.progress import record_check


@pytest.fixture
def say(capsys, monkeypatch, copied, tmp_path):
    """Run a command in the built course's folder; returns (exit status, standard output, standard error)."""
    monkeypatch.chdir(copied.root)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        return stop.value.code, *capsys.readouterr()

    return run


def test_check_passes_a_built_course_and_names_what_differs(say, copied):
    assert say("build", "--check") == (0, "1 lesson: the notebooks are what their sources give\n", "")
    copied.notebook.write_text("{}")
    (copied.notebook.parent / "stray.txt").touch()
    code, out, err = say("build", "--check")
    assert (code, err) == (1, "")
    assert out.splitlines()[:2] == [
        "notebooks/1_sample/01_sample.ipynb: not what its source gives",
        "notebooks/1_sample/stray.txt: no source gives it; delete it",
    ]
    assert out.splitlines()[2].endswith("run: course build")


def test_check_of_one_lesson_looks_at_that_one_only(say, copied):
    (copied.notebook.parent / "stray.txt").touch()
    assert say("build", "01", "--check")[0] == 0


def test_check_finds_what_is_left_of_a_lesson_that_is_gone(say, copied):
    copied.source.unlink()
    code, out, _ = say("build", "--check")
    assert code == 1 and "notebooks/1_sample/01_sample.ipynb: no source gives it; delete it" in out


def test_build_says_what_each_lesson_took(say, copied):
    copied.notebook.unlink()
    code, out, err = say("build", "sample")
    assert code == 0 and "1 lesson to build" in err
    assert re.fullmatch(
        r"solutions/1_sample/01_sample.py: 14 cells, 7 points, about 15 minutes; ran in [\d.]+ s with [\d.]+ MiB\n", out
    )
    assert say("build", "--check")[0] == 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("build", "01_samples"), "There is no lesson '01_samples'; did you mean 01_sample?"),
        (("build", "--check", "--measure"), "--check changes nothing and --measure does"),
        (("start", "99"), "There is no lesson '99'. Lessons: 01_sample."),
        (("start", "--fresh"), "--fresh: name the lessons to begin anew"),
    ],
)
def test_bad_input_is_refused_with_advice(arguments, said, say, copied):
    code, out, err = say(*arguments)
    assert (code, out) == (2, "") and said in err and "Traceback" not in err
    assert not (copied.root / "work").exists()


@pytest.mark.parametrize("command", ["build", "start", "list"])
def test_outside_of_a_course_every_command_says_so(command, say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = say(command)
    assert (code, out) == (2, "") and "is not inside the course's folder" in err


def test_start_says_what_became_of_each_lesson(say, copied):
    copy = "work/1_sample/01_sample.ipynb"
    assert say("start") == (0, f"{copy}: ready\n", "")
    assert say("start", "01") == (0, f"{copy}: already there, kept\n", "")
    copied.notebook.write_text("{}")
    assert say("start")[1].startswith(
        f"{copy}: kept, but the lesson has changed since you started it. `course start --fresh 01_sample`"
    )
    assert say("start", "--fresh", "01") == (0, f"{copy}: new; your old copy is work/1_sample/01_sample.old-1.ipynb\n", "")


def test_without_lessons_start_makes_the_folder_that_jupyter_opens(say, copied):
    copied.notebook.unlink()
    assert say("start") == (0, "There are no lessons yet.\n", "")
    assert (copied.root / "work").is_dir()


def test_list_keeps_paths_whole_in_a_narrow_window(say, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert "notebooks/1_sample/01_sample.ipynb" in say("list")[1]


def test_list_shows_path_title_minutes_points_and_progress(say, copied):
    code, out, _ = say("list")
    assert code == 0
    for part in ("notebooks/1_sample/01_sample.ipynb", "How many weights are zero?", " 15 ", " 0/2 ", " 0/7", "1 lesson "):
        assert part in out
    say("start")
    record_check("sparsity", "passed", 2.0, 2.0, None)
    record_check("megabytes", "wrong", 0.5, 2.0, "mebibytes")
    out = say("list")[1]
    assert "work/1_sample/01_sample.ipynb" in out and " 1/2 " in out and " 2.5/7" in out


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"metadata": {"course": {}}, "cells": []}'])
def test_list_names_a_notebook_that_is_none_of_ours(text, say, copied):
    copied.notebook.write_text(text)
    code, out, err = say("list")
    assert (code, out) == (2, "") and "01_sample.ipynb: not a notebook made by `course build`" in err


def test_build_without_the_extra_says_what_to_install(say, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    code, _, err = say("build", "--check")
    assert code == 2 and "nbgrader is not installed" in err and "pip install -e '.[classroom]'" in err
