"""Plots of how large a model is and where its bytes are."""

from collections.abc import Mapping

from course_lib.show.figure import new_figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a8a8a"  # of Okabe & Ito
HATCHES = ("", "//", "..", "xx")
FILLS = ("#0072B2", "#E69F00", "#009E73", "#CCCCCC")


def before_and_after(size: Mapping[str, float], time: Mapping[str, float]):
    """Two bars of bytes beside two bars of milliseconds, for the same two tensors.

    Args:
        size: name → bytes of its file.
        time: name → median milliseconds of a product with it.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=2.6)
    panels = figure.subplots(1, 2)
    rows = (("file size, MB", {k: v / 1e6 for k, v in size.items()}), ("time of a product, ms", time))
    for axes, (label, values) in zip(panels, rows, strict=True):
        bars = axes.barh(list(values), list(values.values()), color=[GREY, BLUE], height=0.55)
        axes.bar_label(bars, labels=[f"{v:.2f}" for v in values.values()], padding=4)
        axes.set(xlabel=label, xlim=(0, 1.25 * max(values.values())))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_yticklabels([])
    return figure


def plot_parts(megabytes: Mapping[str, float]):
    """How many megabytes each part of a model takes, as bars with their share of the whole.

    Args:
        megabytes: part → MB.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=0.9 + 0.45 * len(megabytes))
    axes, total = figure.subplots(), sum(megabytes.values())
    bars = axes.barh(list(megabytes), list(megabytes.values()), color=BLUE, height=0.6)
    axes.bar_label(bars, labels=[f"{v:.1f} MB, {v / total:.0%}" for v in megabytes.values()], padding=4)
    axes.set(xlabel=f"MB in 32-bit floats ({total:.1f} in all)", xlim=(0, 1.3 * max(megabytes.values())))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def stacked_sizes(rows: Mapping[str, Mapping[str, float]]):
    """Stacked bars of megabytes by part, a bar for each way to store the model.

    Args:
        rows: name of the bar → part → MB.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(height=1.4 + 0.42 * len(rows))
    axes = figure.subplots()
    totals = [sum(parts.values()) for parts in rows.values()]
    left = [0.0] * len(rows)
    for part, fill, hatch in zip(next(iter(rows.values())), FILLS, HATCHES, strict=False):
        widths = [parts[part] for parts in rows.values()]
        axes.barh(list(rows), widths, left=left, height=0.6, color=fill, hatch=hatch, edgecolor="white", label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for number, total in enumerate(totals):
        axes.text(total + 0.01 * max(totals), number, f"{total:.1f} MB", va="center")
    axes.set(xlabel="MB", xlim=(0, 1.15 * max(totals)))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def sizes_at(megabytes_per_bit: Mapping[str, float], table: str = "word pieces"):
    """A knob for the bits of the layers and one for those of the table of word pieces; a picture of five settings without knobs.

    Args:
        megabytes_per_bit: part → MB at one bit for each parameter.
        table: the part with bits of its own.
    """
    from course_lib.show.knobs import knob

    def parts(layers: int, words: int) -> dict[str, float]:
        return {part: mb * (words if part == table else layers) for part, mb in megabytes_per_bit.items()}

    settings = ((32, 32), (8, 32), (8, 8), (4, 8), (4, 4))
    still = {f"layers {a} bits, table {b} bits": parts(a, b) for a, b in settings}

    def draw(layers: int = 8, table_bits: int = 32):
        rows = {"all at 32 bits": parts(32, 32), f"layers {layers}, table {table_bits}": parts(layers, table_bits)}
        return stacked_sizes(rows)

    bits = (32, 16, 8, 4, 2)
    return knob(draw, still=lambda: stacked_sizes(still), layers=bits, table_bits=bits)
