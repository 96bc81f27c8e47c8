"""``--engine kernel``: every cell of each notebook is run too, in a confined kernel, for instructors who want to see that.

**Points are those of the other engine**: the judge calls the exercises' functions, as always. What the notebook's own run says
(its ``check`` cards, its printed scores) earns nothing, since a learner's code can print anything. The run adds what stopped where, as
flags for the instructor, and the notebook with its outputs. It takes as long as the lesson does.

The confined kernel can read the library, as a learner's own can; it has no network, no files but a ``/tmp`` in memory, nobody else to
see. Landlock alone cannot give a kernel what it needs: namespaces or bubblewrap are required.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

import course_lib
from course_lib.artifacts import write_text
from course_lib.classroom.confine import bubblewrap, readable
from course_lib.classroom.feedback import page_name
from course_lib.classroom.graders import Piece
from course_lib.classroom.results import Result
from course_lib.classroom.session import clean
from course_lib.classroom.workers import Open
from course_lib.errors import CourseError

OUTPUT_LIMIT = 50 * 2**20  # bytes of a notebook with its outputs
FLAGS = 10  # errors that are named
LOOK_SECONDS = 0.25  # between two looks at what a run uses
END_SECONDS = 10  # to end all its processes


@dataclass(frozen=True)
class Limits:
    """What a notebook's run may use.

    Attributes:
        seconds: for the whole notebook.
        cell_seconds: for one cell.
        memory_megabytes: of address space of each process; loading torch takes five thousand.
        resident_megabytes: of memory of all processes together, looked at every :data:`LOOK_SECONDS`.
        processes: at once, looked at as often; the confined process has a limit of its own besides, where the system has one.
    """

    seconds: int = 600
    cell_seconds: int = 300
    memory_megabytes: int = 12_000
    resident_megabytes: int = 8_000
    processes: int = 128


@contextlib.contextmanager
def kernel_grader(functions: Open, tier: str, executed: Path, limits: Limits = Limits()) -> Iterator[Callable[[Piece], Result]]:
    """Grade by ``functions``, then run the whole notebook.

    Args:
        functions: the other engine, as :func:`course_lib.classroom.graders.functions_grader`.
        tier: of confinement.
        executed: folder for the notebooks with their outputs.
        limits: of a run.
    Raises:
        CourseError: the tier cannot hold a kernel.
    """
    if tier == "landlock":
        raise CourseError(
            "--engine kernel needs namespaces or bubblewrap, and this system gives neither; see course grade --doctor."
        )
    if tier == "namespaces" and sys.prefix.startswith("/tmp/"):  # the kernel's own /tmp would cover its Python
        if shutil.which("bwrap") is None:
            raise CourseError(
                f"--engine kernel: Python is in {sys.prefix}; move the course out of /tmp, or install bubblewrap."
            )
        tier = "bubblewrap"
    with functions() as grade:

        def grade_piece(piece: Piece) -> Result:
            student, lesson, data = piece
            result = grade(piece)
            if result.error:
                return replace(result, engine="kernel")
            done = run_notebook(data, tier, limits)
            if "notebook" in done:
                write_text(executed / page_name(student).removesuffix(".html") / f"{lesson}.ipynb", done["notebook"])
            errors = [f"cell {number}: {clean(what, 200)}" for number, what in done["errors"]]
            more = [f"{len(errors) - FLAGS} more cells raise"] if len(errors) > FLAGS else []
            return replace(result, engine="kernel", flags=(*result.flags, *errors[:FLAGS], *more))

        yield grade_piece


def run_notebook(data: bytes, tier: str, limits: Limits) -> dict:
    """Run a notebook confined; whatever it does, an answer comes back in time.

    Args:
        data: its bytes.
        tier: ``namespaces``, ``bubblewrap`` or ``unconfined``.
        limits: of the run.
    Returns:
        ``errors``: (cell, what) in order, cell 0 for the notebook as a whole; ``notebook``: its text with outputs, if it came so far.
    """
    with tempfile.TemporaryDirectory(prefix="course-kernel-") as folder:
        (Path(folder) / "root").mkdir()
        settings = {
            "tier": tier, "root": f"{folder}/root", "folder": folder, "reads": _reads(), "hides": [], "seconds": limits.seconds,
            "cell_seconds": limits.cell_seconds, "memory_megabytes": limits.memory_megabytes,
        }  # fmt: skip
        if tier != "unconfined" or sys.platform == "linux":
            settings["parent"] = None if tier == "bubblewrap" else os.getpid()
        program = [sys.executable, "-m", "course_lib.classroom.kernel_run", json.dumps(settings)]
        if tier == "bubblewrap":
            wrapper = bubblewrap(settings["reads"], [])
            program = [wrapper[0], "--die-with-parent", *wrapper[1:], *program]
        home = folder if tier == "unconfined" else "/tmp"
        environment = {
            "PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin", "HOME": home, "LANG": "C.UTF-8", "COURSE_FAST": "1",
            "COURSE_HEADLESS": "1", "COURSE_PROGRESS": f"{home}/progress.json", "JUPYTER_RUNTIME_DIR": f"{home}/runtime",
            "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(Path(course_lib.__file__).parents[1]), "MPLCONFIGDIR": home,
        }  # fmt: skip
        said = _run(program, environment, data, limits)
    if isinstance(said, str):
        return {"errors": [(0, said)]}
    try:
        done = json.loads(said)
        if "unreadable" in done:
            return {"errors": [(0, f"Jupyter cannot open it ({done['unreadable']})")]}
        return {"errors": [(int(number), str(what)) for number, what in done["errors"]], "notebook": str(done["notebook"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {"errors": [(0, "its run ended before it could say anything")]}


def _run(program: list[str], environment: dict[str, str], data: bytes, limits: Limits) -> bytes | str:
    """What a program says, at most :data:`OUTPUT_LIMIT` bytes; as text why it was ended. Nothing of it is left running."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(data)
        given.seek(0)
        process = subprocess.Popen(
            program, env=environment, stdin=given, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/"
        )
        try:
            why = _watch(process, limits)
        finally:
            _end(process)
        if why:
            return why
        output.seek(0)
        return output.read(OUTPUT_LIMIT)


def _watch(process: subprocess.Popen, limits: Limits) -> str:
    """Wait for a run; why it must not go on, "" when it has ended by itself."""
    until = time.monotonic() + limits.seconds
    while time.monotonic() < until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))
            return ""
        sizes = list(map(_resident, _all_of(process.pid)))
        if len(sizes) > limits.processes:
            return f"its run had more than {limits.processes} processes and was stopped"
        if sum(sizes) > limits.resident_megabytes * 2**20:
            return f"its run took more than {limits.resident_megabytes:,} MiB of memory and was stopped"
    return f"the notebook did not end within {limits.seconds} seconds"


def _all_of(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has just ended
        return 0


def _end(process: subprocess.Popen) -> None:
    """Tell a run's first process to end, which ends all below it; return when they have."""
    below = _all_of(process.pid)
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    psutil.wait_procs(below, END_SECONDS)


def _reads() -> list[str]:
    """What a kernel may read: what a confined function may, and the library."""
    return sorted({*readable(Path(course_lib.__file__).parent)})
