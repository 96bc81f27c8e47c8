"""Sparsity asked for and given, in per cent."""

from course_lib.show.asked_and_got import asked_and_got


def test_a_line_for_each_rule_in_per_cent():
    axes = asked_and_got([0.0, 0.5], {"exact": [0.0, 0.5], "norm": [0.25, 1.0]}).axes[0]
    assert [line.get_label() for line in axes.lines] == ["exact", "norm"]
    assert axes.lines[1].get_xydata().tolist() == [[0, 25], [50, 100]]
    assert axes.get_xlabel() == "sparsity asked for, %"
