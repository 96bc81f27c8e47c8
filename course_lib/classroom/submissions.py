"""Who handed in what: nbgrader's layout, a folder of notebooks, a folder per student, or the zip of a course system.

=============================================  ==========================================================================
``anna/1_pruning/01_topic.ipynb``              nbgrader's; ``submitted/`` may be in front
``anna.ipynb``, ``anna_01_topic.ipynb``        all in one folder; without the lesson's name, what is in it tells the lesson
``anna/…/any name.ipynb``                      a folder for each student
``Anna Berg_4061_assignsubmission_file_/…``    Moodle's zip, with folders or without; the student is ``Anna Berg_4061``
``berganna_4061_77_01_topic.ipynb``            Canvas's zip, also with ``LATE``; the student is ``berganna_4061``
=============================================  ==========================================================================

A zip in it is looked into as a folder of its name. Whose it is follows from where it lies: nothing inside it names a student.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from course_lib.artifacts import write_bytes
from course_lib.classroom.handed_in import UNLISTED, Entry, Refused, entries, read_file
from course_lib.exercises.registry import LESSONS

MOODLE = re.compile(r"([^/]+_\d+)_assignsubmission_[a-z]+_/?(.+)")
CANVAS = re.compile(r"([^/_]+)(?:_LATE)?_(\d+)_\d+_(.+)")
Named = tuple[str, str]  # student, the rest of the path


@dataclass(frozen=True)
class Submission:
    """One notebook that was handed in, or what was in its place.

    Attributes:
        student: as the folder, the file or the course system names them.
        lesson: the stem of the lesson it is for; "" when that could not be told.
        name: of the file, as it was handed in.
        sha256: of its bytes; "" when they were not read.
        path: where its bytes are; None when they are not to be graded.
        problem: why it is not graded, as a sentence; "" when it is.
        notes: what the instructor should know of how it was chosen.
    """

    student: str
    lesson: str
    name: str
    sha256: str = ""
    path: Path | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()


def collect(source: Path, part: str, lessons: Mapping[str, Sequence[str]], kept: Path) -> list[Submission]:
    """All submissions of a part, by student and lesson, at most one for each pair.

    Args:
        source: a folder or a zip.
        part: the assignment, such as ``1_pruning``.
        lessons: of the part: stem → ids of its exercises.
        kept: folder that files out of a zip are written to, under their sha256.
    Raises:
        CourseError: ``source`` is neither a folder nor a zip, or ``kept`` cannot be written.
    """
    every = list(entries(source))
    files = [entry for entry in every if not _other_part(entry, part)]
    name_of = recogniser([entry.given for entry in files if _is_notebook(entry)], part, lessons)
    found: dict[tuple[str, str], list[Submission]] = {}
    others: dict[str, str] = {}  # student → a file that is no notebook
    for entry in files:
        student, rest = name_of(entry.name, entry.given)
        if entry.name.lower().endswith((".ipynb", ".zip", f"/{UNLISTED}")):
            made = _read(entry, student, rest, lessons, kept)
            found.setdefault((student, made.lesson), []).append(made)
        elif "/" in entry.name:
            others.setdefault(student, rest)
    for student in others.keys() - {student for student, _ in found}:
        why = f"There is no notebook, only other files ({others[student]})."
        found[student, ""] = [Submission(student, "", others[student], problem=why)]
    passed_over: dict[str, list[str]] = {}  # student → files of theirs that lie in another part's folder
    for entry in every:
        other = _other_part(entry, part)
        if other and _is_notebook(entry) and (entry.zipped or lesson_of(entry.name.rpartition("/")[2], b"", lessons)):
            moved = [part if folder == other else folder for folder in entry.name.split("/")]
            given = entry.given if entry.zipped else "/".join(moved)
            passed_over.setdefault(name_of("/".join(moved), given)[0], []).append(entry.name)
    return _with_notes([_choose(found[key]) for key in sorted(found)], passed_over)


def _is_notebook(entry: Entry) -> bool:
    return entry.name.lower().endswith(".ipynb")


def _other_part(entry: Entry, part: str) -> str | None:
    """The folder of another part that a file lies in, if it does."""
    return next((f for f in entry.name.split("/")[:-1] if f != part and f in LESSONS.values()), None)


def _with_notes(chosen: Sequence[Submission], passed_over: Mapping[str, Sequence[str]]) -> list[Submission]:
    """Tell each student's submissions of files in another part's folder; a student who has no others gets one of none."""
    noted = []
    for submission in chosen:
        names = passed_over.get(submission.student, ())
        more = tuple(f"In another part's folder, and not looked at: {name}." for name in names)
        noted.append(replace(submission, notes=submission.notes + more))
    for student in passed_over.keys() - {submission.student for submission in chosen}:
        names = ", ".join(passed_over[student])
        noted.append(
            Submission(student, "", names, problem=f"It lies in another part's folder and was not looked at ({names}).")
        )
    return sorted(noted, key=lambda s: (s.student, s.lesson))


def recogniser(given: Sequence[str], part: str, lessons: Mapping[str, Sequence[str]]) -> Callable[[str, str], Named]:
    """How paths of this source name students.

    Args:
        given: for each notebook its path, or that of the zip it is in: what no student chose.
        part, lessons: as for :func:`collect`.
    Returns:
        ``(path, the part of it that is given)`` → student, the rest of the path.
    """
    shared = _shared_folder(given, part, lessons)
    is_canvas = bool(given) and all(MOODLE.match(name) or CANVAS.fullmatch(name.removeprefix(shared)) for name in given)
    depths = Counter(filter(None, (_depth(name.removeprefix(shared), part) for name in given)))
    depth = depths.most_common(1)[0][0] if depths else 0  # of the part's folder, the same for all

    def name_of(name: str, given: str) -> Named:
        name, given = name.removeprefix(shared), given.removeprefix(shared)
        by_folder = nbgrader(name, part) if depth and _depth(given, part) == depth else None
        return moodle(name) or by_folder or (canvas(name) if is_canvas else None) or plain_name(name, lessons)

    return name_of


def _depth(name: str, part: str) -> int:
    """How many folders are above the part's; 0 when it is not there, or nobody's."""
    folders = name.split("/")
    return folders.index(part) if part in folders[1:-1] else 0


def moodle(name: str) -> Named | None:
    """Moodle's names.

    >>> moodle("Anna Berg_4061_assignsubmission_file_/01_topic.ipynb")
    ('Anna Berg_4061', '01_topic.ipynb')
    """
    found = MOODLE.fullmatch(name)
    return (found[1], found[2]) if found else None


def canvas(name: str) -> Named | None:
    """Canvas's names.

    >>> canvas("berganna_LATE_4061_77_01_topic-1.ipynb")
    ('berganna_4061', '01_topic-1.ipynb')
    """
    found = CANVAS.fullmatch(name)
    return (f"{found[1]}_{found[2]}", found[3]) if found else None


def nbgrader(name: str, part: str) -> Named | None:
    """nbgrader's layout: the folder above the assignment's is the student's.

    >>> nbgrader("submitted/anna/1_pruning/01_topic.ipynb", "1_pruning")
    ('anna', '01_topic.ipynb')
    """
    folders, at = name.split("/"), _depth(name, part)
    return (folders[at - 1], "/".join(folders[at + 1 :])) if at else None


def plain_name(name: str, lessons: Mapping[str, Sequence[str]]) -> Named:
    """A folder for each student, or the student's name in the file's.

    >>> plain_name("anna/mine.ipynb", {}), plain_name("anna_01_topic.ipynb", {"01_topic": []})
    (('anna', 'mine.ipynb'), ('anna', '01_topic.ipynb'))
    """
    student, _, rest = name.partition("/")
    if rest:
        return student, rest
    stem, dot, suffix = name.rpartition(".")
    for lesson in lessons:
        before, topic, _ = stem.partition(lesson[3:])
        before = before.removesuffix(lesson[:3])
        if topic and before.rstrip("_- ."):
            return before.rstrip("_- ."), stem[len(before) :] + dot + suffix
    return stem or name, name


def _shared_folder(notebooks: Sequence[str], part: str, lessons: Mapping[str, Sequence[str]]) -> str:
    """The one folder that a zip or a download put around all students' files, with its ``/``; "" when there is none."""
    split = [name.split("/") for name in notebooks]
    if not split or any(len(s) < 2 or s[0] != split[0][0] or s[1] == part for s in split) or MOODLE.match(notebooks[0]):
        return ""
    below = {s[1] for s in split}
    names_lessons = any(lesson[3:] in name and plain_name(name, lessons)[1] == name for name in below for lesson in lessons)
    return f"{split[0][0]}/" if len(below) > 1 and not names_lessons else ""


