"""The number line: all levels, every value on its way to the nearest, errors within half a step."""

import pytest
import torch

from course_lib.show.number_line import SETTINGS, number_line, turn_bits_and_range


def texts(figure) -> str:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return " | ".join(t.get_text() for t in figure.findobj(Text))


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_every_level_has_a_tick_and_one_of_them_is_zero(bits):
    figure = number_line([(bits, 3.0)])
    ticks = torch.as_tensor(figure.axes[0].lines[1].get_xdata())
    assert len(ticks) == 2**bits and int((ticks == 0).sum()) == 1


def test_errors_stay_within_half_a_step_inside_the_range_and_grow_beyond_it():
    figure = number_line([(3, 1.8)])
    error, lower, upper = figure.axes[1].lines[:3]
    half = float(upper.get_ydata()[0])
    assert float(lower.get_ydata()[0]) == -half
    x, e = torch.as_tensor(error.get_xdata()), torch.as_tensor(error.get_ydata())
    # The levels reach from −zero_point to 7 − zero_point steps: inside of these ends nothing is off by more than half.
    inside = (x > -1.0 + half) & (x < 1.8 - half)
    assert bool((e[inside].abs() <= half + 1e-6).all()) and float(e[-1]) < -1.0


def test_scale_and_zero_point_stand_above_each_setting():
    figure = number_line(SETTINGS)
    assert len(figure.axes) == 6 and "2 bits, range -1 to 3\nscale 1.33, zero point 1" in texts(figure)


def test_knobs_draw_one_setting_and_readers_see_three(knobs):
    turn_bits_and_range()
    assert len(knobs["draw"](bits=4, range_up_to=2.0).axes) == 2 and len(knobs["still"]().axes) == 6
    assert set(knobs["sliders"]) == {"bits", "range_up_to"} and 3.0 in knobs["sliders"]["range_up_to"]
