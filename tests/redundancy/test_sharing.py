"""Sharing: bytes fall, gradients sum, files hold it once, and what comes out is ALBERT."""

import copy

import pytest
import torch
from redundant_models import batches, logits, real_batches, real_encoder, tiny

from course_lib.errors import CourseError
from course_lib.models.surgery import encoder_layers
from course_lib.models.zoo import find_encoder, hugging_face, load_tokenizer
from course_lib.pruning.structure import remove_ffn_neurons
from course_lib.pruning.unit_masks import mask_layers
from course_lib.redundancy.sharing import (
    checked_groups,
    mean_of,
    refuse_uneven,
    share_layers,
    storage_account,
    unshare,
)
from course_lib.redundancy.storage import load_reduced, save_reduced, shared_names

LAYER = 4 * (32 * 32 + 32) + (64 * 32 + 64) + (32 * 64 + 32) + 4 * 32  # parameters of a tiny layer


def bert(layers: int, dtype=torch.float64):
    """A BERT encoder of random weights, width 16, without the pooler."""
    torch.manual_seed(0)
    library = hugging_face()
    config = library.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
    )
    return library.BertModel(config, add_pooling_layer=False).to(dtype).eval()


def test_the_mean_of_equal_tensors_is_the_tensor_to_the_bit_and_weights_count():
    x = torch.randn(50)
    assert torch.equal(mean_of([x, x, x]), x) and torch.equal(mean_of([x, -x], [1, 0]), x)
    assert torch.equal(mean_of([torch.zeros(3), torch.ones(3)], [1, 3]), torch.full((3,), 0.75))


@pytest.mark.parametrize(
    ("part", "saved"), [("all", LAYER), ("attention", 4 * (32 * 32 + 32) + 64), ("ffn", 2 * 64 * 32 + 64 + 32 + 64)]
)
def test_unique_bytes_fall_by_what_is_shared_and_those_of_the_state_dict_do_not(part, saved):
    model = tiny(torch.float32)
    before = storage_account(model)
    report = share_layers(model, [[0, 1]], part)
    after = storage_account(model)
    assert before["unique"] - after["unique"] == 4 * saved == report.bytes_before - report.bytes_after
    assert report.parameters_before - report.parameters_after == saved
    assert after["state_dict"] == before["state_dict"] == before["file"]
    # Position numbers are buffers that no file holds; everything else that is in memory is.
    assert before["unique"] - after["unique"] == before["file"] - after["file"]


def test_gradients_of_a_shared_layer_are_the_sums_of_those_of_its_places():
    shared = tiny()
    share_layers(shared, [[0, 1]])
    apart = copy.deepcopy(shared)
    unshare(apart)
    assert torch.equal(logits(shared), logits(apart)), "copies compute the same"
    for model in (shared, apart):
        model(**batches()[0]).logits.square().sum().backward()
    first, second = encoder_layers(apart)
    for name, parameter in encoder_layers(shared)[0].named_parameters():
        due = first.get_parameter(name).grad + second.get_parameter(name).grad
        # One addition in another order; products of the same numbers before it.
        torch.testing.assert_close(parameter.grad, due, rtol=1e-12, atol=1e-12 * float(due.abs().max()) + 1e-18)


def test_one_step_moves_both_places_alike():
    model = tiny()
    share_layers(model, [[0, 1]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**batches()[0]).logits.square().sum().backward()
    optimizer.step()
    first, second = encoder_layers(model)
    assert all(second.get_parameter(name) is p for name, p in first.named_parameters())
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters())), "the optimizer meets each once"


def test_equal_layers_may_share_without_a_change_and_others_start_from_what_is_asked():
    model = tiny()
    first, second = encoder_layers(model)
    second.load_state_dict(first.state_dict())
    before = logits(model)
    share_layers(model, [[0, 1]])
    assert torch.equal(logits(model), before)
    for weights, due in (("first", lambda a, b: a), ([1.0, 3.0], lambda a, b: a + 0.75 * (b - a))):
        model, old = tiny(), tiny()
        share_layers(model, [[0, 1]], weights=weights)
        a, b = (layer.intermediate.dense.weight for layer in encoder_layers(old))
        assert torch.allclose(encoder_layers(model)[1].intermediate.dense.weight, due(a, b), rtol=0, atol=1e-15)


def test_a_saved_model_loads_with_the_same_logits_and_sharing(tmp_path):
    model = tiny(torch.float32)
    share_layers(model, [[0, 1]])
    save_reduced(model, load_tokenizer(find_encoder("tiny")), tmp_path / "m")
    again = load_reduced(tmp_path / "m")
    assert torch.equal(logits(again), logits(model)) and shared_names(again) == shared_names(model)
    assert storage_account(again) == storage_account(model)
    size, tensors = (tmp_path / "m" / "model.safetensors").stat().st_size, storage_account(model)["file"]
    assert tensors < size < tensors + 8192, "and its header"


