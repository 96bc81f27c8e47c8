"""A course folder with one small lesson, built once; its exercises are those of lesson 00."""

import json
import shutil
from pathlib import Path

import pytest

from course_lib.classroom.build import build
from course_lib.classroom.layout import Lesson, sources
from course_lib.exercises.registry import find

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
PART, STEM = "1_sample", "01_sample"
collect_ignore = [f"{STEM}.py"]  # a lesson's source is no module


def make_course(root: Path, text: str | None = None) -> Lesson:
    """A course folder with the sample lesson (or another source), measured, not built; returns the lesson."""
    (root / "notebooks").mkdir(parents=True)
    lesson = Lesson(root, PART, STEM)
    lesson.source.parent.mkdir(parents=True)
    lesson.source.write_text(text or (HERE / f"{STEM}.py").read_text("utf-8"), "utf-8")
    shutil.copyfile(REPOSITORY / "nbgrader_config.py", root / "nbgrader_config.py")
    lesson.measured.write_text('{"date": "2026-01-31", "cpu": "a slow one", "seconds": 40.6, "peak_mib": 381.0}')
    (lesson.source.parent / "sweep.json").write_text("[1, 2]")
    return lesson


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The sample lesson in a course folder, built; not to be changed."""
    lesson = make_course(tmp_path_factory.mktemp("built") / "course")
    list(build(sources(lesson.root), find))
    return lesson


@pytest.fixture
def course(tmp_path):
    """Make a course folder of one's own: ``course()`` with the sample lesson, ``course(text)`` with another; not built."""
    return lambda text=None: make_course(tmp_path / "course", text)


@pytest.fixture
def copied(built, tmp_path):
    """The built course in a folder of one's own; returns the lesson."""
    shutil.copytree(built.root, tmp_path / "course")
    return Lesson(tmp_path / "course", built.part, built.stem)


@pytest.fixture
def edit():
    """Change a notebook as a program or a person would: ``edit(path, change)`` with a change of the dict, in place."""

    def run(path: Path, change) -> None:
        nb = json.loads(path.read_text("utf-8"))
        change(nb)
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", "utf-8")

    return run


@pytest.fixture
def cell():
    """The cell of an id: ``cell(nb, "exercise-sparsity")``."""
    return lambda nb, name: next(c for c in nb["cells"] if c["id"] == name)
