"""In the confined process: take a notebook, make its functions, call them on what comes, give back what they return.

It knows no case's expected value and no points. This file runs where there is no ``course_lib`` and imports nothing of it.
"""

import ast
import importlib.abc
import importlib.util
import linecache
import random
import socket
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..exercises.run import Outcome, run_case
from ..exercises.values import copied
from . import wire
from .extract import Notebook, Unreadable, open_answers, read_notebook, why_missing
from .names import full_name, mentioned, origins
from .statements import Statement, closure

MENTIONS = 500  # names of the library that are told, at most
SOURCES = 300_000  # characters of code that are told, at most
CELL = "<cell {}>"


@dataclass
class Call:
    """One call of the learner's function; what :func:`run_case` reads of a case."""

    args: tuple
    calls: tuple


def serve(sock: socket.socket) -> None:
    """Answer one message after another until the judge closes the socket."""
    notebook, function = Notebook(), None
    while True:
        try:
            message = wire.receive(sock)
        except EOFError:
            return
        if message["do"] == "read":
            notebook, answer = read(**message["with"])
        elif message["do"] == "build":
            function, answer = build(notebook, **message["with"])
        else:
            answer = vars(run_case(function, Call(*message["with"]["call"]), message["with"]["seconds"]))
        try:
            wire.send(sock, answer)
        except OSError:  # the judge has had enough
            return
        except Exception as error:  # too large, too deep, or an object that does not let itself be read
            wire.send(sock, vars(Outcome(error=f"ValueError: what it returned cannot be taken: {error}")))


def read(data: np.ndarray, exercises: list[str], questions: dict[str, str]) -> tuple[Notebook, dict]:
    """Read a notebook; nothing of it is run.

    Args:
        data: the file, uint8.
        exercises: ids to look for.
        questions: open questions, id → text as it was handed out.
    Returns:
        The notebook, and what the judge wants to know of it; ``{"unreadable": why}`` when it is none.
    """
    try:
        notebook = read_notebook(data.tobytes())
    except Unreadable as error:
        return Notebook(), {"unreadable": str(error)}
    return notebook, {
        "lesson": notebook.lesson,
        "language": notebook.language,
        "sources": notebook.sources if sum(map(len, notebook.sources)) <= SOURCES else [],
        "answers": open_answers(notebook, questions),
        "exercises": {name: about(notebook, name) for name in exercises},
    }


def about(notebook: Notebook, name: str) -> dict[str, Any]:
    """What the syntax tree says of an answer.

    Returns:
        ``found``: there is one; ``broken``: why its cell is no Python; ``uses``: other exercises whose functions it uses as the
        lesson goes on with them; ``mentions``: full names of what it reads of ``course_lib``; ``is``: the full name of that
        which it is, where it is only another name of it.
    """
    kept = closure(notebook.statements, name)
    own = [s for s in kept if name in s.binds and not s.passes_on] or [s for s in notebook.statements if name in s.binds]
    nodes = [s.node for s in kept or own]
    names = origins(nodes, "course_lib")
    last = own[-1].node if own else None
    if isinstance(last, ast.Assign) and isinstance(last.value, (ast.Name, ast.Attribute)):
        alias = full_name(last.value, names)
    else:
        alias = names.get(name) if isinstance(last, ast.ImportFrom) else None
    return {
        "found": bool(kept),
        "broken": why_missing(notebook, name),
        "uses": sorted({s.exchanges for s in kept if s.exchanges}),
        "mentions": sorted(mentioned(nodes, names) | set(names.values()))[:MENTIONS],
        "is": alias,
    }


def build(notebook: Notebook, name: str, modules: dict[str, str], others: dict) -> tuple[Any, dict]:
    """Run what an answer needs, statement by statement; one that fails stops no other, as in the notebook.

    Args:
        notebook: from :func:`read`.
        name: the answer's.
        modules: of the library, name → source; they are all there is of it.
        others: for other exercises that the answer uses: None for the learner's own function, ``"copies"`` for that with copies
            of its arguments, or ``[module, name]`` of the library's.
    Returns:
        The function, and ``{"error": why there is none or None, "failed": what else failed}``.
    """
    _give_library(modules)
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    main = types.ModuleType("__main__")
    names = main.__dict__ | {"display": _nothing, "get_ipython": _nothing}
    main.__dict__.update(names)
    sys.modules["__main__"] = main
    names, failed, error = main.__dict__, [], None
    for statement in closure(notebook.statements, name):
        before = names.get(name)
        problem = _run(notebook, statement, names, others)
        if statement.passes_on and before is not None:
            names[name] = before
        if name in statement.binds and not statement.passes_on:
            error = problem
        elif problem:
            failed.append(problem)
    if name not in names:
        return None, {"error": error or "it was not defined", "failed": failed[:3]}
    return names[name], {"error": None, "failed": failed[:3]}


def _run(notebook: Notebook, statement: Statement, names: dict, others: dict) -> str | None:
    """Run one statement; what went wrong, as text."""
    file, source = CELL.format(statement.cell + 1), notebook.sources[statement.cell]
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        if statement.exchanges in others:
            _exchange(statement, names, others[statement.exchanges])
        else:
            exec(compile(ast.Module([statement.node], []), file, "exec", dont_inherit=True), names)
    except BaseException as error:  # SystemExit too
        return f"line {statement.node.lineno}: {type(error).__name__}: {str(error)[:200]}"
    return None


def _exchange(statement: Statement, names: dict, other: Any) -> None:
    """``f = use("f", f)``, as it is judged: the learner's function goes on, or the library's."""
    for target in statement.binds:
        if other is None:
            continue
        if other == "copies":
            names[target] = _on_copies(names[target])
        else:
            names[target] = getattr(importlib.import_module(other[0]), other[1])


def _on_copies(function: Any) -> Any:
    return lambda *args, **kwargs: function(*copied(args), **copied(kwargs))


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what only a notebook has."""


class _Library(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules from their sources."""

    def __init__(self, modules: dict[str, str]):
        self.modules = modules

    def find_spec(self, name, path=None, target=None):
        """Of a module that is there."""
        if name not in self.modules:
            return None
        package = any(other.startswith(f"{name}.") for other in self.modules)
        return importlib.util.spec_from_loader(name, self, is_package=package)

    def exec_module(self, module):
        """Run its source; some look for data beside their file, which is not there."""
        module.__file__ = f"/nowhere/{module.__name__}.py"
        exec(compile(self.modules[module.__name__], f"<{module.__name__}>", "exec", dont_inherit=True), module.__dict__)


def _give_library(modules: dict[str, str]) -> None:
    """Make these modules of ``course_lib`` importable, and no others."""
    for finder in [f for f in sys.meta_path if isinstance(f, _Library)]:
        sys.meta_path.remove(finder)
        for name in finder.modules:
            sys.modules.pop(name, None)
    sys.meta_path.append(_Library(modules))
