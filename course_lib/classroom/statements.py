"""What an answer needs: its function, and the imports, constants and helpers it uses, from any cell; by the syntax tree alone.

For a process that has no ``course_lib``: this file imports nothing of it.
"""

import ast
import builtins
from collections.abc import Callable, Sequence
from functools import cached_property

from .names import bound, changed, here, used

BUILT_IN = frozenset(dir(builtins))


class Statement:
    """One statement at the top of a cell.

    Attributes:
        cell: its number.
        node: the statement.
    """

    def __init__(self, cell: int, node: ast.stmt, loads: Callable[[Sequence[ast.AST]], set[str]]):
        self.cell, self.node, self._loads = cell, node, loads

    @cached_property
    def parts(self) -> list[ast.AST]:
        """What of it belongs to the scope where it stands."""
        return here(self.node)

    @cached_property
    def binds(self) -> set[str]:
        """Names that it binds."""
        return bound(self.parts)

    @cached_property
    def changes(self) -> set[str]:
        """Names of objects that it may change."""
        return changed(self.parts)

    @cached_property
    def uses(self) -> set[str]:
        """Names that it uses."""
        return self._loads(self.parts)

    @property
    def imports(self) -> bool:
        """True for an import."""
        return isinstance(self.node, (ast.Import, ast.ImportFrom))

    @property
    def exchanges(self) -> str | None:
        """The exercise whose function goes on here: ``f = use("f", f)``."""
        value = getattr(self.node, "value", None) if isinstance(self.node, ast.Assign) else None
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "use" and value.args:
            name = value.args[0]
            return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None
        return None

    @property
    def passes_on(self) -> bool:
        """True for what gives a name to a function that is not an answer: an import, or :attr:`exchanges`."""
        return self.imports or self.exchanges is not None


def read_statements(source: str, cell: int = 0) -> list[Statement]:
    """The statements at the top of some code.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it is no Python, or too much for Python.
    """
    loads = used(source)
    return [Statement(cell, node, loads) for node in ast.parse(source).body]


def closure(statements: Sequence[Statement], name: str) -> list[Statement]:
    """The statements that a name needs, in order; empty when none binds it.

    An import of the name itself and ``name = use("name", name)`` do not count: a lesson goes on with these, and an answer is
    what the learner wrote. Where several statements bind a name all are kept: run one after another, the last one wins.

    Args:
        statements: of a whole notebook or file.
        name: of a function or class.
    """
    kept = {s for s in statements if name in s.binds and not s.passes_on}
    data = {n for s in statements if not s.imports for n in s.binds}
    new = kept
    while new:
        needed = {name}.union(*(s.uses for s in kept))
        if needed - BUILT_IN - {n for s in kept for n in s.binds}:
            needed |= {"*"}
        others = needed - {name}
        new = {s for s in statements if s not in kept and _touches(s, others if s.passes_on else needed, data)}
        kept |= new
    return [s for s in statements if s in kept]


def _touches(statement: Statement, names: set[str], data: set[str]) -> bool:
    """It binds one of the names, or may change an object that one of them stands for; a module is not changed."""
    return bool(statement.binds & names or statement.changes & names & data)
