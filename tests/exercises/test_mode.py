"""Full and fast mode, and notebooks that nobody looks at: two environment variables."""

import pytest

from course_lib.exercises import fast, pick
from course_lib.exercises.mode import headless


@pytest.mark.parametrize("value, on", [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_a_switch_is_on_unless_it_is_empty_or_0(value, on, monkeypatch):
    for name in ("COURSE_FAST", "COURSE_HEADLESS"):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    assert fast() is on and headless() is on
    assert pick(1000, 10) == (10 if on else 1000)
