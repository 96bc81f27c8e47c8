"""Pictures of the NER baseline: attention, windows, accuracy beside F1, intervals, recall by slices."""

from collections.abc import Mapping, Sequence

import torch

from course_lib.data.long_text import Bounds, owned_windows
from course_lib.show.curves import COLOURS, MARKERS, draw_curves
from course_lib.show.figure import new_figure, plain_ticks
from course_lib.show.knobs import knob

BLUE, ORANGE, GREY = COLOURS[0], COLOURS[1], "#BBBBBB"


def attention_maps(pieces: Sequence[str], maps: Mapping[str, torch.Tensor]):
    """Who looks at whom: a panel for each (L, L) matrix of weights, a row for each piece that looks.

    Args:
        pieces: L texts.
        maps: title → weights, whose rows sum to 1.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.6, height=4.2)
    all_axes = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (title, weights) in zip(all_axes, maps.items(), strict=True):
        image = axes.imshow(weights.numpy(), cmap="cividis", vmin=0, vmax=1)
        axes.set_xticks(range(len(pieces)), pieces, rotation=90, fontsize=9)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("piece looked at")
    all_axes[0].set_yticks(range(len(pieces)), pieces, fontsize=9)
    all_axes[0].set_ylabel("piece that looks")
    figure.colorbar(image, ax=list(all_axes), label="attention weight", shrink=0.75)
    return figure


def accuracy_and_f1(models: Mapping[str, tuple[float, float]]):
    """Token accuracy and entity F1 of each model on one axis, joined by a line.

    Args:
        models: name → the two, as fractions.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.2, height=0.7 + 0.55 * len(models))
    axes = figure.subplots()
    for row, (accuracy, f1) in enumerate(models.values()):
        axes.plot([100 * f1, 100 * accuracy], [row, row], color=GREY, linewidth=2, zorder=1)
        axes.plot(100 * accuracy, row, "o", color=BLUE, markersize=9, label="token accuracy" if row == 0 else None)
        axes.plot(100 * f1, row, "s", color=ORANGE, markersize=9, label="entity F1" if row == 0 else None)
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set(xlabel="%", xlim=(-3, 103), ylim=(len(models) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def window_picture(length: int, bounds: Sequence[Bounds]):
    """Windows over a text, one below the other: what each reads, pale, and what it owns, dark.

    Args:
        length: pieces of the text.
        bounds: as of :func:`course_lib.data.long_text.owned_windows`.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.2, height=1.1 + 0.28 * len(bounds))
    axes = figure.subplots()
    for row, (start, end, own_start, own_end) in enumerate(bounds):
        again = row > 0
        axes.barh(row, end - start, left=start, height=0.7, color="#BFD9EA", label=None if again else "read, as context")
        axes.barh(row, own_end - own_start, left=own_start, height=0.7, color=BLUE, label=None if again else "read and owned")
    axes.set_yticks(range(len(bounds)), range(1, len(bounds) + 1))
    axes.set(xlabel="piece of the text", ylabel="window", xlim=(0, length), ylim=(len(bounds) - 0.5, -0.5))
    axes.spines[["top", "right"]].set_visible(False)
    reads = sum(end - start for start, end, *_ in bounds)
    axes.set_title(f"{len(bounds)} windows read {reads} pieces for a text of {length}", fontsize=10)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    return figure


def turn_window_and_context(length: int = 100) -> None:
    """Windows over a text of ``length`` pieces, with sliders for their size and context."""

    def draw(size: int = 32, context: int = 6):
        return window_picture(length, owned_windows(length, size, min(context, (size - 1) // 2)))

    knob(draw, size=(16, 24, 32, 48, 64, 96), context=(0, 2, 4, 6, 8, 12))


def f1_against_window(sizes: Sequence[int], lines: Mapping[str, Sequence[float]]):
    """Entity F1 against the pieces that a window holds (logarithmic), a line for each way of cutting; F1 as fractions."""
    figure = new_figure(height=3.6)
    axes = figure.subplots()
    draw_curves(axes, sizes, {name: [100 * v for v in values] for name, values in lines.items()})
    axes.set(xscale="log", xlabel="pieces that a window holds (log scale)", ylabel="entity F1, %")
    axes.set_ylim(bottom=0)
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9)
    return figure


def interval_against_sentences(sizes: Sequence[int], intervals: Sequence[tuple[float, float]], f1: float):
    """Bootstrap intervals of F1 for sets of so many sentences, as bars around the F1 of all, and their width as text.

    Args:
        sizes: sentences, ascending.
        intervals: low and high as fractions, for each.
        f1: of all sentences.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=3.4)
    axes = figure.subplots()
    for size, (low, high) in zip(sizes, intervals, strict=True):
        axes.plot([size, size], [100 * low, 100 * high], color=BLUE, linewidth=4, solid_capstyle="butt")
        text = f"± {50 * (high - low):.1f}"
        axes.annotate(text, (size, 100 * high), (0, 5), textcoords="offset points", ha="center", fontsize=9)
    axes.axhline(100 * f1, color="black", linewidth=0.9, linestyle="--", label="F1 of all sentences")
    axes.set(xscale="log", xlabel="sentences in the test set (log scale)", ylabel="entity F1, %: 95 % interval")
    axes.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    axes.margins(y=0.15)
    plain_ticks(axes.xaxis)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def recall_slices(panels: Mapping[str, Mapping[str, tuple[float, float, float, int]]]):
    """Recall with its interval for each slice of the entities, a panel for each way of slicing.

    Args:
        panels: title → slice → recall, low, high and entities, as of :func:`course_lib.ner.slices.recall_by`.
    Returns:
        A matplotlib figure.
    """
    rows = [len(slices) for slices in panels.values()]
    figure = new_figure(width=7.4, height=1.0 + 0.36 * sum(rows) + 0.3 * len(rows))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (title, slices), colour, marker in zip(all_axes, panels.items(), COLOURS, MARKERS, strict=False):
        for row, (recall, low, high, _) in enumerate(slices.values()):
            axes.plot([100 * low, 100 * high], [row, row], color=colour, linewidth=2)
            axes.plot(100 * recall, row, marker, color=colour, markersize=7)
        axes.set_yticks(range(len(slices)), [f"{name}  (n = {row[3]})" for name, row in slices.items()])
        axes.set_ylim(len(slices) - 0.5, -0.5)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xlabel("recall, % (bar: 95 % interval)")
    return figure
