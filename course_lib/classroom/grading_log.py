"""Every verdict on disk before the next one is waited for: a log that survives a kill at any moment.

A line is ``{"key": …, "result": …}``. It is written in one piece and flushed to the disk; a line that was torn by a power
failure is cut off, and what it was about is graded again. Nothing is ever changed in it, so that earlier results stay.
"""

import json
import os
from pathlib import Path

from course_lib.artifacts import explained, sync_folder
from course_lib.classroom.results import Result, from_json, to_json


class GradingLog:
    """The log of a folder of results.

    Args:
        path: its file; made when missing. What is in it is read.
    Raises:
        CourseError: it cannot be written.

    Attributes:
        entries: ``(key, result)``, oldest first.
    """

    def __init__(self, path: Path) -> None:
        self.entries: list[tuple[str, Result]] = []
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            sync_folder(path.parent)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        for line in data[:whole].splitlines():
            try:
                found = json.loads(line)
                self.entries.append((str(found["key"]), from_json(json.dumps(found["result"]))))
            except (ValueError, TypeError, KeyError):  # half a disk block: graded again
                continue

    def append(self, key: str, result: Result) -> None:
        """Add a result; when this returns, it is on the disk.

        Raises:
            CourseError: the disk is full; nothing half-written counts.
        """
        line = f'{{"key": {json.dumps(key)}, "result": {to_json(result)}}}\n'.encode()
        with explained(Path("the log of grading")):
            if os.write(self._file, line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._file)
        self.entries.append((key, result))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
