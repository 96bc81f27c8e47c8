"""Sweeps: measurements too long for a lesson, made by ``course sweeps``, stored as small JSON and plotted by the lesson.

Each point is stored as soon as it is measured, with its date, machine and a hash of the code and data that made it, so that a
run can be stopped and what is out of date is found.
"""

import ast
import datetime
import functools
import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from course_lib.artifacts import PACKAGE, digest, read_json, write_text
from course_lib.errors import CourseError, expect
from course_lib.machine import machine

STORED = PACKAGE / "exercises" / "lessons" / "sweeps"  # package data: learners have it without the sources of the lessons
SWEEPS: dict[str, str] = {  # name → module that defines it as SWEEP
    "word_piece_labels": "course_lib.measure.label_sweep",
    "pruning": "course_lib.measure.prune_sweep",
    "peers": "course_lib.measure.peers_sweep",
}
LISTED = {"POINTS", "SWEEP"}  # assignments that are no part of the code: a new point must not make the others stale


@functools.cache
def generated_corpus() -> str:
    """Fingerprint of the generated corpus of seed 0."""
    from course_lib.data.generated import generate

    return generate(0).fingerprint()[:16]


@dataclass(frozen=True)
class Sweep:
    """Points to measure and how.

    Attributes:
        name: of the stored file.
        lesson: its stem, such as "16_prune_bert".
        points: settings of each, names to numbers and strings.
        run: settings → figures, names to a number or ``[value, low, high]``. What points share it makes once.
        code: files of the library that the figures come from, such as "pruning/masks.py", the sweep's own among them.
        interval: what low and high are, for people: "95 % bootstrap over 400 validation sentences".
        data: hash of the data.
        model: hash of the trained model that is measured, "" where a point trains its own. It is noted beside the figures and
            not compared, since training elsewhere gives other last bits: the point that the lesson runs live is compared.
    """

    name: str
    lesson: str
    points: Sequence[dict]
    run: Callable[[dict], dict]
    code: tuple[str, ...]
    interval: str
    data: Callable[[], str] = generated_corpus
    model: Callable[[], str] = str

    def __post_init__(self) -> None:
        plain = all(isinstance(v, int | float | str) for point in self.points for v in point.values())
        expect(plain, "points", self.points, "settings that are numbers and strings, as JSON gives them back")

    def made_of(self) -> dict[str, str]:
        """Hashes of code and data as they are now."""
        return {"code": code_hash(*self.code), "data": self.data()}


def find_sweep(name: str) -> Sweep:
    """The sweep of this name.

    Raises:
        CourseError: there is none.
    """
    if name not in SWEEPS:
        raise CourseError(f"There is no sweep {name!r}; expected one of: {', '.join(SWEEPS)}.")
    return importlib.import_module(SWEEPS[name]).SWEEP


def code_hash(*files: str) -> str:
    """Hash of what files of the library do: not of their comments, docstrings, layout and lists of points.

    Raises:
        ValueError: a name that is no file, so that a typing error does not freeze a hash.
    """
    for name in files:
        expect((PACKAGE / name).is_file(), "files", name, f"a file below {PACKAGE.name}")
    return digest([(name, code_of((PACKAGE / name).read_text("utf-8"))) for name in sorted(files)])


def code_of(source: str) -> list:
    """A module's syntax tree as lists, the same under every version of Python that reads it alike.

    >>> code_of("x = 1  # one") == code_of("x  =  1"), code_of("x = 1") == code_of("x = 2")
    (True, False)
    """
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.Assign) and {ast.unparse(t) for t in n.targets} & LISTED)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some format specifications with an empty string
            node.values = [v for v in node.values if not (isinstance(v, ast.Constant) and v.value == "")]
    return _plain(tree)


