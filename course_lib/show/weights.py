"""Pictures of weights: how they are spread, before and after something is taken away."""

from collections.abc import Mapping

import torch

from course_lib.show.figure import new_figure, plain_ticks

GREY, BLUE = "#9a9a9a", "#0072B2"


def weight_histograms(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor] | None = None, bins: int = 61):
    """A histogram for each weight tensor, all over one range; with ``after``, those that are left stand out and the zeros are counted.

    Args:
        before: name → weights.
        after: name → the same weights with some of them zero.
        bins: over the range of all tensors.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=2.7)
    all_axes = figure.subplots(1, len(before), sharex=True, squeeze=False)[0]
    reach = max(float(w.detach().abs().max()) for w in before.values())
    for axes, (name, w) in zip(all_axes, before.items(), strict=True):
        values = w.detach().flatten()
        axes.hist(values.numpy(), bins=bins, range=(-reach, reach), color=GREY if after else BLUE, label="before")
        if after:
            left = after[name].detach().flatten()
            kept = left[left != 0]
            axes.hist(kept.numpy(), bins=bins, range=(-reach, reach), color=BLUE, label="left")
            axes.set_title(f"{name}\n{1 - len(kept) / len(left):.0%} zero", fontsize=9)
        else:
            axes.set_title(f"{name}: {len(values):,} weights\nstandard deviation {float(values.std()):.3f}", fontsize=9)
        axes.set(xlabel="weight", yticks=[])
        axes.spines[["top", "right", "left"]].set_visible(False)
    all_axes[0].set_ylabel("how many")
    if after:
        all_axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def bars_by_layer(shares: Mapping[str, Mapping[str, float]], label: str):
    """Horizontal bars: a group for each layer, a bar for each method, in per cent.

    Args:
        shares: layer → method → fraction.
        label: of the abscissa.
    Returns:
        A matplotlib figure.
    """
    methods = list(next(iter(shares.values())))
    figure = new_figure(width=7.4, height=1.0 + 0.24 * len(shares) * len(methods))
    axes, thick = figure.subplots(), 0.8 / len(methods)
    for m, (method, colour, hatch) in enumerate(
        zip(methods, ("#0072B2", "#E69F00", "#009E73"), ("", "//", ".."), strict=False)
    ):
        where = [row + (m - (len(methods) - 1) / 2) * thick for row in range(len(shares))]
        bars = axes.barh(
            where, [100 * v[method] for v in shares.values()], thick, color=colour, hatch=hatch, edgecolor="white", label=method
        )
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    axes.set_yticks(range(len(shares)), list(shares), fontsize=8.5)
    axes.set(xlabel=label, xlim=(0, 112))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(methods), frameon=False)
    return figure


def estimate_against_truth(truth: torch.Tensor, estimates: Mapping[str, torch.Tensor], correlations: Mapping[str, float]):
    """What removing each weight really did to the loss, against what each score said: a point for each weight.

    Args:
        truth: measured size of the change of the loss, (N,); zeros are drawn at the lower edge.
        estimates: score → (N,); zeros are drawn at the left edge.
        correlations: score → rank correlation with the truth, shown in the title.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.4, height=3.0)
    all_axes = figure.subplots(1, len(estimates), sharey=True, squeeze=False)[0]
    floor = float(truth[truth > 0].min()) / 2
    for axes, (name, scores) in zip(all_axes, estimates.items(), strict=True):
        smallest = float(scores[scores > 0].min()) / 2
        axes.loglog(
            scores.clamp(min=smallest), truth.clamp(min=floor), "o", color=BLUE, markersize=3, alpha=0.45, markeredgewidth=0
        )
        axes.set_title(f"{name}\nrank correlation {correlations[name]:.2f}", fontsize=9)
        if float(scores.max()) < 30 * smallest:  # over few powers of ten the usual labels run into each other
            plain_ticks(axes.xaxis)
        axes.set_xlabel("score (log scale)")
        axes.tick_params(labelsize=7.5)
        axes.grid(alpha=0.25)
    all_axes[0].set_ylabel("measured change of the loss (log scale)", fontsize=9)
    return figure
