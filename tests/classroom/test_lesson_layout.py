"""Where lessons are, and how a person names one."""

import sys

import pytest

from course_lib.classroom.layout import Lesson, choose, classroom, find_root, released, sources
from course_lib.errors import CourseError

STEMS = {"00_start_here": "0_start", "01_l1_pruning_math": "1_pruning", "02_which_weights_to_prune": "1_pruning"}


@pytest.fixture
def lessons(tmp_path):
    return [Lesson(tmp_path, part, stem) for stem, part in STEMS.items()]


@pytest.mark.parametrize(
    "name",
    ["01", "1", "01_l1_pruning_math", "l1_pruning_math", "1_pruning/01_l1_pruning_math", "01_l1_pruning_math.py",
     "notebooks/1_pruning/01_l1_pruning_math.ipynb", "solutions/1_pruning/01_l1_pruning_math.py"],
)  # fmt: skip
def test_a_lesson_has_many_names(name, lessons):
    assert choose([name], lessons) == [lessons[1]]


def test_a_part_names_its_lessons_and_no_name_names_all(lessons):
    assert choose(["1_pruning"], lessons) == lessons[1:]
    assert choose([], lessons) == lessons


def test_lessons_come_once_and_in_the_order_of_the_course(lessons):
    assert choose(["02", "1_pruning", "00"], lessons) == lessons


@pytest.mark.parametrize(
    "name, said",
    [
        ("01_l1_prunning", r"no lesson '01_l1_prunning'; did you mean 01_l1_pruning_math"),
        ("which_weights", r"did you mean 02_which_weights_to_prune"),
        ("77", r"no lesson '77'. Lessons: 00_start_here, 01_l1_pruning_math, 02_which_weights_to_prune\."),
        ("", r"no lesson ''"),
    ],
)
def test_an_unknown_lesson_gets_close_names(name, said, lessons):
    with pytest.raises(CourseError, match=said):
        choose([name], lessons)


def test_without_lessons_every_name_is_unknown():
    with pytest.raises(CourseError, match="Lessons: none yet"):
        choose(["01"], [])


def test_the_course_folder_is_found_from_inside(tmp_path):
    for folder in ("solutions", "notebooks/1_pruning", "work/1_pruning"):
        (tmp_path / folder).mkdir(parents=True)
    assert find_root(tmp_path) == find_root(tmp_path / "work" / "1_pruning") == tmp_path


def test_outside_of_a_course_folder_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match="is not inside the course's folder"):
        find_root()


def test_sources_are_python_files_in_parts_and_released_are_notebooks(tmp_path):
    for name in ("solutions/1_pruning/02_b.py", "solutions/1_pruning/01_a.py", "solutions/0_start/00_c.py",
                 "notebooks/1_pruning/01_a.ipynb", "solutions/README.md", "notebooks/1_pruning/data.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [lesson.stem for lesson in sources(tmp_path)] == ["00_c", "01_a", "02_b"]
    assert [lesson.stem for lesson in released(tmp_path)] == ["01_a"]


def test_a_source_with_another_kind_of_name_is_refused(tmp_path):
    (tmp_path / "solutions/1_pruning").mkdir(parents=True)
    (tmp_path / "solutions/1_pruning/helpers.py").touch()
    with pytest.raises(CourseError, match=r"solutions/1_pruning/helpers.py: expected a name like 01_topic.py"):
        sources(tmp_path)


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    with pytest.raises(CourseError, match=r"jupytext is not installed .*pip install -e '\.\[classroom\]'"):
        classroom("jupytext")
