"""Comparing what a learner returned with what was expected, and the words for the difference."""

from collections import namedtuple

import numpy as np
import pytest
import torch

from course_lib.exercises.values import article, copied, describe, difference, kind, same

NAN, INF = float("nan"), float("inf")
Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value, expected",
    [
        (1.0, 1.0 + 9e-6),  # within rtol = 1e-5
        (1, 1.0),
        (3.0, 3),
        (torch.tensor(0.5), 0.5),
        (0.5, torch.tensor(0.5)),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (torch.tensor(True), True),
        (np.bool_(False), False),
        (torch.tensor([1.0], dtype=torch.float64), torch.tensor([1.0])),
        (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0])),
        (torch.tensor([1], dtype=torch.int8), torch.tensor([1])),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 1j])),
        (torch.tensor([NAN, INF, -INF]), torch.tensor([NAN, INF, -INF])),
        (NAN, NAN),
        (INF, INF),
        ([1, 2.0], (1, 2.0)),
        (torch.ones(2, 3).shape, (2, 3)),
        ({"a": [torch.zeros(2)], "b": "text"}, {"b": "text", "a": [torch.zeros(2)]}),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (None, None),
        ("relu", "relu"),
    ],
)
def test_these_are_as_good_as_expected(value, expected):
    assert difference(value, expected) is None and same(value, expected)


@pytest.mark.parametrize(
    "value, expected, words",
    [
        (None, 1.0, "it returned None. Does every path through the function end in `return`?"),
        (0.5, 0.75, "that is not the right number"),
        (INF, 1e300, "that is not the right number"),
        (-INF, INF, "that is not the right number"),
        (1_000_001, 1_000_000, "that is not the right number"),  # whole numbers are exact, whatever rtol
        (torch.tensor(2), 3, "that is not the right number"),
        (NAN, 1.0, "it is NaN, not a number. Is there a 0/0"),
        (NAN, 1, "it is NaN, not a number. Is there a 0/0"),
        (1.0, NAN, "that is not the right number"),
        (True, 1, "it returned a bool; expected an int"),
        ("1", 1, "it returned a str; expected an int"),
        ("relu", "gelu", "that is not the right value"),
        (False, True, "that is not the right value"),
        (torch.zeros(1), 1.0, "it returned a tensor of shape (1,); expected a single float"),
        (torch.zeros(2) > 0, True, "it returned a tensor of shape (2,); expected a single bool"),
        (1.0, torch.zeros(2), "it returned a float; expected a float tensor"),
        ([1.0], torch.zeros(1), "it returned a list; expected a float tensor"),
        (np.zeros(2), torch.zeros(2), "it returned a NumPy array; expected a float tensor"),
        (torch.zeros(2, dtype=torch.long), torch.zeros(2), "it returned an int tensor; expected a float tensor"),
        (torch.zeros(2), torch.zeros(2) > 0, "it returned a float tensor; expected a bool tensor"),
        (torch.zeros(2) + 0j, torch.zeros(2), "it returned a complex tensor; expected a float tensor"),
        (torch.eye(2).to_sparse(), torch.eye(2), "it returned a sparse tensor; expected a float tensor"),
        (torch.zeros(2, 3), torch.zeros(3, 2), "its shape is (2, 3); expected (3, 2)"),
        (torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), "1 of its 2 values is not right; the one at [1] is 3"),
        (torch.tensor([[5.0, 3.0]]), torch.zeros(1, 2), "2 of its 2 values are not right; the one at [0, 0] is 5"),
        (torch.tensor([NAN, 1.0]), torch.ones(2), "1 of its 2 values is NaN, not a number. Is there a 0/0"),
        (
            torch.tensor([1, 255], dtype=torch.uint8),
            torch.tensor([1, -1]),
            "1 of its 2 values is not right; the one at [1] is 255",
        ),
        (torch.tensor([True]), torch.tensor([False]), "1 of its 1 values is not right; the one at [0] is True"),
        (torch.tensor([1 + 1j]), torch.tensor([1 - 1j]), "1 of its 1 values is not right; the one at [0] is 1+1j"),
        ([1], [1, 2], "it returned 1 items; expected 2"),
        ([1, [2, 3]], [1, [2, 4]], "item 1: item 1: 3 is not the right number"),
        ((1, None), (1, 2), "item 1: None"),
        ((torch.zeros(2), 1), (torch.zeros(3), 1), "item 0: its shape is (2,); expected (3,)"),
        ((torch.ones(1), 1), (torch.zeros(1), 1), "item 0: 1 of its 1 values is not right; the one at [0] is 1"),
        (([1], 1), (1, 1), "item 0: a list; expected an int"),
        (([1], 1), ([1, 2], 1), "item 0: 1 items; expected 2"),
        (["a"], ["b"], "item 0: 'a' is not the right value"),
        ([NAN], [1.0], "item 0: NaN, not a number. Is there a 0/0"),
        ({"a": 1}, {"b": 1}, "its keys are 'a'; expected 'b'"),
        ({}, {"b": 1}, "its keys are none; expected 'b'"),
        ({"a": 1}, {"a": 2}, "entry 'a': 1 is not the right number"),
        ({"a": {"b": 1}}, {"a": {}}, "entry 'a': its keys are 'b'; expected none"),
        (print, 1.0, "it returned a builtin_function_or_method; expected a float"),
    ],
)
def test_what_is_wrong_is_said_without_the_expected_value(value, expected, words):
    found = difference(value, expected)
    assert found is not None and found.startswith(words)
    assert not same(value, expected)


