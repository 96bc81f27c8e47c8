"""Layer merging: averaging equal layers in both places changes nothing, replacing both by one does, and teaching brings it nearer."""

import copy

import pytest
import torch
from redundant_models import batches, logits, real_batches, real_encoder, tiny

from course_lib.errors import CourseError
from course_lib.models.surgery import encoder_layers, layer_shapes
from course_lib.models.zoo import find_encoder, hugging_face, load_token_classifier, load_tokenizer, save_model
from course_lib.pruning.structure import drop_layers, remove_ffn_neurons
from course_lib.pruning.unit_masks import mask_layers
from course_lib.redundancy.layer_merging import closest_neighbours, merge_layers, merged_copy, recover_merged
from course_lib.redundancy.sharing import mean_of, share_layers
from course_lib.redundancy.similarity import Similarity, layer_similarity


def deep(layers: int = 4):
    """A BERT classifier of random weights, width 16, whose layers matter."""
    torch.manual_seed(0)
    library = hugging_face()
    config = library.BertConfig(
        vocab_size=120, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    model = library.BertForTokenClassification(config)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape)
    return model.double().eval()


def test_averaging_two_equal_layers_and_using_the_result_in_both_places_changes_nothing():
    model = deep()
    layers = encoder_layers(model)
    layers[2].load_state_dict(layers[1].state_dict())
    before = logits(model)
    share_layers(model, [[1, 2]], weights="mean")
    assert torch.equal(logits(model), before)


def test_replacing_two_equal_layers_by_one_is_a_change_and_the_very_one_of_dropping_one():
    model = deep()
    layers = encoder_layers(model)
    layers[2].load_state_dict(layers[1].state_dict())
    before, dropped = logits(model), copy.deepcopy(model)
    report = merge_layers(model, [[1, 2]])
    drop_layers(dropped, [0, 1, 3])
    assert torch.equal(logits(model), logits(dropped))
    change = (logits(model) - before).square().mean().sqrt() / before.square().mean().sqrt()
    assert change > 0.01  # measured: a layer applied once is not the layer applied twice
    assert report.changed == ["encoder.layer.1, 2: replaced by one (mean)"] and len(encoder_layers(model)) == 3


@pytest.mark.parametrize(
    ("weights", "kept"), [("first", [0, 2]), ("last", [1, 3]), ([1, 0, 1, 0], [0, 2]), ([0, 2, 0, 3], [1, 3])]
)
def test_keeping_one_of_each_group_is_dropping_the_others(weights, kept):
    merged, dropped = merged_copy(deep(), [[2, 3], [0, 1]], weights), deep()
    drop_layers(dropped, kept)
    assert torch.equal(logits(merged), logits(dropped))


def test_the_one_is_the_weighted_mean_of_every_parameter_and_the_file_has_fewer_layers(tmp_path):
    model = tiny(torch.float32)
    layers = [copy.deepcopy(layer) for layer in encoder_layers(model)]
    report = merge_layers(model, [[0, 1]], [1.0, 3.0])
    (one,) = encoder_layers(model)
    for name, p in one.named_parameters():
        assert torch.equal(p, mean_of([layer.get_parameter(name).detach() for layer in layers], [1, 3]))
    assert report.parameters_before - report.parameters_after == sum(p.numel() for p in one.parameters())
    save_model(model, load_tokenizer(find_encoder("tiny")), tmp_path)
    again = load_token_classifier(tmp_path).eval()
    assert torch.equal(logits(again), logits(model)) and layer_shapes(again)["ffn"] == [64]


def test_teaching_moves_only_the_merged_layer_and_brings_it_nearer_to_what_its_group_did():
    original = deep()
    model = merged_copy(original, [[0, 1], [2, 3]])
    before, others = merged_copy(original, [[0, 1], [2, 3]]), {}
    errors = recover_merged(model, original, [[2, 3], [0, 1]], batches(), steps=30, learning_rate=1e-2)
    assert len(errors) == 2 and all(after < 0.7 * was for was, after in errors)
    others = {n: p for n, p in model.named_parameters() if "encoder.layer" not in n}
    assert all(torch.equal(p, before.get_parameter(n)) for n, p in others.items())
    assert not any(
        torch.equal(a, b)
        for a, b in zip(encoder_layers(model)[1].parameters(), encoder_layers(before)[1].parameters(), strict=True)
    )
    assert all(p.grad is None for p in model.parameters()) and not model.training
    again = merged_copy(original, [[0, 1], [2, 3]])
    assert recover_merged(again, original, [[0, 1], [2, 3]], batches(), steps=30, learning_rate=1e-2) == errors


