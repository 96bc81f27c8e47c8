"""Learners' copies: made once, never overwritten, and told apart from lessons that have changed since."""

import json

import pytest

from course_lib.classroom.layout import Lesson
from course_lib.classroom.start import read_versions, start
from course_lib.errors import CourseError


@pytest.fixture
def lesson(tmp_path):
    """A lesson with a notebook and a data file; their contents are of no interest here."""
    lesson = Lesson(tmp_path, "1_pruning", "01_topic")
    lesson.notebook.parent.mkdir(parents=True)
    lesson.notebook.write_text("the lesson")
    (lesson.notebook.parent / "data").mkdir()
    (lesson.notebook.parent / "data" / "sweep.json").write_text("[1]")
    return lesson


def state(lesson, **options):
    [done] = start([lesson], **options)
    return done.state


def work(lesson):
    folder = lesson.root / "work"
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != ".started.json"
    }


def test_a_lesson_is_copied_with_its_data(lesson):
    assert state(lesson) == "copied"
    assert work(lesson) == {"1_pruning/01_topic.ipynb": "the lesson", "1_pruning/data/sweep.json": "[1]"}


def test_a_copy_is_never_overwritten(lesson):
    state(lesson)
    lesson.copy.write_text("my work")
    assert state(lesson) == "kept"
    lesson.notebook.write_text("the lesson, changed")
    assert state(lesson) == "changed" and state(lesson) == "changed", "and says so until the new one is taken"
    assert lesson.copy.read_text() == "my work"


def test_fresh_sets_the_old_copy_aside_under_the_next_free_number(lesson):
    state(lesson)
    for number, text in enumerate(("my work", "my second try"), start=1):
        lesson.copy.write_text(text)
        lesson.notebook.write_text(f"version {number}")
        [done] = start([lesson], fresh=True)
        assert (done.state, done.old) == ("fresh", lesson.copy.with_name(f"01_topic.old-{number}.ipynb"))
        assert done.old.read_text() == text and lesson.copy.read_text() == f"version {number}"
    assert state(lesson) == "kept"


def test_fresh_without_an_old_copy_is_a_plain_copy(lesson):
    assert state(lesson, fresh=True) == "copied"


def test_only_the_lessons_asked_for_are_copied(lesson):
    other = Lesson(lesson.root, "1_pruning", "02_other")
    other.notebook.write_text("another")
    start([lesson])
    assert not other.copy.exists()
    assert [done.state for done in start([lesson, other])] == ["kept", "copied"]
    assert read_versions(lesson.root / "work").keys() == {
        "1_pruning/01_topic.ipynb",
        "1_pruning/02_other.ipynb",
        "1_pruning/data/sweep.json",
    }


def test_data_follow_the_lesson_unless_the_learner_changed_them(lesson):
    state(lesson)
    source, mine = (folder / "data" / "sweep.json" for folder in (lesson.notebook.parent, lesson.copy.parent))
    source.write_text("[2]")
    state(lesson)
    assert mine.read_text() == "[2]"
    mine.write_text("[my own]")
    source.write_text("[3]")
    state(lesson)
    assert mine.read_text() == "[my own]"


@pytest.mark.parametrize("text", ["{", "[1]", "", '{"1_pruning/01_topic.ipynb": 7}', "\x00\xff"])
def test_a_damaged_record_is_not_fatal_and_costs_no_work(text, lesson):
    state(lesson)
    lesson.copy.write_text("my work")
    (lesson.root / "work" / ".started.json").write_text(text)
    assert state(lesson) == "kept" and lesson.copy.read_text() == "my work"
    assert isinstance(json.loads((lesson.root / "work" / ".started.json").read_text()), dict)


def test_nothing_to_start_makes_nothing(tmp_path):
    assert start([]) == [] and list(tmp_path.iterdir()) == []


def test_a_work_folder_that_cannot_be_made_is_named(lesson):
    (lesson.root / "work").write_text("years of work")
    with pytest.raises(CourseError, match=r"Cannot write .*work"):
        start([lesson])
    assert (lesson.root / "work").read_text() == "years of work"
