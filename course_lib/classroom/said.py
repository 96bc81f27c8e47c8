"""What a result repeats of a learner's words: nothing that could carry the inputs of hidden cases.

A learner's code meets inputs that others have not met yet, and students read on their pages what came of it. So of an error a result
has the type, the line of the notebook where it was raised, and a message that Python or torch may have made, known by its form; in it
only names that stand in the notebook and sizes that the case has. Everything else is shown as …, and so are strings and long
numbers of an output in the sentences of checks. The confined process says what it likes: nothing here depends on it being honest.
"""

import ast
import builtins
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from course_lib.exercises.exercise import Case, Exercise
from course_lib.exercises.registry import find
from course_lib.exercises.run import Outcome, run_case
from course_lib.exercises.values import article

HIDDEN = "…"
DIGITS = 6  # of a number in the sentence of a check, at most
FAULT_LIMIT = 4000  # characters of a check's sentence; longer ones are made of an output
OWN_ERROR = "an error of its own"
QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)
LONG = re.compile(r"\d(?:[\d_,.]*\d)?(?:e[+-]?\d+)?")
ERRORS = frozenset(n for n, v in vars(builtins).items() if isinstance(v, type) and issubclass(v, BaseException)) | {
    *("LinAlgError", "_LinAlgError", "OutOfMemoryError", "JSONDecodeError", "CourseError", "FrozenInstanceError"),
}
KNOWN = frozenset(dir(builtins)) | {
    *("Tensor", "NoneType", "torch", "numpy", "ndarray", "module", "function", "method", "generator", "Parameter", "float64"),
    *("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "builtin_function_or_method"),
}
KINDS = KNOWN | {
    *("coroutine", "Counter", "defaultdict", "OrderedDict", "deque", "dict_keys", "dict_values", "dict_items", "Size", "dtype"),
    *(f"{str(v).removeprefix('torch.')} tensor" for v in vars(torch).values() if isinstance(v, torch.dtype)),
    *("sparse tensor", "NumPy array", "async_generator", "Random", "Generator", "partial", "Fraction", "Decimal"),
}
MESSAGES = """
name '{w}' is not defined
name '{w}' is not defined. Did you mean: '{w}'?
cannot access local variable '{w}' where it is not associated with a value
cannot access free variable '{w}' where it is not associated with a value in enclosing scope
'{w}' object has no attribute '{w}'
'{w}' object has no attribute '{w}'. Did you mean: '{w}'?
module '{w}' has no attribute '{w}'
type object '{w}' has no attribute '{w}'
'{w}' object is not callable
'{w}' object is not iterable
'{w}' object is not subscriptable
'{w}' object is not an iterator
'{w}' object does not support item assignment
'{w}' object cannot be interpreted as an integer
object of type '{w}' has no len()
unsupported operand type(s) for {o}: '{w}' and '{w}'
unsupported operand type(s) for ** or pow(): '{w}' and '{w}'
'{o}' not supported between instances of '{w}' and '{w}'
bad operand type for unary {o}: '{w}'
can't multiply sequence by non-int of type '{w}'
cannot unpack non-iterable {w} object
unhashable type: '{w}'
{w}() missing {n} required positional argument: '{w}'
{w}() missing {n} required positional arguments: '{w}' and '{w}'
{w}() missing {n} required positional arguments: '{w}', '{w}', and '{w}'
{w}() takes {n} positional argument but {n} were given
{w}() takes {n} positional arguments but {n} were given
{w}() takes from {n} to {n} positional arguments but {n} were given
{w}() got an unexpected keyword argument '{w}'
{w}() got multiple values for argument '{w}'
list indices must be integers or slices, not {w}
tuple indices must be integers or slices, not {w}
list index out of range
tuple index out of range
string index out of range
list assignment index out of range
pop from empty list
index {n} is out of bounds for dimension {n} with size {n}
index {n} is out of bounds for axis {n} with size {n}
too many indices for tensor of dimension {n}
Dimension out of range (expected to be in range of [-{n}, {n}], but got {n})
division by zero
float division by zero
integer division or modulo by zero
integer modulo by zero
float modulo
math domain error
math range error
too many values to unpack (expected {n})
not enough values to unpack (expected {n}, got {n})
max() arg is an empty sequence
min() arg is an empty sequence
max() iterable argument is empty
min() iterable argument is empty
dictionary changed size during iteration
cannot convert float NaN to integer
cannot convert float infinity to integer
maximum recursion depth exceeded
maximum recursion depth exceeded in comparison
maximum recursion depth exceeded while calling a Python object
No module named '{w}'
cannot import name '{w}' from '{w}'
cannot import name '{w}' from '{w}' (unknown location)
the library's {w} answers an exercise and is not given here
The size of tensor a ({n}) must match the size of tensor b ({n}) at non-singleton dimension {n}
mat1 and mat2 shapes cannot be multiplied ({n}x{n} and {n}x{n})
mat1 and mat2 must have the same dtype, but got {w} and {w}
expected m1 and m2 to have the same dtype, but got: {w} != {w}
expected scalar type {w} but found {w}
Expected all tensors to be on the same device
shape '[{n}]' is invalid for input of size {n}
shape '[{n}, {n}]' is invalid for input of size {n}
shape '[{n}, {n}, {n}]' is invalid for input of size {n}
Boolean value of Tensor with more than one value is ambiguous
Boolean value of Tensor with no values is ambiguous
a Tensor with {n} elements cannot be converted to Scalar
only one element tensors can be converted to Python scalars
result type {w} can't be cast to the desired output type {w}
mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: {w}
what it returned cannot be taken: it is nested too deeply
what it returned cannot be taken: it has too many parts
what it returned cannot be taken: its sets and dicts have too many entries
what it returned cannot be taken: it has objects of too many kinds
what it returned cannot be taken: it has {b} bytes, which is more than can be sent
element 0 of tensors does not require grad and does not have a grad_fn
a leaf Variable that requires grad is being used in an in-place operation.
Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.
'{w}'
{n}
""".strip().splitlines()


@dataclasses.dataclass(frozen=True)
class Source:
    """The code of a notebook, as it was before any of it ran.

    Attributes:
        cells: texts of code cells.
    """

    cells: tuple[str, ...] = ()

    @cached_property
    def words(self) -> frozenset[str]:
        """The names in it."""
        return frozenset(w for cell in self.cells for w in re.findall(r"[^\W\d]\w*", cell))

    def has(self, number: int, text: str) -> bool:
        """Whether a cell has this text, but for spaces at its ends, in the line of this number."""
        lines = (cell.split("\n", number) for cell in self.cells)
        return any(0 < number <= len(rows) and rows[number - 1].strip() == text for rows in lines)


def shown(outcome: Outcome, case: Case, source: Source) -> Outcome:
    """An outcome whose error, line and reason of a misfit may be repeated; the output is as it was."""
    return dataclasses.replace(
        outcome,
        error=None if outcome.error is None else error_text(outcome.error, source, _sizes((case.args, case.calls))),
        line=line_text(outcome.line, source),
        misfit=None if outcome.misfit is None else _misfit(outcome.misfit, len(case.args)),
    )


def error_text(error: str, source: Source, sizes: frozenset[int] = frozenset()) -> str:
    """``type: message`` of an error, as far as it may be repeated.

    >>> error_text("NameError: name 'x' is not defined", Source(("y = x",)))
    "NameError: name 'x' is not defined"
    >>> error_text("ValueError: 3f9a01bc", Source())
    'ValueError: …'
    """
    kind, colon, message = error.partition(":")
    if not (kind in ERRORS or kind in source.words):
        return OWN_ERROR
    return f"{kind}: {_message(message.strip(), source, sizes)}" if colon and message.strip() else kind


def line_text(line: str | None, source: Source) -> str | None:
    """``line 3: x = 1`` where the notebook has that line, else None."""
    found = re.fullmatch(r"line (\d{1,5}): (.*)", line or "", re.DOTALL)
    return line if found and source.has(int(found[1]), found[2]) else None


def stop_text(problem: str, source: Source) -> str:
    """``line 3: type: message``, of a statement that stopped, as far as it may be repeated."""
    found = re.fullmatch(r"line (\d{1,5}): (.*)", problem, re.DOTALL)
    if not found:
        return problem if problem == "it was not defined" else OWN_ERROR
    longest = max((cell.count("\n") + 1 for cell in source.cells), default=0)
    where = f"line {found[1]}: " if int(found[1]) <= longest else ""
    return where + error_text(found[2], source)


def fault_text(fault: str, outcome: Outcome, exercise: Exercise, source: Source) -> str:
    """The sentence of a check without an output's strings, long numbers and names of classes."""
    if not outcome.returned:  # made of what `shown` has let pass
        return fault
    if len(fault) > FAULT_LIMIT:
        return "what it returned is too long to be shown, and not right"
    known = _known_strings(exercise.id)
    fault = re.sub(r"what it returned, .*, cannot be judged", "what it returned cannot be judged", fault, flags=re.DOTALL)
    for name in _kinds(outcome.output) - KINDS - source.words:
        for text in (article(name), article(name)[:57] + HIDDEN):
            fault = fault.replace(text, "an object")
    fault = re.sub(r"its keys are (.*); expected ", lambda m: _keys(m, known), fault, flags=re.DOTALL)
    fault = QUOTED.sub(lambda m: m[0] if _literal(m[0]) in known else f"'{HIDDEN}'", fault)
    return LONG.sub(lambda m: m[0] if sum(c.isdigit() for c in m[0]) <= DIGITS else HIDDEN, fault)


def _keys(found: re.Match, known: frozenset[str]) -> str:
    strange = QUOTED.sub(lambda m: "" if _literal(m[0]) in known else HIDDEN, found[1]).strip(", ")
    return f"its keys are {'others' if strange else found[1]}; expected "


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


@cache
def _known_strings(exercise: str) -> frozenset[str]:
    """Strings in what a notebook's own check gives to the function and expects of it."""
    found = find(exercise)
    cases = found.draw(0)
    outputs = [run_case(found.reference, case, found.seconds).output for case in cases]
    return frozenset(v for v in _inside([(c.args, c.calls) for c in cases] + outputs) if isinstance(v, str))


def _inside(value: Any) -> Iterator[Any]:
    """A value and all values in it."""
    left = [value]
    while left:
        value = left.pop()
        yield value
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            left += value


def _kinds(value: Any) -> set[str]:
    plain = (type(None), bool, int, float, str, complex, dict, list, tuple, set, frozenset, torch.Tensor, np.ndarray)
    return {of.__name__ for of in set(map(type, _inside(value))) if of not in plain and not issubclass(of, np.generic)}


def _sizes(value: Any) -> frozenset[int]:
    """Lengths and numbers of entries of what is given to a function."""
    sizes: set[int] = set()
    for v in _inside(value):
        if isinstance(v, torch.Tensor):
            sizes |= {*v.shape, v.numel()}
        elif isinstance(v, (list, tuple, dict)):
            sizes.add(len(v))
    return frozenset(sizes)


def _misfit(misfit: str, arguments: int) -> str:
    if misfit.startswith("Expected a function"):
        return "Expected a function; this is none."
    given = f"{arguments} argument{'s' * (arguments != 1)}"
    return f"It is called with {given}, and cannot be. Keep the first line of the function as the lesson has it."


def _message(message: str, source: Source, sizes: frozenset[int]) -> str:
    message = message.splitlines()[0]
    found, kinds = next(((m, kinds) for form, kinds in _forms() if (m := form.fullmatch(message))), (None, ()))
    if found is None:
        return HIDDEN
    start, out = 0, []
    for number, kind in enumerate(kinds, start=1):
        out += [message[start : found.start(number)], _part(found[number], kind, source.words, sizes)]
        start = found.end(number)
    return "".join([*out, message[start:]])


def _part(text: str, kind: str, words: Iterable[str], sizes: frozenset[int]) -> str:
    if kind == "b":
        return HIDDEN
    if kind == "n":
        return text if len(text) <= DIGITS and (int(text) < 10 or int(text) in sizes) else HIDDEN
    return text if kind == "o" or all(w in words or w in KNOWN for w in text.split(".")) else HIDDEN


@cache
def _forms() -> Sequence[tuple[re.Pattern, list[str]]]:
    groups = {"w": r"([\w.]+)", "n": r"([0-9]+)", "b": r"([0-9,]+)", "o": r"(\*\*=?|//=?|<<=?|>>=?|[=!]=|[-+*/%@&|^<>]=?|~)"}
    forms = []
    for line in MESSAGES:
        parts = re.split(r"\{([bnow])\}", line)
        pattern = "".join(groups[p] if i % 2 else re.escape(p) for i, p in enumerate(parts))
        forms.append((re.compile(pattern), parts[1::2]))
    return forms
