"""A weight for each pixel of an 8×8 image, as an image: its sign and size, and which weights are exactly zero."""

from collections.abc import Mapping

import torch

from course_lib.show.figure import new_figure


def weight_images(weights: Mapping[str, torch.Tensor], used: torch.Tensor):
    """An image for each set of weights. Signs are written into the cells, so that no colour is needed; zeros are empty.

    Args:
        weights: name → one weight for each pixel that is used, in row-major order.
        used: which of the 64 pixels have a weight, bool (64,); the others are crossed out.
    Returns:
        A matplotlib figure.
    """
    figure = new_figure(width=7.2, height=3.5)
    reach = max(float(w.abs().max()) for w in weights.values())
    all_axes = figure.subplots(1, len(weights), squeeze=False)[0]
    for axes, (name, w) in zip(all_axes, weights.items(), strict=True):
        image = torch.zeros(64, dtype=w.dtype)
        image[used] = w
        picture = axes.imshow(image.view(8, 8).numpy(), cmap="PuOr", vmin=-reach, vmax=reach)
        for i, value in enumerate(image.tolist()):
            mark = "×" if not used[i] else "" if value == 0 else "+" if value > 0 else "−"
            dark = abs(value) > 0.6 * reach
            axes.text(i % 8, i // 8, mark, ha="center", va="center", fontsize=9, color="white" if dark else "#333333")
        zeros = int((w == 0).sum())
        axes.set(xticks=[], yticks=[], title=f"{name}\n{zeros} of {len(w)} weights are exactly 0")
        axes.title.set_fontsize(10)
    figure.colorbar(picture, ax=all_axes, label="weight", shrink=0.8)
    return figure
