"""One weight and a penalty: the curve that is minimised, with its corner or without, and where the minimum lies."""

from collections.abc import Callable, Sequence

import torch

from course_lib.pruning.l1 import soft_threshold
from course_lib.show.figure import new_figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # of Okabe & Ito
SETTINGS = (0.25, 0.75, 1.5)
PENALTIES: dict[str, tuple[Callable, Callable]] = {  # name → the penalty without λ, and the minimum for a and λ
    "L1": (torch.abs, lambda a, lam: float(soft_threshold(torch.tensor(a), lam))),
    "L2": (lambda u: u.square() / 2, lambda a, lam: a / (1 + lam)),
}


def _draw(axes, kind: str, a: float, lam: float) -> None:
    """½(u − a)² and λ times the penalty, dashed and dotted, their sum, and the sum's minimum."""
    penalty, minimum = PENALTIES[kind]
    u = torch.linspace(-2.5, 2.5, 501)
    loss, cost = (u - a).square() / 2, lam * penalty(u)
    axes.plot(u, loss, color=GREY, linestyle="--", linewidth=1, label="loss ½(u − a)²")
    axes.plot(u, cost, color=GREY, linestyle=":", linewidth=1.4, label="penalty")
    axes.plot(u, loss + cost, color=BLUE, linewidth=2.2, label="sum")
    best = minimum(a, lam)
    height = (best - a) ** 2 / 2 + lam * float(penalty(torch.tensor(best)))
    axes.plot([best], [height], "o", color=ORANGE, markersize=8, zorder=3, label="its minimum")
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(ylim=(0, 3.2), xlim=(-2.2, 2.2), title=f"{kind}, a = {a:g}, λ = {lam:g}\nminimum at u = {best:.2f}")
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)


def corner(a: float, lams: Sequence[float]):
    """L1 above L2 for some λ: a column each.

    Args:
        a: where the loss alone has its minimum.
        lams: weights λ of the penalty.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4 if len(lams) > 1 else 4.2, height=5.0)
    grid = figure.subplots(2, len(lams), sharex=True, sharey=True, squeeze=False)
    for row, kind in zip(grid, PENALTIES, strict=True):
        for axes, lam in zip(row, lams, strict=True):
            _draw(axes, kind, a, lam)
        row[0].set_ylabel("value")
    for axes in grid[-1]:
        axes.set_xlabel("weight u")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4 if len(lams) > 1 else 2, frameon=False, fontsize=9)
    return figure


def turn_the_corner(a: float = 1.0) -> None:
    """Knobs for a and λ; a picture of three settings without them."""
    from course_lib.show.knobs import knob

    def draw(a: float = a, lam: float = SETTINGS[1]):
        return corner(a, [lam])

    values = [round(-2 + 0.25 * i, 2) for i in range(17)]
    knob(draw, still=lambda: corner(a, SETTINGS), a=values, lam=[round(0.125 * i, 3) for i in range(17)])


def shrinkage(steps: dict[str, Callable[[torch.Tensor], torch.Tensor]], reach: float = 3.0):
    """What comes out of a step for each weight that goes in.

    Args:
        steps: name → the step.
        reach: weights from −reach to reach.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=5.6, height=4.0)
    axes, u = figure.subplots(), torch.linspace(-reach, reach, 1201)
    axes.plot(u, u, color=GREY, linewidth=0.8, label="no penalty")
    for (name, step), colour, dash in zip(steps.items(), (BLUE, ORANGE, "#009E73"), ("-", "--", "-."), strict=False):
        axes.plot(u, step(u), color=colour, linestyle=dash, linewidth=2, label=name)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set(xlabel="weight before", ylabel="weight after", aspect="equal")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
