"""The points of grading are those of the notebook's own check: for solutions, stubs, wrong answers and correct variants."""

import ast
import itertools
from pathlib import Path

import pytest
import wrong_answers
from hand_in import MEGABYTES, SPARSITY, close, notebook, server

from course_lib.classroom import grade_one
from course_lib.classroom.grade_one import BRINGS_REFERENCE, OpenQuestion, Settings, grade
from course_lib.classroom.results import CALLS_REFERENCE
from course_lib.exercises.checks import run_check
from course_lib.exercises.judge import judge
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


KEEPS = """
import torch
def soft_threshold(w, threshold):
    {name}
    import builtins
    builtins.kept = ista_step
    return w.sign() * (w.abs() - threshold).clamp(min=0)
def ista_step(w, gradient, step, lam):
    import builtins
    return builtins.kept(w, gradient, step, lam)
"""
NAMES = {
    "itself": "from course_lib.pruning.l1 import ista_step",
    "a module": "from course_lib.pruning import l1; ista_step = l1.ista_step",
    "a helper": "from course_lib.pruning.l1 import ista; ista_step = ista.__globals__['ista_step']",
}


@pytest.mark.parametrize("reference_earns", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_reference_that_one_exercise_named_is_gone_when_its_own_is_graded(name, reference_earns):
    data = notebook(KEEPS.format(name=NAMES[name]).replace("def ista_step", "\ndef ista_step"), lesson="01_l1_pruning_math")
    found = grade(data, "eve", "01_l1_pruning_math", server(), 2, Settings(reference_earns)).exercises
    assert found[0].points == (3 if reference_earns else 0), "it brings soft_threshold along, which is this exercise's own"
    assert CALLS_REFERENCE in found[0].flags and "uses course_lib.pruning" in " ".join(found[0].flags)
    assert found[1].points == 0 and "AttributeError" in found[1].message, found[1]


THROUGH = """
from course_lib.pruning.l1 import ista
import torch
def ista_step(w, gradient, step, lam):
    return ista.__globals__["ista_" + "step"](w, gradient, step, lam)
def threshold_for_sparsity(w, sparsity):
    ista(torch.eye(2), torch.ones(2), 0.1)
    return 0.0 if not (k := round(sparsity * w.numel())) else float(w.abs().flatten().sort().values[k - 1])
"""


@pytest.mark.parametrize("reference_earns", [True, False])
def test_a_helper_of_the_library_keeps_the_answers_that_it_calls_and_one_that_is_asked_for_is_told(reference_earns):
    data = notebook(THROUGH, lesson="01_l1_pruning_math")
    result = grade(data, "eve", "01_l1_pruning_math", server(), 2, Settings(reference_earns))
    found = {e.id: e for e in result.exercises}
    step, threshold = found["ista_step"], found["threshold_for_sparsity"]
    assert CALLS_REFERENCE in step.flags and (step.points, step.verdict) == (
        (3, "solved") if reference_earns else (0, "refused")
    )
    assert threshold.points == 3 and threshold.flags == ("uses course_lib.pruning.l1",), "as in the notebook"


def test_a_module_of_the_library_can_be_imported_though_answers_that_it_imports_are_cut_out():
    source = """
from course_lib.pruning.movement import movement_scores
from course_lib.pruning import masks
import torch
def sparsity(w):
    movement_scores(torch.ones(2), torch.ones(2), torch.ones(2))
    return {returned}
"""
    right, cut = (
        grade(notebook(source.format(returned=r)), "ada", "00_start_here", server()).exercises[0]
        for r in ("float((w == 0).float().mean())", "getattr(masks, 'spar' + 'sity')(w)")
    )
    assert right.verdict == "solved" and right.flags == ("uses course_lib.pruning.movement",), right
    assert cut.points == 0 and "the library's sparsity answers an exercise and is not given here" in cut.message


def test_what_the_stand_in_of_an_answer_brings_along_is_told():
    steal = """
def mask_by_sparsity(scores, sparsity):
    return None
mask_by_sparsity = use("mask_by_sparsity", mask_by_sparsity)
def global_masks(scores, sparsity):
    return mask_by_sparsity.__globals__["global_" + "masks"](scores, sparsity)
"""
    stem = "02_which_weights_to_prune"
    found = grade(notebook(steal, lesson=stem), "eve", stem, server(), seed=2).exercises[1]
    assert BRINGS_REFERENCE in found.flags


class Counting:
    """A server that counts its children."""

    def __init__(self, of):
        self.of, self.forks, self.tier, self.end = of, 0, of.tier, of.end

    def fork(self):
        self.forks += 1
        return self.of.fork()


@pytest.mark.parametrize("stem, part", LESSONS.items())
def test_an_honest_notebook_has_one_child(stem, part):
    counting = Counting(server())
    for folder in ("solutions", "notebooks"):
        grade((ROOT / folder / part / f"{stem}.ipynb").read_bytes(), "ada", stem, counting, seed=5)
    assert counting.forks == 2


def test_an_answer_that_goes_on_with_the_librarys_in_the_place_of_another_has_no_child_of_its_own():
    counting = Counting(server())
    grade(notebook(USES_THE_FIRST.format(first="return w"), lesson="01_l1_pruning_math"), "ada", "01_l1_pruning_math", counting)
    assert counting.forks == 1


def test_an_error_of_the_judge_costs_one_exercise_and_no_other(monkeypatch):
    def broken(exercise, cases, outcomes):
        if exercise.id == "sparsity":
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
        return judge(exercise, cases, outcomes)

    monkeypatch.setattr(grade_one, "judge", broken)
    first, second = grade(notebook(f"import torch\n{SPARSITY}", MEGABYTES), "ada", "00_start_here", server()).exercises
    assert (first.verdict, first.points) == ("refused", 0) and "RuntimeError" in first.message
    assert second.points == second.max_points


@pytest.mark.parametrize(
    "told", [{}, {"lesson": 3}, {"exercises": {}}, {"sources": [1]}, {"answers": {"why": 3}}, {"language": []}]
)
def test_what_is_told_of_a_notebook_and_makes_no_sense_is_a_notebook_that_cannot_be_read(told, monkeypatch):
    read = grade_one.Session.read
    monkeypatch.setattr(grade_one.Session, "read", lambda *given: (read(*given) | told) if told else {})
    question = OpenQuestion("why", "Why?", 2.0)
    result = grade(notebook(SPARSITY, MEGABYTES), "ada", "00_start_here", server(), questions=[question])
    assert "incomplete" in result.error and result.points == 0


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
