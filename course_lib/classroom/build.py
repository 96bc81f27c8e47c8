"""Build a lesson's two notebooks from its source, and check that those on disk are what their sources give."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.artifacts import write_bytes, write_text
from course_lib.classroom.execute import Run, execute
from course_lib.classroom.layout import Lesson
from course_lib.classroom.learners import data_files, learners_text, nbgrader_config
from course_lib.classroom.measure import measure_command, read_measured, write_measured
from course_lib.classroom.source import read_source
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from nbformat import NotebookNode

Find = Callable[[str], Any]


def build(lessons: Sequence[Lesson], find: Find, measure: bool = False) -> Iterator[tuple[Lesson, "NotebookNode", Run]]:
    """Execute the solutions and write both notebooks of each lesson. Yields after each one what was built and what it took.

    Args:
        lessons: of one course.
        find: exercise id → the exercise.
        measure: also keep what the run took, as :mod:`course_lib.classroom.measure` says.
    Raises:
        CourseError: a source is not as it should be (found out for all lessons before the first one runs), a cell raises,
            or a lesson that shows its duration was never measured.
    """
    if not lessons:
        return
    config = nbgrader_config(lessons[0].root)
    for lesson in lessons:
        learners_text(lesson, text_of(_source(lesson, find, measure)), config)
    for lesson in lessons:
        nb = _source(lesson, find, measure)
        run = execute(lesson, nb)
        if measure:
            rendered = read_source(lesson, find, write_measured(lesson, run))
            rendered.metadata.update({k: v for k, v in nb.metadata.items() if k == "widgets"})
            for cell, executed in zip(rendered.cells, nb.cells, strict=True):
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
            nb = rendered
        write_text(lesson.solution, text_of(nb))
        write_text(lesson.notebook, learners_text(lesson, text_of(nb), config))
        for file in data_files(lesson.root, lesson.part, config):
            write_bytes(lesson.notebook.parent / file, (lesson.source.parent / file).read_bytes())
        yield lesson, nb, run


def check(lessons: Sequence[Lesson], find: Find) -> list[str]:
    """In what the notebooks on disk differ from what their sources give; outputs aside, but the solution must have been run.

    Returns:
        A sentence for each difference, none when all is well.
    Raises:
        CourseError: a source is not as it should be.
    """
    wrong: list[str] = []
    config = nbgrader_config(lessons[0].root) if lessons else None
    for lesson in lessons:
        expected = _source(lesson, find, measure=False)
        wrong += _check_solution(lesson, expected)
        found = _read(lesson.notebook)
        if found is None:
            wrong.append(f"{_name(lesson, lesson.notebook)}: missing")
        elif found != learners_text(lesson, text_of(expected), config):
            wrong.append(f"{_name(lesson, lesson.notebook)}: not what its source gives")
        for file in data_files(lesson.root, lesson.part, config):
            copy = lesson.notebook.parent / file
            if not copy.is_file() or copy.read_bytes() != (lesson.source.parent / file).read_bytes():
                wrong.append(f"{_name(lesson, copy)}: not the same as solutions/{lesson.part}/{file.as_posix()}")
    return list(dict.fromkeys(wrong))


def left_over(root: Path, lessons: Sequence[Lesson]) -> list[str]:
    """Files below ``solutions/`` and ``notebooks/`` that no source gives, as of a lesson that was renamed.

    Args:
        root: the course's folder.
        lessons: all of them.
    """
    config = nbgrader_config(root) if lessons else None
    made = {path for lesson in lessons for path in (lesson.solution, lesson.measured, lesson.notebook)}
    made |= {root / "notebooks" / part / f for part in {x.part for x in lessons} for f in data_files(root, part, config)}
    patterns = ("notebooks/*/**/*", "solutions/*/*.ipynb", "solutions/*/*.measured.json")
    found = sorted(path for pattern in patterns for path in root.glob(pattern) if path.is_file())
    extra = [path for path in found if path not in made and ".ipynb_checkpoints" not in path.parts]
    return [f"{path.relative_to(root).as_posix()}: no source gives it; delete it" for path in extra]


def text_of(nb: "NotebookNode") -> str:
    """A notebook as it is written: as Jupyter does, with one line end at the end."""
    import nbformat

    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def _source(lesson: Lesson, find: Find, measure: bool) -> "NotebookNode":
    """The notebook of the source, rendered with what was measured unless it is about to be."""
    measured = None if measure else read_measured(lesson)
    nb = read_source(lesson, find, measured)
    if not measure and measured is None and "{{lesson}}" in lesson.source.read_text("utf-8").replace(" ", ""):
        raise CourseError(f"{lesson.name} shows what it takes, and that was never measured. Run: {measure_command(lesson)}")
    return nb


def _check_solution(lesson: Lesson, expected: "NotebookNode") -> list[str]:
    import nbformat

    name, text = _name(lesson, lesson.solution), _read(lesson.solution)
    if text is None:
        return [f"{name}: missing"]
    try:
        found = nbformat.reads(text, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        return [f"{name}: no notebook: {str(error).splitlines()[0]}"]
    counts = [cell.execution_count for cell in found.cells if cell.cell_type == "code"]
    wrong = [] if counts == list(range(1, len(counts) + 1)) else [f"{name}: was not executed from top to bottom"]
    found.metadata.pop("widgets", None)
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for number, (a, b) in enumerate(zip(found.cells, expected.cells, strict=False), start=1):
        parts = [key for key in {**a, **b} if a.get(key) != b.get(key)]
        if parts:
            return [*wrong, f"{name}: cell {number} is not what the source gives ({', '.join(parts)} differ)"]
    return wrong if text_of(found) == text_of(expected) else [*wrong, f"{name}: not what its source gives"]


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def _name(lesson: Lesson, path: Path) -> str:
    return path.relative_to(lesson.root).as_posix()
