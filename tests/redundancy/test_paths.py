"""Merged paths: the same outputs but for rounding, less to compute, and models that train, save, load and export."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from redundant_models import EPS, EPS64, batches, logits, real_batches, real_encoder, tiny
from torch import nn

from course_lib.errors import CourseError
from course_lib.layerwise import inputs_of
from course_lib.models.surgery import encoder_layers
from course_lib.models.zoo import find_encoder, load_tokenizer
from course_lib.pruning.structure import remove_heads
from course_lib.pruning.unit_masks import mask_layers
from course_lib.quantization.apply import apply as quantize
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.smooth import InputScaledLinear, Smooth, apply_smooth
from course_lib.redundancy.joined_modules import FoldedEmbeddings, JoinedSelfAttention, join
from course_lib.redundancy.low_rank_layers import LowRank, LowRankLinear, apply
from course_lib.redundancy.paths import (
    compose,
    fold_attention_biases,
    fold_input_scales,
    fold_token_types,
    join_qkv,
    merge_factors,
    merge_paths,
    scaled_input,
)
from course_lib.redundancy.sharing import share_layers
from course_lib.redundancy.storage import export_reduced, load_reduced, save_reduced

# float64 logits of the tiny model are of size 1 to 10 and come of sums of some 10³ terms, each layer magnifying what came before by
# no more than 10 or so: 10³·10²·10·2⁻⁵³ ≈ 1e-10.
ROUNDING = 1e-10
FOLDS = [fold_token_types, fold_attention_biases, join_qkv, lambda m: join_qkv(m, scaled=False), merge_paths]


@pytest.mark.parametrize("fold", FOLDS, ids=["token types", "biases", "qkv scaled", "qkv", "all"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_stay_but_for_rounding(fold, attention):
    model = tiny()
    model.set_attn_implementation(attention)
    before = logits(model)
    fold(model)
    assert (logits(model) - before).abs().max() <= ROUNDING


def test_one_product_gives_what_three_gave_within_the_bound_of_a_dot_product():
    """On inputs of the real encoder, in float32: each entry is a sum of 384 products and a bias, rounded in some order, twice."""
    encoder, data = real_encoder(), real_batches()[0]
    attention = encoder.encoder.layer[2].attention.self
    with inputs_of({"x": attention.query}) as inputs, torch.no_grad():
        encoder(**data)
    x, joined = inputs["x"], JoinedSelfAttention(attention)
    with torch.no_grad():
        parts = joined.qkv(x).split(384, dim=-1)
        for part, linear in zip(parts, (attention.query, attention.key, attention.value), strict=True):
            size = x.abs() @ linear.weight.abs().T + linear.bias.abs()
            assert ((part - linear(x)).abs() <= 2 * 385 * EPS * size).all()


def test_the_real_encoder_with_all_paths_merged_is_as_near_the_exact_one_as_before():
    encoder, data = copy.deepcopy(real_encoder()), real_batches()[0]
    real = data["attention_mask"] == 1
    with torch.no_grad():
        before, exact = encoder(**data).last_hidden_state[real], copy.deepcopy(encoder).double()(**data).last_hidden_state[real]
        report = merge_paths(encoder)
        after = encoder(**data).last_hidden_state[real]
    # The same number of roundings of the same size in another order: within a factor of 4 of PyTorch's own error.
    assert (after - exact).abs().max() <= 4 * (before - exact).abs().max()
    assert len(report.changed) == 1 + 6 + 6
    assert report.parameters_before - report.parameters_after == 2 * 384, "the table of token types"


def test_what_is_constant_takes_no_room_any_more():
    model = tiny(torch.float32)
    types = fold_token_types(model)
    assert types.parameters_before - types.parameters_after == 2 * 32
    biases = fold_attention_biases(model)
    assert biases.parameters_before - biases.parameters_after == 2 * 2 * 32
    joined = join_qkv(model)
    assert joined.parameters_after - joined.parameters_before == 2 * 2 * 32, "one bias of the query, zeros for the other two"


@given(st.integers(0, 99), st.booleans(), st.booleans())
def test_two_linear_maps_are_one(seed, first_bias, second_bias):
    torch.manual_seed(seed)
    first, second = nn.Linear(5, 7, bias=first_bias).double(), nn.Linear(7, 3, bias=second_bias).double()
    one, x = compose(first, second), torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        size = (x.abs() @ first.weight.abs().T + (first.bias.abs() if first_bias else 0)) @ second.weight.abs().T + 1
        assert ((one(x) - second(first(x))).abs() <= 2 * (5 + 7 + 2) * EPS64 * size).all()
    assert (one.bias is not None) == (first_bias or second_bias)


def test_factors_become_a_matrix_again_where_that_is_smaller():
    model = tiny()
    apply(model, {"*.intermediate.dense": LowRank(rank=4), "*.query": LowRank(rank=15)})
    small = "bert.encoder.layer.0.intermediate.dense"
    large = LowRankLinear.from_factors(torch.randn(32, 20).double(), torch.randn(20, 32).double(), torch.zeros(32))
    model.bert.encoder.layer[0].attention.self.query = large
    before = logits(model)
    report = merge_factors(model)
    assert type(model.bert.encoder.layer[0].attention.self.query) is nn.Linear
    assert (logits(model) - before).abs().max() <= ROUNDING * 100  # this query's weights are 20 times the others'
    assert len(report.changed) == 1 and f"{small}: its factors of rank 4 are smaller" in report.skipped
    report = merge_factors(model, all_of_them=True)
    assert len(report.changed) == 3 and not any(isinstance(m, LowRankLinear) for m in model.modules())
    assert (logits(model) - before).abs().max() <= ROUNDING * 100


def test_divisions_of_the_input_go_into_float_weights_and_not_into_codes():
    model = tiny()
    apply_smooth(model, {"*.intermediate.dense": Smooth(), "*.query": Smooth()}, batches())
    quantize(model, {"*.query.linear": Scheme(8)})
    before = logits(model)
    report = fold_input_scales(model)
    assert (logits(model) - before).abs().max() <= ROUNDING
    assert len(report.changed) == 2 and len(report.skipped) == 2 and "whose codes do not take a scale" in report.skipped[0]
    assert isinstance(model.bert.encoder.layer[0].attention.self.query, InputScaledLinear)
    linear, x, s = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([2.0, 0.5, 4.0, 1.0])
    with torch.no_grad():
        assert torch.allclose(scaled_input(linear, s)(x), linear(x * s), rtol=0, atol=2 * 5 * EPS * 20)


def test_layers_without_heads_are_skipped_and_uneven_ones_joined():
    model = tiny()
    remove_heads(model, [torch.tensor([0, 2]), torch.arange(0)])
    before = logits(model)
    report = merge_paths(model)
    assert (logits(model) - before).abs().max() <= ROUNDING
    assert encoder_layers(model)[0].attention.self.qkv.weight.shape == (3 * 16, 32)
    assert len(report.skipped) == 2 and "NoHeads has no linear layers query, key and value" in report.skipped[1]


def test_merged_models_train_save_and_load_also_with_factors(tmp_path):
    model = tiny(torch.float32)
    merge_paths(model)
    apply(model, {"*.qkv": LowRank(rank=10)})
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    loss = model(**batches()[0]).logits.square().mean()
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "pooler" not in n)
    optimizer.step()
    model.eval()
    save_reduced(model, load_tokenizer(find_encoder("tiny")), tmp_path / "m")
    again = load_reduced(tmp_path / "m")
    assert torch.equal(logits(again), logits(model))
    joined = encoder_layers(again)[1].attention.self
    assert type(joined) is JoinedSelfAttention and joined.scaling == 1.0 and joined.qkv.rank == 10
    assert type(again.bert.embeddings) is FoldedEmbeddings


def test_dropout_of_attention_is_on_in_training_and_off_in_evaluation():
    model = tiny()
    join_qkv(model)
    attention, x = encoder_layers(model)[0].attention.self, torch.randn(2, 6, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(attention(x)[0], attention(x)[0])
        attention.train()
        assert not torch.equal(attention(x)[0], attention(x)[0])


def test_exported_the_joined_product_is_one_and_the_logits_are_the_same(tmp_path):
    import onnx
    import onnxruntime

    model = tiny(torch.float32)
    before, exact = logits(model), logits(tiny())
    counts = []
    for fold in (lambda m: None, merge_paths):
        fold(model)
        export_reduced(model, tmp_path / "m.onnx")
        counts.append(sum(node.op_type == "MatMul" for node in onnx.load(tmp_path / "m.onnx").graph.node))
    assert counts[0] - counts[1] == 2 * 2
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for b in (
        {k: v[:1, :5] for k, v in batches()[0].items()},
        batches()[0],
    ):  # another batch and length than it was traced with
        session.run(["logits"], {k: v.numpy() for k, v in b.items()})
    out = [torch.from_numpy(session.run(["logits"], {k: v.numpy() for k, v in b.items()})[0]) for b in batches()]
    got = torch.cat([o[b["attention_mask"] == 1] for o, b in zip(out, batches(), strict=True)])
    # Rounded in another order: as far from the exact logits as PyTorch's own, within a factor of 8.
    assert (got - exact).abs().max() <= 8 * (before - exact).abs().max()


@pytest.mark.oracles
def test_onnx_runtimes_fusion_puts_the_same_weights_side_by_side(tmp_path):
    import onnx

    from course_lib.deploy.export import export_onnx
    from course_lib.models.zoo import save_model

    model = tiny(torch.float32)
    save_model(model, load_tokenizer(find_encoder("tiny")), tmp_path)
    export_onnx(tmp_path, tmp_path / "fused.onnx")
    graph = onnx.load(tmp_path / "fused.onnx").graph
    tables = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Attention"]
    for node, layer in zip(nodes, encoder_layers(model), strict=True):
        ours = JoinedSelfAttention(layer.attention.self).qkv
        assert torch.equal(tables[node.input[1]].T, ours.weight) and torch.equal(tables[node.input[2]], ours.bias)


def test_only_the_folded_token_type_is_read():
    model, types = tiny(), torch.ones(4, 12, dtype=torch.long)
    given = batches()[0]
    with torch.no_grad():
        due = model(**given, token_type_ids=types).logits
        fold_token_types(model, token_type=1)
        for got in (model(**given).logits, model(**given, token_type_ids=types).logits):
            assert (got - due)[given["attention_mask"] == 1].abs().max() <= ROUNDING
        with pytest.raises(
            ValueError, match=r"token_type_ids = '48 of another type': expected type 1 alone, which is folded in"
        ):
            model(**given, token_type_ids=0 * types)
        words = model.bert.embeddings.word_embeddings(given["input_ids"])
        assert torch.equal(model.bert.embeddings(inputs_embeds=words), model.bert.embeddings(given["input_ids"]))


def test_bad_input_is_refused_before_anything_changes():
    model = tiny()
    before = logits(model)
    for fold, message in (
        (merge_factors, "expected a low-rank layer whose factors are no smaller"),
        (fold_input_scales, "expected a float linear layer behind a division"),
        (lambda m: fold_token_types(nn.Sequential()), "expected BERT's embeddings; found none"),
    ):
        with pytest.raises(CourseError, match=message):
            fold(model)
    with pytest.raises(ValueError, match=r"token_type = 2: expected one of 2 token types"):
        fold_token_types(model, 2)
    with pytest.raises(ValueError, match=r"second = 4: expected 7 inputs, which first gives"):
        compose(nn.Linear(5, 7), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"scale = \(3,\): expected 4 finite numbers"):
        scaled_input(nn.Linear(4, 3), torch.ones(3))
    with pytest.raises(ValueError, match=r"linears = \[4, 5\]: expected at least one layer, all of the same number of inputs"):
        join([nn.Linear(4, 3), nn.Linear(5, 3)], (1.0, 1.0))
    with pytest.raises(ValueError, match=r"factors = \(1.0,\): expected a number for each of 2 layers"):
        join([nn.Linear(4, 3), nn.Linear(4, 3)], (1.0,))
    assert torch.equal(logits(model), before)
    merge_paths(model)
    for fold, message in (
        (fold_token_types, "FoldedEmbeddings: expected word, position and token_type embeddings"),
        (fold_attention_biases, "expected layers whose key or value has a bias"),
        (join_qkv, "expected a layer whose query, key and value are linear layers"),
    ):
        with pytest.raises(CourseError, match=message):
            fold(model)
    with pytest.raises(CourseError, match=r"Linear: expected the linear layers query, key and value"):
        JoinedSelfAttention(nn.Linear(2, 2))
    shared, masked = tiny(), tiny()
    share_layers(shared, [[0, 1]])
    mask_layers(masked, [0])
    for fold in (join_qkv, fold_attention_biases):
        with pytest.raises(CourseError, match=r"is shared with another layer; call unshare"):
            fold(shared)
        with pytest.raises(CourseError, match=r"units of the model are masked"):
            fold(masked)
