"""The manual part: open answers collected for reading, and the points that a person enters merged.

``open_points.csv`` has a row for each answer; whoever grades writes ``points`` (and, if they like, a ``comment``) into it, with
any spreadsheet, and grades again. Rows are matched by student, lesson, question and a mark of the answer's text: points given
to an answer that has changed since are kept at the end of the file and do not count.
"""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_lib.artifacts import write_text
from course_lib.classroom.pages import markdown, render
from course_lib.classroom.parts import OpenQuestion
from course_lib.classroom.results import Result
from course_lib.errors import CourseError

COLUMNS = ("student", "lesson", "question", "answer", "max_points", "points", "comment", "state")
Key = tuple[str, str, str]  # student, lesson, question


@dataclass(frozen=True)
class Given:
    """What a person gave to one answer."""

    points: float
    comment: str = ""


def answer_mark(text: str) -> str:
    """A short name of an answer's text, which no spreadsheet takes for a number.

    >>> answer_mark("Zeros are numbers too.")
    'id-62a65a'
    """
    return f"id-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"


def merge(path: Path, results: Sequence[Result], questions: Sequence[OpenQuestion]) -> dict[Key, Given]:
    """Read the points that were entered and bring the file up to date; an unanswered question earns 0.

    Args:
        path: ``open_points.csv``; made when missing.
        results: of the class.
        questions: the part's open questions.
    Returns:
        (student, lesson, question) → what a person gave; answers that wait are not in it.
    Raises:
        CourseError: the file cannot be read, or points are none, or more than there are.
    """
    entered = _read(path) if path.exists() else []
    for number, row in enumerate(entered, start=2):
        _check(row, f"{path}, line {number}")
    worth = {(q.lesson, q.id): q.points for q in questions}
    by_answer = {tuple(row[c] for c in COLUMNS[:4]): row for row in entered}
    rows, given, seen = [], {}, set()
    for result in results:
        for answer in result.answers:
            if (result.lesson, answer.id) not in worth:
                continue
            key = (result.student, result.lesson, answer.id)
            if not answer.text.strip():
                given[key] = Given(0.0)
                continue
            shown = (*map(cell, key), answer_mark(answer.text))
            seen.add(shown)
            row = by_answer.get(shown, dict.fromkeys(COLUMNS, ""))
            if row["points"]:
                given[key] = Given(number_of(row["points"]), row["comment"])
            state = "graded" if row["points"] else "waits"
            points, comment = row["points"], row["comment"]
            rows.append([*shown, f"{worth[result.lesson, answer.id]:g}", points, comment, state])
    for shown, row in by_answer.items():
        if shown not in seen and (row["points"] or row["comment"]):
            rows.append([*(row[c] for c in COLUMNS[:-1]), "for an earlier answer"])
    write_text(path, table([COLUMNS, *rows]))
    return given


def reading_page(results: Sequence[Result], questions: Sequence[OpenQuestion], given: Mapping[Key, Given], title: str) -> str:
    """A page with each question, its model answer, and all answers below it; for whoever grades, not for students."""
    blocks = []
    for q in questions:
        answers = [(r.student, a.text) for r in results for a in r.answers if (r.lesson, a.id) == (q.lesson, q.id)]
        written = [
            {"student": s, "text": t, "mark": answer_mark(t), "given": given.get((s, q.lesson, q.id))}
            for s, t in answers
            if t.strip()
        ]
        blocks.append(
            {"question": q, "text": markdown(q.text), "model": markdown(q.model), "answers": written, "of": len(answers)}
        )
    return render("open_answers.html.j2", title=title, blocks=blocks)


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV, for spreadsheets and programs."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    >>> cell("=1+1"), cell("anna")
    ("'=1+1", 'anna')
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def number_of(text: str) -> float:
    """A number as people type it; a decimal comma is one."""
    return float(text.strip().replace(",", "."))


def _read(path: Path) -> list[dict[str, str]]:
    """Rows of a file that a spreadsheet may have written: a mark at its start, semicolons or tabs."""
    try:
        text = path.read_text("utf-8-sig")
        header = text.partition("\n")[0]
        between = max(",;\t", key=header.count)
        rows = list(csv.DictReader(io.StringIO(text), delimiter=between))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CourseError(f"Cannot read {path} ({error}). Save it as CSV in UTF-8; nothing was changed.") from error
    missing = [c for c in COLUMNS[:-1] if c not in header]
    if missing:
        raise CourseError(f"{path} has no column {missing[0]!r}; expected {', '.join(COLUMNS)}. Nothing was changed.")
    return [{c: (row.get(c) or "").strip() for c in COLUMNS} for row in rows]


def _check(row: dict[str, str], place: str) -> None:
    if not row["points"]:
        return
    try:
        points, most = number_of(row["points"]), number_of(row["max_points"])
    except ValueError:
        points, most = -1.0, -1.0
    if not 0 <= points <= most:
        raise CourseError(
            f"{place}: points = {row['points']!r} for {row['student']}, {row['question']}; expected a number from 0 to "
            f"{row['max_points'] or 'its points'}. Nothing was changed."
        )
