"""Scores into nbgrader's own gradebook, through its API, so that formgrader and ``nbgrader export`` show them.

Beside a gradebook in a file, ``autograded/`` gets each notebook as it was handed in, without outputs: formgrader lists what is
there, and opens it for comments. Points that somebody gave in formgrader stay, unless ``open_points.csv`` has others.

Notebooks are prepared for formgrader in a process of its own, with limits on time and memory: none of their code runs, but what
was handed in may be made to take hours to read.
"""

import contextlib
import multiprocessing
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
    from multiprocessing.connection import Connection

    from nbgrader.api import Gradebook
LARGE = 5_000_000  # bytes of a notebook that is not prepared for formgrader
SECONDS = 30.0  # for one notebook
MEMORY = 4 << 30  # bytes of address space of the process that prepares them
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
    """Notebooks for formgrader, with the gradebook's metadata and text of locked cells, and no outputs.

    A student whose name is too long for a folder is in the gradebook, but formgrader has nothing of theirs to open.
    """
    with contextlib.closing(_Mender(url, part)) as mender:
        for submission in submissions:
            target = folder / "autograded" / submission.student / part
            try:
                target.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                warnings.warn(f"{submission.student[:60]}: no folder for formgrader ({error.__class__.__name__})", stacklevel=2)
                continue
            if submission.path is not None:
                write_text(target / f"{submission.lesson}.ipynb", mender.mended(submission))


class _Mender:
    """A process that prepares one notebook after another; a new one after each that took too much."""

    def __init__(self, url: str, part: str):
        self._about, self._process, self._pipe = (url, part), None, None

    def mended(self, submission: Submission) -> str:
        """The text of a notebook as formgrader opens it; of another one that says why, where that is not possible."""
        try:
            data = read_submission(submission)
            expect(len(data) <= LARGE, "bytes", len(data), f"at most {LARGE}")
            why, text = self._asked((submission.lesson, data))
        except Exception as error:  # it cannot be read any more, or is too large
            why, text = type(error).__name__, None
        return text or _instead(why, os.fspath(submission.path))

    def _asked(self, piece: tuple[str, bytes]) -> tuple[str, str | None]:
        """Why there is no text, and the text."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")  # nothing of this process, and no thread, is in it
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_mend, args=(theirs, *self._about), daemon=True)
            self._process.start()
            theirs.close()
            if not self._pipe.poll(120):  # it loads nbgrader
                self.close()
                return "its process did not start", None
            self._pipe.recv()
        try:
            self._pipe.send(piece)
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
            why = f"not done within {SECONDS:g} seconds"
        except (EOFError, OSError):
            why = "its process ended"
        self.close()
        return why, None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None


def _mend(pipe: "Connection", url: str, part: str) -> None:
    """In the process: prepare notebooks until the pipe ends."""
    from course_lib.classroom import nbgrader_steps  # noqa: F401

    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            lesson, data = pipe.recv()
            try:
                pipe.send(("", _mended(url, part, lesson, data)))
            except Exception as error:  # a notebook that is none
                pipe.send((type(error).__name__, None))


def _mended(url: str, part: str, lesson: str, data: bytes) -> str:
    import nbformat

    from course_lib.classroom.nbgrader_steps import MendCells

    nb = nbformat.reads(data.decode("utf-8"), as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources: dict[str, Any] = {"nbgrader": {"notebook": lesson, "assignment": part, "db_url": url}}
    return nbformat.writes(MendCells().preprocess(nb, resources)[0])


def _instead(why: str, path: str) -> str:
    """A notebook to open where there is none."""
    import nbformat

    text = f"This notebook could not be opened ({why}). See it as it was handed in: {path!r}"
    return nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell(text)]))
