"""An ONNX graph as plain tuples: which operators there are, which chains of them could be one, and where the time goes."""

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from course_lib.errors import expect


class Node(NamedTuple):
    """One operator of a graph.

    Attributes:
        op: what it does, such as ``"MatMul"``.
        inputs: names of what it reads.
        output: name of what it computes; stands for all of them where there are several.
    """

    op: str
    inputs: tuple[str, ...]
    output: str


def read_graph(path: Path | str) -> tuple[list[Node], set[str]]:
    """The operators of an ONNX file in an order in which they can run, without those that only hold a constant.

    Args:
        path: the ``.onnx`` file.
    Returns:
        The nodes, and the names of the graph's own outputs.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    first = {name: node.output[0] for node in graph.node for name in node.output}
    nodes = [
        Node(node.op_type, tuple(first.get(name, name) for name in node.input if name), node.output[0])
        for node in graph.node
        if node.op_type != "Constant"
    ]
    return nodes, {first.get(output.name, output.name) for output in graph.output}


def find_chains(
    nodes: Sequence[tuple[str, Sequence[str], str]], pattern: Sequence[str], outputs: Collection[str] = ()
) -> list[list[int]]:
    """Chains of operators that one operator could replace: nobody else reads what is between them.

    Args:
        nodes: ``(op, inputs, output)`` of each operator, in an order in which they can run.
        pattern: operators of a chain, from first to last.
        outputs: names that the graph gives out, which must therefore stay.
    Returns:
        Positions in ``nodes``, a list for each chain, by where it starts. The output of each node but the last is read by the
        next one alone and is none of ``outputs``.

    >>> nodes = [("Div", ("x",), "a"), ("Erf", ("a",), "b"), ("Div", ("x",), "c"), ("Erf", ("c",), "d"), ("Add", ("c", "d"), "e")]
    >>> find_chains(nodes, ["Div", "Erf"])  # c is read twice
    [[0, 1]]
    """
    expect(len(pattern) >= 2, "pattern", pattern, "two operators or more")
    readers = defaultdict(list)
    for position, (_, inputs, _) in enumerate(nodes):
        for name in set(inputs):
            readers[name].append(position)
    chains = []
    for start, (op, _, _) in enumerate(nodes):
        chain = [start] if op == pattern[0] else []
        for wanted in pattern[1:] if chain else ():
            output = nodes[chain[-1]][2]
            following = readers[output]
            if output in outputs or len(following) != 1 or nodes[following[0]][0] != wanted:
                break
            chain.append(following[0])
        if len(chain) == len(pattern):
            chains.append(chain)
    return chains


def between(nodes: Sequence[Node], start: str, end: str) -> list[Node]:
    """The nodes on a way from the tensor ``start`` to the tensor ``end``, in their order.

    Args:
        nodes: in an order in which they can run.
        start, end: names of tensors.
    """
    after, reached = {start}, []
    for node in nodes:
        if after.intersection(node.inputs):
            after.add(node.output)
            reached.append(node)
    needed, kept = {end}, []
    for node in reversed(reached):
        if node.output in needed:
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def last_layer(nodes: Sequence[Node]) -> list[Node]:
    """The nodes of the last encoder layer: from the normalization that ends the layer before to the one that ends it."""
    norms = [node.output for node in nodes if node.op.endswith("LayerNormalization")]
    expect(len(norms) >= 3, "layer normalizations", len(norms), "at least 3: the embeddings' and two of a layer")
    return between(nodes, norms[-3], norms[-1])


def operator_times(
    path: Path | str, feed: Mapping[str, np.ndarray], runs: int, without: Sequence[str] = ()
) -> dict[str, float]:
    """Milliseconds that ONNX Runtime spends in each kind of operator in a run, on one thread, by its own profile.

    Args:
        path: the ``.onnx`` file.
        feed: name → array, the inputs of a run.
        runs: how many; a first one that is not counted comes on top.
        without: names of ONNX Runtime's own optimizers to leave out.
    Returns:
        Operator → mean milliseconds of a run, the dearest first.
    """
    from course_lib.deploy.settings import open_session

    expect(runs >= 1, "runs", runs, "at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        session = open_session(path, threads=1, without=without, profile=Path(scratch) / "profile")
        for _ in range(runs + 1):
            session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    spans = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    spans = spans[len(spans) // (runs + 1) :]  # every run makes the same number of them
    total: Counter = Counter()
    for event in spans:
        total[event["args"]["op_name"]] += event["dur"]
    return {op: micro / 1000 / runs for op, micro in total.most_common()}
