"""Export to ONNX and int8: the same numbers as PyTorch, fused in every layer, and no weight further off than half a step."""

import logging
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import (
    AlbertConfig,
    AlbertForTokenClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForTokenClassification,
    RobertaConfig,
    RobertaForTokenClassification,
)

from course_lib.deploy.engines import OnnxEngine
from course_lib.deploy.export import export_onnx, quantize_onnx
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.pruning.structure import remove_ffn_neurons, remove_heads

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
SHAPES = [(1, 1), (1, 40), (3, 17), (2, 300)]

# Logits are of order 1. Each goes through at most 6 layers of sums of at most 1 536 float32 products, which the two
# libraries add up in another order: √1536 · 6e-8 · 6 ≈ 1.4e-5 expected, 1e-4 leaves room for unlucky signs.
TOLERANCE = 1e-4


def small(kind):
    """A random two-layer model of this kind over the tiny tokenizer's vocabulary."""
    sizes = {"vocab_size": 137, "num_labels": len(TAGS)}
    bert = {**sizes, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(3)
    if kind == "decoder":
        return BertForTokenClassification(BertConfig(is_decoder=True, **bert))
    if kind == "roberta":
        return RobertaForTokenClassification(RobertaConfig(pad_token_id=0, **bert))
    if kind == "albert":
        return AlbertForTokenClassification(AlbertConfig(embedding_size=16, **bert))
    return load_token_classifier(find_encoder("tiny"), TAGS, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders of small models by kind, each made once."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            save_model(small(kind), load_tokenizer(find_encoder("tiny")), made[kind])
        return made[kind]

    return of


@pytest.fixture(scope="module")
def files(folder):
    """The tiny model as fp32 and as int8."""
    fp32, int8 = folder("tiny") / "fp32.onnx", folder("tiny") / "int8.onnx"
    return fp32, int8, export_onnx(folder("tiny"), fp32), quantize_onnx(fp32, int8)


def batches(vocabulary, rng):
    """Random pieces in several shapes, rows padded to unequal lengths."""
    for rows, length in SHAPES:
        lengths = [length, *rng.integers(1, length + 1, rows - 1)]
        mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int64)
        yield rng.integers(5, vocabulary, (rows, length)) * mask, mask


def assert_same_logits(model_folder, file, vocabulary):
    """As transformers' own model, loaded by transformers itself, with its default attention."""
    model, engine = AutoModelForTokenClassification.from_pretrained(model_folder).eval(), OnnxEngine(file, threads=1)
    for ids, mask in batches(vocabulary, np.random.default_rng(0)):
        with torch.inference_mode():
            theirs = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
        ours = engine(ids, mask)
        assert ours.dtype == np.float32 and ours.shape == (*ids.shape, theirs.shape[-1])
        assert np.abs(theirs).max() > 100 * TOLERANCE, "or the comparison says nothing"
        np.testing.assert_allclose(ours[mask == 1], theirs[mask == 1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["tiny", "roberta"])
def test_fp32_logits_are_pytorchs(kind, folder, tmp_path):
    found = export_onnx(folder(kind), tmp_path / "model.onnx")
    assert found["Attention"] == 2
    assert_same_logits(folder(kind), tmp_path / "model.onnx", 137)


def test_minilm_with_a_new_head_is_fused_and_gives_pytorchs_logits(tmp_path):
    model = load_token_classifier(find_encoder("minilm"), TAGS, seed=1)
    model.classifier.weight.data *= 20  # logits of order 1, as of a trained head
    save_model(model, load_tokenizer(find_encoder("minilm")), tmp_path)
    found = export_onnx(tmp_path, tmp_path / "model.onnx")
    assert found == {"EmbedLayerNormalization": 1, "Attention": 6, "BiasGelu": 6, "LayerNormalization": 12}
    assert_same_logits(tmp_path, tmp_path / "model.onnx", 30_522)
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    fp32, int8 = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("model", "int8"))
    # A byte instead of four, and five bytes of scale and zero point for each column of 384 or more; biases stay.
    assert 1 / 4 < int8 / fp32 < 1.02 / 4


def test_attention_is_fused_in_every_layer_and_the_count_is_that_of_the_file(files):
    fp32, _, found, _ = files
    graph = onnx.load(fp32).graph
    operators = Counter(node.op_type for node in graph.node)
    assert found["Attention"] == operators["Attention"] == 2
    assert found == {name: operators[name] for name in found}
    assert "Softmax" not in operators, "no attention is left in pieces"
    assert [(i.name, i.type.tensor_type.elem_type) for i in graph.input] == [("input_ids", 7), ("attention_mask", 7)]
    assert [o.name for o in graph.output] == ["logits"]


@pytest.mark.parametrize("kind, fused", [("decoder", 0), ("albert", 1)])
def test_a_model_whose_attention_is_not_fused_is_refused(kind, fused, folder, tmp_path):
    with pytest.raises(CourseError, match=f"attention was fused in {fused} of 2 layers .* BERT-like model") as caught:
        export_onnx(folder(kind), tmp_path / "model.onnx")
    assert str(folder(kind)) in str(caught.value)
    assert not list(tmp_path.iterdir()), "no slow file is left"


@pytest.mark.parametrize(
    ("heads", "neurons", "fused"),
    [
        ([[1, 3], [0, 1, 2]], [[0], [1, 2]], 2),  # 2 of 4 heads: cut into 4 narrower ones, the shapes would still fit
        ([[2], [0, 1, 2, 3]], [[0, 1], []], 2),
        ([[], [0, 3]], [[], [5, 6, 7]], 1),
    ],
)
def test_layers_with_different_numbers_of_heads_give_pytorchs_logits(heads, neurons, fused, tmp_path):
    """The optimizer takes the config's number of heads for all layers, which is another function."""
    model = small("tiny")
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p)))
    model.eval()
    remove_heads(model, [torch.tensor(h, dtype=torch.int64) for h in heads])
    remove_ffn_neurons(model, [torch.tensor(n, dtype=torch.int64) for n in neurons])
    save_model(model, load_tokenizer(find_encoder("tiny")), tmp_path)
    found = export_onnx(tmp_path, tmp_path / "model.onnx")
    assert found["Attention"] == fused
    nodes = [n for n in onnx.load(tmp_path / "model.onnx").graph.node if n.op_type == "Attention"]
    counts = [a.i for n in nodes for a in n.attribute if a.name == "num_heads"]
    assert counts == [len(h) for h in heads if h]
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    fp32, int8 = (OnnxEngine(tmp_path / f"{name}.onnx", threads=1) for name in ("model", "int8"))
    for ids, mask in batches(137, np.random.default_rng(0)):
        with torch.inference_mode():
            due = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()[mask == 1]
        np.testing.assert_allclose(fp32(ids, mask)[mask == 1], due, rtol=0, atol=TOLERANCE)
        assert np.linalg.norm(int8(ids, mask)[mask == 1] - due) < 0.1 * np.linalg.norm(due)  # as for the whole model, below


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CourseError, match=r"model\.safetensors.* missing"):
        export_onnx(tmp_path, tmp_path / "model.onnx")


