"""Pictures of structure: medians over counted rounds, the rows and columns of a unit, points where they belong."""

import pytest

from course_lib.models.digits import digits_cnn
from course_lib.models.digits_transformer import digits_transformer
from course_lib.models.surgery import head_groups
from course_lib.pruning.channels import channel_groups
from course_lib.show.structure import against_removed, coupled_parts, turn_the_unit, turns


def texts(figure) -> str:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_medians_leave_the_warm_up_out():
    figure = turns({"slow": [900.0, 20.0, 30.0, 22.0], "fast": [800.0, 10.0, 11.0, 19.0]}, warm_up=1)
    dots, middle = figure.axes[0].lines[:2]
    assert list(dots.get_xdata()) == [20.0, 30.0, 22.0] and list(middle.get_xdata()) == [22.0, 22.0]
    assert all(word in texts(figure) for word in ("slow", "fast", "22", "11", "ms"))


def test_a_head_is_marked_at_its_rows_and_at_the_columns_that_read_it():
    network = digits_transformer(layers=1, width=16, heads=4, neurons=8)
    figure = coupled_parts(network, head_groups(network)[0], unit=2)
    shown = texts(figure)
    assert len(figure.axes) == 4 and shown.count("rows 8 … 11 with bias") == 3 and "columns 8 … 11" in shown
    spans = [axes.patches[0].get_bbox() for axes in figure.axes]
    assert all((b.y0, b.y1) == (7.5, 11.5) for b in spans[:3]) and (spans[3].x0, spans[3].x1) == (7.5, 11.5)


def test_a_channel_that_was_flattened_is_read_by_columns_side_by_side():
    cnn = digits_cnn(seed=0)
    shown = texts(coupled_parts(cnn, channel_groups(cnn)[1], unit=3))
    assert "Conv2d, number 2\nrow 3 with bias" in shown and "columns 48 … 63" in shown and "512 columns" in shown


def test_a_channel_is_read_by_as_many_columns_as_a_filter_has_numbers_for_it():
    cnn = digits_cnn(seed=0)
    figure = coupled_parts(cnn, channel_groups(cnn)[0], unit=10)  # filters of 3 × 3
    reader = figure.axes[1].patches[0].get_bbox()
    assert (reader.x0, reader.x1) == (89.5, 98.5) and "columns 90 … 98" in texts(figure)


def test_knobs_choose_kind_and_unit_and_readers_see_every_kind(knobs, capsys):
    cnn = digits_cnn(seed=0)
    first, second = channel_groups(cnn)
    turn_the_unit({"first": (cnn, first), "second": (cnn, second)})
    assert list(knobs["sliders"]["kind"]) == ["first", "second"] and len(knobs["sliders"]["unit"]) == 32
    assert "row 15 with bias" in texts(knobs["draw"](kind="first", unit=31))  # it has 16
    assert "row 10 with bias" in texts(knobs["still"]())
    assert "Figure" in capsys.readouterr().out  # the other kind, shown before it


def test_points_lie_where_they_are_given_with_the_ideal_beside_them():
    figure = against_removed({"layers": [(0.0, 1.0), (0.5, 0.55)], "heads": [(0.1, 0.8)]}, "the layers", "time, %", ideal=True)
    ideal, layers, heads = figure.axes[0].lines
    assert list(ideal.get_ydata()) == [100, 0]
    assert list(layers.get_xdata()) == [0.0, 50.0] and list(layers.get_ydata()) == pytest.approx([100.0, 55.0])
    assert heads.get_marker() != layers.get_marker() and heads.get_linestyle() != layers.get_linestyle()
    assert "parameters of the layers removed, %" in texts(figure)


def test_the_model_as_it_was_is_a_thin_line():
    figure = against_removed({"tree": [(0.2, 0.9)]}, "the layers", "accuracy, %", level=0.95)
    assert list(figure.axes[0].lines[0].get_ydata()) == [95.0, 95.0] and "nothing removed" in texts(figure)
