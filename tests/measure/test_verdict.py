"""Verdicts on a claim from a difference and its interval."""

import pytest

from course_lib.measure.verdict import verdict


@pytest.mark.parametrize(
    "difference, allowed, expected",
    [
        ([0.0, -0.01, 0.01], 0.01, "holds"),  # the end of the interval is still allowed
        ([-0.02, -0.03, -0.01], 0.01, "open"),
        ([-0.02, -0.03, -0.011], 0.01, "refuted"),
        ([-0.01, -0.09, 0.07], 0.02, "open"),  # the interval holds zero, and a loss of 9 points
        ([0.02, 0.01, 0.03], 0.0, "holds"),
        ([-0.005, -0.008, -0.002], 0.01, "holds"),  # worse beyond doubt, by less than is allowed
    ],
)
def test_the_whole_interval_must_be_on_one_side(difference, allowed, expected):
    assert verdict(difference, allowed) == expected


def test_a_value_outside_its_interval_and_a_negative_allowance_are_refused():
    with pytest.raises(ValueError, match="with low ≤ value ≤ high"):
        verdict([0.1, -0.1, 0.0], 0.01)
    with pytest.raises(ValueError, match=r"allowed = -0\.01: expected a loss of 0 or more"):
        verdict([0.0, -0.1, 0.1], -0.01)
