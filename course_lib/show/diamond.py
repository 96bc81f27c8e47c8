"""Two weights: contours of a loss, and the diamond or the circle that the minimum of the penalised loss lies on."""

from collections.abc import Sequence

import torch

from course_lib.pruning.l1 import ista_step
from course_lib.show.figure import new_figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # of Okabe & Ito
CURVATURE = torch.tensor([[1.2, 0.3], [0.3, 0.4]], dtype=torch.float64)  # A
FREE = torch.tensor([1.0, 1.3], dtype=torch.float64)  # c, where the loss ½(w − c)ᵀA(w − c) alone has its minimum
SETTINGS = (0.2, 0.4, 0.8)
STEPS = 200  # (1 − step·smallest eigenvalue)²⁰⁰ < 1e-12 of the way is left


def minimum(kind: str, lam: float) -> torch.Tensor:
    """The two weights that minimise ½(w − c)ᵀA(w − c) plus λ‖w‖₁ (``"L1"``) or λ/2·‖w‖² (``"L2"``), float64 (2,)."""
    if kind == "L2":
        return torch.linalg.solve(CURVATURE + lam * torch.eye(2, dtype=torch.float64), CURVATURE @ FREE)
    step, w = 1 / float(torch.linalg.eigvalsh(CURVATURE)[-1]), FREE
    for _ in range(STEPS):
        w = ista_step(w, CURVATURE @ (w - FREE), step, lam)
    return w


def _draw(axes, kind: str, lam: float, trail: torch.Tensor) -> None:
    side = torch.linspace(-1.0, 2.2, 161, dtype=torch.float64)
    u, v = torch.meshgrid(side, side, indexing="xy")
    off = torch.stack([u, v], -1) - FREE
    loss, w = (off @ CURVATURE * off).sum(-1) / 2, minimum(kind, lam)
    here = float((w - FREE) @ CURVATURE @ (w - FREE)) / 2
    axes.contour(u, v, loss, levels=[0.02, 0.1, 0.25, 0.5, 0.9, 1.4, 2.0], colors="#bbbbbb", linewidths=0.8)
    axes.contour(u, v, loss, levels=[here], colors=BLUE, linewidths=1.8)
    size = (u.abs() + v.abs()) if kind == "L1" else (u.square() + v.square()).sqrt()
    radius = float(w.abs().sum() if kind == "L1" else w.norm())
    axes.contourf(u, v, size, levels=[0, radius], colors=[ORANGE], alpha=0.15)
    axes.contour(u, v, size, levels=[radius], colors=ORANGE, linewidths=1.8, linestyles="--")
    axes.plot(*trail.T, color="black", linewidth=1, linestyle=":")
    axes.plot(*FREE, "+", color="black", markersize=9)
    axes.plot(*w, "o", color="black", markersize=7)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(aspect="equal", xlim=(-1, 2.2), ylim=(-1, 2.2), title=f"{kind}, λ = {lam:g}\nw = ({w[0]:.2f}, {w[1]:.2f})")
    axes.title.set_fontsize(10)


def diamond(lams: Sequence[float]):
    """L1 above L2 for some λ. Through the minimum (dot): the loss's contour, and the set of all weights of no larger norm.

    Args:
        lams: weights λ of the penalty; one is drawn as two panels side by side.
    Returns:
        A matplotlib figure. The cross is the minimum without a penalty, the dotted line the way of the minimum as λ grows.
    """
    one = len(lams) == 1
    figure = new_figure(width=7.0, height=3.8 if one else 5.4)
    grid = figure.subplots(1 if one else 2, 2 if one else len(lams), sharex=True, sharey=True, squeeze=False)
    rows = [[grid[0][0]], [grid[0][1]]] if one else grid
    strengths = [0.0, *torch.logspace(-1.5, 1.5, 31).tolist()]
    for row, kind in zip(rows, ("L1", "L2"), strict=True):
        trail = torch.stack([minimum(kind, lam) for lam in strengths])
        for axes, lam in zip(row, lams, strict=True):
            _draw(axes, kind, lam, trail)
    for axes in grid[-1]:
        axes.set_xlabel("weight $w_1$")
    for row in grid:
        row[0].set_ylabel("weight $w_2$")
    return figure


def turn_the_diamond() -> None:
    """A knob for λ; a picture of three settings without it."""
    from course_lib.show.knobs import knob

    def draw(lam: float = SETTINGS[1]):
        return diamond([lam])

    knob(draw, still=lambda: diamond(SETTINGS), lam=[round(0.1 * i, 1) for i in range(16)])
