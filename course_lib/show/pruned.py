"""Plots of pruned models: F1 against sparsity and against size, what goes by the size of weights, sparse products by density."""

from collections.abc import Mapping, Sequence

from course_lib.show.curves import COLOURS, DASHES, MARKERS
from course_lib.show.figure import new_figure

Point = tuple[float, Sequence[float]]  # sparsity, and [F1, low, high]
REMOVED = "#D55E00"  # of Okabe & Ito, as below
MASKED = "#0072B2"


def f1_against_sparsity(panels: Mapping[str, Mapping[str, Sequence[Point]]], dense: Mapping[str, float], marked: float):
    """F1 with its interval against sparsity: a panel for each way to go on after pruning, a line for each method.

    Args:
        panels: title → method → points; methods of one name look alike in all panels.
        dense: title → F1 without pruning, with the same training; drawn as a thin line.
        marked: a sparsity to mark, that of a claim.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=3.9)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        axes.axhline(dense[title], color="#555555", linewidth=0.9)
        axes.annotate("not pruned", (0.01, dense[title]), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
        axes.axvline(100 * marked, color="#555555", linewidth=0.9, linestyle=":")
        for name, points in lines.items():
            look = names.index(name) % len(COLOURS)
            x, f1, low, high = zip(*((100 * s, *v) for s, v in points), strict=True)
            spread = [[a - b for a, b in zip(f1, low, strict=True)], [b - a for a, b in zip(f1, high, strict=True)]]
            axes.errorbar(
                x, f1, spread, color=COLOURS[look], marker=MARKERS[look], linestyle=DASHES[look], markersize=5, capsize=2, label=name
            )  # fmt: skip
        axes.set(xlabel="sparsity of the encoder, %", title=title, ylim=(-0.03, 1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("entity F1, validation")
    shown = {label: h for axes in all_axes for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def pruned_by_size(shares: Mapping[str, Sequence[float]]):
    """How much of each tenth of the weights goes, from the smallest tenth to the largest.

    Args:
        shares: way to choose → ten fractions pruned.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=3.0)
    axes = figure.subplots()
    for (name, y), colour, marker, dash in zip(shares.items(), COLOURS, MARKERS, DASHES, strict=False):
        axes.plot(range(1, 11), [100 * v for v in y], color=colour, marker=marker, linestyle=dash, label=name)
    axes.set(
        xlabel="tenth of the weights, 1 the smallest, 10 the largest", ylabel="pruned, %", ylim=(-4, 104), xticks=range(1, 11)
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def f1_against_size(points: Sequence[Mapping], floor: float, allowed: float):
    """F1 against megabytes of every measured model, and the smallest that loses no more than is allowed.

    Args:
        points: ``f1`` and ``difference`` as [value, low, high], ``megabytes``, ``removed`` (units or layers are gone; else weights
            are masked), ``trained``, ``name``.
        floor: megabytes of what no method here prunes.
        allowed: the largest loss of F1, counted at the low end of the interval.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=4.4)
    axes = figure.subplots()
    axes.axvspan(0, floor, facecolor="#dddddd", hatch="//", edgecolor="white", zorder=0)
    axes.text(floor - 0.8, 0.5, "never pruned: word pieces and the like", rotation=90, ha="right", va="center", fontsize=9)
    for removed, colour, marker in ((False, MASKED, "o"), (True, REMOVED, "s")):
        for was_trained in (False, True):
            rows = [p for p in points if p["removed"] == removed and p["trained"] == was_trained]
            label = f"{'units removed' if removed else 'weights masked'}, {'short training' if was_trained else 'no training'}"
            axes.plot(
                [p["megabytes"] for p in rows], [p["f1"][0] for p in rows], linestyle="", marker=marker, color=colour,
                markerfacecolor=colour if was_trained else "white", markersize=7, label=label,
            )  # fmt: skip
    able = [p for p in points if p["difference"][1] >= -allowed]
    if able:
        best = min(able, key=lambda p: p["megabytes"])
        axes.plot(best["megabytes"], best["f1"][0], marker="o", markersize=15, fillstyle="none", color="black")
        axes.annotate(
            f"smallest within {allowed:.2f}: {best['name']}, {best['megabytes']:.1f} MB",
            (best["megabytes"], best["f1"][0]), (0.98, 0.95), textcoords="axes fraction", ha="right",
            arrowprops={"arrowstyle": "-", "color": "black", "shrinkB": 9},
        )  # fmt: skip
    largest = max(p["megabytes"] for p in points)
    axes.set(
        xlabel="MB of all tensors, zeros not stored",
        ylabel="entity F1, validation",
        xlim=(floor - 6, largest + 3),
        ylim=(-0.03, 1),
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def size_knob(points: Sequence[Mapping], floor: float) -> None:
    """:func:`f1_against_size` with a slider for the allowed loss of F1."""
    from course_lib.show.knobs import knob

    def draw(allowed_loss: float = 0.05):
        return f1_against_size(points, floor, allowed_loss)

    knob(draw, allowed_loss=(0.0, 0.02, 0.05, 0.1, 0.2, 0.4))


def time_against_density(densities: Sequence[float], ratios: Sequence[float]):
    """Time of a sparse product over that of the dense one, by the share of weights that are left.

    Args:
        densities: fractions that are not zero.
        ratios: sparse time / dense time.
    Returns:
        A matplotlib figure.
    """
    from course_lib.show.figure import plain_ticks

    figure = new_figure(height=3.0)
    axes = figure.subplots()
    axes.plot([100 * d for d in densities], ratios, color=MASKED, marker="o")
    axes.axhline(1, color="#555555", linewidth=0.9)
    axes.annotate("as fast as dense", (0.01, 1), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
    axes.set(xlabel="weights left, % (log scale)", ylabel="sparse time / dense time", xscale="log", yscale="log")
    plain_ticks(axes.xaxis, axes.yaxis)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
