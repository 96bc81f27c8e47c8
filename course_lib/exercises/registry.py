"""Which lessons there are, and the exercise or question of an id."""

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from types import ModuleType
from typing import Any

from course_lib.errors import CourseError
from course_lib.exercises.exercise import Exercise, Question

LESSONS = {  # file stem → part, in the order of the course
    "00_start_here": "0_start",
    "01_l1_pruning_math": "1_pruning",
    "02_which_weights_to_prune": "1_pruning",
    "04_removing_structure": "1_pruning",
    "06_linear_quantization": "2_quantization",
    "15_bert_ner_baseline": "4_bert_ner",
    "16_prune_bert": "4_bert_ner",
    "17_quantize_bert": "4_bert_ner",
    "21_int8_on_cpu": "4_bert_ner",
}


def lesson_module(stem: str) -> ModuleType:
    """The module with a lesson's ``EXERCISES`` and ``QUESTIONS``, ``course_lib.exercises.lessons.<topic>``.

    Raises:
        CourseError: no such lesson.
    """
    if stem not in LESSONS:
        raise CourseError(_unknown("lesson", stem, LESSONS))
    return importlib.import_module(f"course_lib.exercises.lessons.{stem.partition('_')[2]}")


def exercises(stem: str) -> tuple[Exercise, ...]:
    """The exercises of a lesson, in its order."""
    return tuple(lesson_module(stem).EXERCISES)


def questions(stem: str) -> tuple[Question, ...]:
    """The questions for reflection of a lesson, in its order."""
    return tuple(lesson_module(stem).QUESTIONS)


@cache
def all_exercises() -> dict[str, Exercise]:
    """Every exercise of the course by id."""
    return {e.id: e for stem in LESSONS for e in exercises(stem)}


@cache
def all_questions() -> dict[str, Question]:
    """Every question of the course by id."""
    return {q.id: q for stem in LESSONS for q in questions(stem)}


def find(exercise: str) -> Exercise:
    """The exercise of this id.

    Raises:
        CourseError: there is none; the message names close ones.
    """
    return _look_up("exercise", exercise, all_exercises())


def find_question(question: str) -> Question:
    """The question of this id, as :func:`find`."""
    return _look_up("question", question, all_questions())


def _look_up(what: str, name: object, known: dict) -> Any:
    if not isinstance(name, str):
        example = getattr(name, "__name__", next(iter(known)))
        raise CourseError(f'The name of the {what} comes first, in quotes, as in `"{example}"`.')
    if name not in known:
        raise CourseError(_unknown(what, name, known))
    return known[name]


def _unknown(what: str, name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.4)
    return f"There is no {what} {name!r}" + (f"; did you mean {' or '.join(map(repr, close))}?" if close else ".")
