"""Learners' copies: lessons are worked on in ``work/``, never in ``notebooks/``."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from course_lib.artifacts import write_bytes, write_json
from course_lib.classroom.layout import Lesson

KEPT = ".started.json"  # in work/: which version of each file was copied, as sha256


@dataclass(frozen=True)
class Started:
    """What became of one lesson.

    Attributes:
        lesson: which.
        state: ``copied``; ``kept``, the copy that is there; ``changed``, kept, and the lesson has changed since; ``fresh``.
        old: where the old copy is now, for ``fresh``.
    """

    lesson: Lesson
    state: str
    old: Path | None = None


def start(lessons: Sequence[Lesson], fresh: bool = False) -> list[Started]:
    """Copy lessons to ``work/`` where they are not yet; what is there is never overwritten.

    Args:
        lessons: of one course, with notebooks.
        fresh: set an old copy aside as ``NN_topic.old-1.ipynb`` (the next free number) and copy anew.
    Returns:
        What became of each lesson.
    Raises:
        CourseError: ``work/`` cannot be written.
    """
    if not lessons:
        return []
    work = lessons[0].root / "work"
    versions = read_versions(work)
    done = []
    for lesson in lessons:
        original = lesson.notebook.read_bytes()
        key, version = f"{lesson.part}/{lesson.stem}.ipynb", hashlib.sha256(original).hexdigest()
        _copy_data(lesson, versions)
        if lesson.copy.exists() and not fresh:
            done.append(Started(lesson, "kept" if versions.get(key, version) == version else "changed"))
            continue
        old = _set_aside(lesson.copy) if lesson.copy.exists() else None
        write_bytes(lesson.copy, original)
        versions[key] = version
        done.append(Started(lesson, "fresh" if old else "copied", old))
    write_json(work / KEPT, dict(sorted(versions.items())))
    return done


def read_versions(work: Path) -> dict[str, str]:
    """File in ``work/`` → sha256 of the original that was copied; what cannot be read counts as not known."""
    try:
        found = json.loads((work / KEPT).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _set_aside(copy: Path) -> Path:
    number = 1
    while (old := copy.with_name(f"{copy.stem}.old-{number}.ipynb")).exists():
        number += 1
    os.rename(copy, old)
    return old


def _copy_data(lesson: Lesson, versions: dict[str, str]) -> None:
    """Data files beside the lesson: copied, and brought up to date unless the learner has changed them."""
    folder = lesson.notebook.parent
    for source in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".ipynb"):
        target = lesson.copy.parent / source.relative_to(folder)
        key, data = f"{lesson.part}/{source.relative_to(folder).as_posix()}", source.read_bytes()
        if not target.exists() or hashlib.sha256(target.read_bytes()).hexdigest() == versions.get(key):
            write_bytes(target, data)
            versions[key] = hashlib.sha256(data).hexdigest()
