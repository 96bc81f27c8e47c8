"""Graphs of operators side by side: what a layer looks like before and after fusing."""

from collections.abc import Mapping, Sequence

from course_lib.show.figure import new_figure

KINDS = {  # what a kind is called, and its colour
    "product": ("matrix product", "#56B4E9"),
    "each": ("element by element", "#F0E442"),
    "moves": ("moves numbers", "#DDDDDD"),
    "fused": ("several in one", "#009E73"),
    "shapes": ("computes a shape", "#555555"),
}  # of Okabe & Ito
PRODUCTS = {"MatMul", "Gemm", "MatMulInteger", "FusedMatMul"}
MOVES = {"Reshape", "Transpose"}
SHAPES = {"Shape", "Gather", "Unsqueeze", "Concat", "Cast", "Slice", "Squeeze", "ConstantOfShape", "Equal", "Where", "Expand"}
FUSED = {"Attention", "QAttention", "BiasGelu", "SkipLayerNormalization", "EmbedLayerNormalization", "FastGelu", "Gelu"}


def kind_of(op: str) -> str:
    """The kind of an operator, a key of :data:`KINDS`."""
    groups = (("product", PRODUCTS), ("moves", MOVES), ("shapes", SHAPES), ("fused", FUSED))
    return next((kind for kind, ops in groups if op in ops), "each")


def depths(nodes: Sequence[tuple[str, Sequence[str], str]]) -> list[int]:
    """The row of each node: one below the lowest of those it reads.

    >>> depths([("MatMul", ("x",), "a"), ("Relu", ("a",), "b"), ("Add", ("x", "b"), "c")])
    [0, 1, 2]
    """
    row: dict[str, int] = {}
    for _, inputs, output in nodes:
        row[output] = 1 + max((row[name] for name in inputs if name in row), default=-1)
    return [row[output] for _, _, output in nodes]


def two_graphs(graphs: Mapping[str, Sequence[tuple[str, Sequence[str], str]]]):
    """Graphs of operators beside each other, from top to bottom; operators that only compute shapes are dots.

    Args:
        graphs: title → nodes ``(op, inputs, output)`` in an order in which they can run.
    Returns:
        A matplotlib figure.
    """
    widths = [max(4.6 if any(kind_of(n[0]) == "shapes" for n in nodes) else 2.6, 2.6) for nodes in graphs.values()]
    rows = max(max(depths(nodes)) for nodes in graphs.values()) + 1
    figure = new_figure(width=7.4, height=1.2 + 0.29 * rows)
    panels = figure.subplots(1, len(graphs), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
    for axes, (title, nodes) in zip(panels, graphs.items(), strict=True):
        _draw(axes, nodes, rows)
        axes.set_title(f"{title}: {len(nodes)} operators", fontsize=10)
    figure.legend(handles=_legend(graphs), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _places(nodes: Sequence[tuple], row: Sequence[int]) -> list[tuple[float, float]]:
    """Where each node goes: operators below those they read, dots to the left of them, nothing upon another."""
    at: dict[str, float] = {}
    places: list[tuple[float, float]] = [(0.0, 0.0)] * len(nodes)
    for depth in range(max(row) + 1):
        here = [i for i, r in enumerate(row) if r == depth]
        big = [i for i in here if kind_of(nodes[i][0]) != "shapes"]
        above = {i: [at[n] for n in nodes[i][1] if n in at] for i in big}
        want = {i: sum(above[i]) / len(above[i]) if above[i] else 0.0 for i in big}
        big.sort(key=lambda i: want[i])
        middle = sum(want.values()) / len(want) if want else 0.0
        for place, i in enumerate(big):
            x = middle + (place - (len(big) - 1) / 2) * 1.0
            places[i] = (x, -depth)
            at[nodes[i][2]] = x
        for place, i in enumerate(i for i in here if i not in big):
            places[i] = (-2.0 - 0.2 * place, -depth)
    return places


def _draw(axes, nodes: Sequence[tuple], rows: int) -> None:
    places = _places(nodes, depths(nodes))
    where = {node[2]: place for node, place in zip(nodes, places, strict=True)}
    for (op, inputs, _), (x, y) in zip(nodes, places, strict=True):
        for name in set(inputs) & set(where):
            faint = kind_of(op) == "shapes" or where[name][0] <= -2
            around = not faint and where[name][1] - y > 1 and abs(where[name][0] - x) < 0.4  # or it would hide behind others
            line = {"arrowstyle": "-", "color": "#bbbbbb" if faint else "#666666", "linewidth": 0.5 if faint else 0.9}
            bend = f"arc3,rad={0.35 if around else 0}"
            axes.annotate("", (x, y), where[name], arrowprops={**line, "connectionstyle": bend, "shrinkA": 0, "shrinkB": 0})
        kind = kind_of(op)
        if kind == "shapes":
            axes.plot([x], [y], "o", color=KINDS[kind][1], markersize=3.5, zorder=3)
            continue
        text = op.replace("LayerNormalization", "LayerNorm")
        box = {"boxstyle": "round,pad=0.18", "facecolor": KINDS[kind][1], "edgecolor": "#333333", "linewidth": 0.6}
        colour = "white" if kind == "fused" else "black"
        axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color=colour, bbox=box, zorder=4)
    left = min(x for x, _ in places)
    axes.set(xlim=(min(left - 0.3, -1.5), max(max(x for x, _ in places) + 0.6, 1.5)), ylim=(-rows + 0.4, 0.6))
    axes.axis("off")


def _legend(graphs: Mapping[str, Sequence[tuple]]) -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    there = {kind_of(node[0]) for nodes in graphs.values() for node in nodes}
    return [
        Line2D([], [], marker="o", linestyle="", color=colour, markersize=4, label=name)
        if kind == "shapes"
        else Patch(facecolor=colour, edgecolor="#333333", label=name)
        for kind, (name, colour) in KINDS.items()
        if kind in there
    ]
