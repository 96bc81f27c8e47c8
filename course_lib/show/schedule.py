"""A picture of a pipeline's schedule: who does what at which tick, and who waits."""

from course_lib.parallel.schedule import BACKWARD, FORWARD, Schedule, bubble, peak_activations, start_ticks, total_ticks
from course_lib.show.figure import new_figure

FILLS = {FORWARD: ("#56B4E9", ""), BACKWARD: ("#E69F00", "///")}  # of Okabe & Ito; the hatch tells them apart in grey
IDLE = "#DDDDDD"


def timeline(*schedules: Schedule, forward: int = 1, backward: int = 1):
    """Stages as rows and ticks from left to right: a box with its micro-batch's number for each pass, grey where a stage waits.

    Args:
        schedules: one or more, drawn below each other on the same scale of ticks.
        forward, backward: ticks of one pass.
    Returns:
        A matplotlib figure.
    """
    from matplotlib.patches import Patch

    ends = [total_ticks(schedule, forward, backward) for schedule in schedules]
    heights = [schedule.stages + 1.6 for schedule in schedules]  # rows, and room for title and ticks
    figure = new_figure(width=8.6, height=0.5 + 0.42 * sum(heights))
    all_axes = figure.subplots(len(schedules), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, schedule, end in zip(all_axes, schedules, ends, strict=True):
        _draw(axes, schedule, {FORWARD: forward, BACKWARD: backward}, end)
        axes.set(xlim=(0, max(ends)))
    all_axes[-1].set_xlabel("ticks")
    handles = [Patch(facecolor=fill, hatch=hatch, edgecolor="black", label=kind) for kind, (fill, hatch) in FILLS.items()]
    handles.append(Patch(facecolor=IDLE, label="waits (bubble)"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw(axes, schedule: Schedule, lasts: dict[str, int], end: int) -> None:
    for stage, starts in enumerate(start_ticks(schedule, lasts[FORWARD], lasts[BACKWARD])):
        axes.barh(stage, end, height=0.86, color=IDLE)
        for action, tick in starts.items():
            fill, hatch = FILLS[action.kind]
            width = lasts[action.kind]
            axes.barh(stage, width, left=tick, height=0.86, color=fill, hatch=hatch, edgecolor="black", linewidth=0.7)
            box = {"facecolor": fill, "edgecolor": "none", "pad": 1.0}  # the number stays legible on the hatch
            axes.text(tick + width / 2, stage, action.micro_batch, ha="center", va="center", fontsize=8, bbox=box)
    share, peaks = bubble(schedule, lasts[FORWARD], lasts[BACKWARD]), ", ".join(map(str, peak_activations(schedule)))
    axes.set_title(
        f"{schedule.name}: {end} ticks, bubble {share:.0%}, micro-batches kept at most: {peaks}", fontsize=9, loc="left"
    )
    axes.set_yticks(range(schedule.stages), [f"stage {stage}" for stage in range(schedule.stages)])
    axes.set_ylim(schedule.stages - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
