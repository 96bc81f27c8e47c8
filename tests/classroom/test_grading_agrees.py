"""The points of grading are those of the notebook's own check: for solutions, stubs, wrong answers and correct variants."""

import ast
import itertools
from pathlib import Path

import pytest
import wrong_answers
from hand_in import close, notebook, server

from course_lib.classroom.grade_one import grade
from course_lib.exercises.checks import run_check
from course_lib.exercises.registry import LESSONS, exercises, find

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    close(["namespaces"])


def file_of_answers(stem: str) -> str:
    """The answers of a lesson as a learner would have them in a cell: without their marks."""
    path = Path(wrong_answers.__file__).with_name(f"{stem.partition('_')[2]}.py")
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [n for n in tree.body if not (isinstance(n, ast.ImportFrom) and n.module == "wrong_answers")]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list = [d for d in node.decorator_list if "wrong" not in ast.dump(d) and "right" not in ast.dump(d)]
    return ast.unparse(tree)


@pytest.mark.parametrize("stem", LESSONS)
def test_every_known_answer_earns_what_the_check_gives(stem):
    """A notebook holds one answer of each exercise, so there are as many notebooks as an exercise has answers at most."""
    cell, seed = file_of_answers(stem), 3
    known = [[a for a in wrong_answers.answers(stem.partition("_")[2]) if a.exercise == e.id] for e in exercises(stem)]
    for answers in itertools.zip_longest(*known):
        given = [a for a in answers if a]
        result = grade(notebook(cell, *(f"{a.exercise} = {a.name}" for a in given), lesson=stem), "ada", stem, server(), seed)
        found = {e.id: e for e in result.exercises}
        for answer in given:
            graded, checked = found[answer.exercise], run_check(find(answer.exercise), answer.function, seed)
            assert graded.points == checked.points, (answer.name, graded)
            assert graded.misconception == checked.misconception, answer.name
            assert [c.passed for c in graded.cases] == [f is None for f in checked.faults], answer.name


@pytest.mark.parametrize("stem, part", LESSONS.items())
def test_solutions_earn_all_and_stubs_nothing(stem, part):
    for folder, expected in (("solutions", 1), ("notebooks", 0)):
        data = (ROOT / folder / part / f"{stem}.ipynb").read_bytes()
        result = grade(data, "ada", stem, server(), seed=5)
        assert result.points == expected * result.max_points and result.error is None and result.flags == ()
        assert {e.verdict for e in result.exercises} == {"solved" if expected else "not attempted"}
        assert all(e.flags == () for e in result.exercises)


USES_THE_FIRST = """
import torch
def soft_threshold(w, threshold):
    {first}
soft_threshold = use("soft_threshold", soft_threshold)
def ista_step(w, gradient, step, lam):
    return soft_threshold(w - step * gradient, step * lam)
"""


@pytest.mark.parametrize(
    "first, points",
    [
        ("return w.sign() * (w.abs() - threshold).clamp(min=0)", [3, 3]),
        ("return w", [0, 3]),
        ("raise NotImplementedError()", [0, 3]),
        ("import os; os._exit(1)", [0, 3]),
    ],
)
def test_an_answer_that_uses_a_wrong_one_is_judged_with_the_librarys_in_its_place(first, points):
    """As in the lesson, which goes on with the library's function where the learner's does not pass."""
    data = notebook(USES_THE_FIRST.format(first=first), lesson="01_l1_pruning_math")
    found = grade(data, "ada", "01_l1_pruning_math", server(), seed=2).exercises[:2]
    assert [e.points for e in found][1] == points[1] and found[0].points <= points[0]
    assert all(e.flags == () for e in found)


def test_the_librarys_function_in_the_place_of_one_answer_does_not_bring_another_answer_along():
    steal = """
def soft_threshold(w, threshold):
    return w
soft_threshold = use("soft_threshold", soft_threshold)
def ista_step(w, gradient, step, lam):
    import sys
    soft_threshold
    return vars(sys.modules["course_lib.pruning.l1"])["ista_" + "step"](w, gradient, step, lam)
"""
    found = grade(notebook(steal, lesson="01_l1_pruning_math"), "eve", "01_l1_pruning_math", server(), seed=2)
    assert found.exercises[1].points == 0 and "KeyError" in found.exercises[1].message


def test_constants_helpers_and_classes_of_other_cells_come_along():
    cells = (
        "from dataclasses import dataclass\nimport math as m\nHALF = 1 / 2",
        "TABLE = {}\nTABLE['bits'] = 8\nfor power in (3, 6):\n    TABLE[power] = 10**power",
        "@dataclass\nclass Size:\n    bits: float\n    def __truediv__(self, by):\n        return self.bits * scale() / by",
        "def scale():\n    return 2 * HALF * m.cos(0)",
        "def megabytes(parameters: int, bits: float = TABLE['bits']) -> 'Size':\n    return Size(parameters * bits) / TABLE['bits'] / TABLE[6]",
    )  # fmt: skip
    found = grade(notebook(*cells), "ada", "00_start_here", server()).exercises[1]
    assert found.verdict == "solved", found


def test_helpers_of_the_library_come_along_and_are_told():
    cells = "from course_lib.pruning.masks import mask_by_sparsity\nimport torch\ndef sparsity(w):\n    mask_by_sparsity(torch.ones(4), 0.5)\n    return float((w == 0).float().mean())"
    found = grade(notebook(cells), "ada", "00_start_here", server()).exercises[0]
    assert found.verdict == "solved" and any("course_lib.pruning.masks" in f for f in found.flags), found
