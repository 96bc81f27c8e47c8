"""Pictures of half precision: the steps of the formats, losses of full and mixed training, what training holds in memory."""

import math
from collections.abc import Mapping, Sequence

import torch

from course_lib.errors import expect
from course_lib.precision.formats import ALL, NumberFormat, spacing
from course_lib.show.curves import COLOURS, DASHES
from course_lib.show.figure import new_figure, plain_ticks

HATCHES = ("", "//", "..", "xx", "\\\\")
PARTS = ("weights", "gradients", "optimizer", "activations")


def spacing_of_formats(formats: Sequence[NumberFormat] = ALL, low: int = -50, high: int = 20):
    """The step between neighbours relative to the number, against the number, both in powers of two.

    Level where a number is normal, rising to the left where it is subnormal: at 1 a number's neighbour is 0. A line ends at the
    format's largest number and at its smallest, or at the picture's edge.

    Args:
        formats: a line for each.
        low, high: exponents of the picture's edges.
    Returns:
        A matplotlib figure.
    """
    expect(low < high, "low, high", (low, high), "low < high")
    figure = new_figure(width=7.4, height=4.0)
    axes = figure.subplots()
    for form, colour in zip(formats, COLOURS, strict=False):
        start, end = max(2.0**low, form.smallest_subnormal), min(2.0**high, form.largest)
        x = 2.0 ** torch.arange(math.log2(start), math.log2(end) + 1e-9, 0.02, dtype=torch.float64)
        y = spacing(x, form) / x
        axes.plot(x, y, color=colour, linewidth=1.4)
        place = {"xytext": (5, 4), "ha": "left"} if start == 2.0**low else {"xytext": (-6, 0), "ha": "right"}
        axes.annotate(form.name, (start, float(y[:51].max())), textcoords="offset points", color=colour, fontsize=10, **place)
        for edge, at, limit in ((start, 0, 2.0**low), (end, -1, 2.0**high)):
            if edge != limit:
                axes.plot(edge, y[at], "o", color=colour, markersize=5, markerfacecolor="white")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="number (log scale)", ylabel="step to the next number / number", xlim=(2.0**low, 2.0**high))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def losses_by_precision(
    panels: Mapping[str, Mapping[str, Sequence[float]]], smooth: int = 10, steps: Mapping[str, int] | None = None
):
    """Loss against the step, a panel for each task, a line for each way to train, and below the difference from the panel's first way.

    Args:
        panels: task → way → losses, equally many in a panel. A way has the same colour and dashes in all of them.
        smooth: losses that are averaged to a point.
        steps: task → over how many steps each of its losses is a mean already; None: each loss is of one step.
    Returns:
        A matplotlib figure.
    """
    expect(smooth >= 1, "smooth", smooth, "at least 1 loss")
    ways = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    expect(1 <= len(ways) <= len(COLOURS), "panels", ways, f"1 to {len(COLOURS)} ways to train")
    figure = new_figure(width=7.4, height=4.4)
    grid = figure.subplots(2, len(panels), sharex="col", squeeze=False, height_ratios=(1.5, 1))
    for column, (title, lines) in enumerate(panels.items()):
        above, below = grid[0][column], grid[1][column]
        width = smooth * (steps[title] if steps else 1)
        means = {name: _averages(losses, smooth) for name, losses in lines.items()}
        first = next(iter(means.values()))
        for name, y in means.items():
            number = ways.index(name)
            style = {"color": COLOURS[number], "linestyle": DASHES[number], "linewidth": 1.6}
            x = [width * (i + 0.5) for i in range(len(y))]
            above.plot(x, y, label=name, **style)
            below.plot(x, [a - b for a, b in zip(y, first, strict=True)], **style)
        above.set(title=title, yscale="log")
        plain_ticks(above.yaxis)
        below.set(xlabel="step")
        for axes in (above, below):
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("loss (log scale)")
    grid[1][0].set_ylabel(f"loss − that of\n{next(iter(next(iter(panels.values()))))}")
    drawn = {line.get_label(): line for axes in grid[0] for line in axes.lines}
    handles = [drawn[name] for name in ways]
    figure.legend(handles, ways, loc="outside upper center", ncols=min(5, len(ways)), frameon=False, fontsize=9)
    return figure


def losses_of_rows(rows: Sequence[Mapping], points: int = 50):
    """:func:`losses_by_precision` of rows of :func:`course_lib.measure.precision_runs.curves`, a panel for each task.

    Args:
        rows: of one task or several, one after the other.
        points: the longest line has about so many.
    Returns:
        A matplotlib figure.
    """
    expect(points >= 1, "points", points, "at least 1 point")
    panels: dict[str, dict[str, Sequence[float]]] = {}
    for row in rows:
        panels.setdefault(row["task"], {})[row["way"]] = row["losses"]
    longest = max((len(row["losses"]) for row in rows), default=0)
    return losses_by_precision(panels, max(1, longest // points), {row["task"]: row["steps_per_point"] for row in rows})


def memory_of_training(accounts: Mapping[str, Sequence[Mapping]], peaks: Mapping[str, int] | None = None):
    """A stacked bar of MiB for each way to train: weights, gradients, optimizer and activations, these parted by type.

    Args:
        accounts: way → rows ``{"part", "dtype", "bytes"}`` of :meth:`course_lib.precision.memory.Account.rows`.
        peaks: way → bytes that were alive at most at once, drawn as a mark; fewer than the bar where not all parts are alive together.
    Returns:
        A matplotlib figure.
    """
    names = list(accounts)
    keys = list(
        dict.fromkeys(
            (row["part"], row["dtype"]) for part in PARTS for rows in accounts.values() for row in rows if row["part"] == part
        )
    )
    keys = [key for key in keys if max(_mib(rows, key) for rows in accounts.values()) > 0.01 * _largest(accounts)]
    figure = new_figure(height=1.9 + 0.42 * len(names))
    axes = figure.subplots()
    left = [0.0] * len(names)
    for number, key in enumerate(keys):
        widths = [_mib(rows, key) for rows in accounts.values()]
        label = f"{key[0]}, {key[1]}"
        fill = COLOURS[number % len(COLOURS)]
        axes.barh(names, widths, left=left, height=0.6, color=fill, hatch=HATCHES[number % 5], edgecolor="white", label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    marks = [0.0]
    if peaks:
        marks = [peaks[name] / 2**20 for name in names]
        axes.plot(marks, names, "D", color="black", markersize=6, markerfacecolor="white", label="peak of what is alive")
    axes.set(xlabel="MiB", xlim=(0, 1.05 * max(*left, *marks)))
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _averages(losses: Sequence[float], size: int) -> list[float]:
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [sum(part) / len(part) for part in parts]


def _mib(rows: Sequence[Mapping], key: tuple[str, str]) -> float:
    return sum(row["bytes"] for row in rows if (row["part"], row["dtype"]) == key) / 2**20


def _largest(accounts: Mapping[str, Sequence[Mapping]]) -> float:
    return max(sum(row["bytes"] for row in rows) for rows in accounts.values()) / 2**20
