"""An exercise as data: its cases are drawn by seed, and what it is made of is checked."""

import dataclasses

import pytest
import torch
from samples import CLIP, COUNTER, ROOM

from course_lib.exercises.exercise import Case, Choice, Question
from course_lib.exercises.values import same


def arguments(cases):
    return [c.args for c in cases]


def test_equal_seeds_give_equal_cases_and_others_do_not():
    assert same(arguments(CLIP.draw(1)), arguments(CLIP.draw(1)))
    assert not same(arguments(CLIP.draw(1)), arguments(CLIP.draw(2)))


def test_exercises_draw_differently():
    other = dataclasses.replace(CLIP, id="other")
    assert not same(arguments(CLIP.draw(1)), arguments(other.draw(1)))


def test_the_largest_seed_can_be_drawn_from():
    assert CLIP.draw(2**31 - 1)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"id": "two words"}, "id = 'two words': expected the name of a function"),
        ({"points": 0}, "points = 0: expected a number above 0"),
        ({"difficulty": 6}, "difficulty = 6: expected 1 to 5"),
        ({"hints": ("one",)}, "expected two or three hints"),
    ],
)
def test_an_exercise_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CLIP, **change)


def test_a_question_has_one_right_choice_or_an_explained_number():
    wrong = Choice("a", "no")
    for parts in ({"choices": (wrong, wrong)}, {"choices": (Choice("b", "yes", True),) * 2}, {}):
        with pytest.raises(ValueError, match="expected one right choice, or a number"):
            Question("q", "?", **parts)
    with pytest.raises(ValueError, match="expected a reason for the number"):
        Question("q", "?", number=1.0)
    assert ROOM[0].choices[1].right and ROOM[1].number == 6


def test_the_size_of_a_case_counts_the_numbers_in_it():
    assert Case("c", (torch.zeros(2, 3), 1.0, [1, 2], {"a": torch.zeros(4)})).size == 13
    assert COUNTER.draw(0)[1].size == 1 + 2 * 2  # an argument; two calls of a name and a number
