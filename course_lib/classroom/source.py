"""Read a lesson's source (jupytext percent format) into a notebook with nbgrader's metadata and stable cell ids.

The marks on the ``# %%`` lines are those of :mod:`course_lib.classroom.marks`. In markdown, ``{{exercise soft_threshold}}``
becomes ★★☆☆☆ · 8 minutes · 2 points, and ``{{lesson}}`` **about 35 minutes** · 0.4 GB · runs in 41 s.
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from course_lib.classroom.layout import Lesson, classroom
from course_lib.classroom.marks import check_pairs, grade_id, read_marks, without_solution
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from nbformat import NotebookNode

TOKEN = re.compile(r"\{\{ *(exercise +\w+|lesson) *\}\}")
MISSPELT = re.compile(r"\{\{ *([a-z]{4,}(?: +\w+)?) *\}\}")  # what is left and looks like one; LaTeX has {{2}} and {{x}}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"},
}
FORMAT = {"extension": ".py", "format_name": "percent", "comment_magics": False}  # or "# copy the weights" becomes a command


def read_source(lesson: Lesson, find: Callable[[str], Any], measured: dict | None = None) -> "NotebookNode":
    """The notebook of a lesson's source, not executed.

    Args:
        lesson: whose source to read.
        find: exercise id → its points, difficulty and minutes.
        measured: seconds and peak_mib of the lesson, for ``{{lesson}}``; None: that line is not rendered.
    Returns:
        A notebook of nbformat 4.5. Equal sources give equal notebooks, cell ids included: an id is that of the exercise or
        a hash of the cell's text, so that it survives changes elsewhere.
    Raises:
        CourseError: a mark, an exercise or a cell that is not as it should be; the message names the cell.
    """
    import nbformat

    try:
        cells = classroom("jupytext").reads(lesson.source.read_text("utf-8"), fmt=FORMAT).cells
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"Cannot read {lesson.name}: {error}.") from error
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise CourseError(f"{lesson.name}: expected a markdown cell with the lesson's title (`# # Title`) at the top.")
    where = [f"{lesson.name}, cell {n} ({(cell.source.splitlines() or [''])[0][:60]})" for n, cell in enumerate(cells, start=1)]
    marks = [read_marks(cell, place) for cell, place in zip(cells, where, strict=True)]
    check_pairs(marks, where)
    ids = _ids(cells, marks)
    points = 0
    for cell, mark, name in zip(cells, marks, ids, strict=True):
        cell.metadata = nbformat.from_dict(_metadata(mark, find))
        cell.id = name
        points += cell.metadata.get("nbgrader", {}).get("points", 0)
    minutes = lesson_minutes(cells, marks, find)
    for cell, place in zip(cells, where, strict=True):
        if cell.cell_type == "markdown":
            cell.source = _render(cell.source, place, marks, find, minutes, measured)
    title = cells[0].source.splitlines()[0].removeprefix("# ").strip()
    about = {"lesson": lesson.stem, "minutes": minutes, "points": points, "title": title}
    nb = nbformat.v4.new_notebook(cells=cells, metadata={**METADATA, "course": about})
    nb.nbformat_minor = 5
    nbformat.validate(nb)
    return nb


def lesson_minutes(cells: Sequence, marks: Sequence[dict], find: Callable[[str], Any]) -> int:
    """Minutes of a lesson: its exercises, reading, a minute for each prediction and quiz, four for each open question; rounded up to 5.

    150 words a minute is slow reading, of text with formulae and plots in it. Model answers and cells for solutions are not counted.
    """
    words, minutes = 0, 0.0
    for cell, mark in zip(cells, marks, strict=True):
        if "exercise" in mark:
            minutes += find(mark["exercise"]).minutes
        elif mark.get("solution_only"):
            continue
        elif cell.cell_type == "markdown":
            words += len(without_solution(cell.source).split())
            minutes += 4 * ("open" in mark)
        else:
            minutes += len(re.findall(r"^(?:predict|quiz)\(", cell.source, re.MULTILINE))
    return 5 * math.ceil((minutes + words / 150) / 5)


def _ids(cells: Sequence, marks: Sequence[dict]) -> list[str]:
    """Ids of cells, from the exercise or else from the text; equal texts are numbered."""
    ids: list[str] = []
    for cell, mark in zip(cells, marks, strict=True):
        role = next((key for key in ("exercise", "check", "open") if key in mark), None)
        text = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        base = f"{role}-{mark[role]}" if role else f"cell-{text}"
        count = sum(1 for i in ids if i == base or i.startswith(f"{base}-again-"))
        ids.append(f"{base}-again-{count}" if count else base)
    return ids


def _metadata(mark: dict, find: Callable[[str], Any]) -> dict:
    """A cell's metadata: nbgrader's schema 3, and our own keys beside it, since nbgrader's allows no others."""
    metadata: dict = {}
    role = next((key for key in ("exercise", "check", "open", "solution_only") if key in mark), None)
    if role:
        metadata["course"] = {role: mark[role]}
    if role in ("exercise", "check", "open"):
        metadata["nbgrader"] = {
            "grade": role != "exercise",
            "grade_id": grade_id(mark),
            "locked": role == "check",
            "schema_version": 3,
            "solution": role != "check",
            "task": False,
        }
        exercise = find(mark[role]) if role != "open" else None
        if role != "exercise":
            metadata["nbgrader"]["points"] = exercise.points if exercise else mark["points"]
    if mark.get("compare"):
        metadata["tags"] = ["nbval-check-output"]
    return metadata


def _render(
    text: str, place: str, marks: Sequence[dict], find: Callable[[str], Any], minutes: int, measured: dict | None
) -> str:
    """The text with its ``{{…}}`` replaced."""
    here = [mark["exercise"] for mark in marks if "exercise" in mark]

    def replace(match: re.Match) -> str:
        word, _, exercise = match[1].partition(" ")
        if word == "lesson":
            return lesson_line(minutes, measured) if measured else match[0]
        if exercise.strip() not in here:
            raise CourseError(f"{place}: {match[0]}: the lesson has no such exercise; it has {', '.join(here) or 'none'}.")
        return exercise_line(find(exercise.strip()))

    text = TOKEN.sub(replace, text)
    wrong = next((m for m in MISSPELT.finditer(text) if not TOKEN.fullmatch(m[0])), None)
    if wrong:
        raise CourseError(f"{place}: {wrong[0]}: expected {{{{lesson}}}} or {{{{exercise ID}}}}.")
    return text


def exercise_line(exercise: Any) -> str:
    """``★★☆☆☆ · 8 minutes · 2 points``"""
    stars = "★" * exercise.difficulty + "☆" * (5 - exercise.difficulty)
    return f"{stars} · {_count(exercise.minutes, 'minute')} · {_count(exercise.points, 'point')}"


def lesson_line(minutes: int, measured: dict) -> str:
    """The line of a lesson's header; a GB is 10⁹ bytes.

    >>> lesson_line(35, {"peak_mib": 381.0, "seconds": 40.6})
    '**about 35 minutes** · 0.4 GB · runs in 41 s'
    """
    gigabytes = measured["peak_mib"] * 2**20 / 1e9
    return f"**about {minutes} minutes** · {gigabytes:.1f} GB · runs in {math.ceil(measured['seconds'])} s"


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"
