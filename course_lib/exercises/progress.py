"""A learner's progress, in one small JSON file outside the notebooks; safe with two notebooks open."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from course_lib.artifacts import write_json

VERSION = 1
EMPTY = {"version": VERSION, "exercises": {}, "hints": {}, "predictions": {}, "questions": {}}


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
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise ValueError("of another version")
        if not all(isinstance(found.get(key), dict) for key in EMPTY if key != "version"):
            raise ValueError("incomplete")
        return found
    except FileNotFoundError:
        return json.loads(json.dumps(EMPTY))
    except (ValueError, OSError, RecursionError):
        with contextlib.suppress(OSError):
            number = 1 + sum(1 for _ in path.parent.glob(f"{path.stem}.damaged-*.json"))
            os.replace(path, path.with_name(f"{path.stem}.damaged-{number}.json"))
        return json.loads(json.dumps(EMPTY))


def update_progress(change: Callable[[dict], None], path: Path | None = None) -> dict:
    """Read, change and write under a lock; returns what was written.

    Args:
        change: changes the progress in place.
    Raises:
        CourseError: the file cannot be written.
    """
    from filelock import FileLock

    from course_lib.artifacts import explained

    path = path or progress_file()
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=10):
            progress = read_progress(path)
            change(progress)
            write_json(path, progress)
    return progress


def record_check(
    exercise: str, state: str, points: float, of: float, misconception: str | None, path: Path | None = None
) -> None:
    """Note the result of a check. The best points count; attempts and diagnoses are counted."""

    def change(progress: dict) -> None:
        entry = progress["exercises"].setdefault(exercise, {"points": 0.0, "attempts": 0, "diagnosed": 0})
        if state != "not attempted":
            entry["attempts"] += 1
            entry["diagnosed"] += misconception is not None
        entry["state"] = "passed" if "passed" in (state, entry.get("state")) else state
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
    """Keep what was measured beside the prediction; returns the entry, None when nothing was predicted."""
    entry = read_progress(path)["predictions"].get(name)
    if entry is None or entry.get("measured") == measured:
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
