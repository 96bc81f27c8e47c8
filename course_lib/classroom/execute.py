"""Run a lesson's solution in a fresh kernel and keep what it shows."""

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_lib.classroom.layout import Lesson
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_SECONDS = 300  # one cell may take; lessons take three minutes at most
PEAK = "from course_lib.deploy.worker import peak_mib\nprint(peak_mib())"


@dataclass(frozen=True)
class Run:
    """What a run took.

    Attributes:
        seconds: from the start of the kernel to the end of the last cell.
        peak_mib: largest resident memory of the kernel's process; processes that it started are not counted.
    """

    seconds: float
    peak_mib: float


def execute(lesson: Lesson, nb: "NotebookNode") -> Run:
    """Run all cells, from top to bottom, in full mode, in the folder of the source; outputs go into ``nb``.

    Progress goes to a temporary file, and no volatile metadata (times of execution, versions) is kept.

    Raises:
        CourseError: a cell raises, takes too long or ends the kernel; a check earns less than its points; a check, or a
            cell whose output is compared, writes to standard error.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError
    from nbformat import v4

    client = NotebookClient(
        nb, timeout=CELL_SECONDS, record_timing=False, resources={"metadata": {"path": str(lesson.source.parent)}}
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with client.setup_kernel(env=_environment(folder), stderr=subprocess.DEVNULL):  # the kernel's own log
            for number, cell in enumerate(nb.cells, start=1):
                try:
                    client.execute_cell(cell, number - 1)
                except (CellExecutionError, CellControlSignal, DeadKernelError) as error:
                    said = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else str(error).strip()
                    raise CourseError(f"{_place(lesson, number, cell)}: {said}") from error
            seconds = time.perf_counter() - start
            client.set_widgets_metadata()
            nb.cells.append(v4.new_code_cell(PEAK))
            peak = client.execute_cell(nb.cells[-1], len(nb.cells) - 1, store_history=False).outputs[0].text
            nb.cells.pop()
    _check_outputs(lesson, nb)
    return Run(round(seconds, 1), float(peak))


def _environment(folder: str) -> dict[str, str]:
    """The environment of a kernel whose outputs are for everybody: full mode, the usual cases, nobody's progress."""
    kept = {key: value for key, value in os.environ.items() if key not in ("COURSE_FAST", "COURSE_CHECK_SEED")}
    return {**kept, "COURSE_PROGRESS": os.path.join(folder, "progress.json"), "COURSE_HEADLESS": "1"}


def _check_outputs(lesson: Lesson, nb: "NotebookNode") -> None:
    for number, cell in enumerate(nb.cells, start=1):
        points = cell.metadata.get("nbgrader", {}).get("points") if "check" in cell.metadata.get("course", {}) else None
        if points is None and "tags" not in cell.metadata:
            continue
        said = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stderr").strip()
        if said:
            raise CourseError(f"{_place(lesson, number, cell)}: writes to standard error: {said[:200]!r}")
        value = next((o.data["text/plain"] for o in cell.outputs if o.output_type == "execute_result"), None)
        if points is not None and (value is None or float(value) != points):
            raise CourseError(f"{_place(lesson, number, cell)}: the solution earns {value}; expected {points} points.")


def _place(lesson: Lesson, number: int, cell: "NotebookNode") -> str:
    return f"{lesson.name}, cell {number} ({(cell.source.splitlines() or [''])[0][:60]})"
