"""The sparsity one asked for, and the one a rule gave."""

from collections.abc import Mapping, Sequence

from course_lib.show.figure import new_figure

LOOKS = (("#0072B2", "-", "o"), ("#E69F00", ":", "^"), ("#D55E00", "--", "s"), ("#000000", "-.", "D"))  # of Okabe & Ito


def asked_and_got(asked: Sequence[float], got: Mapping[str, Sequence[float]]):
    """A line for each rule or size; the first one is meant to be the good one.

    Args:
        asked: sparsities, as fractions.
        got: name → the fraction of weights at or below the threshold, for each.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=6.4, height=4.0)
    axes = figure.subplots()
    for (name, fractions), (colour, dash, marker) in zip(got.items(), LOOKS, strict=False):
        percent = [100 * s for s in asked], [100 * s for s in fractions]
        axes.plot(*percent, color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.8, label=name)
    axes.set(xlabel="sparsity asked for, %", ylabel="sparsity given, %")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
