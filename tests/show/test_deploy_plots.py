"""Pictures of lesson 21, and the box for one's own sentence."""

import pytest

from course_lib.show.entities import entity_box, highlight
from course_lib.show.graphs import KINDS, depths, kind_of, two_graphs
from course_lib.show.timing import calls_in_time, cost_of_padding, f1_and_speed, time_by_operator

LAYER = [
    ("Shape", ("x",), "s"),
    ("MatMul", ("x", "w"), "a"),
    ("Reshape", ("a", "s"), "b"),
    ("Softmax", ("b",), "c"),
    ("LayerNormalization", ("c",), "y"),
]
ANA = [{"text": "Ana <3 Rome", "start": 0, "end": 11, "entities": [
    {"type": "PER", "text": "Ana", "start": 0, "end": 3}, {"type": "LOC", "text": "Rome", "start": 7, "end": 11}]}]  # fmt: skip


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(Text)]


def test_operators_are_of_one_kind_each():
    ops = ("MatMul", "Reshape", "Shape", "Attention", "Erf")
    assert [kind_of(op) for op in ops] == ["product", "moves", "shapes", "fused", "each"]
    assert set(map(kind_of, ops)) == set(KINDS)


def test_a_node_is_below_all_that_it_reads():
    assert depths(LAYER) == [0, 0, 1, 2, 3]


def test_graphs_name_their_operators_and_how_many_there_are():
    figure = two_graphs({"before": LAYER, "after": [("Attention", ("x",), "y")]})
    said = texts(figure)
    assert {"MatMul", "Reshape", "Softmax", "LayerNorm", "Attention", "before: 5 operators", "after: 1 operators"} <= set(said)
    assert "Shape" not in said, "shapes are dots"
    assert {"matrix product", "moves numbers", "element by element", "several in one", "computes a shape"} <= set(said)
    places = [t.get_position() for t in figure.axes[0].texts if t.get_text()]
    assert len(set(places)) == len(places)


def test_bars_add_up_and_small_operators_are_put_together():
    figure = time_by_operator(
        {"plain": {"MatMul": 5.0, "Add": 2.0, "Erf": 0.25}, "fused": {"MatMul": 4.0, "Gelu": 0.5}}, most=2
    )
    said = texts(figure)
    assert "7.2 ms" in said and "4.5 ms" in said and "all others" in said and "Erf" not in said
    assert "Erf" in texts(time_by_operator({"plain": {"MatMul": 5.0, "Add": 2.0, "Erf": 0.25}}, most=2, always=["Erf"]))


def test_the_cost_of_padding_has_a_panel_for_pieces_and_one_for_time():
    figure = cost_of_padding([1, 32], {"fixed": [2.0, 2.0], "sorted": [1.0, 0.5]}, {"fixed": [6.0, 6.0], "sorted": [1.0, 1.1]})
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[2.0, 2.0], [1.0, 0.5]]
    assert {"ms per sentence", "pieces computed / real pieces", "fixed", "sorted", "32"} <= set(texts(figure))


def test_calls_are_points_and_other_work_is_shaded():
    calls = {"a": [(0.0, 5.0), (0.1, 9.0)], "b": [(0.05, 1.0)]}
    figure = calls_in_time({"turns": calls, "alone": calls}, {"turns": (0.06, 0.2)})
    assert len(figure.axes[0].patches) == 1 and not figure.axes[1].patches
    assert {"turns", "alone", "a", "b", "something else runs"} <= set(texts(figure))


def test_every_program_has_a_row_with_a_point_for_each_model_the_slowest_on_top():
    def point(model, way, f1, ms):
        return {"model": model, "way": way, "f1": [f1, f1 - 0.01, f1 + 0.01], "ms_1": ms, "ms_32": ms / 2}

    points = [
        point("teacher", "PyTorch fp32", 0.9, 8.0),
        point("teacher", "slow", 0.88, 9.0),
        point("student", "int8", 0.89, 1.0),
        point("student", "slow", 0.87, 2.0),
    ]
    figure = f1_and_speed(points, "32")
    speed, quality = figure.axes
    assert [t.get_text() for t in speed.get_yticklabels()] == ["int8", "PyTorch fp32", "slow"]
    drawn = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in speed.lines]
    assert drawn == [[(4.0, 1), (4.5, 2)], [(0.5, 0), (1.0, 2)]], "milliseconds of batch 32, teacher and then student"
    assert sorted(x for line in quality.lines for x in line.get_xdata() if line.get_marker() != "None") == [
        0.87,
        0.88,
        0.89,
        0.9,
    ]
    said = texts(figure)
    assert {"0.5", "2"} <= set(said), "plain numbers on the logarithmic axis"
    assert "entity F1 on test, 95 % interval" in texts(f1_and_speed([])), "an empty picture where nothing was measured"


def test_entities_are_marked_and_nothing_else_is_markup():
    shown = highlight("Ana <3 Rome", ANA, ["LOC", "PER"])
    assert shown.count("<mark") == 2 and "&lt;3" in shown and ">Ana<" in shown and ">PER</span>" in shown
    assert highlight("nothing", [], ["LOC"]).count("<mark") == 0


def test_without_hands_the_box_shows_the_marked_text_alone(shown):
    entity_box(lambda text: ANA, ["LOC", "PER"], "Ana <3 Rome")
    assert len(shown) == 1 and "<mark" in shown[0].data


def test_a_new_text_in_the_box_is_read_and_marked(monkeypatch):
    import IPython.display

    boxes: list = []
    monkeypatch.delenv("COURSE_HEADLESS", raising=False)
    monkeypatch.setattr(IPython.display, "display", boxes.append)
    asked = []

    def find(text):
        asked.append(text)
        return ANA if text.startswith("Ana") else []

    entity_box(find, ["LOC", "PER"], "nobody")
    field, marked = boxes[0].children
    assert "<mark" not in marked.value
    field.value = "Ana <3 Rome"
    assert asked == ["nobody", "Ana <3 Rome"] and marked.value.count("<mark") == 2


@pytest.mark.parametrize("batch", ["1", "32"])
def test_the_axis_says_which_batch(batch):
    points = [{"model": "student", "way": "int8", "f1": [0.9, 0.8, 1.0], "ms_1": 1.0, "ms_32": 0.5}]
    assert f"median ms per sentence, batch {batch} (log scale)" in texts(f1_and_speed(points, batch))
