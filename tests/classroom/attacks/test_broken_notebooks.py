"""Notebooks that are broken, copied, edited or none at all: each gets a result, and what is right in it keeps its points."""

import json
from pathlib import Path

import pytest
from hand_in import MEGABYTES, SPARSITY, close, code, notebook, server, text

from course_lib.classroom import grade_one
from course_lib.classroom.grade_one import OpenQuestion, Settings, grade, open_questions
from course_lib.errors import CourseError
from course_lib.exercises.registry import find

COURSE = Path(__file__).parents[3]
LESSON = "00_start_here"
SOLVED = f"import torch\n{SPARSITY}"
WRONG = "def sparsity(w):\n    return 0.123"
FULL = find("sparsity").points + find("megabytes").points


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    close(["namespaces"])


def graded(data: bytes, **given):
    result = grade(data, "ada", LESSON, server(), seed=1, **given)
    assert [e.id for e in result.exercises] == ["sparsity", "megabytes"], "every exercise has its entry"
    return result


GOOD = notebook(SOLVED, MEGABYTES)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "empty"),
        (b"\0" * 1000, "empty"),
        (b"  \n", "empty"),
        (GOOD[: len(GOOD) // 2], "cut off"),
        (b"{", "no JSON"),
        (b"PK\x03\x04" + bytes(range(256)), "no UTF-8"),
        (GOOD.replace(b"cells", "zellen ü".encode("latin-1")), "no UTF-8"),
        (b"[1, 2]", "no notebook"),
        (b"null", "no notebook"),
        (b'{"cells": {"a": 1}}', "no notebook"),
        (b'{"worksheets": [], "nbformat": 3}', "2014"),
        (b"[" * 500_000, "no notebook"),
        (b"9" * 10_000, "no notebook"),
        (b'<html lang="en">', "no JSON"),
        (b"\xff\xfe" + GOOD, "no JSON"),
    ],
)
def test_a_file_that_is_no_notebook_gets_a_result_that_says_why(data, says):
    result = graded(data)
    assert says in result.error and result.points == 0 and result.max_points == FULL
    assert {e.verdict for e in result.exercises} == {"missing"}


def test_a_file_of_200_megabytes_is_not_even_sent():
    result = graded(b" " * 200_000_000)
    assert "200 MB" in result.error and result.points == 0


def test_the_largest_file_that_is_read_is_read(monkeypatch):
    image = code("1")
    image["outputs"] = [{"output_type": "display_data", "data": {"image/png": "A" * 15_000_000}, "metadata": {}}]
    data = notebook(SOLVED, MEGABYTES, image)
    assert 15_000_000 < len(data) < grade_one.SIZE_LIMIT and graded(data).points == FULL


@pytest.mark.parametrize("junk", [None, 3, "x", [], {}, {"cell_type": "code"}, {"cell_type": "code", "source": [1, None]}])
def test_cells_that_are_none_cost_nothing(junk):
    content = json.loads(GOOD)
    content["cells"].insert(0, junk)
    assert graded(json.dumps(content).encode()).points == FULL


@pytest.mark.parametrize("metadata", [None, 3, [], "x", {"course": 3}, {"kernelspec": [1]}])
def test_metadata_that_is_none_costs_nothing(metadata):
    content = json.loads(GOOD) | {"metadata": metadata}
    result = graded(json.dumps(content).encode())
    assert result.points == FULL and result.flags == ("does not say which lesson it is",)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + GOOD, GOOD.decode().encode("utf-16")], ids=["BOM", "UTF-16"])
def test_a_notebook_saved_by_another_editor_is_read(data):
    assert graded(data).points == FULL


@pytest.mark.parametrize(
    "cells, points",
    [
        ((SOLVED, MEGABYTES, code(SOLVED, exercise="sparsity"), code('check("sparsity", sparsity)', check="sparsity")), FULL),
        ((WRONG, MEGABYTES, code(SOLVED, exercise="sparsity")), FULL),
        ((SOLVED, MEGABYTES, WRONG), FULL - 2),
        ((SOLVED,), 2),
        ((), 0),
        ((SOLVED.replace("def sparsity", "def my_sparsity"), MEGABYTES), 2),
        ((SOLVED.replace("def sparsity", "def my_sparsity") + "\nsparsity = my_sparsity", MEGABYTES), FULL),
        ((code(SOLVED, exercise="megabytes"), code(MEGABYTES, exercise="sparsity")), FULL),
        ((SOLVED, MEGABYTES, "from course_lib.pruning.masks import sparsity", 'sparsity = use("sparsity", sparsity)'), FULL),
        ((text(SOLVED), MEGABYTES), 2),
        ((SOLVED + "\n" + MEGABYTES,), FULL),
        (("raise ValueError", "1/0", SOLVED, MEGABYTES, "import no_such_module"), FULL),
        (("%matplotlib inline\nimport torch", "!ls", "%%html\n<b>", f"%%time\n{SPARSITY}", MEGABYTES, "sparsity?"), FULL),
        ((SOLVED, "def megabytes(parameters, bits)\n    return 0"), 2),
        ((SOLVED, "(" * 100_000, MEGABYTES), FULL),
        ((SOLVED, "x = " + "-" * 200_000 + "1", MEGABYTES), None),
        ((SOLVED, "x" + ".a" * 200_000, MEGABYTES), None),
        ((SOLVED, "x = 1\0", MEGABYTES), FULL),
        ((*(f"x{i} = {i}" for i in range(3000)), SOLVED, MEGABYTES), FULL),
    ],
    ids=[
        "copied cell", "solved further down", "spoilt further down", "one deleted", "all deleted", "renamed", "renamed and given back",
        "flags exchanged", "the library's name below", "made a text", "in one cell", "errors elsewhere", "magics", "no Python",
        "many brackets", "deep operators", "deep attributes", "a null byte", "3000 cells",
    ],
)  # fmt: skip
def test_cells_count_by_what_they_define(cells, points):
    """None: the cell may be too much for Python's parser, which must then cost this notebook alone."""
    result = graded(notebook(*cells))
    if points is None:
        assert result.points == FULL or "could not be read" in result.error
        points = FULL
        assert graded(GOOD).points == FULL
    else:
        assert result.points == points and result.error is None


