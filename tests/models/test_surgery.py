"""Layers of different sizes: what the config says is what is there, and such models are saved and loaded like others."""

import json

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, BertModel, RobertaConfig, RobertaForTokenClassification

from course_lib.artifacts import new_folder
from course_lib.errors import CourseError
from course_lib.models.surgery import encoder_layers, head_groups, head_size, layer_names, layer_shapes, neuron_groups
from course_lib.models.zoo import find_encoder, load_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.pruning.structure import drop_layers, remove_ffn_neurons, remove_heads

TAGS = ["O", "B-X", "I-X"]
EMPTY = torch.tensor([], dtype=torch.int64)


def uneven(model):
    """Three heads and no neuron in the first layer, no head and seven neurons in the last."""
    remove_heads(model, [torch.tensor([0, 3, 1]), EMPTY])
    remove_ffn_neurons(model, [EMPTY, torch.arange(7)])
    return model.eval()


def ids() -> torch.Tensor:
    return torch.randint(5, 137, (2, 9), generator=torch.Generator().manual_seed(0))


def same(one, other) -> bool:
    """Equal outputs, to the bit."""
    with torch.inference_mode():
        return torch.equal(one.eval()(ids())[0], other.eval()(ids())[0])


@pytest.fixture
def saved(tmp_path):
    """An uneven classifier and the folder it was saved in."""
    model = uneven(load_token_classifier(find_encoder("tiny"), TAGS, seed=1))
    with new_folder(tmp_path / "model") as folder:
        save_model(model, load_tokenizer(find_encoder("tiny")), folder)
    return model, tmp_path / "model"


# Round trips


