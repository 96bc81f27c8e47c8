"""Graphs as tuples: what is read back, which chains may be one operator, and the operators of a layer."""

import random

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from course_lib.deploy.graphs import Node, between, find_chains, last_layer, operator_times, read_graph

GELU = ["Div", "Erf", "Add", "Mul", "Mul"]


@pytest.fixture
def file(tmp_path):
    """relu(x + 1) · 2 and its split halves: one constant node, one operator of two outputs."""

    def value(name, length):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, length])

    nodes = [
        helper.make_node("Constant", [], ["two"], value=helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("Add", ["x", "one"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "two"], ["c"]),
        helper.make_node("Split", ["c"], ["left", "right"], axis=1, num_outputs=2),
        helper.make_node("Sub", ["left", "right"], ["y"]),
    ]  # fmt: skip
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(nodes, "g", [value("x", 4)], [value("y", 2), value("right", 2)], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    return tmp_path / "m.onnx"


def test_a_file_is_read_without_its_constants_and_with_one_name_for_several_outputs(file):
    nodes, outputs = read_graph(file)
    assert [n.op for n in nodes] == ["Add", "Relu", "Mul", "Split", "Sub"]
    assert nodes[3] == Node("Split", ("c",), "left") and nodes[4] == Node("Sub", ("left", "left"), "y")
    assert outputs == {"y", "left"}


def test_a_chain_ends_where_somebody_else_reads():
    nodes = [("Add", ("x", "r"), "s"), ("Norm", ("s",), "y"), ("Mul", ("y", "y"), "z")]
    assert find_chains(nodes, ["Add", "Norm"]) == [[0, 1]]
    assert find_chains(nodes, ["Add", "Norm"], {"s"}) == [] and find_chains(nodes, ["Add", "Norm"], {"y"}) == [[0, 1]]
    assert find_chains(nodes, ["Norm", "Mul"]) == [[1, 2]], "read twice by one node is one reader"
    assert find_chains([*nodes, ("Sub", ("s", "z"), "end")], ["Add", "Norm"]) == []


def test_a_pattern_has_two_operators_or_more():
    with pytest.raises(ValueError, match=r"pattern = \['Add'\]: expected two operators or more"):
        find_chains([], ["Add"])


@given(st.integers(0, 10**6))
def test_a_chain_can_be_taken_out_without_anybody_missing_a_result(seed):
    """In random graphs: no node outside a chain reads what is inside it, and the operators are those of the pattern."""
    rng = random.Random(seed)
    names, nodes = ["x"], []
    for i in range(25):
        inputs = tuple(rng.choice(names[-4:]) for _ in range(rng.choice([1, 2])))
        nodes.append((rng.choice(["A", "B", "C"]), inputs, f"t{i}"))
        names.append(f"t{i}")
    for pattern in (["A", "B"], ["B", "B", "C"]):
        for chain in find_chains(nodes, pattern, {"t24"}):
            inside = {nodes[i][2] for i in chain[:-1]}
            assert [nodes[i][0] for i in chain] == pattern and "t24" not in inside
            assert all(not inside & set(inputs) for i, (_, inputs, _) in enumerate(nodes) if i not in chain)


def test_between_two_tensors_are_the_nodes_on_a_way_from_one_to_the_other():
    nodes = [
        Node("A", ("x",), "a"),
        Node("B", ("a",), "b"),
        Node("C", ("x",), "c"),
        Node("D", ("b", "c"), "d"),
        Node("E", ("b",), "e"),
    ]
    assert [n.op for n in between(nodes, "a", "d")] == ["B", "D"]
    assert between(nodes, "d", "a") == []


def test_the_last_layer_lies_between_its_normalizations():
    norms = [Node("LayerNormalization", (f"s{i}",), f"n{i}") for i in range(3)]
    nodes = [
        norms[0],
        Node("MatMul", ("n0", "w"), "s1"),
        norms[1],
        Node("Relu", ("n1",), "s2"),
        norms[2],
        Node("Mul", ("n2",), "y"),
    ]
    assert [n.op for n in last_layer(nodes)] == ["MatMul", "LayerNormalization", "Relu", "LayerNormalization"]
    with pytest.raises(ValueError, match="layer normalizations = 1: expected at least 3"):
        last_layer(nodes[:2])


def test_the_profile_names_every_operator_that_ran(file):
    times = operator_times(file, {"x": np.ones((2, 4), np.float32)}, runs=3)
    assert {"Split", "Sub"} <= set(times) and all(ms >= 0 for ms in times.values())
    assert list(times.values()) == sorted(times.values(), reverse=True)
    with pytest.raises(ValueError, match="runs = 0"):
        operator_times(file, {}, runs=0)
