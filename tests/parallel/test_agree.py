"""What differs between workers is told apart and named; that all workers raise is in the tests that start them."""

import doctest

import pytest
import torch

from course_lib.parallel import agree
from course_lib.parallel.agree import fingerprints, require_equal


def test_a_fingerprint_tells_shapes_and_values_apart_and_nothing_else():
    x = torch.arange(6.0).view(2, 3)
    found = [fingerprints({"x": t})["x"] for t in (x, x.flatten(), x + 1, x.t().contiguous().t(), x.clone().requires_grad_())]
    assert len({found[0], found[1], found[2]}) == 3 and found[0] == found[3] == found[4]
    assert fingerprints({"x": torch.tensor(1.0, dtype=torch.bfloat16)})["x"][0] == ()  # a dtype that numpy does not have
    assert doctest.testmod(agree).failed == 0 < doctest.testmod(agree).attempted


def test_a_value_that_differs_is_refused_with_what_each_worker_has(monkeypatch):
    monkeypatch.setattr(agree, "gathered", lambda value, group: [value, value])
    require_equal("length", 3)
    monkeypatch.setattr(agree, "gathered", lambda value, group: [value, 4])
    with pytest.raises(ValueError, match=r"length = \{0: 3, 1: 4\}: expected the same on every worker"):
        require_equal("length", 3)
