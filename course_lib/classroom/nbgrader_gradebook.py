"""Scores into nbgrader's own gradebook, through its API, so that formgrader and ``nbgrader export`` show them.

Beside a gradebook in a file, ``autograded/`` gets each notebook as it was handed in, without outputs: formgrader lists what is
there, and opens it for comments. Points that somebody gave in formgrader stay, unless ``open_points.csv`` has others.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.artifacts import require_writable, write_text
from course_lib.classroom.layout import Lesson, classroom
from course_lib.classroom.manual import Given, Key
from course_lib.classroom.results import Result
from course_lib.classroom.submissions import Submission, read_submission
from course_lib.errors import CourseError, expect

if TYPE_CHECKING:
    from nbgrader.api import Gradebook
LARGE = 5_000_000  # bytes of a notebook that is not prepared for formgrader: what made it so large may be made to take hours
FILE = "sqlite:///"  # then the path, as nbgrader writes it


def require_gradebook(url: str) -> None:
    """Find out before any work whether a gradebook can be written.

    Raises:
        CourseError: nbgrader is not installed, or the file's folder cannot be written.
    """
    classroom("nbgrader")
    if url.startswith(FILE):
        require_writable(Path(url.removeprefix(FILE)).absolute().parent)


def write_gradebook(
    url: str,
    root: Path,
    part: str,
    results: Sequence[Result],
    given: Mapping[Key, Given],
    submissions: Sequence[Submission] = (),
) -> None:
    """Write a class's scores.

    Args:
        url: of the database, as ``sqlite:///gradebook.db``; made when missing.
        root: the course's folder.
        part: the assignment.
        results: of the class.
        given: what a person gave to open answers.
        submissions: whose notebooks formgrader is to show.
    Raises:
        CourseError: nbgrader is not installed, the database cannot be opened, or its assignment has other cells.
    """
    from nbgrader.api import Gradebook
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _undisturbed(), Gradebook(url) as book:
            _define(book, url, root, part, {r.lesson for r in results if r.lesson})
            for student in sorted({r.student for r in results}):
                book.update_or_create_student(student)
                book.update_or_create_submission(part, student)
            lessons = {notebook.name for notebook in book.find_assignment(part).notebooks}
            for result in results:
                if result.lesson in lessons:
                    _score(book, part, result, given)
            handed_in = {(r.student, r.lesson) for r in results}
            for student in sorted({r.student for r in results}):
                for lesson in sorted(lessons - {at for who, at in handed_in if who == student}):
                    _nothing(book, part, lesson, student)
            book.db.commit()
    except (SQLAlchemyError, RuntimeError) as error:
        raise CourseError(f"{url}: nbgrader's gradebook cannot be written: {str(error).splitlines()[0]}") from error
    if url.startswith(FILE) and submissions:
        _autograded(url, Path(url.removeprefix(FILE)).absolute().parent, part, submissions)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """nbgrader calls a program, alembic, to make a database: the one beside this Python, whether that is activated or not.

    SQLAlchemy's warnings about nbgrader's own code are nothing that a user can do anything about.
    """
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{before}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ["PATH"] = before


def _define(book: "Gradebook", url: str, root: Path, part: str, lessons: set[str]) -> None:
    """The assignment, as ``nbgrader generate_assignment`` defines it; notebooks that are defined stay as they are."""
    import nbformat
    from nbgrader.preprocessors import SaveCells

    book.update_or_create_assignment(part)
    known = {notebook.name for notebook in book.find_assignment(part).notebooks}
    for stem in sorted(lessons - known):
        nb = nbformat.read(Lesson(root, part, stem).notebook, as_version=4)
        SaveCells().preprocess(nb, {"nbgrader": {"notebook": stem, "assignment": part, "db_url": url}})
    book.db.expire_all()  # another connection wrote it


def _score(book: "Gradebook", part: str, result: Result, given: Mapping[Key, Given]) -> None:
    points = {f"check_{e.id}": e.points for e in result.exercises}
    answers = {a.id for a in result.answers}
    notebook = book.find_submission_notebook(result.lesson, part, result.student)
    for grade in notebook.grades:
        mark = given.get((result.student, result.lesson, grade.name))
        if grade.name in points:
            grade.auto_score, grade.needs_manual_grade = points[grade.name], False
        elif mark is not None:
            grade.manual_score, grade.needs_manual_grade = mark.points, False
        elif grade.name in answers:
            grade.needs_manual_grade = grade.manual_score is None
        else:
            grade.auto_score, grade.needs_manual_grade = 0.0, False
    for comment in notebook.comments:
        mark = given.get((result.student, result.lesson, comment.name))
        if mark is not None and mark.comment:
            comment.manual_comment = mark.comment


def _nothing(book: "Gradebook", part: str, lesson: str, student: str) -> None:
    """A notebook that was not handed in: no points, nothing to grade, as ``nbgrader autograde`` does."""
    for grade in book.find_submission_notebook(lesson, part, student).grades:
        grade.auto_score, grade.needs_manual_grade = 0.0, False


def _autograded(url: str, folder: Path, part: str, submissions: Sequence[Submission]) -> None:
    """Notebooks for formgrader, with the gradebook's metadata and text of locked cells, and no outputs."""
    for submission in submissions:
        target = folder / "autograded" / submission.student / part
        target.mkdir(parents=True, exist_ok=True)
        if submission.path is not None:
            write_text(target / f"{submission.lesson}.ipynb", _mended(url, part, submission))


def _mended(url: str, part: str, submission: Submission) -> str:
    import nbformat

    from course_lib.classroom.nbgrader_steps import MendCells

    try:
        data = read_submission(submission)
        expect(len(data) <= LARGE, "bytes", len(data), f"at most {LARGE}")
        nb = nbformat.reads(data.decode("utf-8"), as_version=4)
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        resources: dict[str, Any] = {"nbgrader": {"notebook": submission.lesson, "assignment": part, "db_url": url}}
        return nbformat.writes(MendCells().preprocess(nb, resources)[0])
    except Exception as error:  # a notebook that is none: something must be there to open
        text = f"This notebook could not be opened ({type(error).__name__}). See it as it was handed in: {os.fspath(submission.path)!r}"
        return nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell(text)]))
