"""What a lesson takes: seconds and memory from a run, kept beside its source; minutes from its text and exercises.

``NN_topic.measured.json``: ``{"date", "cpu", "seconds", "peak_mib"}``. The minutes are not in it: they follow from the source
(:func:`course_lib.classroom.source.lesson_minutes`), so that they cannot go stale.
"""

import time

from course_lib.artifacts import read_json, write_json
from course_lib.classroom.execute import Run
from course_lib.classroom.layout import Lesson
from course_lib.errors import CourseError
from course_lib.machine import cpu_info


def read_measured(lesson: Lesson) -> dict | None:
    """What was measured; None when nothing was.

    Raises:
        CourseError: the file is damaged.
    """
    if not lesson.measured.exists():
        return None
    found = read_json(lesson.measured)
    for key in ("seconds", "peak_mib"):
        value = found.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise CourseError(
                f"{lesson.measured}: {key} = {value!r}; expected a number. Measure again: {measure_command(lesson)}"
            )
    return found


def write_measured(lesson: Lesson, run: Run) -> dict:
    """Keep what a run took; returns what was written."""
    found = {"date": time.strftime("%Y-%m-%d"), "cpu": cpu_info()[0], "seconds": run.seconds, "peak_mib": run.peak_mib}
    write_json(lesson.measured, found)
    return found


def measure_command(lesson: Lesson) -> str:
    """The command that measures a lesson."""
    return f"course build --measure {lesson.stem}"
