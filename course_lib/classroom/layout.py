"""Where a lesson's files are: source and solution below ``solutions/``, the learner's below ``notebooks/`` and ``work/``."""

import difflib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from course_lib.errors import CourseError

STEM = re.compile(r"\d\d_[a-z0-9_]+")


@dataclass(frozen=True, order=True)
class Lesson:
    """The files of one lesson.

    Attributes:
        root: the course's folder.
        part: the folder of its part, such as ``1_pruning``; an assignment of nbgrader.
        stem: its name, such as ``01_l1_pruning_math``.
    """

    root: Path
    part: str
    stem: str

    @property
    def source(self) -> Path:
        """The file that people edit."""
        return self.root / "solutions" / self.part / f"{self.stem}.py"

    @property
    def solution(self) -> Path:
        """Built from the source and executed."""
        return self.source.with_suffix(".ipynb")

    @property
    def measured(self) -> Path:
        """What the lesson took when it was measured."""
        return self.source.with_suffix(".measured.json")

    @property
    def notebook(self) -> Path:
        """Built from the source for learners."""
        return self.root / "notebooks" / self.part / f"{self.stem}.ipynb"

    @property
    def copy(self) -> Path:
        """The learner's own copy."""
        return self.root / "work" / self.part / f"{self.stem}.ipynb"

    @property
    def name(self) -> str:
        """Source, for messages: ``solutions/1_pruning/01_l1_pruning_math.py``."""
        return self.source.relative_to(self.root).as_posix()


def find_root(start: Path | None = None) -> Path:
    """The course's folder: the nearest one, from ``start`` (default: the current folder) upwards, that has lessons.

    Raises:
        CourseError: there is none.
    """
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / "solutions").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise CourseError(f"{here} is not inside the course's folder, which holds solutions/ and notebooks/. Go there first.")


def sources(root: Path) -> list[Lesson]:
    """All lessons that have a source, in the order of the course.

    Raises:
        CourseError: a Python file beside them that is not named like a lesson.
    """
    found = [Lesson(root, path.parent.name, path.stem) for path in sorted(root.glob("solutions/*/*.py"))]
    for lesson in found:
        if not STEM.fullmatch(lesson.stem):
            raise CourseError(f"{lesson.name}: expected a name like 01_topic.py (two digits, then small letters).")
    return found


def released(root: Path) -> list[Lesson]:
    """All lessons that learners can have, in the order of the course."""
    return [Lesson(root, path.parent.name, path.stem) for path in sorted(root.glob("notebooks/*/*.ipynb"))]


def choose(names: Sequence[str], lessons: Sequence[Lesson]) -> list[Lesson]:
    """The lessons of these names, all when there are none.

    Args:
        names: for each the number (``1`` or ``01``), the stem, the topic, a path of the lesson, or a part (all its lessons).
        lessons: to choose from.
    Raises:
        CourseError: no such lesson; the message names close ones.
    """
    chosen: dict[Lesson, None] = {}
    for name in names:
        plain = Path(name).name.removesuffix(".py").removesuffix(".ipynb")
        number = plain.zfill(2) if plain.isdecimal() else None
        fits = [
            lesson for lesson in lessons if plain in (lesson.stem, lesson.stem[3:], lesson.part) or number == lesson.stem[:2]
        ]
        if not fits:
            raise CourseError(_unknown(name, lessons))
        chosen.update(dict.fromkeys(fits))
    return sorted(chosen) if names else list(lessons)


def _unknown(name: str, lessons: Sequence[Lesson]) -> str:
    known = [form for lesson in lessons for form in (lesson.stem, lesson.stem[3:])]
    stems = {form: lesson.stem for lesson in lessons for form in (lesson.stem, lesson.stem[3:])}
    close = dict.fromkeys(stems[form] for form in difflib.get_close_matches(Path(name).stem, known, n=3, cutoff=0.4))
    if close:
        return f"There is no lesson {name!r}; did you mean {' or '.join(close)}?"
    some = ", ".join(lesson.stem for lesson in lessons[:5]) or "none yet"
    return f"There is no lesson {name!r}. Lessons: {some}{', …' if len(lessons) > 5 else ''}."


def classroom(module: str) -> ModuleType:
    """Import a module that comes with the extra ``classroom``.

    Raises:
        CourseError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CourseError(
            f"{module.partition('.')[0]} is not installed ({error}). In the course's folder: pip install -e '.[classroom]' "
            "(`make lessons` and `make test` do so by themselves)."
        ) from error
