"""Files of a quantized model: the same model to the bit, without the float one, and as many bytes as the formula says."""

import copy
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from course_lib.artifacts import read_json, write_json
from course_lib.errors import CourseError
from course_lib.models.surgery import cut_units, head_groups, neuron_groups, record_shapes
from course_lib.models.zoo import find_encoder, load_encoder, load_token_classifier, load_tokenizer
from course_lib.pruning.masks import Masks, global_masks
from course_lib.quantization.apply import apply
from course_lib.quantization.nodes import quantize_nodes
from course_lib.quantization.packing import packed_bytes
from course_lib.quantization.qat import Qat, prepare_qat
from course_lib.quantization.scheme import Scheme, linear_bytes, weight_bytes
from course_lib.quantization.smooth import InputScaledLinear, scaled_columns
from course_lib.quantization.storage import Stored, load_quantized, save_quantized, to_stored

TAGS = ["O", "B-X", "I-X"]
DYNAMIC = Scheme(activation="dynamic")
EVERYTHING = {
    "*word_embeddings": Scheme(4),
    "*position_embeddings": Scheme(2, 8, symmetric=False),
    "*query": DYNAMIC,
    "*key": Scheme(4, 8),
    "*value": Scheme(3, 8, symmetric=False),
    "*attention.output.dense": Scheme(5, symmetric=False, activation="dynamic"),
    "*intermediate.dense": Scheme(3, "tensor", codebook="kmeans"),
    "*0.output.dense": Scheme(4, 8, codebook="nf4"),
    "*1.output.dense": Scheme(4, "tensor", codebook="vectors", size=2),
    "classifier": Scheme(4, activation="static"),
}
RANGES = {"classifier": (torch.tensor(-3.0), torch.tensor(3.0))}


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), TAGS).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_encoder("tiny"))


def output(model) -> torch.Tensor:
    ids = torch.randint(5, 80, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(input_ids=ids)[0]


def header_bytes(path) -> int:
    with open(path, "rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def float_bytes(model, without: tuple[str, ...] = ()) -> int:
    return sum(4 * p.numel() for n, p in model.named_parameters() if not n.startswith(without))


# Round trips


def test_a_model_of_all_kinds_comes_back_to_the_bit(tiny, tokenizer, tmp_path):
    apply(tiny, EVERYTHING, RANGES)
    save_quantized(tiny, tokenizer, tmp_path / "m")
    loaded = load_quantized(tmp_path / "m")
    assert [type(m) for m in loaded.modules()] == [type(m) for m in tiny.modules()]
    assert torch.equal(output(loaded), output(tiny))
    ours, theirs = tiny.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(t, theirs[n]) and t.dtype == theirs[n].dtype for n, t in ours.items())
    assert not loaded.training
    assert load_tokenizer(tmp_path / "m").encode("new york").ids == tokenizer.encode("new york").ids


def test_loading_neither_needs_the_float_weights_nor_moves_the_random_state(tiny, tokenizer, tmp_path, monkeypatch):
    apply(tiny, EVERYTHING, RANGES)
    save_quantized(tiny, tokenizer, tmp_path / "m")
    whole = output(tiny)
    monkeypatch.setattr(AutoModelForTokenClassification, "from_pretrained", lambda *a, **k: pytest.fail("reads a model"))
    state = torch.get_rng_state()
    assert torch.equal(output(load_quantized(tmp_path / "m")), whole)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
        "quantization.json",
        "tokenizer.json",
    ]


