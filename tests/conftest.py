"""Settings of all tests: property-based ones draw the same examples each time and are not judged by the clock."""

import sys

import pytest
from hypothesis import settings

from course_lib.exercises import run

settings.register_profile("course", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("course")


@pytest.fixture(autouse=True)
def answers_are_not_traced(monkeypatch):
    """A time limit that ends a tracer's own code (coverage) would leave its lock taken, and the next line would wait forever."""
    within = run._within

    def untraced(*given):
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return within(*given)
        finally:
            sys.settrace(tracer)

    monkeypatch.setattr(run, "_within", untraced)
