"""The one exception a user of the course is meant to read."""

import difflib
from collections.abc import Iterable


class CourseError(Exception):
    """Something the user can put right: names what was wrong, what was expected and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """


def expect(condition: bool, argument: str, got: object, expected: str) -> None:
    """Raise a :class:`ValueError` that names the argument, its value and what was expected.

    >>> expect(0 < 2, "sparsity", 2, "a fraction between 0 and 1")
    >>> expect(False, "sparsity", 2, "a fraction between 0 and 1")
    Traceback (most recent call last):
    ...
    ValueError: sparsity = 2: expected a fraction between 0 and 1
    """
    if not condition:
        raise ValueError(f"{argument} = {got!r}: expected {expected}")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What to add to a message about a name that is not known: the nearest of those that are, or nothing.

    >>> did_you_mean("kepp", ["keep", "score"])
    " Did you mean 'keep'?"
    >>> did_you_mean("zebra", ["keep", "score"])
    ''
    """
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