def test_the_error_before_is_that_of_the_merged_layer_on_what_the_group_read():
    original = deep(3)
    model = merged_copy(original, [[1, 2]])
    ((was, _),) = recover_merged(model, original, [[1, 2]], batches(), steps=1, learning_rate=1e-9)
    fresh, squares, count = merged_copy(original, [[1, 2]]), 0.0, 0
    for batch in batches():
        with torch.no_grad():
            ours, theirs = (m.bert(**batch).last_hidden_state[batch["attention_mask"] == 1] for m in (fresh, original))
        squares, count = squares + float((ours - theirs).square().sum()), count + ours.numel()
    assert was == pytest.approx(
        squares / count, rel=1e-9
    )  # the merged one is the last layer: its error is that of the last states


def test_in_the_real_encoder_the_mean_is_farther_off_than_either_layer_until_it_is_taught():
    """Measured, not a theorem: the average of two trained layers is a stranger to both; a few steps of teaching help."""
    encoder, data = real_encoder(), real_batches(16)
    similarity = layer_similarity(encoder, data)
    (pair,) = closest_neighbours(similarity, 1)
    real = [b["attention_mask"] == 1 for b in data]

    def error(model) -> float:
        with torch.no_grad():
            pairs = [
                (model(**b).last_hidden_state[m], encoder(**b).last_hidden_state[m]) for b, m in zip(data, real, strict=True)
            ]
        return sum(float((a - b).square().sum()) for a, b in pairs)

    models = {weights: merged_copy(encoder, [pair], weights) for weights in ("mean", "first", "last")}
    errors = {weights: error(model) for weights, model in models.items()}
    assert errors["mean"] > 1.5 * max(errors["first"], errors["last"]) and min(errors.values()) > 0
    recover_merged(models["mean"], encoder, [pair], data, steps=15, learning_rate=1e-3)
    assert error(models["mean"]) < 0.9 * errors["mean"] and len(encoder_layers(encoder)) == 6


def test_the_closest_pairs_are_chosen_greedily_and_apart():
    cosine = torch.eye(6, dtype=torch.float64)
    for i, value in enumerate([0.1, 0.5, 0.9, 0.8, 0.7]):  # embeddings to layer 0, then layers 0-1, 1-2, 2-3, 3-4
        cosine[i, i + 1] = value
    similarity = Similarity(["embeddings", *(f"layer {i}" for i in range(5))], cosine.flip(0), cosine, 10)
    assert closest_neighbours(similarity, 1) == [[1, 2]]
    assert closest_neighbours(similarity, 2) == [[1, 2], [3, 4]]
    assert closest_neighbours(Similarity(similarity.names, cosine, cosine, 10), 1, "cka") == [[1, 2]]
    with pytest.raises(ValueError, match=r"count = 3: expected between 1 and 2 pairs of 5 layers"):
        closest_neighbours(similarity, 3)
    with pytest.raises(ValueError, match=r"by = 'norm': expected 'cosine' or 'cka'"):
        closest_neighbours(similarity, 1, "norm")
    cosine[2, 3], cosine[3, 4] = 0.1, 0.95  # the middle pair of four layers leaves no second one
    four = Similarity(similarity.names[:5], cosine, torch.tensor([[0.0] * 5] * 5), 10)
    four.cosine[2, 3] = 1.0
    with pytest.raises(CourseError, match=r"the closest neighbours leave room for 1 pairs only"):
        closest_neighbours(four, 2)


def test_bad_input_is_refused_before_anything_changes():
    model = deep()
    before = logits(model)
    for groups, message in (
        ([[0, 2]], r"groups = \[\[0, 2\]\]: expected neighbouring layers, without gaps"),
        ([[3, 4]], "ascending numbers from 0 to 3"),
        ([], "at least two in a group"),
    ):
        with pytest.raises(ValueError, match=message):
            merge_layers(model, groups)
    for weights in ("median", [1.0]):
        with pytest.raises(ValueError, match=r"weights = .*expected 'mean', 'first', 'last' or a number for each layer"):
            merge_layers(model, [[0, 1]], weights)
    with pytest.raises(ValueError, match=r"weights = \[0, 0\]: expected 2 numbers of at least 0, not all 0"):
        merge_layers(model, [[0, 1], [2, 3]], [1, 1, 0, 0])
    assert torch.equal(logits(model), before)
    merged = merged_copy(model, [[0, 1]])
    with pytest.raises(ValueError, match=r"groups = \[\[0, 2\]\]|neighbouring"):
        recover_merged(merged, model, [[0, 2]], batches())
    with pytest.raises(ValueError, match=r"groups = .*expected those that leave 3 of 4 layers"):
        recover_merged(merged, model, [[0, 1], [2, 3]], batches())
    with pytest.raises(ValueError, match=r"steps, learning_rate = \(0, 0.001\)"):
        recover_merged(merged, model, [[0, 1]], batches(), steps=0)
    uneven, masked = tiny(), tiny()
    remove_ffn_neurons(uneven, [torch.arange(60), torch.arange(64)])
    with pytest.raises(CourseError, match=r"differ in intermediate.dense.bias"):
        merge_layers(uneven, [[0, 1]])
    mask_layers(masked, [0])
    with pytest.raises(CourseError, match=r"units of the model are masked"):
        merge_layers(masked, [[0, 1]])
