"""The curves of one weight: minima where the formulae say, drawn on the curve."""

import pytest
import torch

from course_lib.pruning.l1 import soft_threshold
from course_lib.show.corner import PENALTIES, corner, shrinkage, turn_the_corner


@pytest.mark.parametrize("kind", PENALTIES)
@pytest.mark.parametrize("a, lam", [(1.0, 0.25), (1.0, 1.5), (-2.0, 0.75), (0.0, 1.0), (0.5, 0.0)])
def test_the_minimum_is_the_lowest_point_of_the_curve(kind, a, lam):
    penalty, minimum = PENALTIES[kind]
    u = torch.linspace(-3, 3, 6001, dtype=torch.float64)  # 0.001 apart, so the best of them is within half of that
    best = float(u[((u - a).square() / 2 + lam * penalty(u)).argmin()])
    assert abs(minimum(a, lam) - best) <= 0.0005 + 1e-6


def test_a_column_for_each_lambda_and_a_row_for_each_penalty():
    figure = corner(1.0, [0.5, 1.5])
    assert [axes.get_title() for axes in figure.axes] == [
        "L1, a = 1, λ = 0.5\nminimum at u = 0.50",
        "L1, a = 1, λ = 1.5\nminimum at u = 0.00",
        "L2, a = 1, λ = 0.5\nminimum at u = 0.67",
        "L2, a = 1, λ = 1.5\nminimum at u = 0.40",
    ]
    dots = [float(axes.lines[3].get_xdata()[0]) for axes in figure.axes]
    assert dots == [0.5, 0.0, 1 / 1.5, 0.4]
    assert figure.axes[0].get_ylabel() == "value" and figure.axes[2].get_xlabel() == "weight u"


def test_without_a_reader_at_the_knobs_there_is_a_picture_of_three_settings(shown):
    turn_the_corner(1.0)
    assert len(shown) == 1 and len(shown[0].axes) == 6


def test_the_settings_of_the_knobs_include_where_they_start(knobs):
    turn_the_corner(1.0)
    assert 1.0 in knobs["sliders"]["a"] and 0.75 in knobs["sliders"]["lam"]
    assert knobs["draw"](a=-0.5, lam=0.25).axes[0].get_title() == "L1, a = -0.5, λ = 0.25\nminimum at u = -0.25"


def test_a_step_is_drawn_for_each_weight():
    figure = shrinkage({"soft": lambda u: soft_threshold(u, 1.0)}, reach=2.0)
    plain, soft = figure.axes[0].lines[:2]
    assert list(plain.get_ydata()) == list(plain.get_xdata())
    assert float(soft.get_ydata()[0]) == -1.0 and float(soft.get_ydata()[600]) == 0.0
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["no penalty", "soft"]
