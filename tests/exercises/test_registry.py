"""Lessons, exercises and questions by name."""

import pytest

from course_lib.errors import CourseError
from course_lib.exercises import registry
from course_lib.exercises.registry import LESSONS, exercises, find, find_question, lesson_module, questions


@pytest.mark.parametrize("stem", LESSONS)
def test_a_lesson_has_exercises_and_three_questions_for_reflection(stem):
    assert lesson_module(stem).__doc__
    assert len(exercises(stem)) >= (1 if stem.startswith("00") else 3) and len(questions(stem)) >= 3


def test_ids_are_unique_in_the_course():
    ids = [e.id for stem in LESSONS for e in exercises(stem)]
    assert len(set(ids)) == len(ids) == len(registry.all_exercises())
    ids = [q.id for stem in LESSONS for q in questions(stem)]
    assert len(set(ids)) == len(ids) == len(registry.all_questions())


def test_the_reference_of_an_exercise_has_its_name_and_a_docstring():
    for exercise in registry.all_exercises().values():
        assert exercise.reference.__name__ == exercise.id and exercise.reference.__doc__


def test_every_exercise_and_question_is_found_by_its_id():
    assert all(find(name) is e for name, e in registry.all_exercises().items())
    assert all(find_question(name) is q for name, q in registry.all_questions().items())


@pytest.mark.parametrize(
    "look_up, name, words",
    [
        (find, "sparcity", "There is no exercise 'sparcity'; did you mean 'sparsity'"),
        (find_question, "why_predct", "There is no question 'why_predct'; did you mean 'why_predict'"),
        (lesson_module, "00_start", "There is no lesson '00_start'; did you mean '00_start_here'"),
        (lesson_module, "xyz", r"There is no lesson 'xyz'\.$"),
        (find_question, 3, 'The name of the question comes first, in quotes, as in `"zeros_and_bytes"`'),
    ],
)
def test_a_name_that_is_not_there_names_close_ones(look_up, name, words):
    with pytest.raises(CourseError, match=words):
        look_up(name)
