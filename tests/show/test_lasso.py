"""Plots of a lasso: what is drawn is what was given."""

import math

import pytest
import torch

from course_lib.show.lasso import certificate, convergence, paths, zeros_and_near_zeros


def test_convergence_shows_the_distance_to_the_final_value_and_the_zeros():
    figure = convergence([5.0, 3.0, 2.0 + 1e-14, 2.0], [0, 4, 6, 6], of=9)
    above, zeros = (axes.lines[0] for axes in figure.axes)
    assert above.get_ydata()[:2].tolist() == [3.0, 1.0]
    assert all(math.isnan(value) for value in above.get_ydata()[2:]), "rounding is not drawn"
    assert list(zeros.get_ydata()) == [0, 4, 6, 6]
    assert figure.axes[1].get_ylabel() == "exact zeros, of 9 weights"


def test_a_certificate_sorts_weights_by_slope_and_tells_zeros_from_others():
    gradient, w = torch.tensor([0.5, -0.1, -0.5, 0.2]), torch.tensor([-1.0, 0.0, 2.0, 0.0])
    axes = certificate(gradient, w, 0.5).axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines if ":" in line.get_label()}
    assert drawn == {
        "positive weight: 1": [[0, -0.5]],
        "weight exactly 0: 2": [[1, pytest.approx(-0.1)], [2, pytest.approx(0.2)]],
        "negative weight: 1": [[3, 0.5]],
    }
    assert sorted(text.get_text() for text in axes.texts) == ["λ", "−λ"]


def test_paths_show_every_weight_and_count_the_zeros():
    lams = torch.tensor([0.1, 1.0])
    weights = torch.tensor([[3.0, -1.0, 0.5, 0.1, 0.2, 4.0], [1.0, 0.0, 0.0, 0.0, 0.0, 2.0]])
    figure = paths({"L1": (lams, weights), "L2": (lams, weights + 1.5)})
    top, _, bottom, _ = figure.axes
    assert top.get_title() == "L1" and len(top.lines) == 7, "six weights and the line at zero"
    assert list(bottom.lines[0].get_ydata()) == [0, 4]
    assert [line.get_color() == "#aaaaaa" for line in top.lines[:6]] == [False, False, False, True, False, False]


def test_zeros_are_counted_where_they_cannot_be_drawn():
    w = torch.tensor([0.0, -0.5, 2.0, 0.0])
    figure = zeros_and_near_zeros({"a": [1.0, 0.5], "b": [1.0, 0.0]}, {"a": w + 0.1, "b": w})
    left, right = figure.axes
    assert list(left.lines[1].get_ydata()) == [1.0, 0.0]
    assert right.lines[1].get_ydata().tolist() == [2.0, 0.5]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["a: 0 exact zeros", "b: 2 exact zeros"]
