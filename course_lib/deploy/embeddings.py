"""The embeddings of a fused ONNX file: nothing computed that is constant, and tables of packed 4- or 8-bit rows."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from course_lib.errors import CourseError, expect

BLOCKS = (64, 32)  # numbers of a row that share a scale: the first that divides the row


def fold_token_types(model: onnx.ModelProto) -> int:
    """Add the first token-type embedding to every position embedding, in place, and drop what worked out the token types.

    A tagger reads one sentence at a time, so every piece has token type 0. The exporter still leaves a dozen small operators
    that make a table of zeros to look it up with; on one short sentence they cost as much as a matrix product.

    Args:
        model: fused.
    Returns:
        How many operators fell away: 0 where the embeddings were not fused, as those of other encoders than BERT.
    """
    graph, node = model.graph, next((n for n in model.graph.node if n.op_type == "EmbedLayerNormalization"), None)
    if node is None or not node.input[1]:
        return 0
    tables = {t.name: t for t in graph.initializer}
    position, types = (tables[name] for name in (node.input[3], node.input[4]))
    folded = numpy_helper.to_array(position) + numpy_helper.to_array(types)[0]
    position.CopyFrom(numpy_helper.from_array(folded.astype(np.float32), position.name))
    node.input[1] = node.input[4] = ""
    before = len(graph.node)
    _drop_unused(graph)
    return before - len(graph.node)


def pack_embeddings(model: onnx.ModelProto, bits: int) -> None:
    """Replace the word and position tables (V, D) by packed codes with a scale per block of numbers, in place.

    Symmetric, round to nearest: ``code = round(w / scale)``, ``scale = max|w| / (2^(bits−1) − 1)`` of the block; stored as
    ``code + 2^(bits−1)``. ONNX Runtime's GatherBlockQuantized decodes only the rows that are looked up.

    Args:
        model: fused, after :func:`fold_token_types`.
        bits: 4 or 8.
    Raises:
        ValueError: other bits.
        CourseError: no EmbedLayerNormalization, or a width that no block of :data:`BLOCKS` divides.
    """
    expect(bits in (4, 8), "bits", bits, "4 or 8")
    graph, node = model.graph, _embed(model)
    ids, _, words, positions, _, gamma, beta = node.input[:7]
    tables = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in (words, positions)}
    block = block_of(tables[words].shape[1])
    for name, table in tables.items():
        codes, scales = packed_rows(table, bits)
        graph.initializer.extend(
            [numpy_helper.from_array(codes, f"{name}_codes"), numpy_helper.from_array(scales, f"{name}_scales")]
        )
    numbers = {"at_zero": 0, "at_one": 1, "second": 1}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"embeddings_{key}") for key, value in numbers.items()
    )
    epsilon = next(a.f for a in node.attribute if a.name == "epsilon")

    def look_up(table: str, at: str, out: str) -> onnx.NodeProto:
        return helper.make_node(
            "GatherBlockQuantized", [f"{table}_codes", at, f"{table}_scales"], [out], out, domain="com.microsoft", bits=bits, block_size=block,
            gather_axis=0, quantize_axis=1,
        )  # fmt: skip

    made = [
        helper.make_node("Shape", [ids], ["embeddings_shape"], "embeddings_shape"),
        helper.make_node("Gather", ["embeddings_shape", "embeddings_second"], ["embeddings_length"], "embeddings_length"),
        helper.make_node(
            "Range",
            ["embeddings_at_zero", "embeddings_length", "embeddings_at_one"],
            ["embeddings_places"],
            "embeddings_places",
        ),
        look_up(words, ids, "embeddings_of_words"),
        look_up(positions, "embeddings_places", "embeddings_of_places"),
        helper.make_node("Add", ["embeddings_of_words", "embeddings_of_places"], ["embeddings_sum"], "embeddings_sum"),
        helper.make_node(
            "LayerNormalization", ["embeddings_sum", gamma, beta], [node.output[0]], "embeddings_norm", axis=-1, epsilon=epsilon
        ),
    ]
    for reader in graph.node:  # attention takes the mask itself where it took the lengths that the operator counted from it
        reader.input[:] = [node.input[7] if name and name == node.output[1] else name for name in reader.input]
    place = list(graph.node).index(node)
    graph.node.remove(node)
    for offset, new in enumerate(made):
        graph.node.insert(place + offset, new)
    _drop_unused(graph)


def packed_rows(table: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of a table's rows.

    Args:
        table: float32 (V, D), in blocks of N = :func:`block_of` (D).
        bits: 4 or 8.
    Returns:
        uint8 (V, D·bits/8), two 4-bit codes in a byte, the first in the low half; float32 scales (V, D/N).

    >>> codes, scales = packed_rows(np.full((1, 64), 7.0, np.float32), 4)
    >>> codes.shape, hex(codes[0, 0]), scales.tolist()
    ((1, 32), '0xff', [[1.0]])
    """
    import torch

    from course_lib.quantization.affine import choose_affine, quantize

    rows, block = torch.from_numpy(np.array(table)), block_of(table.shape[1])
    scale, zero_point = choose_affine(rows, bits, True, block)
    codes = (quantize(rows, scale, zero_point, bits, True).numpy().astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    packed = codes if bits == 8 else codes[:, ::2] | codes[:, 1::2] << 4  # ONNX Runtime reads the low half first
    return packed, scale.float().numpy().reshape(len(table), -1)


def block_of(width: int) -> int:
    """How many numbers of a row share a scale.

    Raises:
        CourseError: no block of :data:`BLOCKS` fits.
    """
    for block in BLOCKS:
        if width % block == 0:
            return block
    raise CourseError(f"word embeddings of width {width}: expected a multiple of {BLOCKS[-1]}.")


def _embed(model: onnx.ModelProto) -> onnx.NodeProto:
    found = [node for node in model.graph.node if node.op_type == "EmbedLayerNormalization"]
    if len(found) != 1:
        raise CourseError(f"model: {len(found)} EmbedLayerNormalization; expected one, as in a fused BERT.")
    return found[0]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove operators and constants whose outputs nobody reads, until none is left."""
    while True:
        read = {name for node in graph.node for name in node.input} | {out.name for out in graph.output}
        idle = [node for node in graph.node if not read.intersection(node.output)]
        for node in idle:
            graph.node.remove(node)
        if not idle:
            break
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
