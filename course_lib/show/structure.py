"""Pictures of structure: which rows and columns a unit is, what the clock says, and what removing parameters buys."""

import math
import statistics
from collections.abc import Mapping, Sequence

from torch import nn

from course_lib.models.groups import CoupledGroup
from course_lib.show.curves import COLOURS, DASHES, MARKERS
from course_lib.show.figure import new_figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"  # of Okabe & Ito


def turns(times: Mapping[str, Sequence[float]], warm_up: int = 1):
    """A dot for each round in which contenders took turns, and a bar at the median.

    Args:
        times: name → milliseconds, a number for each round.
        warm_up: so many first rounds are not drawn.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=0.9 + 0.42 * len(times))
    axes = figure.subplots()
    for row, all_rounds in enumerate(times.values()):
        counted = all_rounds[warm_up:]
        middle = statistics.median(counted)
        axes.plot(counted, [row] * len(counted), "o", color=BLUE, markersize=5, alpha=0.45, markeredgewidth=0)
        axes.plot([middle, middle], [row - 0.3, row + 0.3], color=ORANGE, linewidth=2.5)
        axes.annotate(f"{middle:.0f}", (middle, row - 0.32), ha="center", va="bottom", fontsize=9, color=ORANGE)
    axes.set_yticks(range(len(times)), list(times))
    most = max(max(rounds[warm_up:]) for rounds in times.values())
    axes.set(xlabel="ms for a batch (a dot for each round, a bar at the median)", xlim=(0, 1.05 * most))
    axes.set_ylim(len(times) - 0.5, -0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, axis="x")
    return figure


def coupled_parts(model: nn.Module, group: CoupledGroup, unit: int):
    """The weights of every module of a group, darker where larger, and one unit's rows, biases and columns marked.

    A filter of a convolution is one row: its numbers for the first input, then those for the second, and so on.

    Args:
        model: the model that the group is of.
        group: its parts are drawn from left to right.
        unit: its number.
    Returns:
        A matplotlib figure.
    """
    import torch

    figure = new_figure(width=7.4, height=3.1)
    all_axes = figure.subplots(1, len(group.parts), squeeze=False)[0]
    for axes, part in zip(all_axes, group.parts, strict=True):
        module = model.get_submodule(part.module)
        w = module.weight.detach().flatten(1).abs()  # (rows, columns)
        axes.imshow(w.numpy(), cmap="Greys", vmax=3 * float(w.mean()), aspect="auto", interpolation="nearest")
        taps = math.prod(module.weight.shape[2:]) if part.axis == "columns" else 1  # of a filter: so many columns for an input
        marked = part.indices(torch.tensor([unit]))
        first, last = taps * int(marked[0]), taps * (int(marked[-1]) + 1) - 1
        span = axes.axhspan if part.axis == "rows" else axes.axvspan
        span(first - 0.5, last + 0.5, color=ORANGE, alpha=0.75, linewidth=1.5)
        if part.axis == "rows":  # the bias, a narrow strip at the right
            axes.plot([w.shape[1] * 1.06], [(first + last) / 2], "s", color=ORANGE, markersize=6, clip_on=False)
        place = f"{part.axis[:-1]} {first}" if first == last else f"{part.axis} {first} … {last}"
        name = ".".join(part.module.split(".")[-2:])
        name = f"{type(module).__name__}, number {name}" if name.isdecimal() else name  # as an nn.Sequential calls its modules
        axes.set_title(f"{name}\n{place}{' with bias' * (part.axis == 'rows')}", fontsize=9)
        axes.set(xlabel=f"{w.shape[1]} columns (inputs)", xticks=[], yticks=[], ylabel=f"{w.shape[0]} rows (outputs)")
        axes.set_box_aspect(min(1.6, max(0.5, (w.shape[0] / w.shape[1]) ** 0.4)))
    return figure


def turn_the_unit(kinds: Mapping[str, tuple[nn.Module, CoupledGroup]]) -> None:
    """Knobs: a kind of unit and its number; readers see unit 10 of every kind.

    Args:
        kinds: name → the model and a group of it.
    """
    from IPython.display import display

    from course_lib.show.knobs import knob

    def draw(kind: str = next(iter(kinds)), unit: int = 10):
        model, group = kinds[kind]
        return coupled_parts(model, group, min(unit, group.units - 1))

    def still():
        *first, last = kinds
        for kind in first:
            display(draw(kind))
        return draw(last)

    knob(draw, still, kind=list(kinds), unit=range(max(group.units for _, group in kinds.values())))


def against_removed(
    lines: Mapping[str, Sequence[tuple[float, float]]], what: str, label: str, ideal: bool = False, level: float | None = None
):
    """Lines over the parameters removed; points of a line lie where they lie.

    Args:
        lines: name → points: the share of parameters removed and a number, both fractions.
        what: whose parameters, for the abscissa.
        label: of the ordinate, in per cent.
        ideal: draw the line on which every per cent removed is a per cent less.
        level: a thin line at this fraction: the model as it was.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.2, height=4.0)
    axes = figure.subplots()
    if ideal:
        axes.plot([0, 100], [100, 0], color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), label="per cent for per cent")
    if level is not None:
        axes.axhline(100 * level, color=GREY, linewidth=0.9)
        axes.annotate(
            "nothing removed", (1, 100 * level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
        )
    for (name, points), colour, marker, dash in zip(lines.items(), COLOURS, MARKERS, DASHES, strict=False):
        x, y = ([100 * p[i] for p in points] for i in (0, 1))
        axes.plot(x, y, color=colour, marker=marker, linestyle=dash, markersize=5, linewidth=1.6, label=name)
    most = max(100 * p[0] for points in lines.values() for p in points)
    axes.set(xlabel=f"parameters of {what} removed, %", ylabel=label, xlim=(-2, most + 4))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