def test_an_uneven_classifier_comes_back_to_the_bit(saved):
    model, folder = saved
    back = load_token_classifier(folder)
    assert same(model, back) and back.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    assert layer_shapes(back) == back.config.course_shapes == {"heads": [3, 0], "ffn": [0, 7]}
    assert json.loads((folder / "config.json").read_text())["course_shapes"] == {"heads": [3, 0], "ffn": [0, 7]}
    assert {k: v.shape for k, v in back.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_its_encoder_comes_back_alone(saved):
    model, folder = saved
    encoder = load_encoder(str(folder))
    with torch.inference_mode():
        assert torch.equal(encoder(ids()).last_hidden_state, model.base_model(ids()).last_hidden_state)
    assert not encoder.training and {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_an_uneven_encoder_gets_a_new_head_drawn_by_the_seed(tmp_path):
    encoder = uneven(load_encoder("tiny"))
    save_model(encoder, load_tokenizer(find_encoder("tiny")), tmp_path)
    one, two, other = (load_token_classifier(tmp_path, TAGS, seed=s) for s in (3, 3, 4))
    assert same(one, two) and not same(one, other)
    assert same(load_encoder(str(tmp_path)), encoder)
    with torch.inference_mode():
        assert torch.equal(one.eval().base_model(ids())[0], encoder(ids())[0])


def test_without_pretraining_the_uneven_architecture_is_kept(saved):
    model, folder = saved
    random = load_token_classifier(folder, pretrained=False, seed=5)
    assert layer_shapes(random) == layer_shapes(model) and not same(random, model)


def test_an_uneven_model_saved_in_bf16_is_loaded_in_fp32(saved, tmp_path):
    model, _ = saved
    save_model(model.bfloat16(), load_tokenizer(find_encoder("tiny")), tmp_path)
    back = load_token_classifier(tmp_path)
    assert {p.dtype for p in back.parameters()} == {torch.float32} and same(back, model.float())


def test_transformers_alone_refuses_an_uneven_model_instead_of_guessing(saved):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        BertForTokenClassification.from_pretrained(saved[1])


def test_an_even_model_needs_no_shapes_and_loads_in_transformers_alone(tmp_path):
    model = load_token_classifier(find_encoder("tiny"), TAGS).eval()
    remove_ffn_neurons(model, [torch.arange(9), torch.arange(9)])
    save_model(model, load_tokenizer(find_encoder("tiny")), tmp_path)
    assert "course_shapes" not in json.loads((tmp_path / "config.json").read_text())
    assert same(BertForTokenClassification.from_pretrained(tmp_path), model)


def test_shapes_vanish_from_the_config_when_all_layers_are_alike_again():
    model = load_encoder("tiny")
    remove_ffn_neurons(model, [torch.arange(9), torch.arange(5)])
    assert model.config.course_shapes["ffn"] == [9, 5] and model.config.intermediate_size == 9
    drop_layers(model, [1])
    assert not hasattr(model.config, "course_shapes") and model.config.intermediate_size == 5


def test_roberta_is_cut_saved_and_loaded_likewise(tmp_path):
    sizes = {"vocab_size": 137, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    model = uneven(RobertaForTokenClassification(RobertaConfig(pad_token_id=0, num_labels=3, **sizes)))
    save_model(model, load_tokenizer(find_encoder("tiny")), tmp_path)
    assert same(load_token_classifier(tmp_path), model)
    assert layer_names(model) == ["roberta.encoder.layer.0", "roberta.encoder.layer.1"]


# Anatomy


def test_groups_are_named_after_the_layers_of_the_model_they_are_asked_of():
    model = load_token_classifier(find_encoder("tiny"), TAGS)
    assert [g.name for g in head_groups(model)] == ["bert.encoder.layer.0.heads", "bert.encoder.layer.1.heads"]
    assert [g.name for g in neuron_groups(model.base_model)] == ["encoder.layer.0.neurons", "encoder.layer.1.neurons"]
    assert [g.units for g in head_groups(model)] == [4, 4] and head_size(model) == 8
    assert [(g.name, g.units) for g in head_groups(uneven(model))] == [("bert.encoder.layer.0.heads", 3)]
    assert [(g.name, g.units) for g in neuron_groups(model)] == [("bert.encoder.layer.1.neurons", 7)]


def test_a_model_without_layers_is_refused_by_name():
    model = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=0))
    with pytest.raises(CourseError, match="BertModel: expected a BERT-like encoder"):
        encoder_layers(model)


def test_other_attention_is_refused_by_name():
    model = load_encoder("tiny")
    del model.encoder.layer[1].attention.self.query
    with pytest.raises(CourseError, match=r"encoder.layer.1.attention.self: expected the linear layers query, key and value"):
        head_groups(model)


# Damage


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"heads": [3, 0]}, "expected heads and ffn, a list each"),
        ([3, 0], "expected heads and ffn, a list each"),
        ({"heads": [3], "ffn": [0, 7]}, r"course_shapes.heads = \[3\]: expected 2 numbers between 0 and 4"),
        ({"heads": [3, 5], "ffn": [0, 7]}, r"course_shapes.heads = \[3, 5\]: expected 2 numbers between 0 and 4"),
        ({"heads": [3, -1], "ffn": [0, 7]}, r"course_shapes.heads = \[3, -1\]"),
        ({"heads": [3, 1.5], "ffn": [0, 7]}, r"course_shapes.heads = \[3, 1.5\]"),
        ({"heads": [3, 0], "ffn": [0, 10**9]}, r"course_shapes.ffn = \[0, 1000000000\]: expected 2 numbers between 0 and 7"),
        ({"heads": [3, 0], "ffn": "07"}, r"course_shapes.ffn = '07'"),
        ({"heads": [2, 0], "ffn": [0, 7]}, r"(?s)does not fit config.json.*attention.*\(24,\) instead of \(16,\)"),
        ({"heads": [3, 1], "ffn": [0, 7]}, r"does not fit config.json; missing or of another shape"),
    ],
)
def test_shapes_that_are_not_those_of_the_weights_are_refused(saved, shapes, message):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "course_shapes": shapes}))
    with pytest.raises(CourseError, match=message):
        load_token_classifier(folder)
