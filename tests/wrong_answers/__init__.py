"""Answers that learners might give: named wrong ones, each with the message it must get, and correct variants.

A file per lesson, named after its topic: ``start_here.py`` for ``00_start_here``. See the README beside this file.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One answer to an exercise.

    Attributes:
        exercise: its id.
        function: the answer: a function, or a class where the exercise asks for one.
        says: part of the message a wrong answer must get, and no other wrong answer of the exercise gets; None for a right one.
    """

    exercise: str
    function: Callable
    says: str | None = None

    @property
    def name(self) -> str:
        return self.function.__name__


_ANSWERS: list[Answer] = []


def wrong(exercise: str, says: str) -> Callable[[Callable], Callable]:
    """Mark a function as a wrong answer; its name is the name of the mistake."""

    def mark(function: Callable) -> Callable:
        _ANSWERS.append(Answer(exercise, function, says))
        return function

    return mark


def right(exercise: str) -> Callable[[Callable], Callable]:
    """Mark a function as a correct variant."""

    def mark(function: Callable) -> Callable:
        _ANSWERS.append(Answer(exercise, function))
        return function

    return mark


def answers(topic: str) -> list[Answer]:
    """All answers in the file of a lesson."""
    module = importlib.import_module(f"{__name__}.{topic}")
    return [a for a in _ANSWERS if a.function.__module__ == module.__name__]