def test_what_was_saved_and_loaded_can_be_saved_again_as_the_same_bytes(tiny, tokenizer, tmp_path):
    apply(tiny, EVERYTHING, RANGES)
    save_quantized(tiny, tokenizer, tmp_path / "a")
    save_quantized(load_quantized(tmp_path / "a"), tokenizer, tmp_path / "b")
    for name in ("model.safetensors", "quantization.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_bare_encoder_and_a_model_without_anything_quantized_are_stored_too(tokenizer, tmp_path):
    encoder = load_encoder("tiny")
    save_quantized(encoder, tokenizer, tmp_path / "float")
    assert torch.equal(output(load_quantized(tmp_path / "float")), output(encoder))
    apply(encoder, {"encoder*": DYNAMIC})
    save_quantized(encoder, tokenizer, tmp_path / "int8")
    assert torch.equal(output(load_quantized(tmp_path / "int8")), output(encoder))


def test_layers_of_uneven_sizes_come_back(tiny, tokenizer, tmp_path):
    cut_units(tiny, head_groups(tiny)[0], torch.tensor([0, 2]))
    cut_units(tiny, head_groups(tiny)[1], torch.tensor([], dtype=torch.int64))
    cut_units(tiny, neuron_groups(tiny)[1], torch.arange(40))
    record_shapes(tiny)
    apply(tiny, {"*encoder*": DYNAMIC})
    save_quantized(tiny, tokenizer, tmp_path / "m")
    assert torch.equal(output(load_quantized(tmp_path / "m")), output(tiny))


@pytest.mark.parametrize("scheme", [None, DYNAMIC, Scheme(4, 8)], ids=str)
def test_layers_behind_a_division_of_their_input_come_back(tiny, tokenizer, tmp_path, scheme):
    attention = tiny.bert.encoder.layer[0].attention.self
    scale = torch.rand(32) + 0.5
    attention.query.weight.data = scaled_columns(attention.query.weight.data, scale)
    attention.query = InputScaledLinear(attention.query, scale)
    if scheme is not None:
        apply(tiny, {"*layer.0*query.linear": scheme})
    save_quantized(tiny, tokenizer, tmp_path / "m")
    assert torch.equal(output(load_quantized(tmp_path / "m")), output(tiny))


def test_tied_weights_are_stored_once_and_tied_again(tiny, tokenizer, tmp_path):
    layers = tiny.bert.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    apply(tiny, {"*query": DYNAMIC})
    stored = save_quantized(tiny, tokenizer, tmp_path / "m")
    loaded = load_quantized(tmp_path / "m")
    assert loaded.bert.encoder.layer[1].output.dense.weight is loaded.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(output(loaded), output(tiny))
    assert stored.payload == float_bytes(tiny, ("bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1.attention.self.query")) + 2 * linear_bytes((32, 32), DYNAMIC)  # fmt: skip


# Bytes


def test_the_file_has_the_bytes_of_the_formula_to_the_byte(tiny, tokenizer, tmp_path):
    shapes = {n: tuple(m.weight.shape) for n, m in tiny.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    apply(tiny, EVERYTHING, RANGES)
    schemes = {n: m.scheme for n, m in tiny.named_modules() if n in shapes and hasattr(m, "scheme")}
    expected = sum(
        weight_bytes(shapes[n], s) if "embeddings" in n else linear_bytes(shapes[n], s) for n, s in schemes.items()
    ) + float_bytes(tiny, tuple(f"{n}." for n in schemes))
    stored = save_quantized(tiny, tokenizer, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    assert len(schemes) == 2 + 6 * 2 + 1
    assert stored.payload == expected
    assert path.stat().st_size - header_bytes(path) == expected


def test_the_file_holds_plain_integers_and_floats(tiny, tokenizer, tmp_path):
    apply(tiny, EVERYTHING, RANGES)
    save_quantized(tiny, tokenizer, tmp_path / "m")
    assert {t.dtype for t in load_file(tmp_path / "m" / "model.safetensors").values()} == {torch.uint8, torch.float32}
    plan = json.loads((tmp_path / "m" / "quantization.json").read_text())
    assert plan["modules"]["classifier"] == Scheme(4, activation="static").to_json()


# Masks


def pruned(model) -> Masks:
    """Three quarters of every weight of the layers, and of a LayerNorm."""
    names = [n for n, p in model.named_parameters() if p.dim() == 2] + ["bert.embeddings.LayerNorm.weight"]
    scores = {n: p.detach().abs() + torch.rand(p.shape) for n, p in model.named_parameters() if n in names}
    masks = Masks({n: global_masks({n: s}, 0.75)[n] for n, s in scores.items()})
    masks.apply(model)
    return masks


def test_a_masked_model_comes_back_and_stores_what_stays(tiny, tokenizer, tmp_path):
    masks = pruned(tiny)
    plan = {k: v for k, v in EVERYTHING.items() if v.codebook in (None, "nf4")}
    apply(tiny, plan, RANGES)
    stored = save_quantized(tiny, tokenizer, tmp_path / "m", masks)
    loaded = load_quantized(tmp_path / "m")
    assert torch.equal(output(loaded), output(tiny))
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in tiny.state_dict().items())

    saved = 0
    for name, mask in masks.items():
        module = tiny.get_submodule(name.rpartition(".")[0])
        stays, bits_of_mask = int(mask.sum()), -(-mask.numel() // 8)
        if hasattr(module, "scheme"):
            bits = module.scheme.bits
            saved += packed_bytes(mask.numel(), bits) - packed_bytes(stays, bits) - bits_of_mask
        else:
            saved += 4 * (mask.numel() - stays) - bits_of_mask
    assert stored.payload == to_stored(tiny).payload - saved
    assert saved > 0


def test_a_mask_over_weights_that_are_not_zero_is_an_error(tiny, tokenizer, tmp_path):
    masks = pruned(tiny)
    with torch.no_grad():
        tiny.classifier.weight[~masks["classifier.weight"]] += 1.0
    with pytest.raises(CourseError, match=r"weights of classifier.weight that it prunes are not zero"):
        save_quantized(tiny, tokenizer, tmp_path / "m", masks)
    apply(tiny, {"classifier": DYNAMIC})
    with pytest.raises(CourseError, match=r"weights of classifier.weight that it prunes are not zero"):
        save_quantized(tiny, tokenizer, tmp_path / "m", masks)
    assert not (tmp_path / "m").exists()


def test_codes_of_several_weights_take_no_mask(tiny):
    apply(tiny, {"classifier": EVERYTHING["*1.output.dense"]})
    with pytest.raises(CourseError, match=r"classifier has codes of 2 weights each; a mask cannot leave out any"):
        to_stored(tiny, {"classifier.weight": torch.ones(3, 32, dtype=torch.bool)})


def test_masks_that_fit_nothing_are_an_error(tiny):
    with pytest.raises(CourseError, match=r"masks: no.weight is no weight of the model"):
        to_stored(tiny, {"no.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(CourseError, match=r"classifier.weight is torch.bool \(2, 2\); expected torch.bool \(3, 32\)"):
        to_stored(tiny, {"classifier.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(CourseError, match=r"classifier.weight is torch.float32"):
        to_stored(tiny, {"classifier.weight": torch.ones(3, 32)})


# Other models


def test_models_that_no_file_holds_are_refused(tiny):
    prepared, simulated = copy.deepcopy(tiny), copy.deepcopy(tiny)
    prepare_qat(prepared, {"*query": Qat()})
    quantize_nodes(simulated, {"classifier:input": RANGES["classifier"]})
    for model, message in (
        (prepared, "query is a QatLinear, which no file holds; export"),
        (simulated, "classifier is a QuantizedNode, which no file holds"),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential: expected a token classifier or a bare encoder"),
        (AutoModelForSequenceClassification.from_config(tiny.config), "BertForSequenceClassification: expected"),
    ):
        with pytest.raises(CourseError, match=message):
            to_stored(model)


# Damage


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    apply(tiny, EVERYTHING, RANGES)
    save_quantized(tiny, tokenizer, tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", ["config.json", "quantization.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CourseError, match=f"{name} missing; expected a folder written by save_quantized"):
        load_quantized(folder)


@pytest.mark.parametrize("name", ["config.json", "quantization.json", "model.safetensors"])
def test_a_damaged_file_is_an_error_that_names_the_folder(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CourseError, match=r"Cannot (load|read) .*/m"):
        load_quantized(folder)


def changed_plan(folder, **changes) -> None:
    write_json(folder / "quantization.json", {**read_json(folder / "quantization.json"), **changes})


def test_a_plan_that_does_not_belong_to_the_tensors_is_an_error(folder):
    modules = read_json(folder / "quantization.json")["modules"]
    wrong = [
        {"format": "another"},
        {"head": "os.system"},
        {"modules": {**modules, "classifier": {**modules["classifier"], "bits": 5}}},
        {"modules": {**modules, "classifier": {**modules["classifier"], "bits": 99}}},
        {"modules": {k: v for k, v in modules.items() if k != "classifier"}},
        {"modules": {**modules, "bert.nothing": modules["classifier"]}},
        {"modules": {**modules, "bert.embeddings.LayerNorm": Scheme().to_json()}},
        {"shared": {"classifier.weight": "nothing"}},
    ]
    plan = read_json(folder / "quantization.json")
    for changes in wrong:
        write_json(folder / "quantization.json", plan)
        changed_plan(folder, **changes)
        with pytest.raises(CourseError, match=r"(?s)Cannot load .*damaged or of different models"):
            load_quantized(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "short", "another type"])
def test_tensors_that_do_not_fit_are_an_error(folder, change):
    tensors, name = load_file(folder / "model.safetensors"), "classifier.codes"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["more"] = torch.zeros(1)
    elif change == "short":
        tensors[name] = tensors[name][:-1].clone()
    else:
        tensors[name] = tensors[name].float()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CourseError, match=r"(?s)Cannot load .*damaged or of different models"):
        load_quantized(folder)


def test_a_failed_save_leaves_the_older_folder_as_it_was(tiny, tokenizer, tmp_path, monkeypatch):
    save_quantized(tiny, tokenizer, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    monkeypatch.setattr(type(tiny.config), "save_pretrained", lambda *a: os.open("/nowhere/at/all", os.O_RDONLY))
    apply(tiny, {"*query": DYNAMIC})
    with pytest.raises(CourseError, match=r"Cannot write"):
        save_quantized(tiny, tokenizer, tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_the_payload_is_the_bytes_of_all_tensors():
    assert Stored({"a": torch.zeros(3), "b": torch.zeros(5, dtype=torch.uint8)}, {}).payload == 3 * 4 + 5
