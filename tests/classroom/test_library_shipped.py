"""What of the library goes to an answer: modules by need, without the answers to exercises."""

import ast

import pytest

from course_lib.classroom.library import KEPT_BACK, is_reference, modules_for, place
from course_lib.exercises.registry import all_exercises, find


def defined(source: str) -> set[str]:
    return {n.name for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def test_a_reference_is_known_under_every_name_it_has():
    reference = find("soft_threshold").reference
    assert place(reference) == ("course_lib.pruning.l1", "soft_threshold")
    assert is_reference("course_lib.pruning.l1.soft_threshold", reference)
    assert is_reference("course_lib.exercises.lessons.l1_pruning_math.soft_threshold", reference) is False, "kept back anyway"
    for name in (
        "soft_threshold",
        "course_lib.pruning.l1.ista_step",
        "course_lib.nowhere.soft_threshold",
        "os.path.soft_threshold",
        "",
    ):
        assert not is_reference(name, reference)


def test_nothing_of_the_library_is_sent_where_none_is_named():
    assert modules_for([]) == {} == modules_for(["torch.nn", "course_library.x"])


def test_a_module_comes_with_what_it_imports_and_its_packages():
    found = modules_for(["course_lib.pruning.l1.lasso_loss"])
    assert {"course_lib", "course_lib.pruning", "course_lib.pruning.l1", "course_lib.errors"} <= set(found)
    assert "exercises" not in "".join(m for m in found if m != "course_lib.exercises")


def test_answers_to_exercises_are_cut_out_unless_named():
    every = {e.reference.__name__ for e in all_exercises().values() if e.reference.__module__ == "course_lib.pruning.l1"}
    assert len(every) >= 4
    source = modules_for(["course_lib.pruning.l1.lasso_loss"])["course_lib.pruning.l1"]
    assert "lasso_loss" in defined(source) and not every & defined(source)
    source = modules_for(["course_lib.pruning.l1.soft_threshold"])["course_lib.pruning.l1"]
    assert every & defined(source) == {"soft_threshold"}


def test_an_answer_of_the_library_comes_with_the_answers_that_it_calls():
    source = modules_for([], [find("ista_step").reference])["course_lib.pruning.l1"]
    assert {"ista_step", "soft_threshold"} <= defined(source) and "lasso_violation" not in defined(source)


@pytest.mark.parametrize("back", KEPT_BACK)
def test_cases_and_checks_are_never_sent(back):
    found = modules_for([f"{back}.lessons.start_here.EXERCISES", f"{back}.judge", back, "course_lib.exercises.check"])
    assert not [m for m in found if m.startswith(back) and m != "course_lib.exercises"]
    assert "Exercise" not in found["course_lib.exercises"] and "def use" in found["course_lib.exercises"]


def test_strange_names_bring_nothing():
    for name in ("course_lib.../../etc/passwd", "course_lib.pruning.l1\0", "course_lib.exercises/../plan.x", "course_lib."):
        assert set(modules_for([name])) <= {"course_lib", "course_lib.exercises", "course_lib.pruning"}
