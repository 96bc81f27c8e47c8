"""NaN is unequal to everything and neither larger nor smaller: a check that only asks for what is wrong would let it pass."""

import math

import numpy as np
import pytest
import torch

from course_lib.exercises.judge import judge
from course_lib.exercises.registry import all_exercises
from course_lib.exercises.run import Outcome, run_case

NAN = math.nan


def nothing_but_nan(value):
    """A value of the same shape in which every number, truth value and string is NaN."""
    if isinstance(value, torch.Tensor):
        return torch.full(value.shape, NAN, dtype=value.dtype if value.is_floating_point() else torch.float32)
    if isinstance(value, dict):
        return {k: nothing_but_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(nothing_but_nan(v) for v in value)
    return NAN


WAYS = {
    "a number": lambda right: NAN,
    "NumPy's number": lambda right: np.float32(NAN),
    "a tensor without dimensions": lambda right: torch.tensor(NAN),
    "a complex one": lambda right: complex(NAN, NAN),
    "the expected shape": nothing_but_nan,
    "the expected shape, in double precision": lambda right: (
        torch.as_tensor(right).double() * NAN if isinstance(right, torch.Tensor) else nothing_but_nan(right)
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("exercise", all_exercises().values(), ids=lambda e: e.id)
def test_nan_earns_nothing_and_breaks_nothing(exercise, way):
    cases = exercise.draw(4)
    right = [run_case(exercise.reference, case, exercise.seconds).output for case in cases]
    outputs = [WAYS[way](value) for value in right]
    verdict = judge(exercise, cases, [Outcome(output=value) for value in outputs])
    assert verdict.state == "wrong" and verdict.message
    trapped = {case.part for case, value in zip(cases, outputs, strict=True) if _holds_nan(value)}
    for case, value, fault in zip(cases, outputs, verdict.faults, strict=True):
        assert fault or not _holds_nan(value), case.label
    parts = {case.part for case in cases}
    assert verdict.points <= exercise.points * len(parts - trapped) / len(parts) + 1e-3 and trapped


def _holds_nan(value) -> bool:
    """False for what has no entries to be NaN, as an empty list."""
    if isinstance(value, torch.Tensor):
        return value.numel() > 0
    if isinstance(value, dict):
        return any(map(_holds_nan, value.values()))
    return any(map(_holds_nan, value)) if isinstance(value, (list, tuple)) else True
