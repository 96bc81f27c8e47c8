"""From a PyTorch token classifier to ONNX with fused attention, and to int8."""

import contextlib
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from course_lib.artifacts import read_json
from course_lib.errors import CourseError

OPSET = 17


def export_plain(folder: Path | str, target: Path | str) -> None:
    """Export a model folder to fp32 ONNX as the tracer leaves it: dozens of small operators for each attention block.

    Inputs ``input_ids`` and ``attention_mask``, int64 (batch, length); output ``logits``, float32 (batch, length, tags).

    Args:
        folder: a trained token classifier (``config.json``, ``model.safetensors``, ``tokenizer.json``).
        target: the ``.onnx`` file to write.
    """
    import torch

    from course_lib.models.zoo import load_token_classifier

    model = load_token_classifier(folder).eval()
    model.set_attn_implementation("eager")  # the fusion knows this graph, not that of sdpa
    sample = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but it is the one whose graph is fused
        torch.onnx.export(
            _Logits(model), (sample, sample), str(target), dynamo=False, opset_version=OPSET, input_names=["input_ids", "attention_mask"],
            output_names=["logits"], dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": axes},
        )  # fmt: skip


def export_onnx(folder: Path | str, target: Path | str, by_hand: bool = True) -> dict[str, int]:
    """Export a model folder to fp32 ONNX with its attention blocks fused into single operators.

    Args:
        folder, target: as of :func:`export_plain`, which gives the same inputs and output.
        by_hand: mend what ONNX Runtime's optimizer leaves slow: constant token types (:mod:`course_lib.deploy.embeddings`) and layer norms
            (:mod:`course_lib.deploy.norms`). False leaves the file as the tool makes it.
    Returns:
        How often each fused operator occurs.
    Raises:
        CourseError: attention was not fused in every layer (the file would be slow, silently).
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    from course_lib.deploy.embeddings import fold_token_types
    from course_lib.deploy.norms import split_skip_norms

    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        export_plain(folder, plain)
        config = read_json(Path(folder) / "config.json")
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        with quiet():
            fused = optimizer.optimize_model(
                str(plain), model_type="bert", num_heads=heads, hidden_size=hidden,
                optimization_options=FusionOptions("bert"), opt_level=0,
            )  # fmt: skip
        found = {k: v for k, v in fused.get_fused_operator_statistics().items() if v}
        layers = config["num_hidden_layers"]
        if "course_shapes" in config:  # a layer may have lost all its heads
            layers = sum(left > 0 for left in config["course_shapes"]["heads"])
        if found.get("Attention", 0) != layers:
            raise CourseError(
                f"{folder}: attention was fused in {found.get('Attention', 0)} of {layers} layers ({found}). "
                "Expected a BERT-like model exported with eager attention."
            )
        _count_heads(fused.model.graph, hidden // heads)
        if by_hand:
            fold_token_types(fused.model)
            found["LayerNormalization"] = found.get("LayerNormalization", 0) + split_skip_norms(fused.model)
            found.pop("SkipLayerNormalization", None)
        fused.save_model_to_file(str(target))
    return found


def _count_heads(graph, head_size: int) -> None:
    """Tell each fused attention how many heads its weights hold.

    The optimizer takes the config's number for every layer. A layer that lost heads would then be cut into that many narrower
    ones: other numbers, without a word.
    """
    widths = {tensor.name: tensor.dims[-1] for tensor in graph.initializer}  # of query, key and value together
    for node in graph.node:
        if node.op_type == "Attention":
            (heads,) = (a for a in node.attribute if a.name == "num_heads")
            heads.i = widths[node.input[1]] // (3 * head_size)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings in the log: ONNX Runtime's tools write to the root logger and to loggers named like its modules."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _Logits(model):
    """The model as a module of two tensors in, one tensor out."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    return Logits()


def quantize_onnx(
    source: Path | str, target: Path | str, per_channel: bool = True, reduce_range: bool = False, embedding_bits: int = 8
) -> dict[str, int]:
    """Dynamic int8 in ONNX Runtime: weights and embeddings in int8, activations quantized on the fly.

    Args:
        source: a fused fp32 file from :func:`export_onnx`.
        target: the ``.onnx`` file to write.
        per_channel: a scale for each output channel of a matrix instead of one for all.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose kernels can saturate 16-bit sums.
        embedding_bits: 8: one scale for the whole table of word embeddings, as the tool does it; 4: two numbers in a byte, a scale
            for each block (:func:`course_lib.deploy.embeddings.pack_embeddings`).
    Returns:
        How often each quantized operator occurs.
    Raises:
        CourseError: nothing was quantized.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from course_lib.deploy.embeddings import pack_embeddings

    model = onnx.load(str(source), load_external_data=False)
    if embedding_bits != 8:
        pack_embeddings(model, embedding_bits)
    graph = model.graph
    empty = {tensor.name for tensor in graph.initializer if 0 in tensor.dims}  # of a block that lost all its units
    leave = [node.name for node in graph.node if empty.intersection(node.input)]  # nothing to quantize there
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # shapes behind fused operators cannot be inferred
    with quiet():  # it recommends a preprocessing that the fused operators do not survive
        quantize_dynamic(
            model, str(target), per_channel=per_channel, reduce_range=reduce_range, weight_type=QuantType.QInt8, extra_options=options,
            nodes_to_exclude=leave,
        )  # fmt: skip
    operators = Counter(node.op_type for node in onnx.load(str(target), load_external_data=False).graph.node)
    found = {k: v for k, v in operators.items() if "Integer" in k or k.startswith("Q") or "DynamicQuantize" in k}
    if not found:
        raise CourseError(f"{source}: no operator was quantized; found only {dict(operators)}.")
    return found
