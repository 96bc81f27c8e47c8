"""A result of grading as a line of JSON, and back."""

import dataclasses

import pytest

from course_lib.classroom.results import CaseResult, ExerciseResult, OpenAnswer, Result, from_json, to_json

EXERCISE = ExerciseResult(
    "ista_step", 1.5, 3, "partial", "λ is lost\nhere", "no_penalty", (CaseResult("a step of 1", False, "it is ½"),), ("odd",)
)
RESULT = Result(
    "ada",
    "01_l1_pruning_math",
    "ab" * 32,
    "0.1.0",
    7,
    "namespaces",
    "functions",
    (EXERCISE,),
    (OpenAnswer("why", "–", 2),),
    ("f",),
)


def test_a_result_comes_back_from_its_line_as_it_was():
    line = to_json(RESULT)
    assert line.isascii() and "\n" not in line
    assert from_json(line) == RESULT
    assert to_json(from_json(line)) == line


def test_the_points_of_a_result_are_those_of_its_exercises():
    assert (RESULT.points, RESULT.max_points) == (1.5, 3)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", to_json(RESULT)[:-1], '{"exercises": [{}], "answers": []}'])
def test_what_is_no_result_is_said(text):
    with pytest.raises(ValueError):
        from_json(text)


@pytest.mark.parametrize("change", [{"points": 3.5}, {"points": -1.0}, {"points": float("nan")}, {"verdict": "good"}])
def test_an_exercise_cannot_earn_more_than_it_is_worth_nor_have_another_verdict(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(EXERCISE, **change)


@pytest.mark.parametrize("change", [{"tier": "none"}, {"engine": "nbgrader"}])
def test_tier_and_engine_are_known_ones(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(RESULT, **change)
