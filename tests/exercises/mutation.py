"""Mutants of the solutions: does the check notice when an operator, a constant, a comparison or an axis changes?

``python -m tests.exercises.mutation [LESSON…]`` makes every mutant of the solutions' bodies and prints what survives. A mutant
is *caught* when its answer earns less than full marks. One that survives is *equivalent* when it gives what the solution gives on
:data:`INPUTS` inputs drawn from many seeds, edges included; the others are the check's to catch.
"""

import ast
import copy
import dataclasses
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from course_lib.exercises.exercise import Case, Exercise
from course_lib.exercises.judge import judge
from course_lib.exercises.registry import find
from course_lib.exercises.run import Outcome, run_case, run_cases
from course_lib.exercises.values import same

SOLUTIONS = Path(__file__).parents[2] / "solutions"
INPUTS = 10_000
SECONDS = 1.0  # a mutant may take for a case; a loop without an end is caught
CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)
EXERCISE = re.compile(r'\bexercise="(\w+)"')

OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div, ast.Mult],
    ast.Mod: [ast.Mult, ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.LShift: [ast.RShift],
    ast.RShift: [ast.LShift],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.BitXor: [ast.BitOr],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}
PAIRS = (
    "min max|amin amax|argmin argmax|minimum maximum|floor ceil|sum mean|any all|zeros ones|zeros_like ones_like|cummin cummax"
)
NAMES = {a: b for pair in PAIRS.split("|") for a, b in itertools.permutations(pair.split())} | {"round": "floor"}
DROPPED = {"abs", "sqrt", "square", "neg", "exp", "log", "sign", "t", "clone"}  # ``x.abs()`` and ``abs(x)`` become ``x``


@dataclasses.dataclass(frozen=True)
class Solution:
    """The solution of one exercise, and what it was defined among.

    Attributes:
        lesson: stem of its file.
        exercise: its id.
        tree: of its cell.
        body: line numbers between the marks.
        names: what earlier cells define that it may use.
    """

    lesson: str
    exercise: str
    tree: ast.Module
    body: frozenset[int]
    names: dict


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a solution: ``line``, what was ``before`` and is ``after``, and the function that comes of it."""

    line: int
    before: str
    after: str
    function: Callable | None  # None: it cannot even be defined


@dataclasses.dataclass
class Tally:
    """What became of the mutants of one exercise."""

    lesson: str
    exercise: str
    caught: int = 0
    equivalent: list[Mutant] = dataclasses.field(default_factory=list)
    survivors: list[tuple[Mutant, Case]] = dataclasses.field(default_factory=list)  # with an input that tells them apart

    @property
    def to_catch(self) -> int:
        return self.caught + len(self.survivors)


def solutions(path: Path) -> list[Solution]:
    """The solutions in a lesson's source. Imports, functions and classes of earlier cells are defined, nothing else is run."""
    text = path.read_text("utf-8")
    marks = list(CELL.finditer(text))
    names, found = {"__name__": "lesson"}, []
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        if "[markdown]" in mark[1]:
            continue
        code = text[mark.end() : end]
        tree = ast.parse(code)
        wanted = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        before = dict(names)
        exec(compile(ast.Module([n for n in tree.body if isinstance(n, wanted)], []), path.name, "exec"), names)
        if exercise := EXERCISE.search(mark[1]):
            found.append(Solution(path.stem, exercise[1], tree, _between(code), before))
    return found


def _between(code: str) -> frozenset[int]:
    """Numbers of the lines between the marks of a solution."""
    inside, lines = False, set()
    for number, line in enumerate(code.splitlines(), start=1):
        if "BEGIN SOLUTION" in line:
            inside = True
        elif "END SOLUTION" in line:
            inside = False
        elif inside:
            lines.add(number)
    return frozenset(lines)


