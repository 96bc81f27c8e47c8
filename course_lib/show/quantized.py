"""Pictures of quantized weights: which codes are used, how errors are spread, what bits and ranges buy."""

from collections.abc import Mapping, Sequence

import torch

from course_lib.show.curves import COLOURS, DASHES, MARKERS, draw_curves
from course_lib.show.figure import new_figure, plain_ticks

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe & Ito


def code_histograms(codes: Mapping[str, torch.Tensor], reach: int = 127):
    """How many weights have each code, on a logarithmic axis; a panel for each tensor of codes.

    Args:
        codes: title → codes from −reach to reach.
        reach: the largest code.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.2)
    all_axes = figure.subplots(1, len(codes), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(all_axes, codes.items(), strict=True):
        counts = torch.bincount(values.flatten().long() + reach, minlength=2 * reach + 1)
        axes.bar(range(-reach, reach + 1), counts.tolist(), width=1.0, color=BLUE)
        axes.set_title(f"{title}\n{int((counts > 0).sum())} of {2 * reach + 1} codes in use", fontsize=9.5)
        axes.set(xlabel="code", yscale="log", xlim=(-reach - 6, reach + 6))
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("weights with this code (log scale)")
    return figure


def rounding_errors(errors: Mapping[str, torch.Tensor], reach: float = 0.75, bins: int = 60):
    """How errors are spread, in steps: a panel for each, the bound of half a step and a flat density drawn in.

    Args:
        errors: title → errors divided by the scale.
        reach: of the abscissa, in steps to either side.
        bins: over it.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.0)
    all_axes = figure.subplots(1, len(errors), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(all_axes, errors.items(), strict=True):
        axes.hist(values.flatten().numpy(), bins=bins, range=(-reach, reach), density=True, color=BLUE, label="measured")
        axes.plot([-0.5, -0.5, 0.5, 0.5], [0, 1, 1, 0], color=ORANGE, linestyle="--", label="evenly spread up to ½")
        axes.set_title(title, fontsize=9.5)
        axes.set(xlabel="error / scale")
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("density")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def error_against_clip(clips: Sequence[float], lines: Mapping[str, Sequence[float]], note: str = ""):
    """Error against where the range is cut, both logarithmic, the lowest point of each line ringed.

    Args:
        clips: ends of the range.
        lines: name → relative error, as a fraction, at each clip.
        note: written beside the last point of the last line, what is special about the widest range.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=3.6)
    axes = figure.subplots()
    draw_curves(axes, clips, {name: [100 * v for v in values] for name, values in lines.items()})
    for values in lines.values():
        best = min(range(len(clips)), key=values.__getitem__)
        axes.plot([clips[best]], [100 * values[best]], "o", markersize=13, markerfacecolor="none", color="black")
    if note:
        end = (clips[-1], 100 * values[-1])
        arrow = {"arrowstyle": "-", "color": "#555555", "shrinkB": 8}
        axes.annotate(note, end, (-62, 12), textcoords="offset points", ha="right", va="center", fontsize=9, arrowprops=arrow)
    axes.set(xscale="log", yscale="log", xlabel="range cut at ± (weight, log scale)", ylabel="relative error, % (log scale)")
    plain_ticks(axes.xaxis, axes.yaxis)
    axes.legend(frameon=False, fontsize=9)
    return figure


def error_against_bits(lines: Mapping[str, Mapping[int, tuple[float, float]]]):
    """Error against the bits that a weight takes in the file, scales and zero points included; each point carries its code's bits.

    Args:
        lines: name → bits of a code → bits stored for each weight, and the relative error as a fraction.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=4.2)
    axes = figure.subplots()
    for (name, points), colour, marker, dash in zip(lines.items(), COLOURS, MARKERS, DASHES, strict=False):
        stored, errors = zip(*points.values(), strict=True)
        percent = [100 * e for e in errors]
        axes.plot(stored, percent, color=colour, marker=marker, linestyle=dash, markersize=5, linewidth=1.6, label=name)
    lowest = list(lines.values())[-1]
    for bits, (stored, error) in lowest.items():
        axes.annotate(f"{bits}", (stored, 100 * error), (0, -14), textcoords="offset points", fontsize=8.5, ha="center")
    axes.set(yscale="log", xlabel="bits stored for a weight, scales included", ylabel="relative error of W, % (log scale)")
    axes.margins(y=0.09)  # room for the labels under the last points
    plain_ticks(axes.yaxis)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
