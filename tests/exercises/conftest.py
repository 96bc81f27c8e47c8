"""Nobody's progress, and no buttons, unless a test asks for them."""

import pytest
from samples import CLIP, COUNTER, ROOM

from course_lib.exercises import registry


@pytest.fixture(autouse=True)
def progress(tmp_path, monkeypatch):
    """The progress file of this test, which is not there yet."""
    path = tmp_path / "progress" / "progress.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    monkeypatch.setenv("COURSE_HEADLESS", "1")
    monkeypatch.delenv("COURSE_CHECK_SEED", raising=False)
    return path


@pytest.fixture
def samples(monkeypatch):
    """The course consists of the samples."""
    monkeypatch.setattr(registry, "all_exercises", lambda: {e.id: e for e in (CLIP, COUNTER)})
    monkeypatch.setattr(registry, "all_questions", lambda: {q.id: q for q in ROOM})
    monkeypatch.setattr("course_lib.exercises.checks._VERDICTS", {})


@pytest.fixture
def said(capsys):
    """A function that returns what was shown since the last call, and sees to it that standard error stayed empty."""

    def said() -> str:
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return said
