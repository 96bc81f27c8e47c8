"""Two weights: the minima fulfil their conditions, and lie on the sets that are drawn through them."""

import pytest
import torch

from course_lib.pruning.l1 import lasso_violation
from course_lib.show.diamond import CURVATURE, FREE, diamond, minimum, turn_the_diamond


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.5, 0.8, 1.5, 2.0])
def test_the_minimum_with_l1_meets_the_conditions_of_a_minimum(lam):
    """The iteration's error shrinks by 1 − 0.3/1.3 a step: below 1e-22 after 200, so rounding (fp64, values below 2) is what is left."""
    w = minimum("L1", lam)
    assert lasso_violation(CURVATURE @ (w - FREE), w, lam) < 1e-14


@pytest.mark.parametrize("lam", [0.0, 0.5, 2.0])
def test_the_slope_at_the_minimum_with_l2_is_zero(lam):
    w = minimum("L2", lam)
    torch.testing.assert_close(CURVATURE @ (w - FREE) + lam * w, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-14)


def test_the_larger_weight_is_the_first_to_become_zero_with_l1_and_none_does_with_l2():
    assert FREE[1] > FREE[0]
    assert minimum("L1", 0.8)[1] == 0 and minimum("L1", 0.8)[0] > 0
    assert not minimum("L1", 2.0).any()
    assert (minimum("L2", 30.0) > 0).all()


def test_one_lambda_gives_two_panels_and_three_give_six():
    assert [axes.get_title().split("\n")[0] for axes in diamond([0.4]).axes] == ["L1, λ = 0.4", "L2, λ = 0.4"]
    figure = diamond([0.2, 0.4, 0.8])
    assert len(figure.axes) == 6
    dots = [axes.lines[2].get_xydata()[0] for axes in figure.axes]
    assert dots[2].tolist() == minimum("L1", 0.8).tolist() and dots[3].tolist() == minimum("L2", 0.2).tolist()
    assert figure.axes[3].get_xlabel() == "weight $w_1$" and figure.axes[0].get_ylabel() == "weight $w_2$"


def test_without_a_reader_at_the_knob_there_is_a_picture_of_three_settings(shown):
    turn_the_diamond()
    assert len(shown) == 1 and len(shown[0].axes) == 6


def test_the_knob_turns_lambda(knobs):
    turn_the_diamond()
    assert 0.4 in knobs["sliders"]["lam"]
    assert knobs["draw"](lam=0.1).axes[0].get_title().startswith("L1, λ = 0.1")
