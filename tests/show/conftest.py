"""What lessons show, caught."""

import pytest


@pytest.fixture
def shown(monkeypatch) -> list:
    """What is displayed where nobody can turn a knob."""
    import IPython.display

    found: list = []
    monkeypatch.setenv("COURSE_HEADLESS", "1")
    monkeypatch.setattr(IPython.display, "display", found.append)
    return found


@pytest.fixture
def knobs(monkeypatch) -> dict:
    """The arguments that a knob is made with."""
    import course_lib.show.knobs

    found: dict = {}

    def caught(draw, still=None, **sliders):
        found.update(draw=draw, still=still, sliders=sliders)

    monkeypatch.setattr(course_lib.show.knobs, "knob", caught)
    return found
