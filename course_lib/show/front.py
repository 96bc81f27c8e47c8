"""The front of a search: F1 lost against time and against bytes."""

from collections.abc import Mapping


def front_plot(found: Mapping):
    """All recipes of a search, those on the front filled, the chosen one a star, limits as dashed lines.

    Args:
        found: of :func:`course_lib.recipes.found.result`.
    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    from course_lib.show.figure import plain_ticks

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels = (
        ("ms", 1.0, "median ms per sentence, batch 1 (log scale)"),
        ("bytes", 1e6, "MB on disk, tokenizer included (log scale)"),
    )
    limits = found["budget"]
    for panel, (aim, unit, label) in zip(axes, panels, strict=True):
        for front, style in (
            (False, {"facecolors": "none", "label": "tried"}),
            (True, {"color": "#D55E00", "label": "on the front"}),
        ):
            rows = [row for row in found["trials"] if row["front"] is front and row["trial"] != found["chosen"]]
            panel.scatter([r[aim] / unit for r in rows], [r["loss"] for r in rows], s=45, edgecolors="#D55E00", **style)
        for row in found["trials"]:
            if row["trial"] == found["chosen"]:
                panel.scatter(row[aim] / unit, row["loss"], s=220, marker="*", color="#0072B2", label="chosen", zorder=3)
        if aim in limits:
            panel.axvline(limits[aim] / unit, linestyle="--", color="0.4")
        if "loss" in limits:
            panel.axhline(limits["loss"], linestyle="--", color="0.4")
        panel.set_xscale("log")
        plain_ticks(panel.xaxis)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("points of F1 lost on validation")
    axes[0].invert_yaxis()
    axes[0].legend()
    figure.suptitle(f"{len(found['trials'])} recipes of {found['name']} on {found['data']['name']}")
    return figure
