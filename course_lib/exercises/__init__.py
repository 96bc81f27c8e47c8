"""What a lesson imports: check an answer, use it, open a hint, predict, reveal, answer a question.

>>> from course_lib.exercises import check, hint, predict, quiz, reveal, use
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.exercises.checks import check, hint, use
    from course_lib.exercises.mode import fast, pick
    from course_lib.exercises.predictions import predict, reveal
    from course_lib.exercises.questions import quiz

__all__ = ["check", "fast", "hint", "pick", "predict", "quiz", "reveal", "use"]
_HOME = {
    "check": "checks",
    "hint": "checks",
    "use": "checks",
    "predict": "predictions",
    "reveal": "predictions",
    "quiz": "questions",
}
_HOME |= {"fast": "mode", "pick": "mode"}  # no module has the name of a function: importing it would put it in its place


def __getattr__(name: str):
    """Import on first use, so that the command line does not load torch to print its help."""
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
