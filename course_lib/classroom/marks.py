"""The marks of a lesson's cells, on their ``# %%`` lines: what each means, and that each is where it belongs.

=============================  ==========================================================================================
``exercise="soft_threshold"``  code: the learner writes what is between ``### BEGIN SOLUTION`` and ``### END SOLUTION``
``check="soft_threshold"``     code: ends in ``check("soft_threshold", soft_threshold)``; its value are the points
``open="why_l1" points=2``     markdown: a question that a person grades; its model answer is between the same marks
``compare=true``               code: tests compare its output; it must not depend on the mode, the machine or the time
``solution_only=true``         the cell is left out of the learner's notebook
=============================  ==========================================================================================
"""

import ast
import re
from collections.abc import Sequence

from course_lib.errors import CourseError

MARKS = {"exercise": str, "check": str, "open": str, "points": (int, float), "compare": bool, "solution_only": bool}
BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"


def read_marks(cell, place: str) -> dict:
    """The marks of a cell, checked one by one."""
    marks = {key: value for key, value in cell.metadata.items() if key != "lines_to_next_cell"}
    for key, value in marks.items():
        if key not in MARKS:
            raise CourseError(f"{place}: unknown mark {key!r}; expected one of {', '.join(MARKS)}.")
        if not isinstance(value, MARKS[key]) or value is False or (key == "points" and (value is True or value <= 0)):
            kind = {str: "an id in quotes", bool: "true"}.get(MARKS[key], "a number above 0")
            raise CourseError(f"{place}: {key} = {value!r}; expected {kind}.")
    roles = [key for key in ("exercise", "check", "open", "solution_only") if key in marks]
    if len(roles) > 1:
        raise CourseError(f"{place}: both {roles[0]} and {roles[1]}; expected one of them.")
    if ("open" in marks) != ("points" in marks):
        raise CourseError(f"{place}: expected open and points together; the points of an exercise are in its module.")
    kind = "markdown" if "open" in marks else "code"
    if {"exercise", "check", "open", "compare"} & marks.keys() and cell.cell_type != kind:
        raise CourseError(f"{place}: {', '.join(marks)} on a {cell.cell_type} cell; expected a {kind} cell.")
    if not re.fullmatch(r"\w+", marks.get("open", "x"), re.ASCII):
        raise CourseError(f"{place}: open = {marks['open']!r}; expected letters, digits and underscores.")
    _check_text(cell, marks, place)
    return marks


def _check_text(cell, marks: dict, place: str) -> None:
    """The text of a cell must be what its marks promise."""
    lines = [BEGIN if BEGIN in line else END for line in cell.source.splitlines() if BEGIN in line or END in line]
    if ("exercise" in marks or "open" in marks) != bool(lines) or lines != [BEGIN, END] * (len(lines) // 2):
        raise CourseError(
            f"{place}: found the marks {lines or 'of no solution'}; expected BEGIN SOLUTION and END SOLUTION, each in a line "
            "of its own, in cells with exercise or open and in no others."
        )
    if "exercise" in marks or "check" in marks:
        try:
            body = ast.parse(cell.source).body
        except SyntaxError as error:
            raise CourseError(f"{place}: line {error.lineno}: {error.msg}.") from error
        if "exercise" in marks:
            names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
            if marks["exercise"] not in names:
                raise CourseError(f"{place}: defines {names}; expected a function or class named {marks['exercise']}.")
        elif not body or not _is_check(body[-1], marks["check"]):
            wanted = f'check("{marks["check"]}", …)'
            raise CourseError(f"{place}: expected {wanted} as the last line, since its value are the points.")


def _is_check(node: ast.stmt, exercise: str) -> bool:
    """True for the statement ``check("exercise", …)``."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "check" or not call.args:
        return False
    return isinstance(call.args[0], ast.Constant) and call.args[0].value == exercise


def check_pairs(marks: Sequence[dict], where: Sequence[str]) -> None:
    """Each exercise once, with one check after it; ids of answers are unique in a lesson."""
    seen: dict[str, str] = {}
    for mark, place in zip(marks, where, strict=True):
        name = grade_id(mark)
        if name in seen:
            raise CourseError(f"{place}: {name} is already the id of {seen[name]}.")
        if "check" in mark and mark["check"] not in seen:
            raise CourseError(f"{place}: no cell before it has exercise = {mark['check']!r}.")
        if name:
            seen[name] = place
    for mark, place in zip(marks, where, strict=True):
        if "exercise" in mark and f"check_{mark['exercise']}" not in seen:
            raise CourseError(f"{place}: no cell after it has check = {mark['exercise']!r}.")


def grade_id(mark: dict) -> str | None:
    """The id of a cell for nbgrader, unique in a lesson."""
    return f"check_{mark['check']}" if "check" in mark else mark.get("exercise") or mark.get("open")


def without_solution(text: str) -> str:
    """A cell's text without what is between the marks of a solution.

    >>> without_solution("a\\n### BEGIN SOLUTION\\nb\\n### END SOLUTION\\nc")
    'a\\nc'
    """
    kept, inside = [], False
    for line in text.splitlines():
        if BEGIN in line or END in line:
            inside = BEGIN in line
        elif not inside:
            kept.append(line)
    return "\n".join(kept)
