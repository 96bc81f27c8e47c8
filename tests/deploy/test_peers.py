"""The one-click ways: each is made and runs, says nearly what PyTorch says, and a crash costs its own row only."""

import numpy as np
import onnx
import pytest

from course_lib.deploy import peers
from course_lib.deploy.kinds import load
from course_lib.deploy.peers import WAYS, Way, find_way, make_way
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

ROWS = [[2, *range(20, 20 + n), 3] for n in (3, 9, 1, 14)] * 4
IDS = np.array([[2, 30, 31, 32, 3], [2, 40, 3, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
MADE = [way for way in WAYS if way.make is not peers.as_trained]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"], 0)
    save_model(model, load_tokenizer(find_encoder("tiny")), folder)
    return folder


@pytest.mark.parametrize("way", MADE, ids=lambda way: way.name)
def test_a_way_that_is_made_runs_and_is_near_the_model(way, trained, tmp_path):
    """fp32 to the order of sums; 8 bits of weights and activations, and bf16, to an eighth of the largest logit."""
    made = make_way(way, trained, tmp_path, ROWS)
    assert {p.name for p in tmp_path.iterdir()} >= {made.name, "config.json", "tokenizer.json"}
    exact = load("pytorch", str(trained), 1)(IDS, MASK)
    near = load(way.kind, str(made), 1)(IDS, MASK)
    assert near.shape == exact.shape
    bound = 1e-5 if way.precision == "fp32" else np.abs(exact).max() / 8
    assert np.abs(near - exact)[MASK == 1].max() < bound
    if made.suffix == ".onnx" and way.precision == "int8":
        assert any(t.data_type == onnx.TensorProto.INT8 for t in onnx.load(made).graph.initializer)


@pytest.mark.parametrize("size, coarse", [(1, False), (8, True)])
def test_padding_in_calibration_makes_the_step_of_attention_scores_larger_than_any_score(size, coarse, trained, tmp_path):
    """The mask adds float32's lowest number, −3.4e38, to the scores of padding; 255 steps over that range are 1.3e36 wide."""
    graph = onnx.load(peers.static_qdq(trained, tmp_path, ROWS, size)).graph
    steps = {
        t.name: float(onnx.numpy_helper.to_array(t)) for t in graph.initializer if t.name.endswith("self/Add_output_0_scale")
    }
    assert len(steps) == 2, "one for each layer"
    assert all(step > 1e36 if coarse else step < 1 for step in steps.values())


def test_what_needs_nothing_made_is_the_trained_folder(trained, tmp_path):
    assert make_way(find_way("PyTorch bf16"), trained, tmp_path, ROWS) == trained
    assert not list(tmp_path.iterdir())


def test_names_are_unique_and_kinds_are_known():
    from course_lib.deploy.kinds import KINDS

    assert len({way.name for way in WAYS}) == len(WAYS)
    assert {way.kind for way in WAYS} == set(KINDS), "each kind stands for itself in the race"
    with pytest.raises(CourseError, match="way 'ORT': expected one of PyTorch fp32"):
        find_way("ORT")


def test_a_converter_that_crashes_or_hangs_is_an_error_with_its_last_words(trained, tmp_path):
    with pytest.raises(CourseError, match=r"ORT fp32: making it ended with exit status 1: .*missing"):
        make_way(find_way("ORT fp32"), tmp_path, tmp_path, ROWS)
    with pytest.raises(CourseError, match=r"ORT fp32: not made within 0.1 seconds"):
        make_way(find_way("ORT fp32"), trained, tmp_path, ROWS, patience=0.1)
    with pytest.raises(CourseError, match=r"exit status 1: .*way 'no such way'"):
        make_way(Way("no such way", "pytorch", "fp32", "pytorch", peers.plain), trained, tmp_path, ROWS)
