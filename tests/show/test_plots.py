"""Plots of a scorecard: labelled axes with units, one marker for each contender, its interval and its name."""

import pytest

from course_lib.measure.scorecard import contender, scorecard
from course_lib.show.plots import COLOURS, MARKERS, f1_against_bytes, f1_against_latency, png

FIGURES = [  # name, model, precision, F1, bytes, ms
    ("teacher, PyTorch fp32", "teacher", "fp32", [0.9, 0.85, 0.93], 90_000_000, 12.0),
    ("teacher, ORT int8", "teacher", "int8", [0.89, 0.84, 0.93], 23_000_000, 3.0),
    ("student, ORT fp32", "student", "fp32", [0.8, 0.8, 0.85], 60_000_000, 2.0),
    ("student, ORT int8", "student", "int8", [0.79, 0.7, 0.84], 16_000_000, 1.0),
]


def make_card(figures):
    entries = [
        contender(
            name,
            model,
            "onnxruntime",
            precision,
            f1={"validation": None, "test": f1, "natural": None},
            bytes=size,
            ms_per_sentence={"1": {"median": ms, "p95": ms}, "32": {"median": ms, "p95": ms}},
            final=name == FIGURES[-1][0],
        )
        for name, model, precision, f1, size, ms in figures
    ]
    return scorecard(0, 3, {"name": "x"}, entries, [])


PLOTS = {
    f1_against_bytes: (lambda size, ms: size / 1e6, "MB"),
    f1_against_latency: (lambda size, ms: ms, "ms per sentence"),
}


def points(axes):
    """Markers of a plot: (x, y, shape, edge colour, face colour), one for each error bar."""
    lines = [container[0] for container in axes.containers]
    return [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_marker(), line.get_color(), line.get_markerfacecolor())
        for line in lines
    ]


@pytest.mark.parametrize("plot", PLOTS)
def test_axes_are_labelled_with_units(plot):
    (axes,) = plot(make_card(FIGURES)).axes
    assert PLOTS[plot][1] in axes.get_xlabel() and "log" in axes.get_xlabel()
    assert "F1" in axes.get_ylabel() and "95 %" in axes.get_ylabel()
    assert axes.get_title() and axes.get_xscale() == "log"


def test_the_latency_label_says_the_threads():
    assert "3 threads" in f1_against_latency(make_card(FIGURES)).axes[0].get_xlabel()


@pytest.mark.parametrize("plot", PLOTS)
def test_each_contender_has_one_marker_where_it_belongs(plot):
    (axes,) = plot(make_card(FIGURES)).axes
    value = PLOTS[plot][0]
    assert points(axes) == [
        (value(size, ms), f1[0], MARKERS[model], COLOURS[model], COLOURS[model] if precision == "int8" else "white")
        for _, model, precision, f1, size, ms in FIGURES
    ]
    shapes = {(marker, face == "white") for _, _, marker, _, face in points(axes)}
    assert len(shapes) == 4, "model and precision can be told apart without colour"


@pytest.mark.parametrize("plot", PLOTS)
def test_the_interval_is_drawn_around_the_marker(plot):
    (axes,) = plot(make_card(FIGURES)).axes
    for container, (_, _, _, f1, size, ms) in zip(axes.containers, FIGURES, strict=True):
        ((bottom, top),) = container[2][0].get_segments()
        x = PLOTS[plot][0](size, ms)
        assert bottom == pytest.approx((x, f1[1])) and top == pytest.approx((x, f1[2]))


@pytest.mark.parametrize("plot", PLOTS)
def test_each_contender_is_named_at_its_marker_and_the_final_one_starred(plot):
    (axes,) = plot(make_card(FIGURES)).axes
    named = {text.get_text(): text.xy for text in axes.texts}
    value = PLOTS[plot][0]
    expected = {name: (value(size, ms), f1[0]) for name, _, _, f1, size, ms in FIGURES}
    expected[f"{FIGURES[-1][0]} ★"] = expected.pop(FIGURES[-1][0])
    assert named == expected


@pytest.mark.parametrize("plot", PLOTS)
def test_names_lie_inside_the_picture(plot):
    figure = plot(make_card(FIGURES))
    png(figure)  # lays it out
    box = figure.bbox
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1, text.get_text()


@pytest.mark.parametrize("plot", PLOTS)
def test_what_was_not_measured_is_left_out(plot):
    crashed = [
        ("no score", "student", "int8", None, 1_000, 1.0),
        ("no size, no time", "student", "int8", [0.5, 0.4, 0.6], None, None),
    ]
    (axes,) = plot(make_card([*FIGURES, *crashed])).axes
    assert len(points(axes)) == len(axes.texts) == len(FIGURES)
    (empty,) = plot(make_card(crashed)).axes
    assert points(empty) == [] and empty.get_xlabel(), "a plot without points is still a plot"


def test_png_is_a_picture_of_the_figures_size():
    figure = f1_against_bytes(make_card(FIGURES))
    data = png(figure)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == tuple(round(130 * inches) for inches in figure.get_size_inches())
    assert png(f1_against_bytes(make_card(FIGURES))) == data, "the same card, the same bytes"