@pytest.mark.oracles
def test_a_bert_with_one_shared_layer_is_albert():
    """transformers' AlbertModel with our weights; the mapping of its embeddings, which ours lacks, is the identity."""
    ours = bert(3)
    share_layers(ours, [[0, 1, 2]])
    library = hugging_face()
    config = library.AlbertConfig(
        vocab_size=50, embedding_size=16, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, hidden_act="gelu",
    )  # fmt: skip
    theirs = library.AlbertModel(config, add_pooling_layer=False).double().eval()
    layer, albert = encoder_layers(ours)[0], theirs.encoder.albert_layer_groups[0].albert_layers[0]
    pairs = [
        (theirs.embeddings, ours.embeddings), (albert.attention.query, layer.attention.self.query), (albert.attention.key, layer.attention.self.key),
        (albert.attention.value, layer.attention.self.value), (albert.attention.dense, layer.attention.output.dense),
        (albert.attention.LayerNorm, layer.attention.output.LayerNorm), (albert.ffn, layer.intermediate.dense),
        (albert.ffn_output, layer.output.dense), (albert.full_layer_layer_norm, layer.output.LayerNorm),
    ]  # fmt: skip
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    with torch.no_grad():
        theirs.encoder.embedding_hidden_mapping_in.weight.copy_(torch.eye(16))
        theirs.encoder.embedding_hidden_mapping_in.bias.zero_()
        given = {
            "input_ids": torch.randint(0, 50, (3, 9)),
            "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 9]),
        }
        real = given["attention_mask"] == 1
        a, b = ours(**given).last_hidden_state[real], theirs(**given).last_hidden_state[real]
    assert (a - b).abs().max() <= 1e-13  # the same operations on numbers of size 1 in float64
    assert sum(p.numel() for p in theirs.parameters()) - 16 * 17 == sum(p.numel() for p in ours.parameters())


def test_on_the_real_encoder_two_shared_layers_are_a_change_and_a_twelfth_of_it_saved():
    encoder, data = copy.deepcopy(real_encoder()), real_batches()[:1]
    with torch.no_grad():
        due = encoder(**data[0]).last_hidden_state
        report = share_layers(encoder, [[3, 4]])
        got = encoder(**data[0]).last_hidden_state
    assert report.parameters_before - report.parameters_after == 1_774_464  # a layer of 384 and 1536
    real = data[0]["attention_mask"] == 1
    cosine = torch.cosine_similarity(got[real], due[real], dim=-1).mean()
    assert 0.5 < cosine < 0.99  # measured: far from nothing, and far from the same


def test_bad_input_is_refused_before_anything_changes():
    model = tiny()
    before = logits(model)
    for groups in ([], [[0]], [[1, 0]], [[0, 2]], [[0, 1], [0, 1]], [[0, 0]]):
        with pytest.raises(ValueError, match=r"groups = .*expected ascending numbers from 0 to 1, at least two in a group"):
            share_layers(model, groups)
    assert checked_groups([(0, 1)], 2) == [[0, 1]]
    for options, message in (
        ({"part": "norms"}, "part = 'norms': expected one of all, attention, ffn"),
        ({"weights": [1]}, "weights = "),
    ):
        with pytest.raises(ValueError, match=message):
            share_layers(model, [[0, 1]], **options)
    with pytest.raises(ValueError, match=r"weights = \[0, 0\]: expected 2 numbers of at least 0, not all 0"):
        mean_of([torch.ones(2), torch.ones(2)], [0, 0])
    with pytest.raises(ValueError, match=r"tensors = .*all of one shape"):
        mean_of([torch.ones(2), torch.ones(3)])
    with pytest.raises(CourseError, match=r"no parameter is shared"):
        unshare(model)
    uneven = tiny()
    remove_ffn_neurons(uneven, [torch.arange(60), torch.arange(64)])
    with pytest.raises(CourseError, match=r"layers 0 and 1 differ in intermediate.dense.bias; expected layers of one size"):
        refuse_uneven(uneven, [[0, 1]])
    assert torch.equal(logits(model), before)
    share_layers(model, [[0, 1]])
    with pytest.raises(CourseError, match=r"is shared already; call unshare"):
        share_layers(model, [[0, 1]])
    masked = tiny()
    mask_layers(masked, [0])
    with pytest.raises(CourseError, match=r"units of the model are masked"):
        share_layers(masked, [[0, 1]])
