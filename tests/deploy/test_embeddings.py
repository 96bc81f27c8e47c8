"""Embeddings of a fused file: folding changes nothing, packed rows decode within half a step, and the library agrees."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from course_lib.artifacts import folder_bytes
from course_lib.deploy.embeddings import block_of, fold_token_types, pack_embeddings, packed_rows
from course_lib.deploy.engines import OnnxEngine
from course_lib.deploy.export import export_onnx, quantize_onnx
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.quantization.affine import choose_affine, dequantize, quantize


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("model")
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-PER", "I-PER"], seed=0)
    with torch.no_grad():  # types that differ, so that a type lost would show
        model.base_model.embeddings.token_type_embeddings.weight += torch.tensor([[0.3], [-0.7]])
    save_model(model, load_tokenizer(find_encoder("tiny")), where)
    return where


def batch():
    ids = np.random.default_rng(0).integers(5, 60, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 4:] = mask[2, 7:] = 0
    return ids, mask


def test_the_exported_file_works_out_no_token_types_and_gives_pytorchs_logits(folder, tmp_path):
    export_onnx(folder, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Where", "Expand", "ConstantOfShape", "GatherElements", "Shape"}
    assert fold_token_types(model) == 0, "there is nothing left to fold"
    ids, mask = batch()
    theirs = load_token_classifier(folder).eval()(torch.from_numpy(ids), torch.from_numpy(mask)).logits.detach().numpy()
    ours = OnnxEngine(tmp_path / "model.onnx", 1)(ids, mask)
    # the tables are added in another order: a rounding of 2^-24 of values of the order of 1, through 2 layers with layer norms
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=2e-5)


@pytest.mark.parametrize("block", [64, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_decode_to_what_the_librarys_own_quantizer_gives(bits, block):
    width = 3 * block
    table = torch.randn(7, width, generator=torch.Generator().manual_seed(1))
    table[3] = 0
    codes, scales = packed_rows(table.numpy(), bits)
    half = 2 ** (bits - 1)
    assert block_of(width) == block and codes.nbytes == 7 * width * bits // 8
    halves = np.stack([codes & 15, codes >> 4], axis=-1) if bits == 4 else codes  # ONNX Runtime reads the low half first
    ours = torch.from_numpy(halves.astype(np.float32)).view(7, 3, block) - half
    scale, zero = choose_affine(table, bits, True, block)
    theirs = quantize(table, scale, zero, bits, True).view(7, 3, block)
    assert torch.equal(ours, theirs.float())
    decoded = ours * torch.from_numpy(scales)[:, :, None]
    torch.testing.assert_close(decoded.view_as(table), dequantize(theirs.view_as(table), scale, zero), rtol=1e-6, atol=0)
    step = torch.from_numpy(scales)[:, :, None]
    # half a step, and the rounding of the quotient (at most half codes of 2^-24 each)
    assert ((decoded - table.view(7, 3, block)).abs() <= step * (0.5 + half * 2**-23)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_packed_file_says_what_a_model_with_the_decoded_tables_says(folder, tmp_path, bits):
    export_onnx(folder, tmp_path / "fp32.onnx")
    packed, decoded = (onnx.load(tmp_path / "fp32.onnx") for _ in range(2))
    pack_embeddings(packed, bits)
    for tensor in decoded.graph.initializer:
        if tensor.name.endswith(("word_embeddings.weight", "position_embeddings.weight")):
            table = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
            scale, zero = choose_affine(table, bits, True, 32)
            table = dequantize(quantize(table, scale, zero, bits, True), scale, zero)
            tensor.CopyFrom(onnx.numpy_helper.from_array(table.numpy(), tensor.name))
    onnx.save(packed, tmp_path / "packed.onnx")
    onnx.save(decoded, tmp_path / "decoded.onnx")
    ids, mask = batch()
    ours, theirs = (OnnxEngine(tmp_path / f"{name}.onnx", 1)(ids, mask) for name in ("packed", "decoded"))
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=2e-5)  # as above


def test_four_bits_make_the_shipped_file_smaller(folder, tmp_path):
    export_onnx(folder, tmp_path / "fp32.onnx")
    sizes = {}
    for bits in (8, 4):
        where = tmp_path / str(bits)
        where.mkdir()
        quantize_onnx(tmp_path / "fp32.onnx", where / "model.onnx", embedding_bits=bits)
        sizes[bits] = folder_bytes(where)
        ids, mask = batch()
        assert np.isfinite(OnnxEngine(where / "model.onnx", 1)(ids, mask)).all()
    assert sizes[4] < sizes[8]


def test_what_cannot_be_packed_is_refused(folder, tmp_path):
    export_onnx(folder, tmp_path / "fp32.onnx")
    model = onnx.load(tmp_path / "fp32.onnx")
    with pytest.raises(ValueError, match="bits = 3: expected 4 or 8"):
        pack_embeddings(model, 3)
    pack_embeddings(model, 8)
    with pytest.raises(CourseError, match="0 EmbedLayerNormalization; expected one"):
        pack_embeddings(model, 8)
    narrow = onnx.load(tmp_path / "fp32.onnx")
    for tensor in narrow.graph.initializer:
        if tensor.name.endswith("word_embeddings.weight"):
            tensor.CopyFrom(helper.make_tensor(tensor.name, onnx.TensorProto.FLOAT, (2, 3), [0.0] * 6))
    with pytest.raises(CourseError, match="width 3: expected a multiple of 32"):
        pack_embeddings(narrow, 4)