def lesson_of(file: str, data: bytes, lessons: Mapping[str, Sequence[str]]) -> str:
    """The lesson that a notebook is of: by its file's name, else by the exercises whose functions it defines; "" for none.

    Whatever else the notebook says of itself is not heeded, nor need it be whole.

    >>> lesson_of("mine.ipynb", b'"def soft_threshold(w):"', {"01_l1": ["soft_threshold"], "02_which": ["magnitude"]})
    '01_l1'
    """
    named = [lesson for lesson in lessons if lesson[3:] in file]
    if len(named) == 1:
        return named[0]
    counts = {}
    for lesson, exercises in lessons.items():
        counts[lesson] = sum(re.search(rf"\b(?:def|class) {e}\b".encode(), data) is not None for e in exercises)
    best = max(counts.values(), default=0)
    fits = [lesson for lesson, count in counts.items() if count == best > 0]
    return fits[0] if len(fits) == 1 else next(iter(lessons)) if len(lessons) == 1 else ""


def _read(entry: Entry, student: str, rest: str, lessons: Mapping[str, Sequence[str]], kept: Path) -> Submission:
    """Read one notebook; what came out of a zip is written to ``kept``."""
    file = rest.rpartition("/")[2]
    try:
        data = entry.read()
    except Refused as error:
        return Submission(student, lesson_of(file, b"", lessons), rest, problem=f"{rest} {error}.")
    sha256 = hashlib.sha256(data).hexdigest()
    lesson = lesson_of(file, data, lessons)
    if not lesson:
        return Submission(student, "", rest, sha256, problem=f"{rest} cannot be told to be of a lesson of this part.")
    path = entry.path or kept / f"{sha256}.ipynb"
    if not path.exists():
        write_bytes(path, data)
    return Submission(student, lesson, rest, sha256, path)


def _choose(found: Sequence[Submission]) -> Submission:
    """Of several files for one lesson, the one that counts: one that can be graded, and of those the last by name."""
    *others, chosen = sorted(found, key=lambda s: (s.path is not None, _natural(s.name)))
    if not chosen.lesson:  # nobody can say that these are versions of one thing
        return replace(chosen, problem=" ".join(s.problem for s in (*others, chosen)))
    return replace(chosen, notes=tuple(f"Handed in too, and not graded: {s.name}." for s in others))


def _natural(name: str) -> list:
    """A key that sorts ``b-10`` after ``b-9``, and both after ``b``."""
    stem = name.lower().removesuffix(".ipynb")
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", stem)]


def read_submission(submission: Submission) -> bytes:
    """The bytes that were collected.

    Raises:
        Refused: they have changed since.
    """
    data = read_file(submission.path)
    if hashlib.sha256(data).hexdigest() != submission.sha256:
        raise Refused("has changed while submissions were graded; grade again")
    return data
