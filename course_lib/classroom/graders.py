"""What a worker of ``course grade`` does: a confined server of its own, and grading with it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from course_lib.classroom.confine import Limits, ServerGone, start_server
from course_lib.classroom.grade_one import OpenQuestion, Settings, grade
from course_lib.classroom.results import Result
from course_lib.errors import CourseError

Piece = tuple[str, str, bytes]  # student, lesson, the notebook's bytes
JUDGING = (
    "exercises",
    *(f"classroom/{name}.py" for name in "child extract grade_one library names plain session statements wire".split()),
)


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
