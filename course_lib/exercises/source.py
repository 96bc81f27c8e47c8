"""Does an answer only call the library's own? Found by its syntax tree."""

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping
from typing import Any


def source_of(function: Callable) -> str | None:
    """The source of a learner's function or class, None where it cannot be found."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return _source_of_class(function) if inspect.isclass(function) else None


def _source_of_class(of: type) -> str | None:
    """The source of a class in a notebook, where only its methods know which cell they are of."""
    for method in vars(of).values():
        code = getattr(method, "__code__", None)
        text = "".join(linecache.getlines(code.co_filename)) if code else ""
        for node in ast.walk(_parsed(text)):
            inside = isinstance(node, ast.ClassDef) and node.name == of.__name__
            if inside and node.lineno <= code.co_firstlineno <= node.end_lineno:
                return ast.get_source_segment(text, node)
    return None


def only_calls_the_library(source: str, names: Mapping[str, Any], reference: Callable) -> bool:
    """True for a function whose body hands its work to the library's answer.

    Args:
        source: of the learner's function.
        names: what names in it stand for: the globals of a notebook, or :func:`imported_names` of its cells.
        reference: the library's answer.
    Returns:
        True when the body mentions the reference itself, under whatever name or alias it was imported, or as attribute of a
        module of the library. Imports inside the function are followed.

    >>> from course_lib.exercises.source import only_calls_the_library, imported_names
    >>> code = "def f(w):\\n    return thing.dedent(w)"
    >>> only_calls_the_library(code, imported_names("import textwrap as thing"), textwrap.dedent)
    True
    """
    tree = _parsed(source)
    own = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    known = {**{k: v for k, v in names.items() if k not in own}, **imported_names(source)}
    mentions = (n for n in ast.walk(tree) if isinstance(n, (ast.Name, ast.Attribute)) and isinstance(n.ctx, ast.Load))
    return any(_resolve(node, known) is reference for node in mentions)


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
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = load(alias.name)
                names[alias.asname or alias.name.split(".")[0]] = module if alias.asname else load(alias.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = load(node.module)
            for alias in node.names:
                if alias.name == "*":
                    names |= {k: v for k, v in vars(module or object).items() if not k.startswith("_")}
                else:
                    names[alias.asname or alias.name] = getattr(module, alias.name, None) or load(f"{node.module}.{alias.name}")
    return names


def _parsed(source: str) -> ast.AST:
    """The syntax tree, an empty one where the source is none."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _resolve(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names)
        return getattr(owner, node.attr, None) if inspect.ismodule(owner) else None
    return None
