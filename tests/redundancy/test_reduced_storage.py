"""Folders of reduced models: what was saved comes back, exports give the same logits, and damage is told."""

import json

import pytest
import torch
from redundant_models import batches, logits, real_batches, tiny
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_encoder, load_token_classifier, load_tokenizer
from course_lib.pruning.structure import remove_ffn_neurons
from course_lib.redundancy.low_rank_layers import LowRank, LowRankLinear, apply
from course_lib.redundancy.sharing import share_layers
from course_lib.redundancy.storage import export_reduced, load_reduced, save_reduced, share, shared_names, stored_tensors

PLAN = {"*.intermediate.dense": LowRank(rank=5), "*.query": LowRank(energy=0.6)}


def reduced(dtype=torch.float32):
    """Factors of different ranks, some of them shared."""
    model = tiny(dtype)
    remove_ffn_neurons(model, [torch.arange(40), torch.arange(64)])
    apply(model, PLAN)
    share(model, {"bert.encoder.layer.1.attention.output.dense.weight": "bert.encoder.layer.0.attention.output.dense.weight"})
    return model


@pytest.fixture
def folder(tmp_path):
    save_reduced(reduced(), load_tokenizer(find_encoder("tiny")), tmp_path / "m")
    return tmp_path / "m"


def test_what_is_saved_loads_with_equal_logits_factors_and_sharing(folder):
    model, again = reduced(), load_reduced(folder)
    assert torch.equal(logits(again), logits(model)) and not again.training
    ranks = {n: m.rank for n, m in model.named_modules() if isinstance(m, LowRankLinear)}
    assert {n: m.rank for n, m in again.named_modules() if isinstance(m, LowRankLinear)} == ranks and len(ranks) == 4
    assert shared_names(again) == shared_names(model) and len(shared_names(again)) == 1
    assert not hasattr(again.config, "course_reduced") and not hasattr(model.config, "course_reduced")
    assert load_file(folder / "model.safetensors").keys() == stored_tensors(model).keys()


def test_a_second_save_of_what_was_loaded_is_the_first(folder, tmp_path):
    save_reduced(load_reduced(folder), load_tokenizer(folder), tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_loader_that_knows_nothing_of_it_says_that_tensors_are_missing(folder):
    with pytest.raises(CourseError, match=r"does not fit config.json; missing"):
        load_token_classifier(folder)


def test_the_real_encoder_in_factors_saves_and_loads(tmp_path):
    encoder, data = load_encoder("minilm"), real_batches()[0]
    apply(encoder, {"encoder.layer.5.*": LowRank(rank=64)})
    save_reduced(encoder, load_tokenizer(find_encoder("minilm")), tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(load_reduced(tmp_path / "m")(**data).last_hidden_state, encoder(**data).last_hidden_state)


def test_exported_it_gives_the_same_logits_and_the_model_is_left_alone(tmp_path):
    import onnx
    import onnxruntime

    model = tiny(torch.float32)
    apply(model, PLAN)
    before = logits(model)
    export_reduced(model, tmp_path / "m.onnx")
    assert torch.equal(logits(model), before) and not model.training
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    out = [torch.from_numpy(session.run(["logits"], {k: v.numpy() for k, v in b.items()})[0]) for b in batches()]
    got = torch.cat([o[b["attention_mask"] == 1] for o, b in zip(out, batches(), strict=True)])
    exact = logits(model.double())
    # The same float32 operations, rounded in another order: as far from the exact logits as PyTorch's own, within a factor of 8.
    assert (got - exact).abs().max() <= 8 * (before - exact).abs().max()
    weights = {t.name: t.dims for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert sum(sorted(d) == [5, 32] for d in map(list, weights.values())) == 2


def test_shared_weights_are_in_an_exported_file_once(tmp_path):
    sizes = []
    for sharing in (False, True):
        model = tiny(torch.float32)
        if sharing:
            share_layers(model, [[0, 1]])
        export_reduced(model, tmp_path / "m.onnx")
        sizes.append((tmp_path / "m.onnx").stat().st_size)
    matrices = 4 * (4 * 32 * 32 + 2 * 64 * 32)
    assert sizes[0] - sizes[1] >= matrices


def test_damage_is_told(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    for changed, message in (
        ({"low_rank": {"bert.encoder.layer.0.intermediate.dense": 500}}, "rank = 500"),
        ({"low_rank": {"nothing": 3}}, "nothing"),
        ({"low_rank": {}}, "has no attribute `down`"),
        ({"low_rank": {}, "without_bias": []}, "Missing key"),
        ({"shared": {"classifier.weight": "classifier.bias"}}, "size mismatch|shapes differ"),
        ({"kind": "Robot"}, "KeyError"),
    ):
        bad = config | {"course_reduced": config["course_reduced"] | changed}
        (folder / "config.json").write_text(json.dumps(bad))
        with pytest.raises(CourseError, match=message):
            load_reduced(folder)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "course_reduced"}))
    with pytest.raises(CourseError, match=r"config.json has no course_reduced; expected a folder that save_reduced wrote"):
        load_reduced(folder)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v for k, v in tensors.items() if k != "classifier.bias"}, folder / "model.safetensors")
    with pytest.raises(CourseError, match=r"(?s)Cannot load .*classifier.bias.*save it again"):
        load_reduced(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CourseError, match=r"model.safetensors missing"):
        load_reduced(folder)


def test_models_of_other_kinds_and_shapes_are_refused(tmp_path):
    with pytest.raises(CourseError, match=r"Sequential: expected a token or sequence classifier"):
        model = nn.Sequential(nn.Linear(2, 2))
        model.config = tiny().config
        save_reduced(model, load_tokenizer(find_encoder("tiny")), tmp_path / "m")
    with pytest.raises(ValueError, match=r"classifier.bias \(3,\) cannot share classifier.weight \(3, 32\): the shapes differ"):
        share(tiny(), {"classifier.bias": "classifier.weight"})
