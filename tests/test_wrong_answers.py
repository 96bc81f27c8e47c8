"""Every exercise of every lesson against the answers learners give: what each earns, and what each is told."""

import ast
import functools
import itertools
import json
from pathlib import Path

import pytest
from wrong_answers import answers

from course_lib.exercises.checks import run_check
from course_lib.exercises.judge import Verdict
from course_lib.exercises.registry import LESSONS, exercises
from course_lib.exercises.run import run_cases
from course_lib.exercises.values import same

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SEEDS = range(5)
WALK = [pytest.param(stem, exercise, id=f"{stem}-{exercise.id}") for stem in LESSONS for exercise in exercises(stem)]
every_exercise = pytest.mark.parametrize("stem, exercise", WALK)


def known(stem: str, exercise, wrong: bool) -> list:
    """The wrong answers, or the correct variants, of an exercise."""
    found = [a for a in answers(stem.partition("_")[2]) if a.exercise == exercise.id]
    return [a for a in found if (a.says is not None) == wrong]


@functools.cache
def verdicts(exercise, function) -> list[Verdict]:
    return [run_check(exercise, function, seed) for seed in SEEDS]


def stub(*args):
    raise NotImplementedError()


def built_stub(notebook: Path, exercise: str):
    """What a learner finds in the built notebook in the place of the answer; defined among the lesson's imports."""
    cells = [c for c in json.loads(notebook.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    names: dict = {}
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        theirs = cell["metadata"].get("course", {}).get("exercise") == exercise
        wanted = tree.body if theirs else [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(wanted, []), notebook.name, "exec"), names)
    return names[exercise]


@pytest.mark.parametrize("stem", LESSONS)
def test_the_answers_of_a_lesson_belong_to_its_exercises(stem):
    of = {a.exercise for a in answers(stem.partition("_")[2])}
    assert of == {e.id for e in exercises(stem)}


@every_exercise
def test_an_exercise_has_at_least_three_wrong_answers_and_two_correct_variants(stem, exercise):
    assert len(known(stem, exercise, wrong=True)) >= 3
    assert len(known(stem, exercise, wrong=False)) >= 2


@every_exercise
def test_the_reference_earns_full_marks(stem, exercise):
    for verdict in verdicts(exercise, exercise.reference):
        assert verdict.state == "passed" and verdict.points == exercise.points, verdict.message


@every_exercise
def test_a_stub_earns_nothing_and_counts_as_not_attempted(stem, exercise):
    notebook = NOTEBOOKS / LESSONS[stem] / f"{stem}.ipynb"
    for function in [stub, built_stub(notebook, exercise.id)] if notebook.exists() else [stub]:
        for verdict in verdicts(exercise, function):
            assert verdict.state == "not attempted" and verdict.points == 0


def test_the_stub_of_a_built_notebook_is_what_stands_in_its_cell(tmp_path):
    def cell(source: str, **course) -> dict:
        return {"cell_type": "code", "source": source.splitlines(keepends=True), "metadata": {"course": course}}

    cells = [
        {"cell_type": "markdown", "source": ["# f"], "metadata": {}},
        cell("import math\nmath.undefined()"),
        cell("def f(x: math.nan = math.pi):\n    raise NotImplementedError(x)", exercise="f"),
        cell("def f(x):\n    return 1", exercise="g"),
    ]
    (tmp_path / "nb.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(NotImplementedError, match=r"3\.14"):
        built_stub(tmp_path / "nb.ipynb", "f")()


@every_exercise
def test_each_wrong_answer_loses_points_and_gets_a_message_of_its_own(stem, exercise):
    wrong = known(stem, exercise, wrong=True)
    messages = {a.name: [v.message for v in verdicts(exercise, a.function)] for a in wrong}
    for answer in wrong:
        print(f"{answer.name}: {messages[answer.name][0]}")
        for verdict in verdicts(exercise, answer.function):
            assert verdict.state == "wrong" and verdict.points < exercise.points, answer.name
            assert answer.says in verdict.message, f"{answer.name}: {verdict.message}"
        for other in wrong:
            if other is not answer:
                told = " ".join(messages[other.name])
                assert answer.says not in told, f"{answer.name} and {other.name} are told the same: {answer.says!r}"


@every_exercise
def test_each_correct_variant_earns_full_marks(stem, exercise):
    for answer in known(stem, exercise, wrong=False):
        for verdict in verdicts(exercise, answer.function):
            assert verdict.state == "passed" and verdict.points == exercise.points, f"{answer.name}: {verdict.message}"


@every_exercise
def test_each_misconception_is_recognised_as_itself(stem, exercise):
    for misconception in exercise.misconceptions:
        for verdict in verdicts(exercise, misconception.mistake):
            assert verdict.state == "wrong" and verdict.misconception == misconception.name
            assert verdict.message


@every_exercise
def test_two_misconceptions_give_different_outputs_on_some_case(stem, exercise):
    names = [m.name for m in exercise.misconceptions]
    assert len(set(names)) == len(names)
    cases = exercise.draw(0)
    outcomes = {m.name: run_cases(m.mistake, cases, exercise.seconds) for m in exercise.misconceptions}
    for a, b in itertools.combinations(names, 2):
        assert any(x.error != y.error or not same(x.output, y.output) for x, y in zip(outcomes[a], outcomes[b], strict=True)), (
            f"{a} and {b} are the same mistake on every case"
        )
