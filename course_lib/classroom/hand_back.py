"""Everything that is made from results: points of open answers merged, gradebook, feedback, summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from course_lib.artifacts import new_folder, write_text
from course_lib.classroom.feedback import feedback_page, page_name
from course_lib.classroom.gradebook import Row, columns, csv_of, rows
from course_lib.classroom.manual import Given, Key, merge, reading_page
from course_lib.classroom.parts import OpenQuestion
from course_lib.classroom.results import Result
from course_lib.classroom.summary import summary_page


@dataclass(frozen=True)
class Book:
    """The class as a table.

    Attributes:
        rows: one for each student.
        given: points of open answers.
        most: points that the part is worth.
    """

    rows: list[Row]
    given: dict[Key, Given]
    most: float


def hand_back(
    results: Sequence[Result],
    lessons: Mapping[str, Sequence[str]],
    questions: Sequence[OpenQuestion],
    part: str,
    out: Path,
    about: Mapping[str, object],
) -> Book:
    """Write ``gradebook.csv``, ``feedback/``, ``summary.html``, ``open_answers.html`` and ``open_points.csv``; equal results, equal bytes.

    Args:
        results: sorted by student.
        lessons: of the part: stem → ids of its exercises.
        questions: its open questions.
        part: its name.
        out: folder of results.
        about: version, engine, tier and seed of the run.
    Raises:
        CourseError: points in ``open_points.csv`` are not as they should be, or a file cannot be written.
    """
    given = merge(out / "open_points.csv", results, questions)
    worth = columns(lessons, questions)
    book = Book(rows(results, given), given, sum(worth.values()))
    write_text(out / "gradebook.csv", csv_of(book.rows, worth))
    write_text(out / "open_answers.html", reading_page(results, questions, given, f"Open answers: {part}"))
    of_student = {student: list(found) for student, found in groupby(results, key=lambda r: r.student)}
    with new_folder(out / "feedback") as folder:
        for row in book.rows:
            page = feedback_page(row, of_student[row.student], questions, given, part, book.most)
            (folder / page_name(row.student)).write_text(page, "utf-8")
    write_text(out / "summary.html", summary_page(book.rows, results, part, book.most, about))
    return book
