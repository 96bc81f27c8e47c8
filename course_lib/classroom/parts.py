"""What a part asks: its lessons, their exercises, and the open questions with their model answers."""

import re
from dataclasses import dataclass
from pathlib import Path

from course_lib.artifacts import read_json
from course_lib.classroom.layout import Lesson
from course_lib.classroom.marks import without_solution
from course_lib.errors import CourseError, did_you_mean
from course_lib.exercises.registry import LESSONS, exercises

MODEL = re.compile(r"<!-- BEGIN SOLUTION -->\n?(.*?)\n?<!-- END SOLUTION -->", re.DOTALL)


@dataclass(frozen=True)
class OpenQuestion:
    """A question that a person grades.

    Attributes:
        lesson, id: where it is asked, and its id.
        points: it is worth.
        text: the question, in markdown.
        model: the model answer, in markdown.
    """

    lesson: str
    id: str
    points: float
    text: str
    model: str


def find_part(name: str) -> str:
    """The part of this name, number or topic: ``1_pruning``, ``1`` or ``pruning``.

    Raises:
        CourseError: there is none; the message names what there is.
    """
    parts = list(dict.fromkeys(LESSONS.values()))
    plain = Path(name).name
    for part in parts:
        if plain in (part, *part.split("_", 1)):
            return part
    raise CourseError(f"There is no part {name!r}.{did_you_mean(plain, parts)} Parts: {', '.join(parts)}.")


def lessons_of(part: str) -> dict[str, list[str]]:
    """Stem → ids of its exercises, for each lesson of a part, in the order of the course."""
    return {stem: [e.id for e in exercises(stem)] for stem, of in LESSONS.items() if of == part}


def open_questions(root: Path, part: str) -> list[OpenQuestion]:
    """The open questions of a part, in its order.

    Raises:
        CourseError: a solution is missing; `course build` makes it.
    """
    found = []
    for stem in lessons_of(part):
        for cell in read_json(Lesson(root, part, stem).solution)["cells"]:
            name = cell["metadata"].get("course", {}).get("open")
            if name:
                source = "".join(cell["source"])
                model = "\n\n".join(MODEL.findall(source)).strip()
                points = cell["metadata"]["nbgrader"]["points"]
                found.append(OpenQuestion(stem, name, points, without_solution(source).strip(), model))
    return found


def asked(root: Path, part: str) -> dict[str, tuple]:
    """Stem → the lesson's open questions as students got them, for :func:`course_lib.classroom.grade_one.grade`.

    Raises:
        CourseError: a notebook is missing.
    """
    from course_lib.classroom.grade_one import open_questions as of_notebook

    return {stem: of_notebook(Lesson(root, part, stem).notebook) for stem in lessons_of(part)}
