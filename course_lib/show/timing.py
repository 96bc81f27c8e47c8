"""Pictures of timings: where a run spends its time, what padding costs, and calls one after the other."""

from collections.abc import Mapping, Sequence

from course_lib.show.curves import COLOURS, MARKERS, draw_curves
from course_lib.show.figure import new_figure, plain_ticks

HATCHES = ("", "//", "..", "xx", "\\\\", "++", "")


def time_by_operator(times: Mapping[str, Mapping[str, float]], most: int = 5, always: Sequence[str] = ()):
    """A stacked bar of milliseconds for each way to run a model, by operator; the small ones are put together.

    Args:
        times: name of the way → operator → ms of a run.
        most: operators that are shown by name, those that are dearest anywhere, at most 6.
        always: operators that are among them whatever they cost.
    Returns:
        A matplotlib figure.
    """
    dearest = {op: float("inf") for op in always}
    for row in times.values():
        for op, ms in row.items():
            dearest[op] = max(ms, dearest.get(op, 0.0))
    named = sorted(dearest, key=lambda op: -dearest[op])[:most]
    parts = {op: [row.get(op, 0.0) for row in times.values()] for op in named}
    parts["all others"] = [sum(ms for op, ms in row.items() if op not in named) for row in times.values()]
    figure = new_figure(height=1.7 + 0.45 * len(times))
    axes = figure.subplots()
    left = [0.0] * len(times)
    fills = (*COLOURS[:5], "#CCCCCC") if most <= 5 else (*COLOURS, "#CCCCCC")
    for (op, widths), fill, hatch in zip(parts.items(), [*fills[:most], "#CCCCCC"], HATCHES, strict=False):
        label = op.replace("LayerNormalization", "LayerNorm")
        axes.barh(list(times), widths, left=left, height=0.62, color=fill, hatch=hatch, edgecolor="white", label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for number, total in enumerate(left):
        axes.text(total + 0.01 * max(left), number, f"{total:.1f} ms", va="center", fontsize=9)
    axes.set(xlabel="ms of a run inside operators, one thread", xlim=(0, 1.16 * max(left)))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def cost_of_padding(sizes: Sequence[int], measured: Mapping[str, Sequence[float]], pieces: Mapping[str, Sequence[float]]):
    """Time per sentence and pieces computed per real piece against the batch size, a line for each way to make batches.

    Args:
        sizes: sentences in a batch.
        measured: way → ms per sentence at each size.
        pieces: way → pieces computed per piece of text.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.4)
    left, right = figure.subplots(1, 2)
    for axes, lines, label in ((left, pieces, "pieces computed / real pieces"), (right, measured, "ms per sentence")):
        draw_curves(axes, sizes, lines)
        axes.set(xscale="log", xlabel="sentences in a batch (log scale)", ylabel=label, ylim=(0, None))
        axes.set_xticks(list(sizes), [str(s) for s in sizes])
        axes.minorticks_off()
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def calls_in_time(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], busy: Mapping[str, tuple[float, float]]):
    """Each call as a point, when it was made and how long it took; a panel for each order of calls.

    Args:
        panels: title → contender → (second at which it began, milliseconds).
        busy: title → from when to when something else was running.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.2)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        if title in busy:
            axes.axvspan(*busy[title], color="#e8e8e8", label="something else runs")
        for (name, calls), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
            axes.plot(*zip(*calls, strict=True), marker, color=colour, markersize=3.5, markerfacecolor="none", label=name)
        axes.set(title=title, xlabel="seconds since the start", yscale="log")
        plain_ticks(axes.yaxis)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("ms of a call (log scale)")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def f1_and_speed(points: Sequence[Mapping], batch: str = "1"):
    """Milliseconds per sentence and F1 side by side, a row for each program and a point for each model in it, the slowest on top.

    Args:
        points: ``{"model", "way", "f1": [value, low, high], "ms_1", "ms_32"}``.
        batch: ``"1"`` or ``"32"``.
    Returns:
        A matplotlib figure.
    """
    key = f"ms_{batch}"
    slowest = {p["way"]: max(q[key] for q in points if q["way"] == p["way"]) for p in points}
    row = {way: i for i, way in enumerate(sorted(slowest, key=slowest.get))}
    figure = new_figure(width=7.4, height=1.5 + 0.27 * max(4, len(row)))
    speed, quality = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for (model, colour), marker, shift in zip(
        (("teacher", COLOURS[0]), ("student", COLOURS[1])), MARKERS, (0.13, -0.13), strict=False
    ):
        own = [p for p in points if p["model"] == model]
        speed.plot([p[key] for p in own], [row[p["way"]] for p in own], marker, color=colour, markersize=7, label=model)
        f1 = [p["f1"] for p in own]
        spread = [[v - low for v, low, _ in f1], [high - v for v, _, high in f1]]
        heights = [row[p["way"]] + shift for p in own]
        quality.errorbar(
            [v for v, _, _ in f1], heights, xerr=spread if own else None, fmt=marker, color=colour, markersize=5, elinewidth=0.9
        )
    speed.set(xscale="log", xlabel=f"median ms per sentence, batch {batch} (log scale)")
    speed.set_yticks(range(len(row)), row)
    plain_ticks(speed.xaxis)
    quality.set(xlabel="entity F1 on test, 95 % interval")
    for axes in (speed, quality):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if points:
        speed.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
