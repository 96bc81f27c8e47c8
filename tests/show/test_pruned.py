"""Plots of pruned models: every point drawn where it was measured, and the smallest model within a loss marked."""

from course_lib.show.pruned import f1_against_size, f1_against_sparsity, pruned_by_size, size_knob, time_against_density

LINES = {"magnitude": [(0.5, [0.8, 0.7, 0.9]), (0.7, [0.4, 0.3, 0.5])], "taylor": [(0.5, [0.7, 0.6, 0.8])]}


def point(name, megabytes, f1, low, removed=False, trained=False):
    return {
        "name": name, "megabytes": megabytes, "f1": [f1, f1 - 0.01, f1 + 0.01], "difference": [f1 - 0.87, low, 0.0], "removed": removed,
        "trained": trained,
    }  # fmt: skip


POINTS = [
    point("whole", 90.0, 0.87, 0.0),
    point("good", 70.0, 0.85, -0.04, trained=True),
    point("small", 60.0, 0.6, -0.3, removed=True),
]


def test_a_panel_for_each_training_with_lines_of_one_look_and_intervals():
    figure = f1_against_sparsity({"no": LINES, "short": {"taylor": LINES["taylor"]}}, {"no": 0.87, "short": 0.83}, marked=0.8)
    left, right = figure.axes
    drawn = {c.get_label(): c.lines[0] for c in left.containers}
    assert drawn["magnitude"].get_xydata().tolist() == [[50, 0.8], [70, 0.4]]
    assert drawn["taylor"].get_color() == right.containers[0].lines[0].get_color()
    assert left.containers[0].lines[2][0].get_segments()[0].round(9).tolist() == [[50, 0.7], [50, 0.9]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["magnitude", "taylor"]
    assert left.lines[0].get_ydata()[0] == 0.87 and left.lines[1].get_xdata()[0] == 80


def test_shares_are_drawn_by_tenth_in_per_cent():
    axes = pruned_by_size({"magnitude": [1.0] * 5 + [0.0] * 5}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[i, 100.0 if i <= 5 else 0.0] for i in range(1, 11)]


def test_every_model_is_drawn_and_the_smallest_within_the_loss_is_named():
    axes = f1_against_size(POINTS, floor=48, allowed=0.05).axes[0]
    shown = [xy for line in axes.lines[:4] for xy in line.get_xydata().tolist()]
    assert sorted(shown) == [[60, 0.6], [70, 0.85], [90, 0.87]]
    assert axes.lines[4].get_xydata().tolist() == [[70, 0.85]]
    assert any("smallest within 0.05: good, 70.0 MB" in text.get_text() for text in axes.texts)


def test_where_no_model_is_within_the_loss_none_is_named():
    axes = f1_against_size(POINTS[2:], floor=48, allowed=0.01).axes[0]
    assert not any("smallest" in text.get_text() for text in axes.texts)


def test_the_knob_turns_the_allowed_loss(knobs):
    size_knob(POINTS, floor=48)
    assert "good" in knobs["draw"](allowed_loss=0.05).axes[0].texts[1].get_text()
    assert "whole" in knobs["draw"](allowed_loss=0.0).axes[0].texts[1].get_text()
    assert 0.05 in knobs["sliders"]["allowed_loss"]


def test_time_is_drawn_over_the_weights_left_in_per_cent():
    axes = time_against_density([0.5, 0.1], [4.0, 0.5]).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[50, 4], [10, 0.5]] and axes.get_xscale() == "log"
