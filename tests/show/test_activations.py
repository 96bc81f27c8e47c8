"""Pictures of activations: the numbers given are in them, and what stands out is named."""

import torch

from course_lib.show.activations import (
    column_balance,
    cost_bars,
    divergence_against_alpha,
    exclusion_curves,
    outlier_map,
)


def texts(figure) -> str:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_the_largest_column_is_named_and_each_token_has_a_bar():
    x = torch.ones(3, 8)
    x[0, 5] = -40.0
    figure = outlier_map(x, ["[CLS]", "a", "b"])
    assert [bar.get_width() for bar in figure.axes[1].patches] == [40.0, 1.0, 1.0]
    assert "column 5" in texts(figure) and "[CLS]" in texts(figure)


def test_bars_keep_the_order_given():
    figure = cost_bars({"one": 0.5, "two": 0.25}, "divergence, nats")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.5, 0.25]
    assert figure.axes[0].get_xlim()[0] == 0 and "divergence, nats" in texts(figure)


def test_measured_and_summed_costs_stand_beside_each_other():
    figure = exclusion_curves([0, 2], [0.8, 0.9], 0.95, [0.5, 0.1], [0.4, 0.2])
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[0.5, 0.1], [0.4, 0.2]]
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.8, 0.9] and "float" in texts(figure)


def test_columns_are_in_the_order_of_the_inputs_as_they_were():
    before, after = torch.tensor([1.0, 9.0, 4.0]), torch.tensor([3.0, 2.0, 1.0])
    figure = column_balance({"as trained": before, "smoothed": after}, {"as trained": after, "smoothed": before}, "alpha")
    first, second = figure.axes[0].lines
    assert list(first.get_ydata()) == [9.0, 4.0, 1.0] and list(second.get_ydata()) == [2.0, 1.0, 3.0]
    assert "alpha" in texts(figure) and "smoothed" in texts(figure)


def test_each_precision_has_a_line_and_a_square_without_smoothing():
    figure = divergence_against_alpha([0.0, 1.0], {"8 bits": [0.1, 0.2], "6 bits": [0.3, 0.4]}, {"8 bits": 0.5, "6 bits": 0.6})
    lines = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in lines] == [[0.1, 0.2], [0.3, 0.4], [0.5], [0.6]]
    assert "none" in texts(figure)