def test_exporting_is_silent_and_leaves_the_log_as_it_was(folder, tmp_path, capfd):
    root = logging.getLogger()
    before = root.level
    export_onnx(folder("tiny"), tmp_path / "a.onnx")
    quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert root.level == before
    assert tuple(capfd.readouterr()) == ("", "")


# --- int8


def tensors(path):
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def quantized(path):
    """Names of the tensors stored in 8 bits, by their fp32 names."""
    return [name.removesuffix("_quantized") for name in tensors(path) if name.endswith("_quantized")]


def test_embeddings_and_all_matrices_are_in_int8(files):
    fp32, int8, _, found = files
    assert int8.stat().st_size < fp32.stat().st_size
    operators = Counter(node.op_type for node in onnx.load(int8).graph.node)
    assert (
        found
        == {
            "QEmbedLayerNormalization": 1,
            "QAttention": 2,
            "MatMulInteger": 2 * 3 + 1,  # after attention, into and out of the feed-forward block; and the classifier
            "DynamicQuantizeLinear": operators["DynamicQuantizeLinear"],
        }
        == {name: operators[name] for name in found}
    )
    assert not operators.keys() & {"MatMul", "Gemm", "Attention", "EmbedLayerNormalization"}, "nothing is left in fp32"
    left = {name: value.shape for name, value in tensors(int8).items() if value.dtype == np.float32 and value.ndim > 1}
    assert left == {}
    matrices = {name for name, value in tensors(fp32).items() if value.ndim > 1}
    assert matrices <= set(quantized(int8)) and any("word_embeddings" in name for name in matrices)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_no_weight_is_further_off_than_half_a_step(per_channel, reduce_range, files, tmp_path):
    """Rounding to the nearest step errs by half a step at most; 0.2 % more for the float32 scale, rounded itself."""
    quantize_onnx(files[0], tmp_path / "int8.onnx", per_channel, reduce_range)
    before, after = tensors(files[0]), tensors(tmp_path / "int8.onnx")
    names = quantized(tmp_path / "int8.onnx")
    assert len(names) >= 3 + 4 * 2 + 1
    for name in names:
        integers = after[f"{name}_quantized"]
        scale, zero_point = after[f"{name}_scale"], after[f"{name}_zero_point"]
        assert integers.dtype in (np.int8, np.uint8) and integers.shape == before[name].shape
        back = (integers.astype(np.float64) - zero_point) * scale
        assert (np.abs(back - before[name]) <= 0.501 * scale + 1e-12).all(), name
        if integers.dtype == np.int8:  # the matrices; embeddings have one scale each
            assert scale.shape == ((before[name].shape[1],) if per_channel else ()), name
            assert np.abs(integers.astype(int)).max() == (64 if reduce_range else 127), name


def test_int8_logits_stay_near_those_in_fp32(files):
    """An 8-bit step is 1/127 of the largest value, about 1 % of a typical one; a few such errors add up in two layers."""
    engines = [OnnxEngine(f, threads=1) for f in files[:2]]
    for ids, mask in batches(137, np.random.default_rng(1)):
        fp32, int8 = (engine(ids, mask)[mask == 1] for engine in engines)
        error = np.linalg.norm(int8 - fp32) / np.linalg.norm(fp32)
        assert 0 < error < 0.1


def test_a_file_without_anything_to_quantize_is_refused(tmp_path):
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, [2])], [info("y", 1, [2])])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "relu.onnx")
    with pytest.raises(CourseError, match=r"relu\.onnx: no operator was quantized; found only \{'Relu': 1\}"):
        quantize_onnx(tmp_path / "relu.onnx", tmp_path / "int8.onnx")
