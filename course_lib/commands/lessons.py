"""``course build``, ``start`` and ``list``: lessons from their sources, into the learner's hands."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.errors import CourseError

Lessons = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LESSON]...", help="Lessons by number (01), name, path or part (1_pruning); default: all."),
]


def build(
    lessons: Lessons = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; say what is not as its source gives, exit 1.")
    ] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Also keep how long each run took, and its memory.")] = False,
) -> None:
    """Build the notebooks of lessons from `solutions/PART/NN_topic.py`: the executed solution and the learner's.

    Example: `course build 01 --measure`
    """
    from course_lib.classroom.build import build as build_lessons
    from course_lib.classroom.layout import choose, find_root, sources
    from course_lib.console import say
    from course_lib.exercises.registry import find

    if check and measure:
        raise CourseError("--check changes nothing and --measure does; expected one of them.")
    root = find_root()
    chosen = choose(lessons or [], sources(root))
    if check:
        _check(chosen, None if lessons else root)
        return
    say(f"{len(chosen)} lesson{'s' * (len(chosen) != 1)} to build; each takes up to three minutes")
    for lesson, nb, run in build_lessons(chosen, find, measure):
        about = nb.metadata["course"]
        print(
            f"{lesson.name}: {len(nb.cells)} cells, {about['points']:g} points, about {about['minutes']} minutes; "
            f"ran in {run.seconds:g} s with {run.peak_mib:g} MiB",
            flush=True,
        )


def _check(chosen: list, everything_in: Path | None) -> None:
    from course_lib.classroom.build import check, left_over
    from course_lib.exercises.registry import find

    wrong = check(chosen, find) + (left_over(everything_in, chosen) if everything_in else [])
    for line in wrong:
        print(line)
    if wrong:
        print("Edit the source, solutions/PART/NN_topic.py, and run: course build")
        raise typer.Exit(1)
    print(f"{len(chosen)} lesson{'s' * (len(chosen) != 1)}: the notebooks are what their sources give")


def start(
    lessons: Lessons = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew: your old copy is kept as NN_topic.old-1.ipynb. Name the lessons.")
    ] = False,
) -> None:
    """Copy lessons to `work/`, where you work on them; your own copies are never overwritten.

    Example: `course start 01 02`
    """
    from course_lib.artifacts import require_writable
    from course_lib.classroom.layout import choose, find_root, released
    from course_lib.classroom.start import start as start_lessons

    root = find_root()
    if fresh and not lessons:
        raise CourseError("--fresh: name the lessons to begin anew, as in `course start --fresh 01`.")
    chosen = choose(lessons or [], released(root))
    require_writable(root / "work")
    said = {
        "copied": "{copy}: ready",
        "kept": "{copy}: already there, kept",
        "changed": "{copy}: kept, but the lesson has changed since you started it. "
        "`course start --fresh {stem}` gives you the new one and keeps yours beside it.",
        "fresh": "{copy}: new; your old copy is {old}",
    }
    for done in start_lessons(chosen, fresh):
        copy, old = done.lesson.copy.relative_to(root), done.old and done.old.relative_to(root)
        print(said[done.state].format(copy=copy, stem=done.lesson.stem, old=old))
    if not chosen:
        print("There are no lessons yet.")


def list() -> None:
    """List the lessons: where they are, how long they take, how far you are.

    Example: `course list`
    """
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from course_lib.classroom.layout import find_root, released
    from course_lib.classroom.listing import rows
    from course_lib.exercises.progress import read_progress

    figures = [Column(name, no_wrap=True, justify="right") for name in ("min", "solved", "points")]
    table = Table(Column("lesson", overflow="fold"), *figures, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    listed = rows(released(find_root()), read_progress())
    for row in listed:
        about = Text(row.title).append(f"\n{row.path.as_posix()}", style="dim")  # under the title: both are long
        table.add_row(about, str(row.minutes), f"{row.passed}/{row.exercises}", f"{row.earned:g}/{row.points:g}")
    table.add_section()
    sums = {name: sum(getattr(row, name) for row in listed) for name in ("minutes", "passed", "exercises", "earned", "points")}
    solved, points = f"{sums['passed']}/{sums['exercises']}", f"{sums['earned']:g}/{sums['points']:g}"
    table.add_row(f"{len(listed)} lesson{'s' * (len(listed) != 1)}", str(sums["minutes"]), solved, points)
    Console().print(table)
