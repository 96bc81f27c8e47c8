"""Does an answer only call the library's own? Found by its syntax tree."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any


def source_of(function: Callable) -> str | None:
    """The source of a learner's function, None where it cannot be found."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None


def only_calls_the_library(source: str, names: Mapping[str, Any], reference: Callable) -> bool:
    """True for a function whose body hands its work to the library's answer.

    Args:
        source: of the learner's function.
        names: what names in it stand for: the globals of a notebook, or :func:`imported_names` of its cells.
        reference: the library's answer.
    Returns:
        True when a call in the body is of the reference itself, under whatever name or alias it was imported, or by
        attribute of a module of the library. Imports inside the function are followed.

    >>> from course_lib.exercises.source import only_calls_the_library, imported_names
    >>> code = "def f(w):\\n    return thing.dedent(w)"
    >>> only_calls_the_library(code, imported_names("import textwrap as thing"), textwrap.dedent)
    True
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    known = {**names, **imported_names(source)}
    return any(isinstance(node, ast.Call) and _resolve(node.func, known) is reference for node in ast.walk(tree))


def imported_names(source: str) -> dict[str, Any]:
    """What the import statements of some code bind, as far as they are of ``course_lib`` or already loaded."""
    import importlib
    import sys

    def load(module: str):
        if module.split(".")[0] == "course_lib":
            try:
                return importlib.import_module(module)
            except ImportError:
                return None
        return sys.modules.get(module)

    names: dict[str, Any] = {}
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = load(alias.name if alias.asname else alias.name.split(".")[0])
                names[alias.asname or alias.name.split(".")[0]] = module
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = load(node.module)
            for alias in node.names:
                names[alias.asname or alias.name] = getattr(module, alias.name, None) or load(f"{node.module}.{alias.name}")
    return names


def _resolve(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names)
        return getattr(owner, node.attr, None) if inspect.ismodule(owner) else None
    return None
