"""Which names a statement binds, changes and uses, and what names of a library stand for; by the syntax tree.

For a process that has no ``course_lib``: this file imports nothing of it.
"""

import ast
import symtable
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

NESTED = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


def bound(parts: Sequence[ast.AST]) -> set[str]:
    """Names that a statement binds where it stands; ``*`` for an import of everything.

    Args:
        parts: of the statement, from :func:`here`.

    >>> sorted(bound(here(ast.parse("for a, b in c: d = e").body[0])))
    ['a', 'b', 'd']
    """
    names = set()
    for part in parts:
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.add(part.id)
        elif isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(part.name)
        elif isinstance(part, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or (a.name if isinstance(part, ast.ImportFrom) else a.name.split(".")[0]) for a in part.names}
        elif isinstance(part, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and part.name:
            names.add(part.name)
    return names


def changed(parts: Sequence[ast.AST]) -> set[str]:
    """Names of objects that a statement may change: ``a`` in ``a[0] = 1``, ``a.b = 1``, ``del a[0]`` and ``a.append(1)``."""
    names = set()
    for part in parts:
        if isinstance(part, (ast.Subscript, ast.Attribute)) and isinstance(part.ctx, (ast.Store, ast.Del)):
            names.add(_root(part))
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call) and isinstance(part.value.func, ast.Attribute):
            names.add(_root(part.value.func))
    return names - {None}


def used(source: str) -> Callable[[Sequence[ast.AST]], set[str]]:
    """For some code: a function that gives the global names which a statement of it uses, also within functions.

    Raises:
        SyntaxError, ValueError, RecursionError: it is no Python.
    """
    table = symtable.symtable(source, "cell", "exec")

    @cache
    def nested() -> list[tuple[int, set[str]]]:
        return [(inner.get_lineno(), set(_globals(inner))) for inner in table.get_children()]

    def of(parts: Sequence[ast.AST]) -> set[str]:
        node = parts[0]
        names = {n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, (ast.Load, ast.Del))}
        names |= {n.target.id for n in parts if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)}
        return names.union(*(uses for line, uses in nested() if node.lineno <= line <= node.end_lineno))

    return of


def origins(nodes: Iterable[ast.AST], package: str) -> dict[str, str]:
    """What names stand for that were imported from a package, by the import statements among some code, at any depth.

    >>> origins([ast.parse("import a.b as c; from a.d import e as f; import z")], "a")
    {'c': 'a.b', 'f': 'a.d.e'}
    """
    names = {}
    for node in (n for top in nodes for n in ast.walk(top)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    names[alias.asname or package] = alias.name if alias.asname else package
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module.split(".")[0] == package:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def mentioned(nodes: Iterable[ast.AST], names: dict[str, str]) -> set[str]:
    """Full names of what some code reads of a package: itself, and each attribute on the way.

    Args:
        nodes: the code.
        names: what names stand for, from :func:`origins`. After an import of everything, every name may be from there.

    >>> sorted(mentioned([ast.parse("c.g.h(1)")], {"c": "a.b"}))
    ['a.b', 'a.b.g', 'a.b.g.h']
    """
    found = set()
    everything = names.get("*", "").removesuffix(".*")
    for node in (n for top in nodes for n in ast.walk(top)):
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load) and (name := full_name(node, names)):
            found.add(name)
        elif everything and isinstance(node, ast.Name):
            found.add(f"{everything}.{node.id}")
    return found


def full_name(node: ast.expr, names: dict[str, str]) -> str | None:
    """``c.g`` as ``a.b.g`` when ``c`` stands for ``a.b``; None when it is not of the package."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = full_name(node.value, names) if isinstance(node, ast.Attribute) else None
    return f"{owner}.{node.attr}" if owner else None


def here(node: ast.AST) -> list[ast.AST]:
    """The parts of a statement in the scope where it stands; of a function, what is evaluated when it is defined."""
    found, left = [], [node]
    while left:
        part = left.pop()
        found.append(part)
        left += _inside(part) if isinstance(part, NESTED) else ast.iter_child_nodes(part)
    return found


def _inside(node: ast.AST) -> list[ast.AST]:
    """Of a scope of its own: what belongs to the scope around it."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [*node.decorator_list, *_signature(node.args), *([node.returns] if node.returns else [])]
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *node.keywords]
    if isinstance(node, ast.Lambda):
        return _signature(node.args)
    return [node.generators[0].iter, *(n for n in ast.walk(node) if isinstance(n, ast.NamedExpr))]


def _signature(arguments: ast.arguments) -> list[ast.expr]:
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    return [*filter(None, (*arguments.defaults, *arguments.kw_defaults)), *(a.annotation for a in every if a and a.annotation)]


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    yield from (s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced())
    for child in table.get_children():
        yield from _globals(child)


def _root(node: ast.expr) -> str | None:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
