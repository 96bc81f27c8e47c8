"""Pictures of redundancy: how fast singular values fall, how alike layers are, and F1 against the bytes that low rank leaves."""

from collections.abc import Mapping, Sequence

import torch

from course_lib.redundancy.rank_budget import Spectrum
from course_lib.redundancy.similarity import Similarity
from course_lib.show.curves import COLOURS, DASHES, MARKERS
from course_lib.show.figure import new_figure, plain_ticks

GREY = "#555555"


def spectra(layers: Mapping[str, Spectrum]):
    """Singular values of matrices, and the energy that is kept against the bytes of the two factors.

    Args:
        layers: name → spectrum, at most six.
    Returns:
        A matplotlib figure. Left of the line at 100 % something is saved; a curve that is low there belongs to a matrix that low rank hurts.
    """
    figure = new_figure(width=7.6, height=3.7)
    left, right = figure.subplots(1, 2)
    for (name, layer), colour, dash in zip(layers.items(), COLOURS, DASHES, strict=False):
        sigma = layer.sigma.double()
        rows, columns = layer.shape
        rank = torch.arange(1, len(sigma) + 1)
        left.plot(rank, (sigma / sigma[0]).tolist(), color=colour, linestyle=dash, label=name)
        kept = sigma.square().cumsum(0) / sigma.square().sum()
        right.plot(
            (100 * rank * (rows + columns) / (rows * columns)).tolist(), (100 * kept).tolist(), color=colour, linestyle=dash
        )
    left.set(
        xlabel="number of the singular value", ylabel="singular value / the largest (log scale)", yscale="log", xlim=(0, None)
    )
    left.set_ylim(bottom=1e-3)
    plain_ticks(left.yaxis)
    right.axvline(100, color=GREY, linewidth=0.9)
    right.annotate(
        "as large as\nthe matrix",
        (100, 0.04),
        (4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=8,
    )
    right.set(xlabel="bytes of the factors, % of the matrix", ylabel="energy kept, %", ylim=(0, 103), xlim=(0, 205))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    longest = max(map(len, layers))
    figure.legend(loc="outside upper center", ncols=max(1, min(len(layers), 74 // (8 + longest))), frameon=False, fontsize=9)
    return figure


def similarity_matrix(similarity: Similarity, by: str = "cka"):
    """How alike the states before, between and after the layers are, each number written into its square.

    Args:
        similarity: of :func:`course_lib.redundancy.similarity.layer_similarity`.
        by: "cka" or "cosine".
    Returns:
        A matplotlib figure. Darker is more alike; the squares beside the diagonal are a layer's input and output.
    """
    from course_lib.errors import expect

    expect(by in ("cka", "cosine"), "by", by, "'cka' or 'cosine'")
    values, names = getattr(similarity, by), similarity.names
    side = 1.6 + 0.55 * len(names)
    figure = new_figure(width=side + 1.0, height=side)
    axes = figure.subplots()
    low = min(0.0, float(values.min()))
    picture = axes.imshow(values.numpy(), cmap="Blues", vmin=low, vmax=1)
    for i in range(len(names)):
        for j in range(len(names)):
            value = float(values[i, j])
            text = f"{value:.2f}".replace("0.", ".", 1) if value < 0.995 else "1"
            axes.text(
                j, i, text, ha="center", va="center", fontsize=9, color="white" if (value - low) / (1 - low) > 0.6 else "black"
            )
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(
        {"cka": "linear CKA of the states", "cosine": "mean cosine of a token's states"}[by] + f", {similarity.tokens} tokens",
        fontsize=10,
    )
    figure.colorbar(picture, ax=axes, fraction=0.046)
    return figure


def f1_against_rank_budget(lines: Mapping[str, Sequence[tuple[float, Sequence[float]]]], dense: float):
    """F1 with its interval against the bytes that the matrices of an encoder keep in factors, a line for each way to choose them.

    Args:
        lines: way → points: the share of the matrices' bytes, and ``[F1, low, high]``.
        dense: F1 of the model as it was, drawn as a thin line.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.2, height=3.9)
    axes = figure.subplots()
    axes.axhline(dense, color=GREY, linewidth=0.9)
    axes.annotate("the model as it was", (0.01, dense), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
    for (name, points), colour, marker, dash in zip(lines.items(), COLOURS, MARKERS, DASHES, strict=False):
        x, f1, low, high = zip(*((100 * share, *value) for share, value in sorted(points)), strict=True)
        spread = [[a - b for a, b in zip(f1, low, strict=True)], [b - a for a, b in zip(f1, high, strict=True)]]
        axes.errorbar(x, f1, spread, color=colour, marker=marker, linestyle=dash, markersize=5, capsize=2, label=name)
    axes.set(xlabel="bytes of the encoder's matrices that are left, %", ylabel="entity F1", ylim=(-0.03, 1.0))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
