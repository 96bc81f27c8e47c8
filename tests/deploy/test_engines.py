"""Engines: one call for every runtime, and which one a model folder is opened with."""

import json
import shutil

import numpy as np
import pytest
import torch

from course_lib.deploy.engines import OnnxEngine, TorchEngine, max_pieces, open_model
from course_lib.deploy.export import export_onnx
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

TAGS = ["O", "B-PER", "I-PER"]
IDS = np.array([[2, 30, 31, 32, 3], [2, 40, 3, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(autouse=True)
def threads():
    """The number of threads does not outlive the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return load_token_classifier(find_encoder("tiny"), TAGS, seed=2)


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """A PyTorch model folder."""
    folder = tmp_path_factory.mktemp("trained")
    save_model(model, load_tokenizer(find_encoder("tiny")), folder)
    return folder


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    """A folder to ship, with an ONNX file."""
    folder = tmp_path_factory.mktemp("shipped")
    export_onnx(trained, folder / "model.onnx")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(trained / name, folder / name)
    return folder


def test_the_torch_engine_is_the_model_without_dropout(model):
    model.train()
    with torch.no_grad():
        noisy = model(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK)).logits.numpy()
    engine = TorchEngine(model)
    first = engine(IDS, MASK)
    assert model.training, "as it was before"
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK)).logits.numpy()
    np.testing.assert_array_equal(first, expected)
    assert engine(IDS, MASK).dtype == np.float32 and not model.training
    assert np.abs(noisy - expected).max() > 1e-3


def test_bf16_gives_float32_within_its_rounding(model):
    """bf16 keeps 8 bits: each product is off by up to 2⁻⁸, and logits of order 0.1 by a few times 4e-4."""
    exact, rough = TorchEngine(model)(IDS, MASK), TorchEngine(model, bf16=True)(IDS, MASK)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact)[MASK == 1].max() < 0.02


def test_a_folder_is_opened_with_the_engine_it_ships_for(trained, shipped, tmp_path):
    engine, tags = open_model(trained, threads=1)
    assert isinstance(engine, TorchEngine) and tags == TAGS and torch.get_num_threads() == 1
    fast, fast_tags = open_model(str(shipped), threads=1)
    assert isinstance(fast, OnnxEngine) and fast_tags == TAGS
    # √64 · 6e-8 · 2 layers for logits of order 0.1, in another order of summing
    np.testing.assert_allclose(fast(IDS, MASK)[MASK == 1], engine(IDS, MASK)[MASK == 1], rtol=0, atol=1e-5)
    both = shutil.copytree(shipped, tmp_path / "both")
    shutil.copyfile(trained / "model.safetensors", both / "model.safetensors")
    assert isinstance(open_model(both, threads=1)[0], OnnxEngine)


def test_tags_are_ordered_by_number_not_by_place_in_the_file(shipped, tmp_path):
    folder = shutil.copytree(shipped, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(reversed(config["id2label"].items()))
    (folder / "config.json").write_text(json.dumps(config))
    assert open_model(folder, 1)[1] == TAGS


def test_the_onnx_engine_computes_with_as_many_threads_as_told(shipped):
    for threads in (1, 2):
        options = OnnxEngine(shipped / "model.onnx", threads).session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


@pytest.mark.parametrize("content", [None, b"", b"junk" * 1000, "half"])
def test_an_onnx_file_that_cannot_be_read_is_named(content, shipped, tmp_path):
    path = tmp_path / "model.onnx"
    if content == "half":
        content = (shipped / "model.onnx").read_bytes()[:5000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CourseError, match=r"Cannot load .*model\.onnx: .*The file is damaged; run `course compress` again"):
        OnnxEngine(path, threads=1)


@pytest.mark.parametrize(
    "labels", [None, {}, {"0": "O", "1": "B-PER"}, {"0": "O", "1": "B-PER", "3": "I-PER"}, dict.fromkeys("0123", "O")]
)
def test_tags_that_are_not_the_models_are_refused(labels, shipped, tmp_path):
    folder = shutil.copytree(shipped, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"]
    (folder / "config.json").write_text(json.dumps(config | ({} if labels is None else {"id2label": labels})))
    with pytest.raises(CourseError, match=r"config\.json: id2label = .*expected the 3 tags of model\.onnx by number"):
        open_model(folder, 1)


def test_a_folder_without_a_model_says_where_to_get_one(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CourseError, match=r"no model\.onnx or model\.safetensors there. `make course` makes"):
            open_model(folder, 1)


def test_how_much_a_model_reads_at_once_is_in_its_config():
    assert max_pieces({"max_position_embeddings": 128, "model_type": "bert"}) == 128
    assert max_pieces({"max_position_embeddings": 514, "model_type": "roberta"}) == 512, "it counts positions from 2"
    assert max_pieces({}) == 512
