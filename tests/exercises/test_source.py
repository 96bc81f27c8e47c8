"""Answers that call the library's own are recognised, and no others."""

import math

import pytest
import torch
from samples import COUNTER, Counter

from course_lib.exercises.source import imported_names, only_calls_the_library, source_of
from course_lib.pruning import masks
from course_lib.pruning.masks import sparsity

CELL = """
import torch
import course_lib.pruning.masks as m
from course_lib.pruning import masks
from course_lib.pruning.masks import sparsity as theirs
"""


def calls(body: str, names: str = CELL) -> bool:
    code = "def answer(w):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return only_calls_the_library(code, imported_names(names), sparsity)


@pytest.mark.parametrize(
    "body",
    [
        "return theirs(w)",
        "return masks.sparsity(w)",
        "return m.sparsity(w)",
        "from course_lib.pruning.masks import sparsity\nreturn sparsity(w)",
        "from course_lib.pruning.masks import sparsity as s\nx = s(w)\nreturn float(x)",
        "import course_lib.pruning.masks\nreturn course_lib.pruning.masks.sparsity(w)",
        "import course_lib.pruning.masks as k\nreturn k.sparsity(w)",
        "from course_lib import pruning\nreturn pruning.masks.sparsity(w)",
        "from course_lib.pruning.masks import *\nreturn sparsity(w)",
        "f = masks.sparsity\nreturn f(w)",
        "return list(map(theirs, [w]))[0]",
        "return (lambda v: theirs(v))(w)",
    ],
)
def test_a_call_of_the_librarys_answer_is_recognised(body):
    assert calls(body)


@pytest.mark.parametrize(
    "body",
    [
        "return float((w == 0).float().mean())",
        "return 1 - torch.count_nonzero(w) / w.numel()",
        "return sparsity(w)",  # the learner's own
        "from course_lib.pruning.masks import mask_by_sparsity\nreturn mask_by_sparsity(w, 0.5)",
        "theirs = (w == 0)\nreturn theirs.float().mean()",  # a name of their own
        "return unknown.sparsity(w)",
        "from course_lib.nowhere import sparsity\nreturn sparsity(w)",
        "from . import sparsity\nreturn sparsity(w)",
        "import nowhere\nreturn nowhere.sparsity(w)",
        "return (",
    ],
)
def test_an_answer_of_ones_own_is_not(body):
    assert not calls(body)


def test_a_parameter_that_has_the_name_of_the_library_function_is_not_it():
    assert not only_calls_the_library("def f(w, theirs):\n    return w * theirs", {"theirs": sparsity}, sparsity)


def test_the_globals_of_a_notebook_will_do_for_the_names():
    assert only_calls_the_library("def f(w):\n    return masks.sparsity(w)", {"masks": masks}, sparsity)
    assert not only_calls_the_library("def f(w):\n    return masks.sparsity(w)", {"masks": math}, sparsity)


def test_a_lesson_that_does_not_parse_binds_no_names():
    assert imported_names("from x import (") == {} and imported_names("a = 1\0") == {}


def test_the_source_of_functions_classes_and_of_what_has_none():
    assert source_of(sparsity).startswith("def sparsity(") and source_of(Counter).startswith("class Counter:")
    assert source_of(len) is None and source_of(int) is None and source_of(torch.sum) is None and source_of(3) is None


def test_in_a_notebook_the_source_of_a_class_is_found_by_its_methods():
    """Run in IPython, whose cells are no module that inspect could read."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("class Plain:\n    limit = 1\nclass Mine:\n    def step(self, by):\n        return theirs.Counter(by)\n")
    assert source_of(shell.user_ns["Mine"]) == "class Mine:\n    def step(self, by):\n        return theirs.Counter(by)"
    assert source_of(shell.user_ns["Plain"]) is None
    shell.run_cell("def step(w):\n    return 2 * w\n")
    assert source_of(shell.user_ns["step"]) == "def step(w):\n    return 2 * w\n"
    assert COUNTER.reference is Counter
