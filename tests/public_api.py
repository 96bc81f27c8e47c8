"""What the public API lacks, found in the source's syntax tree: docstrings, shapes of tensors, sources, tests.

A shape counts as stated where the docstring of the function, of its class or of its module has one of

- a shape in parentheses, of names, numbers and products: ``(R, C)``, ``(units,)``, ``(B, L, 2·D)``, ``(…, C)``;
- "any shape", "the same shape", "its shape", "the shape of …", "the weight's shape", "a scalar" or "like ``w``".
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PART = r"(?!(?:19|20)\d\d\b)(?:\w[\w\-]*|…)(?: ?[·*/+−] ?\w+| kept)*"  # a name, number or product, and no year
SHAPE = re.compile(
    rf"\({PART},(?: {PART}(?:, {PART})*)?\)|\b(?:any|same|its|their) shapes?\b|\bscalar|\bshapes? (?:of|as)\b|s?'s? shape\b|\blike ``"
)
TENSOR = re.compile(r"\b(?:Tensor|Masks|Range|Ends|Batch|Choose|Prepacked)\b")  # and the library's names for tensors
SOURCE = re.compile(r"\b\d{4}\.\d{4,5}\b|\b(?:19|20)\d\d\b|Source:")


@dataclass(frozen=True)
class Public:
    """One public name: where it is, its node and the docstrings it may lean on (own, class's, module's)."""

    name: str
    node: ast.AST
    own: str
    around: str


def public(tree: ast.Module) -> Iterator[Public]:
    """Public functions and classes of a module and public methods of these classes."""
    module = ast.get_docstring(tree) or ""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        own = ast.get_docstring(node) or ""
        yield Public(node.name, node, own, f"{own}\n{module}")
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                text = ast.get_docstring(method) or ""
                yield Public(f"{node.name}.{method.name}", method, text, f"{text}\n{own}\n{module}")


def without_docstring(tree: ast.Module) -> list[str]:
    """Names without a docstring."""
    bare = [] if ast.get_docstring(tree) else ["the module"]
    return bare + [p.name for p in public(tree) if not p.own]


def without_shape(tree: ast.Module) -> list[str]:
    """Functions that take or return tensors, by annotation, with no shape stated."""
    found = []
    for p in public(tree):
        if isinstance(p.node, ast.ClassDef):
            continue
        a = p.node.args
        hints = [x.annotation for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x] + [p.node.returns]
        if any(h and TENSOR.search(ast.unparse(h)) for h in hints) and not SHAPE.search(p.around):
            found.append(p.name)
    return found


def has_source(tree: ast.Module) -> bool:
    """Whether the module's docstring, or one in it, cites: an arXiv id, a year, or "Source:"."""
    texts = [ast.get_docstring(tree) or "", *(p.own for p in public(tree))]
    return any(SOURCE.search(text) for text in texts)


def untested(tree: ast.Module, words: set[str]) -> list[str]:
    """Names that occur in no test, as whole words."""
    return [p.name for p in public(tree) if p.name.rpartition(".")[2] not in words]


def words_of(folder: Path, without: frozenset[str] | set[str] = frozenset()) -> set[str]:
    """Every word of the Python files below a folder, but for files of these names."""
    files = (path for path in folder.rglob("*.py") if path.name not in without)
    return {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
