"""Weights as images: signs in the cells, exact zeros empty and counted."""

import torch

from course_lib.show.pixels import weight_images


def test_signs_zeros_and_unused_pixels_are_told_apart_without_colour():
    used = torch.ones(64, dtype=torch.bool)
    used[5] = False
    w = torch.arange(-31, 32) / 31.0  # 0 in its middle, at pixel 32
    figure = weight_images({"one": w, "other": w.clamp(min=0)}, used)
    marks = [text.get_text() for text in figure.axes[0].texts]
    assert marks[:7] == ["−"] * 5 + ["×", "−"] and marks[32] == "" and set(marks[33:]) == {"+"}
    assert figure.axes[0].get_title() == "one\n1 of 63 weights are exactly 0"
    assert figure.axes[1].get_title() == "other\n32 of 63 weights are exactly 0"
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (8, 8) and image[0, 0] == -1 and image[0, 5] == 0 and image[7, 7] == 1
