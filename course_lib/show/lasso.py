"""Solving a lasso: how a solver gets there, whether it is there, the way of the weights as λ grows, zeros and near-zeros."""

import math
from collections.abc import Mapping, Sequence

import torch

from course_lib.show.figure import new_figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # of Okabe & Ito


def convergence(objective: Sequence[float], zeros: Sequence[int], of: int):
    """The objective above its final value, and the number of exact zeros, step by step.

    Args:
        objective: after 0, 1, … steps.
        zeros: weights that are exactly zero after as many steps.
        of: number of weights.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=3.4)
    left, right = figure.subplots(1, 2)
    above = [value - objective[-1] for value in objective]
    shown = [value if value > 1e-13 * abs(objective[-1]) else math.nan for value in above]  # below is rounding
    left.semilogy(range(len(shown)), shown, color=BLUE, linewidth=2)
    left.set(xlabel="step", ylabel="objective above its final value")
    right.step(range(len(zeros)), zeros, where="post", color=ORANGE, linewidth=2)
    right.set(xlabel="step", ylabel=f"exact zeros, of {of} weights", ylim=(0, of))
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(0, len(zeros))
        axes.set_xticks([0, 5, 10, 100, 1000][: 4 + (len(zeros) > 500)])
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def certificate(gradient: torch.Tensor, w: torch.Tensor, lam: float):
    """The slope of the loss along each weight, within the band ±λ: zeros anywhere in it, other weights on its edges.

    Args:
        gradient: of the loss without the penalty (d,); ``w``: (d,); ``lam``: λ.
    Returns:
        A matplotlib figure: weights sorted by their slope.
    """
    figure = new_figure(height=3.8)
    axes, order = figure.subplots(), gradient.argsort()
    g, w = gradient[order], w[order]
    place = torch.arange(len(w))
    axes.axhspan(-lam, lam, color=GREY, alpha=0.15)
    for edge, sign in ((lam, "λ"), (-lam, "−λ")):
        axes.axhline(edge, color=GREY, linewidth=1)
        axes.annotate(
            sign, (1, edge), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center"
        )
    kinds = (
        ("positive weight", w > 0, "^", BLUE, BLUE),
        ("weight exactly 0", w == 0, "o", GREY, "white"),
        ("negative weight", w < 0, "v", ORANGE, ORANGE),
    )
    for name, chosen, marker, edge, face in kinds:
        axes.plot(
            place[chosen],
            g[chosen],
            marker,
            color=edge,
            markerfacecolor=face,
            markersize=6,
            label=f"{name}: {int(chosen.sum())}",
        )
    axes.set(xlabel="weights, in the order of their slope", ylabel="slope of the loss, ∂L/∂w", ylim=(-1.5 * lam, 1.5 * lam))
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def paths(panels: Mapping[str, tuple[torch.Tensor, torch.Tensor]]):
    """Every weight against λ, and below it how many are exactly zero. The five largest of the first panel are in colour in all.

    Args:
        panels: title → λ (k,) and the weights at each, (k, d).
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=4.8)
    grid = figure.subplots(2, len(panels), height_ratios=[3, 1], sharey="row", sharex="col", squeeze=False)
    strongest = next(iter(panels.values()))[1].abs().amax(0).argsort(descending=True)[:5].tolist()
    for (top, bottom), (title, (lams, weights)) in zip(grid.T, panels.items(), strict=True):
        for j in range(weights.shape[1]):
            bold = j in strongest
            colour = (BLUE, ORANGE, GREEN, "#CC79A7", "#000000")[strongest.index(j)] if bold else "#aaaaaa"
            top.semilogx(lams, weights[:, j], color=colour, linewidth=1.8 if bold else 0.6, zorder=2 + bold)
        top.axhline(0, color="black", linewidth=0.6)
        top.set_title(title, fontsize=10)
        bottom.semilogx(lams, (weights == 0).sum(1), color="black", linewidth=1.8)
        bottom.set(xlabel="λ (log scale)", ylim=(-3, weights.shape[1] + 3))
        for axes in (top, bottom):
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("weight")
    grid[1][0].set_ylabel("exact zeros")
    return figure


def zeros_and_near_zeros(traces: Mapping[str, Sequence[float]], weights: Mapping[str, torch.Tensor]):
    """One weight step by step, and the sizes of all weights at the end, for two ways of minimising.

    Args:
        traces: name → the same weight after each step.
        weights: name → all weights at the end (d,).
    Returns:
        A matplotlib figure; exact zeros cannot be drawn on the logarithmic axis and are counted in the legend.
    """
    figure = new_figure(width=7.4, height=3.8)
    left, right = figure.subplots(1, 2)
    looks = ((ORANGE, 1.0, "s"), (BLUE, 2.6, "o"))
    for (name, trace), (colour, width, _) in zip(traces.items(), looks, strict=True):
        left.plot(range(len(trace)), trace, color=colour, linewidth=width, label=name)
    left.axhline(0, color="black", linewidth=0.6)
    left.set(xlabel="step", ylabel="one weight")
    left.legend(frameon=False, fontsize=9, loc="upper right")
    for (name, w), (colour, _, marker) in zip(weights.items(), looks, strict=True):
        sizes = w.abs()[w != 0].sort(descending=True).values
        label = f"{name}: {len(w) - len(sizes)} exact zeros"
        right.semilogy(range(1, len(sizes) + 1), sizes, marker, color=colour, markersize=4, label=label)
    right.set(xlabel="weights, largest first", ylabel="size |w| (log scale)")
    right.legend(frameon=False, fontsize=9, loc="upper right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
