"""``course progress`` and ``course check``: how far a learner is, and what a notebook earns."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.commands.options import Json, try_outputs, write_figures


def progress(json_file: Json = None) -> None:
    """Show your progress: points by lesson, questions answered, predictions beside what was measured.

    Example: `course progress`
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from course_lib.exercises.predictions import with_unit
    from course_lib.exercises.progress import progress_file, read_progress

    try_outputs(None, json_file)
    summary = summarise(read_progress())
    write_figures(json_file, summary)
    console = Console()
    table = Table(Column("lesson", no_wrap=True), "points", "solved", "attempts", "hints", "quiz")
    for row in [*summary["lessons"], {"lesson": "all", **summary["all"]}]:
        if row["lesson"] == "all":
            table.add_section()
        table.add_row(
            row["lesson"],
            f"{row['points']:g} of {row['of']:g}",
            f"{row['passed']} of {row['exercises']}",
            str(row["attempts"]),
            str(row["hints"]),
            f"{row['right']} of {row['questions']}",
        )
    console.print(table)
    made = summary["predictions"]
    if made:
        predictions = Table("prediction", "yours", "measured")
        for p in made:
            measured = with_unit(p["measured"], p["unit"]) if p["measured"] is not None else "not yet"
            predictions.add_row(escape(p["name"]), escape(with_unit(p["value"], p["unit"])), escape(measured))
        console.print(predictions)
    console.print(
        f"{len(made)} prediction{'s' * (len(made) != 1)} made. Kept in {progress_file()}", soft_wrap=True, markup=False
    )


def summarise(kept: dict) -> dict:
    """Progress by lesson, of what the course has.

    Args:
        kept: what :func:`course_lib.exercises.progress.read_progress` returns.
    Returns:
        ``lessons``: a row each; ``all``: their sum; ``predictions``: name, value, unit and measured (None: not yet).
    """
    from course_lib.exercises.registry import LESSONS, exercises, questions

    rows = []
    for stem in LESSONS:
        entries = [(e, kept["exercises"].get(e.id, {})) for e in exercises(stem)]
        answers = [kept["questions"].get(q.id, {}) for q in questions(stem)]
        rows.append(
            {
                "lesson": stem,
                "points": sum(min(entry.get("points", 0.0), e.points) for e, entry in entries),
                "of": sum(e.points for e, _ in entries),
                "passed": sum(entry.get("state") == "passed" for _, entry in entries),
                "exercises": len(entries),
                "attempts": sum(entry.get("attempts", 0) for _, entry in entries),
                "hints": sum(kept["hints"].get(e.id, 0) for e, _ in entries),
                "right": sum(answer.get("right", False) for answer in answers),
                "questions": len(answers),
            }
        )
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "lesson"}
    predictions = [
        {"name": name, "value": p["value"], "unit": p["unit"], "measured": p.get("measured")}
        for name, p in kept["predictions"].items()
    ]
    return {"lessons": rows, "all": total, "predictions": predictions}


def check(
    notebooks: Annotated[list[Path], typer.Argument(metavar="NOTEBOOK...", help="Learners' notebooks of lessons.")],
    json_file: Json = None,
) -> None:
    """Run learners' notebooks from top to bottom, in a fresh kernel each, and print their points.

    Your progress and the notebooks stay as they are. Cells that raise cost nothing by themselves.

    Example: `course check work/0_start/00_start_here.ipynb`
    """
    from course_lib.classroom.points import count_points
    from course_lib.console import say

    try_outputs(None, json_file)
    figures = []
    for notebook in notebooks:
        say(f"{notebook}: running; a lesson takes up to three minutes")
        result = count_points(notebook)
        width = max(len(e.exercise) for e in result.exercises)
        print(f"{notebook}: {result.points:g} of {result.of:g} points")
        for e in result.exercises:
            known = ", a known mistake" if e.misconception and e.state == "wrong" else ""
            print(f"  {e.exercise:{width}}  {e.points:g} of {e.of:g}  {e.state}{known}")
        for cell, what in result.errors:
            print(f"  cell {cell}: {what}")
        figures.append(
            {
                "notebook": str(notebook),
                "points": result.points,
                "of": result.of,
                "exercises": [vars(e) for e in result.exercises],
                "errors": [{"cell": cell, "error": what} for cell, what in result.errors],
            }
        )
    if len(figures) > 1:
        print(f"all: {sum(f['points'] for f in figures):g} of {sum(f['of'] for f in figures):g} points")
    write_figures(json_file, {"notebooks": figures})
