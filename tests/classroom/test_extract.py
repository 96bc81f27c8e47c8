"""What of a notebook belongs to an answer, by the syntax tree."""

import ast
import json

import pytest
from hand_in import notebook, text

from course_lib.classroom.extract import Unreadable, open_answers, read_notebook, why_missing, without_magics
from course_lib.classroom.statements import closure, read_statements


def kept(source: str, name: str = "f") -> list[str]:
    """The first lines of the statements that a name needs."""
    return [ast.unparse(s.node).split("\n")[0] for s in closure(read_statements(source), name)]


@pytest.mark.parametrize(
    "source, expected",
    [
        ("def f(): return 1\nx = 2", ["def f():"]),
        ("import a\nimport b\ndef f(): return b.c(1)", ["import b", "def f():"]),
        ("import a.b\ndef f(): return a.b.c", ["import a.b", "def f():"]),
        ("from a import b as c, d\ndef f(): return c", ["from a import b as c, d", "def f():"]),
        ("K = 2\nJ = K\ndef g(): return J\ndef f(): return g()", ["K = 2", "J = K", "def g():", "def f():"]),
        ("w = slow()\ndef f(w): return w", ["def f(w):"]),
        ("w = slow()\ndef f():\n    w = 1\n    return w", ["def f():"]),
        ("w = slow()\ndef f(): return [w for w in range(3)]", ["def f():"]),
        ("w = 1\ndef f(): return (lambda: w)()", ["w = 1", "def f():"]),
        ("w = 1\ndef f(a=w): return a", ["w = 1", "def f(a=w):"]),
        ("w = int\ndef f(a: w) -> w: return a", ["w = int", "def f(a: w) -> w:"]),
        ("def d(g): return g\n@d\ndef f(): return 1", ["def d(g):", "@d"]),
        ("def f(): return 1\ndef f(): return 2", ["def f():", "def f():"]),
        ("def g(): return 1\nf = g", ["def g():", "f = g"]),
        ("f = lambda: 1", ["f = lambda: 1"]),
        ("class B: pass\nclass f(B):\n    x = K\nK = 3", ["class B:", "class f(B):", "K = 3"]),
        ("T = {}\nT[1] = 2\nT.update(a=1)\ndel T[1]\ndef f(): return T", ["T = {}", "T[1] = 2", "T.update(a=1)", "del T[1]", "def f():"]),
        ("n = 0\nn += 1\ndef f(): return n", ["n = 0", "n += 1", "def f():"]),
        ("for i in range(3): x = i\ndef f(): return x", ["for i in range(3):", "def f():"]),
        ("if 1:\n    def f(): return 1", ["if 1:"]),
        ("try:\n    import a\nexcept ImportError:\n    a = None\ndef f(): return a", ["try:", "def f():"]),
        ("import torch\ntorch.manual_seed(0)\ndef f(): return torch.ones(1)", ["import torch", "def f():"]),
        ("from math import *\ndef f(): return sin(1)", ["from math import *", "def f():"]),
        ("from math import *\ndef f(): return abs(1)", ["def f():"]),
        ("def f(): return 1\nfrom lib import f\nf = use('f', f)\nprint(f())", ["def f():"]),
        ("def g(): return 1\ng = use('g', g)\ndef f(): return g()", ["def g():", "g = use('g', g)", "def f():"]),
        ("from lib import f, h\ndef f(): return h()", ["from lib import f, h", "def f():"]),
        ("def f(): return f.cache\nf.cache = 3", ["def f():", "f.cache = 3"]),
        ("x = [y := 3]\ndef f(): return y", ["x = [(y := 3)]", "def f():"]),
        ("match 1:\n    case y: pass\ndef f(): return y", ["match 1:", "def f():"]),
        ("def f(): return g()\ndef g(): return f()", ["def f():", "def g():"]),
        ("from lib import f", []),
        ("x = 1", []),
    ],
)  # fmt: skip
def test_an_answer_takes_along_what_it_needs_and_nothing_else(source, expected):
    assert kept(source) == expected


def test_names_are_found_across_cells_in_their_order():
    found = read_notebook(notebook("K = 3", "def f(): return K * g()", "x = 1", "def g(): return 2"))
    assert [s.cell for s in closure(found.statements, "f")] == [0, 1, 3]


@pytest.mark.parametrize(
    "source, expected",
    [
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("if x:\n    !ls\n", "if x:\n    pass\n"),
        ("%%time\nx = 1", "\nx = 1"),
        ("%%bash\nls", ""),
        ("f?\n?f\nx = 5 % 3", "pass\npass\nx = 5 % 3"),
    ],
)
def test_magics_are_taken_out_and_lines_keep_their_numbers(source, expected):
    assert without_magics(source) == expected


def test_python_that_looks_like_a_magic_stays():
    source = 'x = """\n%d\n!\n"""'
    assert read_notebook(notebook(source)).sources == [source]


def test_why_a_function_is_missing_is_found_by_its_text_or_its_mark():
    found = read_notebook(
        notebook(
            "x = 1", "class f:\n  x = = 1", {"cell_type": "code", "source": "(", "metadata": {"course": {"exercise": "g"}}}
        )
    )
    assert why_missing(found, "f") == "line 2: invalid syntax" and "never closed" in why_missing(found, "g")
    assert why_missing(found, "h") is None


def test_an_open_answer_is_found_by_mark_grade_id_cell_id_or_question():
    asked = {"why": "Why?\n\nYOUR ANSWER HERE"}
    graded = {"cell_type": "markdown", "source": "So.", "metadata": {"nbgrader": {"grade_id": "why"}}}
    for cell in (text("So.", open="why"), graded, text("So.", name="open-why"), text("Why?\n\nSo.")):
        assert open_answers(read_notebook(notebook(cell)), asked) == {"why": "So."}
    assert open_answers(read_notebook(notebook(text("So."))), asked) == {"why": ""}


@pytest.mark.parametrize("data", [b"", b"x", b"3", b"{}", json.dumps({"worksheets": []}).encode()])
def test_what_is_no_notebook_is_said(data):
    with pytest.raises(Unreadable):
        read_notebook(data)
