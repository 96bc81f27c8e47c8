"""What of ``course_lib`` an answer gets when a class is graded: the source of what it imports, and no more.

The confined process has no ``course_lib``. An answer that imports a helper from it is given that module, and the modules this
one imports, as text. The functions that answer exercises are cut out of them, but for those that the answer names, or that a
helper which it names calls (then it is flagged), and those that a lesson goes on with in the place of another exercise's answer
that did not pass. Nothing of ``course_lib.exercises`` and ``course_lib.classroom`` is given: there are the cases and the checks.
"""

import ast
import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from course_lib.classroom.names import mentioned, origins
from course_lib.classroom.statements import Statement, closure, read_statements
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
CUT = """
def __getattr__(name):
    if name not in {names}:
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
    def not_given(*arguments, **named):
        raise ImportError(f"the library's {{name}} answers an exercise and is not given here")
    return not_given
"""  # at the end of a module: others may import what was cut out of it, as long as they do not call it


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
    keep = answers_given(names) | answers_given(".".join(place(r)) for r in references)
    return {"course_lib": "", **{name: _without_answers(name, text, keep) for name, text in found.items()}}


def answers_given(names: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Answers to exercises, of any lesson, that the library's functions of these names are or call; as (module, name)."""
    given = (_needs(*here) for n in names if (here := _defined(n)) is not None)
    return frozenset().union(*given) & _answers()


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
def _statements(module: str) -> list[Statement]:
    return read_statements(_file(module).read_text("utf-8"))


@functools.cache
def _imported(module: str) -> dict[str, str]:
    """What the names that a module imports from the library stand for."""
    return origins([s.node for s in _statements(module)], "course_lib")


def _defined(name: str, steps: int = 10) -> tuple[str, str] | None:
    """Module and name of what a full name stands for, through modules that only pass it on; None for a module or no name."""
    modules = _modules_in(name)
    rest = name.removeprefix(modules[-1]).strip(".").partition(".")[0] if modules else ""
    if not rest or not steps:
        return None
    further = _imported(modules[-1]).get(rest)
    return _defined(further, steps - 1) if further else (modules[-1], rest)


@functools.cache
def _needs(module: str, name: str) -> frozenset[tuple[str, str]]:
    """What of the library a function or class of it is, calls and is made of, as (module, name)."""
    found: set[tuple[str, str]] = set()
    left = [(module, name)]
    while left:
        here = left.pop()
        if here in found:
            continue
        kept = closure(_statements(here[0]), here[1])
        found |= {here} | {(here[0], bound) for s in kept for bound in s.binds}
        named = mentioned([s.node for s in kept if not s.imports], _imported(here[0]))
        left += [there for n in named if (there := _defined(n)) is not None]
    return frozenset(found)


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
    return "\n".join(lines) + (CUT.format(names=sorted(cut)) if cut else "")
