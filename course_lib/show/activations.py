"""Pictures of activations: outlier columns and tokens, what each node costs, how SmoothQuant balances inputs and weights."""

from collections.abc import Mapping, Sequence

import torch

from course_lib.show.curves import COLOURS, draw_curves
from course_lib.show.figure import new_figure

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe & Ito


def outlier_map(x: torch.Tensor, tokens: Sequence[str]):
    """The largest magnitude of each column of one sentence, and of each of its tokens; the largest of both are named.

    Args:
        x: activations (L, D).
        tokens: L word pieces.
    Returns:
        A matplotlib figure.
    """
    by_column, by_token = x.abs().amax(0), x.abs().amax(1)
    figure = new_figure(width=7.4, height=3.3)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.vlines(range(len(by_column)), 0, by_column.tolist(), color=BLUE, linewidth=0.9)
    top = int(by_column.argmax())
    left.annotate(f"column {top}", (top, float(by_column[top])), (8, -4), textcoords="offset points", fontsize=9)
    left.set(xlabel="column of the hidden state", ylabel="largest magnitude", title="by column, over all tokens")
    right.barh(range(len(tokens)), by_token.tolist(), color=BLUE)
    right.set_yticks(range(len(tokens)), list(tokens), fontsize=9)
    right.invert_yaxis()
    right.set(xlabel="largest magnitude", title="by token, over all columns")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(9.5)
    return figure


def cost_bars(costs: Mapping[str, float], label: str):
    """A horizontal bar for each node, in the order given.

    Args:
        costs: name → cost.
        label: of the abscissa, with its unit.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=1.0 + 0.26 * len(costs))
    axes = figure.subplots()
    axes.barh(range(len(costs)), list(costs.values()), color=BLUE)
    axes.set_yticks(range(len(costs)), list(costs), fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel=label)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def exclusion_curves(
    counts: Sequence[int], f1: Sequence[float], whole: float, measured: Sequence[float], summed: Sequence[float]
):
    """F1 against the nodes left in float, and the divergence beside the sum of what the others cost alone.

    Args:
        counts: nodes left in float.
        f1: entity F1 at each; ``whole``: F1 of the float model, a thin line.
        measured: divergence at each, in nats; ``summed``: the sum of the single costs.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.2)
    left, right = figure.subplots(1, 2)
    draw_curves(left, counts, {"F1": f1})
    left.axhline(whole, color="#555555", linewidth=0.9)
    left.annotate("float", (1, whole), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    left.margins(y=0.15)
    left.set(xlabel="nodes left in float", ylabel="entity F1 on validation")
    draw_curves(right, counts, {"measured, all others quantized": measured, "sum of the single costs": summed})
    right.set(xlabel="nodes left in float", ylabel="divergence, nats", ylim=(0, None))
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def column_balance(inputs: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], note: str = ""):
    """Sizes of input columns and of weight columns, each in the order of the inputs' sizes as they were; both axes shared.

    Args:
        inputs: "as trained" and "smoothed" → largest magnitude of each input column, (C,).
        weights: the same names → of each weight column, (C,).
        note: a line above.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.4)
    panels = figure.subplots(1, 2, sharey=True)
    order = next(iter(inputs.values())).argsort(descending=True)
    for axes, title, sizes in zip(panels, ("inputs", "weights"), (inputs, weights), strict=True):
        for (name, values), colour, marker in zip(sizes.items(), (BLUE, ORANGE), ("o", "x"), strict=False):
            axes.plot(
                range(1, len(order) + 1), values[order].tolist(), marker, color=colour, markersize=4, linestyle="", label=name,
                alpha=0.7,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="column, by the size of its inputs (log scale)", title=title)
        axes.title.set_fontsize(9.5)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("largest magnitude (log scale)")
    panels[1].legend(frameon=False, fontsize=9)
    if note:
        figure.suptitle(note, fontsize=9.5)
    return figure


def divergence_against_alpha(alphas: Sequence[float], lines: Mapping[str, Sequence[float]], plain: Mapping[str, float]):
    """Divergence against SmoothQuant's α, a line for each precision; squares at the left are without SmoothQuant.

    Args:
        alphas: 0 to 1.
        lines: name → divergence in nats at each α.
        plain: the same names → divergence without SmoothQuant.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=3.8)
    axes = figure.subplots()
    draw_curves(axes, alphas, lines)
    for (name, value), colour in zip(plain.items(), COLOURS, strict=False):
        axes.plot([-0.12], [value], "s", color=colour, markersize=8, markerfacecolor="white", label=None)
        axes.annotate(name, (-0.12, value), (8, -3), textcoords="offset points", fontsize=9)
    axes.set_xticks([-0.12, *alphas], ["none", *(f"{a:g}" for a in alphas)])
    axes.set(yscale="log", xlabel="α (how much moves into the weights)", ylabel="divergence, nats (log scale)")
    axes.legend(frameon=False, fontsize=9)
    return figure
