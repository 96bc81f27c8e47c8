"""A course folder with one small lesson, built once; its exercises are those of lesson 00."""

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


def make_course(root: Path) -> Lesson:
    """A course folder below ``root`` with the sample lesson, measured, not built; returns the lesson."""
    (root / "notebooks").mkdir(parents=True)
    lesson = Lesson(root, PART, STEM)
    lesson.source.parent.mkdir(parents=True)
    shutil.copyfile(HERE / f"{STEM}.py", lesson.source)
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
    """A course folder of one's own with the sample lesson, not built."""
    return make_course(tmp_path / "course")


@pytest.fixture
def copy_of_built(built, tmp_path):
    """A built course folder of one's own."""
    shutil.copytree(built.root, tmp_path / "course")
    return Lesson(tmp_path / "course", built.part, built.stem)
