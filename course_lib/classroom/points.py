"""Run a learner's notebook in a fresh kernel and count what its checks earn."""

import logging
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.classroom.execute import CELL_SECONDS
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(frozen=True)
class Earned:
    """What one exercise earned.

    Attributes:
        exercise: its id.
        points, of: earned, of how many.
        state: ``"passed"``, ``"wrong"``, ``"not attempted"``, or ``"not checked"`` where no check of it ran.
        misconception: True when its last answer was a known mistake.
    """

    exercise: str
    points: float
    of: float
    state: str
    misconception: bool


@dataclass
class Result:
    """What a notebook earned.

    Attributes:
        notebook: its file.
        exercises: one entry for each exercise of the lesson, in its order.
        errors: ``(cell, what happened)``, cells counted from 1; errors cost nothing by themselves.
    """

    notebook: Path
    exercises: list[Earned]
    errors: list[tuple[int, str]] = field(default_factory=list)

    @property
    def points(self) -> float:
        """Points earned in all exercises."""
        return sum(e.points for e in self.exercises)

    @property
    def of(self) -> float:
        """Points that could be earned in all exercises."""
        return sum(e.of for e in self.exercises)


def count_points(notebook: Path, cell_seconds: int = CELL_SECONDS) -> Result:
    """Run all cells from top to bottom, those after an error too; the notebook's file and the learner's progress stay as they are.

    Args:
        notebook: the file of a learner's notebook.
        cell_seconds: one cell may take; one that takes longer ends the run, and what was earned until then counts.
    Raises:
        CourseError: it cannot be read, is no notebook, or has no exercises.
    """
    from course_lib.exercises.progress import read_progress
    from course_lib.exercises.registry import find

    nb = _read(notebook)
    checked = [cell.metadata.course.check for cell in nb.cells if "check" in cell.metadata.get("course", {})]
    exercises = [find(name) for name in dict.fromkeys(checked)]
    if not exercises:
        raise CourseError(f"{notebook}: expected a lesson of the course, and this has no checks. Get a copy with: course start")
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress.json"
        errors = _run(nb, notebook.absolute().parent, progress, cell_seconds)
        kept = read_progress(progress)["exercises"]
    nothing = {"points": 0.0, "state": "not checked", "diagnosed": 0}
    earned = [
        Earned(e.id, entry["points"], e.points, entry["state"], entry["diagnosed"] > 0)
        for e in exercises
        for entry in [kept.get(e.id, nothing)]
    ]
    return Result(notebook, earned, errors)


def _read(notebook: Path) -> "NotebookNode":
    import nbformat

    try:
        nb = nbformat.read(notebook, as_version=4)
        nbformat.validate(nb)
    except OSError as error:
        raise CourseError(f"Cannot read {notebook}: {error.strerror}.") from error
    except Exception as error:  # nbformat has many ways to say so
        raise CourseError(f"{notebook} is no notebook ({type(error).__name__}): expected a file made by Jupyter.") from error
    return nb


def _run(nb: "NotebookNode", folder: Path, progress: Path, cell_seconds: int) -> list[tuple[int, str]]:
    """Run the cells; returns the errors."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    quiet = logging.getLogger("course_lib.classroom.points")  # what it logs on an error is said better below
    quiet.setLevel(logging.CRITICAL + 1)
    client = NotebookClient(
        nb,
        timeout=cell_seconds,
        allow_errors=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        log=quiet,
    )
    environment = {**os.environ, "COURSE_PROGRESS": str(progress), "COURSE_HEADLESS": "1"}
    errors = []
    with client.setup_kernel(env=environment, stderr=subprocess.DEVNULL):  # the kernel's own log
        for number, cell in enumerate(nb.cells, start=1):
            try:
                client.execute_cell(cell, number - 1)
            except CellTimeoutError:
                errors.append((number, f"did not end within {cell_seconds} seconds; the cells after it were not run"))
                break
            except DeadKernelError:
                errors.append((number, "ended the kernel; the cells after it were not run"))
                break
            errors += [
                (number, f"{o.ename}: {o.evalue.splitlines()[0] if o.evalue else ''}".rstrip(": "))
                for o in cell.get("outputs", [])
                if o.output_type == "error"
            ]
    return errors
