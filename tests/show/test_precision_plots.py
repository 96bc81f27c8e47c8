"""Pictures of half precision show the figures they are given."""

import pytest

from course_lib.precision.formats import BF16, FP16
from course_lib.show.precision import losses_by_precision, memory_of_training, spacing_of_formats

MIB = 2**20


def test_a_line_of_relative_steps_lies_between_half_epsilon_and_epsilon_and_rises_to_1_below_the_normals():
    axes = spacing_of_formats([FP16, BF16], low=-30, high=20).axes[0]
    assert [text.get_text() for text in axes.texts] == ["fp16", "bf16"]
    fp16, bf16 = (line for line in axes.lines if len(line.get_xdata()) > 1)
    assert bf16.get_ydata().min() > BF16.epsilon / 2 and bf16.get_ydata().max() == BF16.epsilon
    assert fp16.get_ydata()[0] == 1.0 and fp16.get_xdata()[0] == FP16.smallest_subnormal
    assert fp16.get_ydata()[-1] == pytest.approx(FP16.epsilon / 2, rel=0.02) and fp16.get_xdata()[-1] == pytest.approx(
        FP16.largest, rel=0.02
    )
    ends = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert ends == [FP16.smallest_subnormal, FP16.largest], "bf16 goes on beyond the picture"


def test_losses_are_averaged_and_compared_with_the_first_way():
    figure = losses_by_precision({"digits": {"fp32": [4.0, 2.0, 1.0, 1.0], "bf16": [4.0, 3.0, 1.0, 2.0]}}, smooth=2)
    above, below = figure.axes
    assert [list(line.get_ydata()) for line in above.lines] == [[3.0, 1.0], [3.5, 1.5]]
    assert [list(line.get_ydata()) for line in below.lines] == [[0.0, 0.0], [0.5, 0.5]]
    assert list(above.lines[0].get_xdata()) == [1.0, 3.0] and above.get_title() == "digits"


def test_a_bar_is_as_long_as_its_parts_and_the_peak_is_marked():
    def rows(half: int) -> list[dict]:
        parts = [
            ("weights", "float32", 4),
            ("gradients", "float32", 4),
            ("optimizer", "float32", 8),
            ("activations", "float32", 20),
        ]
        return [{"part": p, "dtype": d, "bytes": n * MIB} for p, d, n in (*parts, ("activations", "bfloat16", half))]

    figure = memory_of_training({"fp32": rows(0), "bf16": rows(6)}, {"fp32": 30 * MIB, "bf16": 33 * MIB})
    axes = figure.axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    assert ends == [36.0, 42.0] and len(axes.containers) == 5
    assert list(axes.lines[-1].get_xdata()) == [30.0, 33.0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["fp32", "bf16"]
    assert len(memory_of_training({"fp32": rows(0)}).axes[0].containers) == 4, "what is next to nothing everywhere is left out"


def test_pictures_of_nothing_are_refused():
    with pytest.raises(ValueError, match="low, high = \\(3, 3\\)"):
        spacing_of_formats(low=3, high=3)
    with pytest.raises(ValueError, match="smooth = 0"):
        losses_by_precision({"digits": {"fp32": [1.0]}}, smooth=0)
