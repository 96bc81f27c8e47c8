"""Plots of a scorecard: F1 against bytes and against latency, readable in grey and without colour."""

import io
from collections.abc import Callable

MARKERS = {"teacher": "o", "student": "s"}
COLOURS = {"teacher": "#0072B2", "student": "#D55E00"}  # of Okabe & Ito, distinct to the colour-blind


def scatter(card: dict, value: Callable[[dict], float | None], label: str, title: str):
    """F1 on test with its interval against ``value`` of each contender, on a logarithmic axis.

    Args:
        card: a scorecard.
        value: the abscissa of a contender; None leaves it out.
        label: of the abscissa, with its unit.
        title: of the plot.
    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    shown = [c for c in card["contenders"] if c["f1"]["test"] and value(c)]
    for c in shown:
        f1, low, high = c["f1"]["test"]
        filled = COLOURS[c["model"]] if c["precision"] == "int8" else "white"
        axes.errorbar(
            value(c), f1, [[f1 - low], [high - f1]], fmt=MARKERS[c["model"]], color=COLOURS[c["model"]], markerfacecolor=filled,
            markersize=9, capsize=3, elinewidth=1,
        )  # fmt: skip
    _label(axes, [(value(c), c["f1"]["test"][0], c["name"] + (" ★" if c["final"] else "")) for c in shown])
    axes.set_xscale("log")
    axes.margins(x=0.22, y=0.12)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter() if _decades(shown, value) < 1 else NullFormatter())
    axes.set(xlabel=label, ylabel="entity F1 on test, 95 % interval", title=title)
    axes.grid(alpha=0.3)
    return figure


def _decades(shown: list[dict], value: Callable) -> float:
    import math

    values = [value(c) for c in shown]
    return math.log10(max(values) / min(values)) if values else 0.0


def _label(axes, points: list[tuple[float, float, str]]) -> None:
    """Name the points: neighbours take turns above and below, those in the right half are named to their left."""
    middle = (min(x for x, _, _ in points) * max(x for x, _, _ in points)) ** 0.5 if points else 0
    for rank, (x, y, name) in enumerate(sorted(points)):
        right = x > middle
        offset = (-9 if right else 9, 7 if rank % 2 == 0 else -14)
        axes.annotate(name, (x, y), offset, textcoords="offset points", fontsize=9, ha="right" if right else "left")


def f1_against_bytes(card: dict):
    """F1 against everything one ships, in MB."""
    return scatter(
        card, lambda c: c["bytes"] and c["bytes"] / 1e6, "bytes on disk, tokenizer included (MB, log scale)", "What a byte buys"
    )


def f1_against_latency(card: dict):
    """F1 against the median time of one sentence at batch 1."""
    label = f"median ms per sentence, batch 1, {card['machine']['threads']} threads (log scale)"
    return scatter(card, lambda c: c["ms_per_sentence"]["1"]["median"], label, "What a millisecond buys")


def png(figure) -> bytes:
    """A figure as PNG at 130 dpi."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