def test_an_article_fits_its_noun():
    assert [article(n) for n in ("int", "list", "object")] == ["an int", "a list", "an object"]


def test_a_copy_shares_nothing_and_keeps_strides_gradients_and_named_tuples():
    t = torch.arange(6.0).view(2, 3).t().requires_grad_()
    value = {"a": [t], "p": Pair(t, 1), "s": torch.ones(2).shape}
    twin = copied(value)
    assert twin["p"]._fields == ("a", "b") and isinstance(twin["s"], torch.Size)
    with torch.no_grad():
        twin["a"][0].zero_()
        twin["p"].a.zero_()
    assert twin["a"][0].stride() == t.stride() and twin["a"][0].requires_grad
    assert t.sum() == 15


@pytest.mark.parametrize(
    "value, text",
    [
        (torch.tensor([1.0, -0.25]), "[1, -0.25]"),
        (torch.tensor([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (torch.tensor([[[0.1]], [[1 / 3]]]), "[[[0.1]], [[0.3333]]]"),
        (torch.tensor(0.5), "0.5"),
        (torch.zeros(0), "[]"),
        (torch.zeros(2, 0), "[[], []]"),
        (torch.tensor([True, False]), "[True, False]"),
        (torch.zeros(3, 4), "float32 (3, 4): [0, 0, 0, …]"),
        (torch.zeros(9, dtype=torch.int8), "int8 (9,): [0, 0, 0, …]"),
        (torch.eye(2).to_sparse(), "a sparse tensor of shape (2, 2)"),
        (torch.zeros(2, device="meta"), "a float tensor of shape (2,)"),
        (np.float32(0.5), "0.5"),
        (np.zeros(3), "a NumPy array"),
        (1_234_567, "1_234_567"),
        (9_999, "9999"),
        (1e-9, "1e-09"),
        (1 + 2j, "1+2j"),
        (True, "True"),
        (None, "None"),
        ("relu", "'relu'"),
        ("x" * 100, "'" + "x" * 56 + "…'"),
        ((1,), "(1,)"),
        ([1, "a", (2.5, None)], "[1, 'a', (2.5, None)]"),
        (list(range(12)), "[0, 1, 2, 3, 4, 5, 6, 7, …]"),
        ({"a": 1, "b": [2]}, "{'a': 1, 'b': [2]}"),
        (dict.fromkeys("abcdefghij", 0), "{" + ", ".join(f"'{k}': 0" for k in "abcdefgh") + ", …}"),
        (
            dict.fromkeys(["a" * 60, "b" * 60, *map(str, range(60))], "c" * 40),
            f"{{'{'a' * 60}': '{'c' * 40}', '{'b' * 60}': '{'c' * 40}', … 62 entries in all}}",
        ),
        (len, "a builtin_function_or_method"),
    ],
)
def test_values_are_described_for_a_reader(value, text):
    assert describe(value) == text


def test_kinds_have_plain_names():
    kinds = [kind(v) for v in (torch.zeros(1), torch.zeros(1).long(), torch.zeros(1).bool(), Pair(1, 2), np.zeros(1), "")]
    assert kinds == ["float tensor", "int tensor", "bool tensor", "tuple", "NumPy array", "str"]
