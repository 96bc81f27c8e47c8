"""Points of a class as one table: ``gradebook.csv``, a row for each student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from course_lib.classroom.manual import Given, Key, cell, table
from course_lib.classroom.parts import OpenQuestion
from course_lib.classroom.results import Result


@dataclass
class Row:
    """One student.

    Attributes:
        student: their name.
        points: column → points; a lesson that was not handed in has none.
        waiting: open answers that nobody has graded yet.
        flags: for the instructor.
    """

    student: str
    points: dict[str, float] = field(default_factory=dict)
    waiting: int = 0
    flags: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """The sum of all points."""
        return round(sum(self.points.values()), 4)


def columns(lessons: Mapping[str, Sequence[str]], questions: Sequence[OpenQuestion]) -> dict[str, float]:
    """Column → points it is worth, by lesson: its exercises, then its open questions."""
    from course_lib.exercises.registry import find

    found = {}
    for lesson, exercises in lessons.items():
        found |= {column(lesson, e): find(e).points for e in exercises}
        found |= {column(lesson, q.id): q.points for q in questions if q.lesson == lesson}
    return found


def column(lesson: str, name: str) -> str:
    """The name of a column.

    >>> column("01_l1_pruning_math", "soft_threshold")
    '01 soft_threshold'
    """
    return f"{lesson[:2]} {name}"


def rows(results: Sequence[Result], given: Mapping[Key, Given]) -> list[Row]:
    """A row for each student, by name."""
    by_student: dict[str, Row] = {}
    for r in results:
        row = by_student.setdefault(r.student, Row(r.student))
        row.points |= {column(r.lesson, e.id): e.points for e in r.exercises}
        for answer in r.answers:
            mark = given.get((r.student, r.lesson, answer.id))
            row.waiting += mark is None
            if mark:
                row.points[column(r.lesson, answer.id)] = mark.points
        row.flags += [f"{r.lesson or 'no lesson'}: {text}" for text in flags_of(r)]
    return [by_student[name] for name in sorted(by_student)]


def flags_of(result: Result) -> list[str]:
    """All that an instructor should look at in one notebook."""
    about = [f"{result.error} ({flag})" if result.error and not i else flag for i, flag in enumerate(result.flags)]
    if result.error and not about:
        about = [result.error]
    about += [f"{e.id}: {e.message}" for e in result.exercises if e.verdict in ("crashed", "refused")]
    return about + [f"{e.id}: {flag}" for e in result.exercises for flag in e.flags]


def csv_of(table_rows: Sequence[Row], worth: Mapping[str, float]) -> str:
    """The table as CSV: a line with what everything is worth, then a line for each student."""
    head = ["student", *worth, "points", "max_points", "waiting", "flags"]
    most = sum(worth.values())
    lines = [
        [cell(r.student), *(f"{r.points[c]:g}" if c in r.points else "" for c in worth), f"{r.total:g}", f"{most:g}", r.waiting]
        + [cell("; ".join(r.flags))]
        for r in table_rows
    ]
    return table([head, *lines])
