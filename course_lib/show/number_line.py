"""The number line of linear quantization: where the levels are, where values go, and how far off they end up."""

from collections.abc import Sequence

import torch

from course_lib.quantization.written_out import scale_and_zero_point, to_codes
from course_lib.show.figure import new_figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # of Okabe & Ito
VALUES = (-0.83, -0.3, 0.0, 0.38, 1.15, 1.62, 2.6)
LOW, REACH = -1.0, (-1.4, 3.4)
SETTINGS = ((3, 3.0), (2, 3.0), (3, 1.8))  # bits and the upper end of the range


def number_line(settings: Sequence[tuple[int, float]], values: Sequence[float] = VALUES, low: float = LOW):
    """For each setting, the levels with values on their way to them, and below the error of every number.

    Args:
        settings: bits and the upper end of the range; a column for each.
        values: to be rounded.
        low: the lower end of the range.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.6 if len(settings) > 1 else 6.0, height=4.2)
    grid = figure.subplots(2, len(settings), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 1.4))
    for number, (bits, high) in enumerate(settings):
        scale, zero_point = scale_and_zero_point(low, high, bits)
        _draw_levels(grid[0][number], values, scale, zero_point, bits)
        _draw_error(grid[1][number], scale, zero_point, bits)
        grid[0][number].set_title(
            f"{bits} bits, range {low:g} to {high:g}\nscale {scale:.3g}, zero point {zero_point}", fontsize=9.5
        )
    grid[1][0].set_ylabel("error, level − value")
    grid[0][0].set_ylabel("value ↓ level", labelpad=18)
    handles, labels = grid[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_levels(axes, values: Sequence[float], scale: float, zero_point: int, bits: int) -> None:
    """Values above, levels below, an arrow from each to its own."""
    codes = torch.arange(2**bits)
    levels = (codes - zero_point) * scale
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot(levels, torch.zeros(len(levels)), "|", color=BLUE, markersize=12, markeredgewidth=1.6)
    axes.plot([0], [0], "o", color=BLUE, markersize=6, markerfacecolor="white", zorder=3)
    if len(levels) <= 8:
        for code, level in zip(codes.tolist(), levels.tolist(), strict=True):
            axes.text(level, -0.32, str(code), ha="center", va="top", fontsize=8.5, color=BLUE)
    x = torch.tensor(values)
    ends = (to_codes(x, scale, zero_point, bits).float() - zero_point) * scale
    for value, end in zip(x.tolist(), ends.tolist(), strict=True):
        axes.annotate("", (end, 0.08), (value, 0.8), arrowprops={"arrowstyle": "->", "color": ORANGE, "linewidth": 1.1})
    axes.plot(x, torch.full_like(x, 0.86), "v", color=ORANGE, markersize=5)
    axes.set(ylim=(-0.75, 1.15), yticks=[], xlim=REACH)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False)


def _draw_error(axes, scale: float, zero_point: int, bits: int) -> None:
    """The error of every number, and half a step to either side."""
    x = torch.linspace(*REACH, 1201)
    error = (to_codes(x, scale, zero_point, bits).float() - zero_point) * scale - x
    axes.plot(x, error, color=ORANGE, linewidth=1.4, label="error")
    for sign in (-1, 1):
        axes.axhline(sign * scale / 2, color=GREY, linestyle="--", linewidth=1, label="± scale / 2" if sign > 0 else None)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set(xlabel="value")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def turn_bits_and_range() -> None:
    """Knobs for the bits and the upper end of the range; a picture of three settings without them."""
    from course_lib.show.knobs import knob

    def draw(bits: int = 3, range_up_to: float = 3.0):
        return number_line([(bits, range_up_to)])

    ends = [round(0.2 * i, 1) for i in range(1, 18)]
    knob(draw, still=lambda: number_line(SETTINGS), bits=(2, 3, 4, 5, 6), range_up_to=ends)
