"""Rows of ``make bench`` about grading a class: beside ``nbgrader autograde`` on some of the same notebooks, and against itself.

One process on each side, so that times are per core. nbgrader runs notebooks in fast mode, which spares it most of a lesson's time.
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from course_lib.classroom.grade_class import Settings, grade_class
from course_lib.classroom.graders import functions_grader
from course_lib.classroom.hand_back import hand_back
from course_lib.classroom.layout import find_root
from course_lib.classroom.parts import asked, lessons_of, open_questions
from course_lib.classroom.submissions import collect

PART, SEED = "1_pruning", 1


@dataclass(frozen=True)
class Classes:
    """How many notebooks are graded.

    Attributes:
        ours: by ``course grade``.
        theirs: of these, by nbgrader as well.
        growing: sizes of classes whose times are compared with the first one's.
    """

    ours: int = 300
    theirs: int = 20
    growing: tuple[int, ...] = (50, 100, 200, 400)


def rows(peak_mib: Callable[[Callable[[], object]], float | None], classes: Classes = Classes()) -> list[dict]:
    """The rows; in those of growing classes *theirs* is the first one's time in proportion, so that a ratio of 1 is linear.

    Args:
        peak_mib: by how much memory peaks in a call, see :func:`course_lib.measure.bench.peak_mib`.
        classes: their sizes.
    """
    root, found = find_root(), []
    with tempfile.TemporaryDirectory() as temporary, grader(root) as opened:
        folder = Path(temporary)
        make_class(root, folder / "class", max(classes.ours, *classes.growing))
        ours, peak = timed(lambda: grade(root, folder, classes.ours, opened), peak_mib)
        theirs = nbgrader_seconds(root, folder, classes.theirs)
        name = f"grade {classes.ours} notebooks of {PART}, per notebook (nbgrader autograde, {classes.theirs} of them)"
        found.append(_row(name, ours / classes.ours, theirs / classes.theirs, peak))
        base = None
        for count in classes.growing:
            seconds, peak = timed(lambda count=count: grade(root, folder, count, opened), peak_mib)
            base = base or seconds / count
            found.append(
                _row(f"grade {count} notebooks (time of {classes.growing[0]}, in proportion)", seconds, base * count, peak)
            )
    return found


def _row(name: str, ours: float, theirs: float, peak: float | None) -> dict:
    return {
        "name": name,
        "ours_ms": round(1000 * ours, 3),
        "theirs_ms": round(1000 * theirs, 3),
        "ratio": round(theirs / ours, 3),
        "ours_peak_mib": None if peak is None else round(peak, 2),
        "tensor_mib": None,
    }


@contextlib.contextmanager
def grader(root: Path) -> Iterator[Callable]:
    """What grades, opened once: loading torch in it is not part of the times."""
    with functions_grader(asked(root, PART), SEED) as grade_piece:
        yield lambda: contextlib.nullcontext(grade_piece)


def make_class(root: Path, out: Path, count: int) -> None:
    """Notebooks of students who try: each hands in one of the part's lessons, in turn."""
    spec = importlib.util.spec_from_file_location("made_up_class", root / "data_scripts" / "made_up_class.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_class(PART, out / "all", count, grading_seed=SEED, root=root, honest=True)
    lessons = list(lessons_of(PART))
    for number, student in enumerate(sorted((out / "all" / "submitted").iterdir())):
        stem = lessons[number % len(lessons)]
        target = out / "one_each" / f"{number:04}" / PART / f"{stem}.ipynb"
        target.parent.mkdir(parents=True)
        shutil.copyfile(student / PART / f"{stem}.ipynb", target)
    shutil.rmtree(out / "all")


def grade(root: Path, folder: Path, count: int, opened: Callable) -> None:
    """Grade the first ``count`` and write everything that is handed back."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        some, out, lessons = Path(temporary) / "in", Path(temporary) / "out", lessons_of(PART)
        some.mkdir()
        for student in sorted((folder / "class" / "one_each").iterdir())[:count]:
            shutil.copytree(student, some / student.name)
        submissions = collect(some, PART, lessons, out / "collected")
        settings = Settings(SEED, "functions", True, "namespaces", "bench")
        graded = grade_class(submissions, lessons, out, settings, opened, _here)
        if graded.failed or graded.anew != count:
            raise AssertionError(f"{graded.anew} of {count} were graded: timing that would mean nothing")
        about = {"version": "", "engine": "functions", "tier": "", "seed": SEED}
        hand_back(graded.results, lessons, open_questions(root, PART), PART, out, about)


def _here(work: Iterator, opened: Callable) -> Iterator:
    """All work in this process, for times of one core and its memory."""
    with opened() as do:
        for name, piece in work:
            yield name, do(piece)


def timed(run: Callable[[], object], peak_mib: Callable) -> tuple[float, float | None]:
    """Seconds of one run and by how much memory peaked in it."""
    seconds = []

    def clocked() -> None:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)

    peak = peak_mib(clocked)
    if not seconds:  # where memory cannot be measured, it was not run
        clocked()
    return seconds[0], peak


def nbgrader_seconds(root: Path, folder: Path, count: int) -> float:
    """Seconds of ``nbgrader autograde`` on the first ``count`` notebooks, in a course of its own."""
    course = folder / "nbgrader"
    for name in ("solutions", "notebooks"):
        shutil.copytree(root / name / PART, course / name / PART)
    shutil.copyfile(root / "nbgrader_config.py", course / "nbgrader_config.py")
    for student in sorted((folder / "class" / "one_each").iterdir())[:count]:
        shutil.copytree(student, course / "submitted" / student.name)
    environment = {**os.environ, "COURSE_FAST": "1", "PYTHONPATH": str(root)}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}"
    _nbgrader(course, environment, "generate_assignment", PART, "--force")
    start = time.perf_counter()
    _nbgrader(course, environment, "autograde", PART)
    seconds = time.perf_counter() - start
    graded = len(list((course / "autograded").glob(f"*/{PART}/*.ipynb")))
    if graded != count:
        raise AssertionError(f"nbgrader graded {graded} of {count}: timing that would mean nothing")
    return seconds


def _nbgrader(course: Path, environment: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", "nbgrader", *arguments]
    subprocess.run(command, cwd=course, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
