"""What lessons there are and how far the learner is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from course_lib.classroom.layout import Lesson
from course_lib.errors import CourseError


@dataclass(frozen=True)
class Row:
    """One line of ``course list``.

    Attributes:
        path: the learner's copy where there is one, else the original; relative to the course's folder.
        title: of the lesson.
        minutes: it takes.
        points: that its exercises and questions are worth.
        earned: points of the learner's best answers so far.
        passed, exercises: how many exercises are solved, of how many.
    """

    path: Path
    title: str
    minutes: int
    points: float
    earned: float
    passed: int
    exercises: int


def rows(lessons: Sequence[Lesson], progress: dict) -> list[Row]:
    """A row for each lesson.

    Args:
        lessons: that have notebooks.
        progress: what :func:`course_lib.exercises.progress.read_progress` returns.
    Raises:
        CourseError: a notebook that ``course build`` did not make.
    """
    return [_row(lesson, progress["exercises"]) for lesson in lessons]


def _row(lesson: Lesson, solved: dict) -> Row:
    try:
        nb = json.loads(lesson.notebook.read_text("utf-8"))
        about = nb["metadata"]["course"]
        title, minutes, points = about["title"], about["minutes"], about["points"]
        ids = [cell["metadata"]["course"]["check"] for cell in nb["cells"] if "check" in cell["metadata"].get("course", {})]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{lesson.notebook}: not a notebook made by `course build` ({error!r}).") from error
    entries = [solved.get(exercise, {}) for exercise in ids]
    path = lesson.copy if lesson.copy.exists() else lesson.notebook
    earned = sum(entry.get("points", 0.0) for entry in entries)
    passed = sum(entry.get("state") == "passed" for entry in entries)
    return Row(path.relative_to(lesson.root), title, minutes, points, earned, passed, len(ids))
