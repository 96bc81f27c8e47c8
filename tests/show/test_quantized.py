"""Pictures of quantized weights: every number given is in them, labelled."""

import torch

from course_lib.show.quantized import code_histograms, error_against_bits, error_against_clip, rounding_errors


def texts(figure) -> str:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_codes_are_counted_and_those_in_use_named():
    figure = code_histograms({"one scale": torch.tensor([[-127, 0], [0, 127]], dtype=torch.int8), "rows": torch.zeros(4)})
    bars = figure.axes[0].patches
    assert len(bars) == 255 and [bars[i].get_height() for i in (0, 127, 254)] == [1, 2, 1]
    assert "3 of 255 codes in use" in texts(figure) and "rows\n1 of 255" in texts(figure)


def test_errors_are_a_density_with_the_bound_drawn_in():
    errors = torch.linspace(-0.5, 0.5, 4001)
    figure = rounding_errors({"8 bits": errors})
    bars = figure.axes[0].patches
    assert abs(sum(b.get_height() * b.get_width() for b in bars) - 1) < 1e-6  # an area of 1, up to float64
    assert list(figure.axes[0].lines[0].get_xdata()) == [-0.5, -0.5, 0.5, 0.5] and "8 bits" in texts(figure)


def test_the_lowest_error_is_ringed():
    figure = error_against_clip([0.1, 1.0, 10.0], {"8 bits": [0.5, 0.1, 0.4], "4 bits": [0.3, 0.6, 0.9]}, "row 3")
    line, other, ring, second = figure.axes[0].lines
    assert list(line.get_ydata()) == [50.0, 10.0, 40.0] and list(other.get_ydata()) == [30.0, 60.0, 90.0]
    assert list(ring.get_xdata()) == [1.0] and list(second.get_xdata()) == [0.1]
    assert "row 3" in texts(figure) and "relative error, %" in texts(figure)


def test_logarithmic_axes_carry_plain_numbers():
    figure = error_against_clip([0.1, 1.0, 10.0], {"8 bits": [0.5, 0.1, 0.4]})
    shown = texts(figure)
    assert all(f"| {number} |" in shown for number in ("0.1", "0.5", "2", "10", "20", "50")) and "$" not in shown


def test_lines_of_error_against_bits_differ_without_colour_and_carry_the_bits():
    points = {8: (8.1, 0.01), 4: (4.1, 0.2)}
    figure = error_against_bits({"channel": points, "groups": {8: (8.5, 0.005), 4: (4.5, 0.1)}})
    first, second = figure.axes[0].lines
    assert list(first.get_xdata()) == [8.1, 4.1] and list(second.get_ydata()) == [0.5, 10.0]
    assert first.get_marker() != second.get_marker() and first.get_linestyle() != second.get_linestyle()
    assert all(word in texts(figure) for word in ("channel", "groups", "bits stored for a weight", "8", "4"))
