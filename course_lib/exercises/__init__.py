"""What a lesson imports: check an answer, use it, open a hint, predict, reveal, answer a question.

>>> from course_lib.exercises import check, hint, predict, quiz, reveal, use
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.exercises.check import check, hint, use
    from course_lib.exercises.mode import fast, pick
    from course_lib.exercises.predict import predict, reveal
    from course_lib.exercises.quiz import quiz

__all__ = ["check", "fast", "hint", "pick", "predict", "quiz", "reveal", "use"]
_HOME = {"check": "check", "hint": "check", "use": "check", "predict": "predict", "reveal": "predict", "quiz": "quiz", "fast": "mode", "pick": "mode"}  # fmt: skip


def __getattr__(name: str):
    """Import on first use, so that the command line does not load torch to print its help."""
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # over the submodule of the same name
    return value
