"""Lines to compare methods: a metric against sparsity, layer by layer or score by score."""

from collections.abc import Mapping, Sequence

from course_lib.show.figure import new_figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")  # of Okabe & Ito
MARKERS = ("o", "s", "^", "D", "v", "x")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def draw_curves(axes, x: Sequence[float], lines: Mapping[str, Sequence[float]]) -> None:
    """Draw one line for each name into ``axes``; colour, marker and dash differ, so that grey print suffices."""
    for (name, y), colour, marker, dash in zip(lines.items(), COLOURS, MARKERS, DASHES, strict=False):
        axes.plot(x, y, color=colour, marker=marker, linestyle=dash, markersize=5, linewidth=1.6, label=name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def metric_against_sparsity(
    sparsities: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    metric: str,
    dense: float | Mapping[str, float] | None = None,
):
    """A panel for each model or setting, a line for each method, sparsity in per cent below.

    Args:
        sparsities: fractions.
        panels: title → method → metric at each sparsity.
        metric: label of the ordinate, with its unit.
        dense: the metric without pruning, drawn as a thin line; one for all panels or one for each.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.6)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        draw_curves(axes, [100 * s for s in sparsities], lines)
        level = dense.get(title) if isinstance(dense, Mapping) else dense
        if level is not None:
            axes.axhline(level, color="#555555", linewidth=0.9)
            axes.annotate("not pruned", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        axes.set(xlabel="sparsity, %", title=title if len(panels) > 1 else "")
    all_axes[0].set_ylabel(metric)
    handles, labels = all_axes[0].get_legend_handles_labels()
    columns = max(1, 68 // (8 + max(map(len, labels))))  # as many as fit beside each other
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), columns), frameon=False)
    return figure
