"""Split layer norms: the same numbers as the single operator, and ONNX Runtime leaves them split."""

import numpy as np
import onnx
import pytest

from course_lib.deploy.engines import OnnxEngine
from course_lib.deploy.export import export_onnx, quantize_onnx
from course_lib.deploy.norms import split_skip_norms
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("norms")
    save_model(
        load_token_classifier(find_encoder("tiny"), ["O", "B-PER", "I-PER"], 0), load_tokenizer(find_encoder("tiny")), root
    )
    export_onnx(root, root / "tool.onnx", by_hand=False)
    export_onnx(root, root / "mended.onnx")
    return root


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_every_layer_has_two_norms_of_its_own(files):
    assert kinds(files / "tool.onnx").count("SkipLayerNormalization") == 4
    mended = kinds(files / "mended.onnx")
    assert "SkipLayerNormalization" not in mended and mended.count("LayerNormalization") == 4
    assert split_skip_norms(onnx.load(files / "mended.onnx")) == 0


def test_the_numbers_stay_the_same(files):
    ids = np.random.default_rng(0).integers(5, 60, (3, 11))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    ours, theirs = (OnnxEngine(files / f"{name}.onnx", 1)(ids, mask) for name in ("mended", "tool"))
    # three terms added in another order: 2 roundings of 2^-24 of values near 1 at each of 4 norms, each norm passing them on about 1:1
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=2e-5)


def test_a_norm_without_a_bias_is_split_too():
    node = onnx.helper.make_node("SkipLayerNormalization", ["x", "skip", "g", "b"], ["y"], domain="com.microsoft", epsilon=1e-5)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    assert split_skip_norms(model) == 1
    total, norm = model.graph.node
    assert (total.op_type, list(total.input)) == ("Add", ["x", "skip"])
    assert (norm.op_type, list(norm.output)) == ("LayerNormalization", ["y"]) and norm.attribute[1].f == np.float32(1e-5)


def test_opened_our_way_the_norms_stay_split_and_int8_products_take_the_bias(files, tmp_path):
    """What ONNX Runtime runs is asked of ONNX Runtime: it writes the graph as it optimized it."""
    import onnxruntime

    quantize_onnx(files / "mended.onnx", tmp_path / "int8.onnx")
    seen = {}
    for name, left_out in (("ours", ["SkipLayerNormFusion"]), ("defaults", None)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(tmp_path / f"{name}.onnx"), 3
        onnxruntime.InferenceSession(
            str(tmp_path / "int8.onnx"), options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out
        )
        seen[name] = kinds(tmp_path / f"{name}.onnx")
    assert "SkipLayerNormalization" not in seen["ours"]
    assert "SkipLayerNormalization" in seen["defaults"], "or it need not be left out any more"
