"""What of ``course_lib`` an answer gets when a class is graded: the source of what it imports, and no more.

The confined process has no ``course_lib``. An answer that imports a helper from it is given that module, and the modules this
one imports, as text. The functions that answer exercises are cut out of them, but for those that the answer names (then it is
flagged) and those that a lesson goes on with in the place of another exercise's answer that did not pass. Nothing of
``course_lib.exercises`` and ``course_lib.classroom`` is given: there are the cases and the checks.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from course_lib.classroom.statements import closure, read_statements
from course_lib.exercises.registry import all_exercises

ROOT = Path(__file__).parents[1]
KEPT_BACK = ("course_lib.exercises", "course_lib.classroom", "course_lib.commands", "course_lib.cli")
LESSON_CALLS = '''"""What a lesson calls, without effect."""
def pick(full, fast_value): return full
def fast(): return False
def headless(): return True
def use(exercise, function): return function
def check(exercise, function): return 0.0
def hint(*arguments): return None
predict = reveal = quiz = hint
'''


def place(function: Any) -> tuple[str, str]:
    """Module and name of a function or class."""
    return function.__module__, function.__qualname__


def is_reference(name: str, reference: Any) -> bool:
    """True when a full name, as ``course_lib.pruning.l1.soft_threshold``, stands for the library's answer."""
    module, _, attribute = name.rpartition(".")
    if attribute != reference.__name__ or _file(module) is None or _kept_back(module):
        return False
    return getattr(importlib.import_module(module), attribute, None) is reference


def modules_for(names: Iterable[str], references: Iterable[Any] = ()) -> dict[str, str]:
    """Sources of the modules that these names need.

    Args:
        names: full names of what an answer mentions.
        references: answers to exercises that it gets whole.
    Returns:
        Name of a module → its source; empty when nothing of the library is mentioned.
    """
    names = [n for n in names if n.split(".")[0] == "course_lib"]
    wanted = {m for n in names for m in _modules_in(n)} | {place(r)[0] for r in references}
    if not names and not wanted:
        return {}
    found: dict[str, str] = {"course_lib.exercises": LESSON_CALLS}
    left = sorted(wanted)
    while left:
        name = left.pop()
        if name not in found and not _kept_back(name):
            found[name] = _file(name).read_text("utf-8")
            left += sorted(_imports(name))
    mentioned = {place(e.reference) for e in all_exercises().values() if any(is_reference(n, e.reference) for n in names)}
    keep = set().union(*(_needs(*p) for p in mentioned | {place(r) for r in references}))
    return {"course_lib": "", **{name: _without_answers(name, text, keep) for name, text in found.items()}}


def _modules_in(name: str) -> list[str]:
    """The modules on the way to a name."""
    parts = name.split(".")
    return [m for i in range(1, len(parts) + 1) if _file(m := ".".join(parts[:i])) and not _kept_back(m)]


def _file(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != "course_lib" or not all(p.isidentifier() for p in parts):
        return None
    path = ROOT.joinpath(*parts[1:])
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


def _kept_back(module: str) -> bool:
    return any(module == back or module.startswith(back + ".") for back in KEPT_BACK)


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """Modules of the library that a module imports anywhere, and its packages."""
    found = set(_modules_in(module))
    for node in ast.walk(ast.parse(_file(module).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {m for alias in node.names for m in _modules_in(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {m for alias in node.names for m in _modules_in(f"{node.module}.{alias.name}")}
    return frozenset(found - {module})


@functools.cache
def _needs(module: str, name: str) -> frozenset[tuple[str, str]]:
    """An answer to an exercise and the answers that it calls itself, as (module, name)."""
    found, left = set(), [(module, name)]
    while left:
        here = left.pop()
        if here in found or here not in _answers():
            continue
        found.add(here)
        text = _file(here[0]).read_text("utf-8")
        left += [(here[0], bound) for s in closure(read_statements(text), here[1]) for bound in s.binds]
        imported = (getattr(importlib.import_module(here[0]), n, None) for n in _used(here))
        left += [place(f) for f in imported if inspect.isroutine(f) or inspect.isclass(f)]
    return frozenset(found)


def _used(here: tuple[str, str]) -> Iterator[str]:
    for statement in closure(read_statements(_file(here[0]).read_text("utf-8")), here[1]):
        yield from statement.uses


@functools.cache
def _answers() -> frozenset[tuple[str, str]]:
    return frozenset(place(e.reference) for e in all_exercises().values())


def _without_answers(module: str, text: str, keep: set[tuple[str, str]]) -> str:
    """A module's source in which the answers to exercises are blank lines, but for some."""
    cut = {name for where, name in _answers() - keep if where == module}
    lines = text.splitlines()
    for node in ast.parse(text).body if cut else []:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in cut:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            lines[first - 1 : node.end_lineno] = [""] * (node.end_lineno - first + 1)
    return "\n".join(lines)
