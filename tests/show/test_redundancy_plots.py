"""Pictures of redundancy: the curves are the numbers they are given, squares carry theirs, and every line has its name."""

import pytest
import torch

from course_lib.redundancy.rank_budget import Spectrum
from course_lib.redundancy.similarity import Similarity
from course_lib.show.redundancy import f1_against_rank_budget, similarity_matrix, spectra


def texts(figure) -> str:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_spectra_are_drawn_from_the_largest_down_with_the_energy_of_each_size():
    figure = spectra({"query": Spectrum((2, 2), torch.tensor([4.0, 2.0])), "wide": Spectrum((2, 8), torch.tensor([1.0, 1.0]))})
    left, right = figure.axes
    assert list(left.lines[0].get_ydata()) == [1.0, 0.5] and list(left.lines[0].get_xdata()) == [1, 2]
    assert list(right.lines[0].get_xdata()) == [100.0, 200.0] and list(right.lines[0].get_ydata()) == [80.0, 100.0]
    assert list(right.lines[1].get_xdata()) == [62.5, 125.0] and list(right.lines[1].get_ydata()) == [50.0, 100.0]
    shown = texts(figure)
    assert all(word in shown for word in ("query", "wide", "energy kept, %", "as large as\nthe matrix"))
    assert left.lines[0].get_linestyle() != left.lines[1].get_linestyle()


@pytest.mark.parametrize(("by", "title"), [("cka", "linear CKA of the states"), ("cosine", "mean cosine")])
def test_every_square_has_its_number_and_can_be_read_on_its_ground(by, title):
    values = torch.tensor([[1.0, 0.25, -0.4], [0.25, 1.0, 0.87], [-0.4, 0.87, 1.0]], dtype=torch.float64)
    names = ["embeddings", "layer 0", "layer 1"]
    figure = similarity_matrix(Similarity(names, values, values, 123), by)
    shown = texts(figure)
    assert title in shown and "123 tokens" in shown and all(name in shown for name in names)
    squares = {t.get_position(): (t.get_text(), t.get_color()) for t in figure.axes[0].texts}
    assert len(squares) == 9 and squares[(1, 0)][0] == ".25" and squares[(0, 2)] == ("-.40", "black")
    assert squares[(2, 1)] == (".87", "white") and squares[(1, 1)] == ("1", "white")


def test_an_unknown_measure_is_refused():
    eye = torch.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"by = 'norm': expected 'cka' or 'cosine'"):
        similarity_matrix(Similarity(["embeddings", "layer 0"], eye, eye, 5), "norm")


def test_f1_lies_at_its_share_with_the_model_as_it_was_above():
    points = [(0.9, [0.8, 0.75, 0.85]), (0.5, [0.6, 0.5, 0.7])]
    figure = f1_against_rank_budget({"SVD": points, "activation-aware SVD": points[:1]}, dense=0.85)
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == [0.85, 0.85]
    curve = axes.containers[0].lines[0]
    assert list(curve.get_xdata()) == [50.0, 90.0] and list(curve.get_ydata()) == [0.6, 0.8]
    shown = texts(figure)
    assert "SVD" in shown and "activation-aware SVD" in shown and "the model as it was" in shown