def _plain(node: object) -> object:
    """Class and fields that are not empty: versions of Python add fields, which are empty where they are not used."""
    if isinstance(node, list):
        return [_plain(n) for n in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    return [type(node).__name__, *([k, _plain(v)] for k, v in ast.iter_fields(node) if v not in (None, []))]


def stored(name: str) -> list[dict]:
    """The stored points of a sweep, none if it was never made: ``settings, figures, seconds, date, machine, code, data``."""
    file = STORED / f"{name}.json"
    return read_json(file)["points"] if file.exists() else []


def missing(sweep: Sweep) -> list[dict]:
    """The points that are not stored, or were made by other code or data."""
    now = sweep.made_of()
    fresh = [p["settings"] for p in stored(sweep.name) if {k: p[k] for k in now} == now]
    return [point for point in sweep.points if point not in fresh]


def stale(sweep: Sweep) -> list[str]:
    """What is wrong with the stored sweep, one line a point; nothing when it is what ``course sweeps`` would leave."""
    left = [p["settings"] for p in stored(sweep.name) if p["settings"] not in list(sweep.points)]
    return [f"not measured by this code and data: {p}" for p in missing(sweep)] + [f"no longer asked for: {p}" for p in left]


def run_sweep(sweep: Sweep, threads: int, progress: Callable[[dict], None] | None = None) -> int:
    """Measure what is missing or stale; each point is stored as soon as it is there.

    Args:
        threads: of PyTorch, noted beside the figures.
        progress: called with the settings of each point before it is measured.
    Returns:
        How many points were measured.
    Raises:
        ValueError: a figure that is no number or interval, or has the name of a setting.
    """
    made_of, todo = sweep.made_of(), missing(sweep)
    about = machine(threads)
    where = {"cpu": about["cpu"], "threads": threads, "torch": about["versions"]["torch"], "model": sweep.model()}
    for point in todo:
        if progress:
            progress(point)
        start = time.perf_counter()
        figures = sweep.run(point)
        for key, value in figures.items():
            good = isinstance(value, int | float) or (len(value) == 3 and value[1] <= value[0] <= value[2])
            expect(good and key not in point, key, value, "a number or [value, low, high] under a name that is no setting")
        seconds, date = round(time.perf_counter() - start, 1), datetime.date.today().isoformat()
        row = {"settings": point, "figures": figures, "seconds": seconds, "date": date, "machine": where, **made_of}
        _store(sweep, [p for p in stored(sweep.name) if p["settings"] != point] + [row])
    if stale(sweep) and not missing(sweep):  # all that is left is no longer asked for
        _store(sweep, stored(sweep.name))
    return len(todo)


def _store(sweep: Sweep, rows: list[dict]) -> None:
    """A line for each point, in the sweep's order, so that a change of one is a change of one line."""
    order = [row for point in sweep.points for row in rows if row["settings"] == point]
    head = json.dumps({"name": sweep.name, "lesson": sweep.lesson, "interval": sweep.interval}, ensure_ascii=False)[1:-1]
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in order)
    write_text(STORED / f"{sweep.name}.json", f'{{{head},\n "points": [\n  {lines}\n ]}}\n')


def load_sweep(name: str) -> list[dict]:
    """The points of a stored sweep for a lesson, settings and figures of each in one dict.

    Raises:
        CourseError: it was never made.
    """
    if not (points := stored(name)):
        raise CourseError(f"The sweep {name!r} is not stored in {STORED}: make it with `course sweeps {name}`.")
    return [{**p["settings"], **p["figures"]} for p in points]


def provenance(name: str) -> str:
    """Where the figures of a stored sweep are from, in a line for the lesson."""
    load_sweep(name)
    points, interval = stored(name), read_json(STORED / f"{name}.json")["interval"]
    minutes = sum(p["seconds"] for p in points) / 60
    machines = sorted({f"{p['machine']['cpu']}, {p['machine']['threads']} thread(s)" for p in points})
    dates = sorted({p["date"] for p in points})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{len(points)} points by `course sweeps {name}` in {minutes:.1f} minutes, {when}, {'; '.join(machines)}; "
        f"intervals: {interval}."
    )


def live_point(name: str, settings: Mapping, measured: Mapping[str, float]) -> None:
    """Show a point that was just measured beside the stored one.

    In full mode a figure outside its stored interval is said so, and stops a lesson that is being built or tested. In fast
    mode the models are stand-ins, so the two are shown and not compared.

    Args:
        settings: of the stored point.
        measured: figures that are stored as ``[value, low, high]``.
    Raises:
        CourseError: no such point or figure; or, in full mode and headless, one outside its interval.
    """
    from course_lib.exercises.card import Card
    from course_lib.exercises.mode import fast, headless

    load_sweep(name)
    (point,) = [p for p in stored(name) if p["settings"] == dict(settings)] or [None]
    if point is None or not all(isinstance(point["figures"].get(key), list) for key in measured):
        raise CourseError(f"{name}: no point {dict(settings)} with an interval for {', '.join(measured)} is stored.")
    lines, outside = [], []
    for key, value in measured.items():
        middle, low, high = point["figures"][key]
        lines.append(f"{key}: {value:.3f} here; stored {middle:.3f}, interval {low:.3f} to {high:.3f}.")
        if not low <= value <= high:
            outside.append(key)
    if fast():
        Card("note", "One point run here, on a small stand-in: not to be compared with the stored one.", lines).show()
        return
    if outside and headless():
        raise CourseError(
            f"{name}, {dict(settings)}: outside the stored interval. {' '.join(lines)} `course sweeps` makes it anew."
        )
    title = (
        f"One point run here: outside the stored interval in {', '.join(outside)}." if outside else "One point run here agrees."
    )
    Card("wrong" if outside else "passed", title, lines).show()
