"""A learner's progress, in one small JSON file outside the notebooks; safe with two notebooks open."""

import contextlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from course_lib.artifacts import explained, write_json
from course_lib.errors import CourseError

VERSION = 1
ENTRIES = {  # what an entry of each part must have; more may come with a later version
    "exercises": {"points": (int, float), "of": (int, float), "attempts": int, "diagnosed": int, "state": str},
    "predictions": {"value": (int, float, str), "unit": str},
    "questions": {"tries": int, "right": bool},
}
LOCK_SECONDS = 10


def progress_file() -> Path:
    """Where progress is kept: ``COURSE_PROGRESS``, else ``work/progress.json`` of the course's folder, else the user's data folder."""
    if os.environ.get("COURSE_PROGRESS"):
        return Path(os.environ["COURSE_PROGRESS"])
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "course_lib" / "exercises").is_dir() and (folder / "notebooks").is_dir():
            return folder / "work" / "progress.json"
    import platformdirs

    return platformdirs.user_data_path("course_lib") / "progress.json"


def read_progress(path: Path | None = None) -> dict:
    """All that is kept; empty when there is nothing yet. A damaged file is set aside as ``progress.damaged-N.json``."""
    path = path or progress_file()
    try:
        return _read(path)
    except (ValueError, RecursionError):
        with contextlib.suppress(CourseError), _locked(path):
            return _read_or_set_aside(path)
    except OSError:  # cannot be read now, and may be whole
        return _empty()
    return _empty()


def update_progress(change: Callable[[dict], None], path: Path | None = None) -> dict:
    """Read, change and write under a lock; returns what was written.

    Args:
        change: changes the progress in place.
    Raises:
        CourseError: the file cannot be written.
    """
    path = path or progress_file()
    with _locked(path):
        progress = _read_or_set_aside(path)
        change(progress)
        write_json(path, progress)
    return progress


def _empty() -> dict:
    return {"version": VERSION, "exercises": {}, "hints": {}, "predictions": {}, "questions": {}}


def _read(path: Path) -> dict:
    """What the file holds, or a ValueError when it is not whole."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return _empty()
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError("of another version")
    hints = found.get("hints")
    if not isinstance(hints, dict) or not all(isinstance(count, int) for count in hints.values()):
        raise ValueError("hints")
    for part, keys in ENTRIES.items():
        entries = found.get(part)
        if not isinstance(entries, dict):
            raise ValueError(part)
        for entry in entries.values():
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), types) for key, types in keys.items()):
                raise ValueError(part)
    return found


def _read_or_set_aside(path: Path) -> dict:
    """Only under the lock, or one process might set aside what another has just mended."""
    try:
        return _read(path)
    except (ValueError, RecursionError):
        names = (path.with_name(f"{path.stem}.damaged-{n}.json") for n in itertools.count(1))
        os.replace(path, next(name for name in names if not name.exists()))
        return _empty()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a progress file; whatever the system says against it becomes advice."""
    from filelock import FileLock

    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
                yield
    except CourseError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.__cause__
        raise CourseError(
            f"{path} cannot be written ({reason}). The lesson works without it; to keep your progress elsewhere, set "
            "COURSE_PROGRESS to the name of a file before you start."
        ) from error


def record_check(
    exercise: str, state: str, points: float, of: float, misconception: str | None, path: Path | None = None
) -> None:
    """Note the result of a check. The best points count; attempts and diagnoses are counted."""

    def change(progress: dict) -> None:
        entry = progress["exercises"].setdefault(exercise, {"points": 0.0, "attempts": 0, "diagnosed": 0})
        if state != "not attempted":
            entry["attempts"] += 1
            entry["diagnosed"] += misconception is not None
        known = entry.get("state", "not attempted")
        entry["state"] = known if known == "passed" or state == "not attempted" else state
        entry["points"], entry["of"] = max(entry["points"], points), of
        entry["last"] = time.strftime("%Y-%m-%d %H:%M:%S")

    update_progress(change, path)


def open_hint(exercise: str, available: int, path: Path | None = None) -> int:
    """Count one more hint as opened; returns how many are open now, at most ``available``."""

    def change(progress: dict) -> None:
        progress["hints"][exercise] = min(available, progress["hints"].get(exercise, 0) + 1)

    return update_progress(change, path)["hints"][exercise]


def record_prediction(name: str, value: float | str, unit: str, path: Path | None = None) -> bool:
    """Keep a prediction; the first one counts. Returns whether this was the first."""
    first = []

    def change(progress: dict) -> None:
        if name not in progress["predictions"]:
            first.append(True)
            progress["predictions"][name] = {"value": value, "unit": unit}

    update_progress(change, path)
    return bool(first)


def record_measurement(name: str, measured: float | str, path: Path | None = None) -> dict | None:
    """Keep what was measured beside the prediction; returns the entry, None when nothing was predicted.

    A measurement that is no finite number (JSON has none) is not kept.
    """
    entry = read_progress(path)["predictions"].get(name)
    lost = isinstance(measured, float) and not math.isfinite(measured)
    if entry is None or lost or entry.get("measured") == measured:
        return entry

    def change(progress: dict) -> None:
        if name in progress["predictions"]:
            progress["predictions"][name]["measured"] = measured

    return update_progress(change, path)["predictions"].get(name)


def record_answer(question: str, right: bool, path: Path | None = None) -> None:
    """Keep whether a question for reflection was answered rightly, and at which try."""

    def change(progress: dict) -> None:
        entry = progress["questions"].setdefault(question, {"tries": 0, "right": False})
        if not entry["right"]:
            entry["tries"] += 1
            entry["right"] = right

    update_progress(change, path)
