"""What the confined side does with a notebook and with calls; here in this process, on harmless code."""

import importlib
import socket
import sys
import threading
import types

import numpy as np
import pytest
import torch
from hand_in import notebook, text

from course_lib.classroom import child, wire
from course_lib.classroom.child import about, build, read
from course_lib.classroom.extract import read_notebook


@pytest.fixture(autouse=True)
def this_process_stays_as_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(child, "_give_library", lambda modules: None)
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def built(*cells, name="f", others=None):
    return build(read_notebook(notebook(*cells)), name, {}, others or {})


def test_what_is_told_of_a_notebook_before_anything_of_it_runs():
    cells = (
        "from course_lib.pruning import l1\ndef f(w): return l1.soft_threshold(w, 1)",
        "g = l1.ista_step",
        text("So.", open="why"),
    )
    data = np.frombuffer(notebook(*cells, lesson="01_x"), dtype=np.uint8)
    _, found = read(data, ["f", "g", "h"], {"why": "Why?"})
    assert (found["lesson"], found["language"], found["answers"]) == ("01_x", "python", {"why": "So."})
    assert found["sources"] == list(cells[:2])
    large = np.frombuffer(notebook("x = 1  # " + "x" * child.SOURCES), dtype=np.uint8)
    assert read(large, ["f"], {})[1]["sources"] == [], "more than a message holds"
    f, g, h = (found["exercises"][name] for name in "fgh")
    assert f["found"] and f["is"] is None and "course_lib.pruning.l1.soft_threshold" in f["mentions"]
    assert g["found"] and g["is"] == "course_lib.pruning.l1.ista_step"
    assert h == {"found": False, "broken": None, "uses": [], "mentions": [], "is": None}
    assert read(np.zeros(3, dtype=np.uint8), ["f"], {})[1] == {"unreadable": "the file is empty"}


def test_a_name_that_was_only_imported_is_no_answer_but_is_told():
    found = about(read_notebook(notebook("from course_lib.pruning.l1 import ista_step as f")), "f")
    assert not found["found"] and found["is"] == "course_lib.pruning.l1.ista_step"


def test_other_exercises_that_an_answer_uses_are_told():
    cells = ("def g(): return 1\ng = use('g', g)", "def f(): return g()")
    assert about(read_notebook(notebook(*cells)), "f")["uses"] == ["g"]


def test_a_function_is_built_from_what_it_needs():
    function, answer = built("K = 2", "1 / 0\nx = 1 / 0", "def f(w): return K * w")
    assert answer == {"error": None, "failed": []} and function(3) == 6
    assert function.__module__ == "__main__" and sys.modules["__main__"].K == 2


def test_a_cell_that_fails_is_told_and_stops_no_other():
    function, answer = built("K = 1 / 0", "def f(): return 3", "f.k = [K]")
    assert function() == 3 and answer["error"] is None
    assert answer["failed"] == ["line 1: ZeroDivisionError: division by zero", "line 1: NameError: name 'K' is not defined"]
    assert built("def f(a=1 / 0): return a") == (None, {"error": "line 1: ZeroDivisionError: division by zero", "failed": []})
    assert built("if 0:\n    def f(): return 1")[1]["error"] == "it was not defined"
    assert "SystemExit" in built("import sys\nf = sys.exit(3)")[1]["error"]
    assert (
        about(read_notebook(notebook("def f():\n    nonlocal x")), "f")["broken"] == "line 2: no binding for nonlocal 'x' found"
    )


def test_what_only_a_notebook_has_does_nothing():
    function, _ = built("def f():\n    display(1)\n    return get_ipython()")
    assert function() is None


def test_random_numbers_are_the_same_each_time():
    source = "import random, torch\nimport numpy as np\nR = (random.random(), float(np.random.rand()), float(torch.rand(1)))\ndef f(): return R"
    assert built(source)[0]() == built(source)[0]()


def test_where_a_lesson_goes_on_with_another_function_the_judge_says_which():
    cells = ("def g(w):\n    w[0] = 9\n    return w\ng = use('g', g)", "def f(w): return g(w)", "def use(a, b): return b")
    given = [1, 2]
    function, _ = built(*cells, others={"g": "copies"})
    assert function(given) == [9, 2] and given == [1, 2]
    function, _ = built(*cells, others={"g": ["operator", "neg"]})
    assert function(3) == -3
    function, _ = built(*cells, others={"g": None})
    assert function(given) == [9, 2] and given == [9, 2]


def test_an_import_of_the_same_name_does_not_take_the_place_of_the_answer():
    function, _ = built("def f(w): return pow(w, 2)", "from math import pow, fabs as f")
    assert function(3) == 9


def test_modules_are_imported_from_their_sources_and_from_nowhere_else(monkeypatch):
    library = child._Library(
        {
            "toy_course": "",
            "toy_course.a": "import os.path\nA = os.path.dirname(__file__)",
            "toy_course.b": "from toy_course.a import A",
        }
    )
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, library])
    try:
        module = importlib.import_module("toy_course.b")
        assert module.A == "/nowhere" and isinstance(module, types.ModuleType)
        with pytest.raises(ImportError):
            importlib.import_module("toy_course.c")
    finally:
        for name in [n for n in sys.modules if n.startswith("toy_course")]:
            del sys.modules[name]


def test_it_answers_messages_until_the_socket_closes():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        serving = threading.Thread(target=child.serve, args=(theirs,))
        serving.start()

        def ask(what, **given):
            wire.send(ours, {"do": what, "with": given})
            return wire.receive(ours)

        data = np.frombuffer(
            notebook("def f(x):\n    y = [x]\n    if x == 1:\n        y.append(y)\n    return y"), dtype=np.uint8
        )
        assert ask("read", data=data, exercises=["f"], questions={})["exercises"]["f"]["found"]
        assert ask("build", name="f", modules={}, others={})["error"] is None
        assert ask("call", call=[(2,), ()], seconds=5.0)["output"] == [2]
        assert "nested too deeply" in ask("call", call=[(1,), ()], seconds=5.0)["error"]
        ours.shutdown(socket.SHUT_RDWR)
        serving.join(10)
        assert not serving.is_alive()
