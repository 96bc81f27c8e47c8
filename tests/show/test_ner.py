"""Tests of course_lib/show/ner.py: every number given is in the picture, labelled."""

import pytest
import torch
from matplotlib.text import Text

from course_lib.show import ner


def words(figure) -> str:
    figure.draw_without_rendering()
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_attention_maps_name_the_pieces_and_share_a_scale():
    figure = ner.attention_maps(["[CLS]", "ana"], {"once": torch.eye(2), "twice": torch.full((2, 2), 0.5)})
    assert all(w in words(figure) for w in ("[CLS]", "ana", "once", "twice", "attention weight", "piece looked at"))
    assert [axes.images[0].get_clim() for axes in figure.axes[:2]] == [(0.0, 1.0)] * 2


def test_accuracy_and_f1_stand_on_one_axis():
    figure = ner.accuracy_and_f1({"always O": (0.85, 0.0), "teacher": (0.97, 0.8)})
    assert all(w in words(figure) for w in ("always O", "teacher", "token accuracy", "entity F1", "%"))
    points = [float(line.get_xdata()[0]) for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert sorted(points) == pytest.approx([0, 80, 85, 97])


def test_windows_are_drawn_with_what_they_own(monkeypatch):
    figure = ner.window_picture(10, [(0, 6, 0, 5), (4, 10, 5, 10)])
    assert [(b.get_x(), b.get_width()) for b in figure.axes[0].patches] == [(0, 6), (0, 5), (4, 6), (5, 5)]
    assert "2 windows read 12 pieces for a text of 10" in words(figure)
    turned = []
    monkeypatch.setattr(ner, "knob", lambda draw, **sliders: turned.append((draw, sliders)))
    ner.turn_window_and_context(40)
    ((draw, sliders),) = turned
    assert "for a text of 40" in words(draw(**{name: values[-1] for name, values in sliders.items()}))


def test_f1_against_the_window_has_a_line_for_each_way():
    figure = ner.f1_against_window([16, 32], {"blocks": [0.5, 0.6], "windows": [0.7, 0.8]})
    assert [list(line.get_ydata()) for line in figure.axes[0].lines[:2]] == [[50, 60], [70, 80]]
    assert all(w in words(figure) for w in ("16", "32", "blocks", "windows", "entity F1, %"))


def test_intervals_carry_half_their_width():
    figure = ner.interval_against_sentences([50, 200], [(0.6, 0.8), (0.65, 0.75)], 0.7)
    assert all(w in words(figure) for w in ("± 10.0", "± 5.0", "F1 of all sentences"))


def test_slices_carry_their_counts():
    figure = ner.recall_slices({"by type": {"LOC": (0.5, 0.3, 0.7, 20)}, "by length": {"1 words": (0.9, 0.8, 0.95, 7)}})
    assert all(w in words(figure) for w in ("LOC  (n = 20)", "1 words  (n = 7)", "by type", "by length", "recall, %"))