def test_points_that_were_edited_do_not_matter():
    cell = code(WRONG, exercise="sparsity", points="1000")
    cell["metadata"]["nbgrader"] = {"grade_id": "check_sparsity", "points": 1000, "grade": True, "locked": False}
    result = graded(notebook(cell, MEGABYTES, course={"lesson": LESSON, "points": 1000}))
    assert (result.points, result.max_points) == (2, FULL)


def test_a_notebook_of_another_lesson_or_version_is_flagged():
    result = graded(notebook(SOLVED, MEGABYTES, lesson="01_l1_pruning_math"))
    assert result.flags == ("made for lesson 01_l1_pruning_math",) and result.points == FULL
    result = graded(notebook("def density(w):\n    return 0.5", lesson="00_hello"))
    assert result.flags == ("made for lesson 00_hello",) and result.points == 0


def test_a_notebook_of_another_language_is_flagged():
    result = graded(notebook("sparsity <- function(w) mean(w == 0)", kernelspec={"name": "ir", "language": "R"}))
    assert result.flags == ("its kernel is for R",) and {e.verdict for e in result.exercises} == {"missing"}
    assert graded(notebook(SOLVED, MEGABYTES, kernelspec={"name": "my-venv", "language": "python"})).flags == ()


def test_why_an_exercise_is_missing_is_said():
    broken, absent = graded(notebook("import torch\ndef sparsity(w)\n    return 0")).exercises
    assert (broken.verdict, absent.verdict) == ("crashed", "missing")
    assert "line 2" in broken.message and "megabytes" in absent.message


def test_the_librarys_own_function_is_no_answer():
    for given in (
        "from course_lib.pruning.masks import sparsity",
        "from course_lib.pruning import masks\nsparsity = masks.sparsity",
    ):
        result = graded(notebook(given, MEGABYTES)).exercises[0]
        assert (result.verdict, result.points) == ("missing", 0) and "not yours" in result.message


CALLS = "from course_lib.pruning.masks import sparsity as theirs\ndef helper(w):\n    return theirs(w)\ndef sparsity(w):\n    return helper(w)"


def test_an_answer_that_calls_the_librarys_own_is_flagged_and_earns_what_the_instructor_says():
    result = graded(notebook(CALLS, MEGABYTES)).exercises[0]
    assert result.verdict == "solved" and "calls the reference" in result.flags
    result = graded(notebook(CALLS, MEGABYTES), settings=Settings(reference_earns=False)).exercises[0]
    assert (result.verdict, result.points) == ("refused", 0) and "calls the reference" in result.flags


def test_open_answers_are_collected_without_their_question():
    question = OpenQuestion("why", "**Why** zeros?\n\nYOUR ANSWER HERE", 2.0)
    asked = "**Why** zeros?\n\n"
    for cells, expected in (
        ([text(asked + "Because.", open="why")], "Because."),
        ([text("Because.", name="open-why")], "Because."),
        ([text(asked + "Because.")], "Because."),
        ([text(asked + "YOUR ANSWER HERE", open="why")], ""),
        ([text(asked + "Because.", open="why"), text(asked + "YOUR ANSWER HERE", open="why")], "Because."),
        ([text(asked + "One."), text(asked + "Two.", open="why")], "Two."),
        ([], ""),
        ([text(asked + "x" * 1_000_000, open="why")], "x" * 20_000),
    ):
        (answer,) = graded(notebook(SOLVED, *cells), questions=[question]).answers
        assert (answer.id, answer.text, answer.max_points) == ("why", expected, 2.0)


def test_the_open_questions_of_a_lesson_are_those_of_its_notebook(tmp_path):
    (question,) = open_questions(COURSE / "notebooks" / "0_start" / "00_start_here.ipynb")
    assert (question.id, question.points) == ("what_must_shrink", 2.0) and question.text.endswith("YOUR ANSWER HERE")
    (tmp_path / "x.ipynb").write_text("[]")
    for path in (tmp_path / "x.ipynb", tmp_path / "none.ipynb"):
        with pytest.raises(CourseError, match="expected the notebook of a lesson"):
            open_questions(path)


def test_a_seed_out_of_range_is_refused():
    with pytest.raises(ValueError, match="seed = -1"):
        grade(GOOD, "ada", LESSON, None, seed=-1)


def test_the_same_notebook_gives_the_same_record_again():
    source = 'def sparsity(w):\n    raise ValueError(f\'{object()} {set("abcdef")} {__import__("random").random()}\')'
    first, second = graded(notebook(source)), graded(notebook(source))
    close(["namespaces"])
    third = graded(notebook(source))
    assert first == second == third and "it raised ValueError: … (`line 2: raise" in first.exercises[0].message