def mutants(solution: Solution) -> Iterator[Mutant]:
    """All mutants of a solution, one change each."""
    tree = copy.deepcopy(solution.tree)
    for parent in list(ast.walk(tree)):
        for name, value in list(ast.iter_fields(parent)):
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.expr | ast.stmt) or node.lineno not in solution.body:
                    continue
                for other in _changes(node):
                    _put(parent, name, index, ast.copy_location(other, node))
                    yield Mutant(node.lineno, _text(node), _text(other), _defined(tree, solution))
                    _put(parent, name, index, node)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """Every way to change one node."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        for other in OPERATORS.get(type(node.op), []):
            yield _with(node, op=other())
        if isinstance(node, ast.BinOp):  # one side left out
            yield from (node.left, node.right)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in OPERATORS.get(type(op), []):
                yield _with(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _with(node, value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        for value in sorted({node.value + 1, node.value - 1, node.value * 2, 0} - {node.value}):
            yield _with(node, value=type(node.value)(value))
    elif isinstance(node, ast.Attribute | ast.Name):
        name = node.attr if isinstance(node, ast.Attribute) else node.id
        if name in NAMES:
            yield _with(node, **{"attr" if isinstance(node, ast.Attribute) else "id": NAMES[name]})
    elif isinstance(node, ast.Call):
        yield from _changed_calls(node)
    elif isinstance(node, ast.Slice) and node.step is None and (node.lower is None) != (node.upper is None):
        yield _with(node, lower=node.upper, upper=node.lower)  # the other side of the cut
        yield from _shifted_cuts(node)
    elif isinstance(node, ast.Expr) or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)):
        yield ast.Pass()  # a change in place left out
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield _with(node, test=ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test))


def _shifted_cuts(node: ast.Slice) -> Iterator[ast.AST]:
    """``x[:k]`` with a cut one later and one earlier; constants are changed as constants."""
    side = "upper" if node.lower is None else "lower"
    bound = getattr(node, side)
    if not isinstance(bound, ast.Constant):
        for op in (ast.Add, ast.Sub):
            yield _with(
                node, **{side: ast.copy_location(ast.BinOp(bound, op(), ast.copy_location(ast.Constant(1), bound)), bound)}
            )


def _changed_calls(node: ast.Call) -> Iterator[ast.AST]:
    for i, keyword in enumerate(node.keywords):
        others = [*node.keywords[:i], *node.keywords[i + 1 :]]
        yield _with(node, keywords=others)
        if keyword.arg in NAMES:  # clamp(min=…) becomes clamp(max=…)
            yield _with(node, keywords=[*others, ast.copy_location(ast.keyword(NAMES[keyword.arg], keyword.value), keyword)])
    of = node.func
    if isinstance(of, ast.Attribute) and of.attr in DROPPED:
        inner = node.args[0] if isinstance(of.value, ast.Name) and of.value.id in ("torch", "math") and node.args else of.value
        yield inner
    elif isinstance(of, ast.Name) and of.id in DROPPED and node.args:
        yield node.args[0]


def _with(node: ast.AST, **changes) -> ast.AST:
    other = copy.copy(node)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def _put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def _text(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0]


def defined(solution: Solution) -> Callable | None:
    """The solution as a function or class."""
    return _defined(solution.tree, solution)


def _defined(tree: ast.Module, solution: Solution) -> Callable | None:
    names = dict(solution.names)
    try:
        exec(compile(ast.fix_missing_locations(tree), f"<{solution.exercise}>", "exec"), names)
    except Exception:
        return None
    return names.get(solution.exercise)


def tally(solution: Solution, exercise: Exercise, inputs: int) -> Tally:
    """Try all mutants of a solution; ``inputs``: how many a mutant must agree on to count as equivalent."""
    plain = dataclasses.replace(exercise, misconceptions=(), seconds=SECONDS)
    cases, result, right = plain.draw(0), Tally(solution.lesson, solution.exercise), _Right(solution, plain, inputs)
    for mutant in mutants(solution):
        if mutant.function is None or judge(plain, cases, run_cases(mutant.function, cases, SECONDS)).state != "passed":
            result.caught += 1
        elif (case := right.told_apart_from(mutant.function)) is not None:
            result.survivors.append((mutant, case))
        else:
            result.equivalent.append(mutant)
    return result


class _Right:
    """What the solution gives on many inputs, worked out when first needed."""

    def __init__(self, solution: Solution, exercise: Exercise, inputs: int) -> None:
        self.function = defined(solution)
        drawn = itertools.chain.from_iterable(exercise.draw(seed) for seed in itertools.count())
        self.drawn, self.known = itertools.islice(drawn, inputs), []

    def outputs(self) -> Iterator[tuple[Case, Outcome]]:
        yield from self.known
        for case in self.drawn:
            self.known.append((case, run_case(self.function, case, SECONDS)))
            yield self.known[-1]

    def told_apart_from(self, mutant: Callable) -> Case | None:
        """The first input on which a mutant gives something else, None when it is equivalent.

        Equal means to six digits: the same sum in another order differs in the seventh of a float32.
        """
        for case, right in self.outputs():
            found = run_case(mutant, case, SECONDS)
            if found.error != right.error or not same(found.output, right.output, rtol=1e-6, atol=1e-9):
                return case
        return None


def lessons() -> list[Path]:
    """The sources of all lessons."""
    return sorted(SOLUTIONS.glob("*/*.py"))


def main(names: list[str]) -> None:
    """Print the tally of each exercise, and every survivor."""
    caught = to_catch = 0
    for path in lessons():
        if names and path.stem not in names:
            continue
        for solution in solutions(path):
            t = tally(solution, find(solution.exercise), INPUTS)
            caught, to_catch = caught + t.caught, to_catch + t.to_catch
            print(f"{t.lesson} {t.exercise}: {t.caught} of {t.to_catch} caught, {len(t.equivalent)} equivalent", flush=True)
            for mutant in t.equivalent:
                print(f"    equivalent, line {mutant.line}: `{mutant.before}` → `{mutant.after}`")
            for mutant, case in t.survivors:
                print(f"  SURVIVES, line {mutant.line}: `{mutant.before}` → `{mutant.after}`; differs for {case.label}")
    print(f"{caught} of {to_catch} caught ({100 * caught / max(1, to_catch):.1f} %)")


if __name__ == "__main__":
    main(sys.argv[1:])
