"""Plots of the lessons: every number given is in the picture, labelled; and they show themselves as PNG."""

import pytest
import torch

from course_lib.show.curves import metric_against_sparsity
from course_lib.show.figure import new_figure
from course_lib.show.knobs import knob
from course_lib.show.sizes import before_and_after, plot_parts, sizes_at, stacked_sizes
from course_lib.show.text import prose
from course_lib.show.weights import bars_by_layer, estimate_against_truth, weight_histograms


def is_png(figure) -> bool:
    return figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"


def words(figure) -> str:
    """All texts of a figure."""
    from matplotlib.text import Text

    figure.draw_without_rendering()  # labels of ticks are made when drawn

    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_a_figure_is_a_picture_and_no_global():
    import matplotlib.pyplot as plt

    figure = new_figure(3, 2)
    figure.subplots().plot([0, 1])
    assert is_png(figure) and plt.get_fignums() == []


def test_curves_have_a_line_for_each_method_and_one_for_the_whole_model():
    lines = {"size": [90.0, 80.0, 20.0], "gradient": [90.0, 40.0, 10.0]}
    figure = metric_against_sparsity([0.0, 0.5, 0.9], {"MLP": lines, "CNN": lines}, "accuracy, %", {"MLP": 90.0, "CNN": 91.0})
    for axes, level in zip(figure.axes, (90.0, 91.0), strict=True):
        assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[0.0, 50.0, 90.0]] * 2
        assert [list(line.get_ydata()) for line in axes.lines[:2]] == list(lines.values())
        assert list(axes.lines[2].get_ydata()) == [level, level]
        assert (
            len({line.get_marker() for line in axes.lines[:2]}) == 2 == len({line.get_linestyle() for line in axes.lines[:2]})
        )
    assert all(word in words(figure) for word in ("sparsity, %", "accuracy, %", "MLP", "CNN", "size", "gradient", "not pruned"))
    assert len(metric_against_sparsity([0.0], {"one": {"a": [1.0]}}, "F1").axes[0].lines) == 1
    assert len(metric_against_sparsity([0.0], {"one": {"a": [1.0]}}, "F1", 0.5).axes[0].lines) == 2


def test_histograms_say_how_much_is_zero():
    w = torch.linspace(-1, 1, 100)
    cut = torch.where(w.abs() < 0.5, 0.0, w)
    share = float((cut == 0).float().mean())
    figure = weight_histograms({"layer 1": w}, {"layer 1": cut})
    assert f"layer 1\n{share:.0%} zero" in words(figure) and is_png(figure)
    assert "100 weights" in words(weight_histograms({"layer 1": w}))


def test_bars_carry_their_values():
    figure = bars_by_layer({"layer 1": {"same share": 0.7, "one threshold": 0.25}}, "weights pruned, %")
    assert sorted(round(p.get_width()) for p in figure.axes[0].patches) == [25, 70]
    assert "weights pruned, %" in words(figure) and "one threshold" in words(figure)


def test_estimates_stand_beside_their_correlation():
    truth, estimates = torch.tensor([0.0, 1.0, 2.0]), {"size": torch.tensor([0.0, 1.0, 3.0])}
    figure = estimate_against_truth(truth, estimates, {"size": 0.87})
    assert "rank correlation 0.87" in words(figure)
    assert len(figure.axes[0].lines[0].get_xdata()) == 3 and is_png(figure)


def test_bytes_and_times_are_written_at_their_bars():
    figure = before_and_after({"dense": 2_360_000, "zeros": 2_360_000}, {"dense": 1.25, "zeros": 1.5})
    assert all(text in words(figure) for text in ("2.36", "1.25", "1.50", "file size, MB", "time of a product, ms"))


def test_parts_carry_their_share():
    text = words(plot_parts({"table": 30.0, "layers": 10.0}))
    assert "30.0 MB, 75%" in text and "10.0 MB, 25%" in text and "40.0 in all" in text


def test_stacked_bars_add_up():
    figure = stacked_sizes({"all": {"table": 30.0, "layers": 10.0}, "less": {"table": 5.0, "layers": 2.5}})
    assert "40.0 MB" in words(figure) and "7.5 MB" in words(figure)


@pytest.fixture
def shown(monkeypatch):
    import IPython.display

    things = []
    monkeypatch.setattr(IPython.display, "display", lambda *objects: things.extend(objects))
    return things


def test_without_hands_a_knob_is_a_still_picture(shown, monkeypatch):
    monkeypatch.setenv("COURSE_HEADLESS", "1")
    sizes_at({"word pieces": 1.5, "layers": 1.0})
    assert len(shown) == 1 and "layers 4 bits, table 8 bits" in words(shown[0])


def test_a_knob_redraws_for_what_its_sliders_say(shown, monkeypatch):
    monkeypatch.delenv("COURSE_HEADLESS", raising=False)
    drawn = []

    def draw(bits=8, groups=1):
        drawn.append((bits, groups))
        return new_figure(1, 1)

    knob(draw, bits=(2, 4, 8), groups=(1, 2))
    (box,) = [thing for thing in shown if hasattr(thing, "children")]
    first, second = box.children[:2]
    first.value = 2
    second.value = 2
    assert drawn == [(8, 1), (2, 1), (2, 2)]


def test_prose_is_markdown_and_its_own_text(shown):
    prose("**90 %** left")
    assert repr(shown[0]) == "**90 %** left" and shown[0]._repr_markdown_() == "**90 %** left"
