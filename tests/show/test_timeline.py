"""The timeline shows every pass where its tick is, and greys what is left."""

from matplotlib.colors import to_hex

from course_lib.parallel.schedule import BACKWARD, FORWARD, gpipe, one_f_one_b, start_ticks
from course_lib.show.schedule import FILLS, IDLE, timeline


def boxes(axes, fill: str) -> set[tuple[int, float, float]]:
    """Stage, start and width of each bar of this colour."""
    return {
        (round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width())
        for bar in axes.patches
        if to_hex(bar.get_facecolor()).upper() == fill
    }


def test_every_pass_is_a_box_at_its_tick_in_the_colour_and_hatch_of_its_kind():
    schedule = one_f_one_b(3, 4)
    axes = timeline(schedule, backward=2).axes[0]
    starts = start_ticks(schedule, backward=2)
    for kind, lasts in ((FORWARD, 1), (BACKWARD, 2)):
        due = {(stage, tick, lasts) for stage, own in enumerate(starts) for action, tick in own.items() if action.kind == kind}
        assert boxes(axes, FILLS[kind][0]) == due
    assert {bar.get_hatch() for bar in axes.patches} == {None, "", "///"}


def test_a_row_is_grey_from_end_to_end_below_its_boxes_and_the_title_has_the_figures():
    axes = timeline(gpipe(2, 3)).axes[0]
    assert boxes(axes, IDLE) == {(0, 0, 8), (1, 0, 8)}
    assert axes.get_title(loc="left") == "GPipe: 8 ticks, bubble 25%, micro-batches kept at most: 3, 3"
    assert [t.get_text() for t in axes.texts] == [str(i) for i in (0, 1, 2, 2, 1, 0)] * 2


def test_schedules_below_each_other_share_their_scale_of_ticks():
    figure = timeline(gpipe(2, 2), one_f_one_b(4, 4))
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 14), (0, 14)]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["forward", "backward", "waits (bubble)"]
