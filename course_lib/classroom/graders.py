"""What a worker of ``course grade`` does: a confined server of its own, and grading with it."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from course_lib.artifacts import code_digest, digest
from course_lib.classroom.confine import Limits, ServerGone, start_server
from course_lib.classroom.grade_one import OpenQuestion, Settings, grade
from course_lib.classroom.library import modules_for
from course_lib.classroom.results import Result
from course_lib.errors import CourseError
from course_lib.exercises.registry import exercises

Piece = tuple[str, str, bytes]  # student, lesson, the notebook's bytes
JUDGING = (
    "exercises",
    *(f"classroom/{name}.py" for name in "child extract grade_one library names plain said session statements wire".split()),
)


def judging_code(lessons: Iterable[str]) -> str:
    """A hash of all code that verdicts on some lessons follow from.

    That is :data:`JUDGING`, and what exercises take from the library: the modules of their references and of what their cases and
    checks call, with the modules that these import.

    Args:
        lessons: stems.
    """
    asked = [exercise for lesson in lessons for exercise in exercises(lesson)]
    homes = {sys.modules[part.__module__] for e in asked for part in (e.cases, e.verify)}
    called = {f"{m}.{value.__qualname__}" for home in homes for value in vars(home).values() if (m := _library_module(value))}
    return digest(code_digest(*JUDGING), modules_for(sorted(called), [e.reference for e in asked]))


def _library_module(value: object) -> str | None:
    """The module of the library that a function or class comes from."""
    module = getattr(value, "__module__", None)
    return module if isinstance(module, str) and module.startswith("course_lib.") and hasattr(value, "__qualname__") else None


def hidden_from_learners(root: Path, submissions: Path, out: Path) -> list[str]:
    """Folders that learners' code must not see, wherever they are: solutions, tests, other submissions, results."""
    folders = (root / "solutions", root / "notebooks", root / "tests", submissions, out)
    return [str(folder.absolute()) for folder in folders if folder.is_dir()]


@contextlib.contextmanager
def functions_grader(
    questions: Mapping[str, Sequence[OpenQuestion]],
    seed: int,
    reference_earns: bool = True,
    tier: str | None = None,
    hides: Sequence[str] = (),
) -> Iterator[Callable[[Piece], Result]]:
    """Grade the exercises' functions, apart from the rest of the notebook.

    Args:
        questions: lesson → its open questions.
        seed: that cases are drawn from.
        reference_earns: False gives answers that call the library's own no points.
        tier: of confinement; None takes the best that this system has.
        hides: folders that learners' code must not see.
    Yields:
        ``(student, lesson, bytes) → Result``.
    Raises:
        CourseError: learners' code cannot be confined here.
    """
    start = lambda: start_server(Limits(), hides, tier)  # noqa: E731
    settings, server = Settings(reference_earns), start()

    def grade_piece(piece: Piece) -> Result:
        nonlocal server
        student, lesson, data = piece
        for _ in range(2):
            try:
                return grade(data, student, lesson, server, seed, settings, questions.get(lesson, ()))
            except ServerGone:  # as by a lack of memory; a fresh one may do
                server.close()
                server = start()
        raise CourseError("its confined server ended twice; is there too little memory for so many workers?")

    try:
        yield grade_piece
    finally:
        server.close()
