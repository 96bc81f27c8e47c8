"""Low rank in a model: full rank changes nothing, budgets are kept, and what would not become smaller is left with a reason."""

import copy

import pytest
import torch
from redundant_models import EPS, batches, logits, real_batches, real_encoder, tiny
from torch import nn

from course_lib.calibration import Hessian
from course_lib.errors import CourseError
from course_lib.layerwise import collect
from course_lib.measure.size import macs_per_token
from course_lib.obs import output_error
from course_lib.pruning.structure import remove_ffn_neurons
from course_lib.redundancy.activation_low_rank import activation_factors
from course_lib.redundancy.low_rank import largest_saving_rank, rank_for_energy, singular_values, svd_factors
from course_lib.redundancy.low_rank_layers import LowRank, LowRankLinear, apply
from course_lib.redundancy.rank_latency import Latency

FFN = "*.intermediate.dense"
NAME = "bert.encoder.layer.{}.intermediate.dense"


def low_rank_weight(linear: nn.Linear, rank: int) -> None:
    """Give a layer a weight of this rank."""
    with torch.no_grad():
        linear.weight.copy_(torch.matmul(*svd_factors(linear.weight, rank)))


def test_a_layer_of_factors_computes_their_product():
    left, right, x = torch.randn(6, 2), torch.randn(2, 5), torch.randn(3, 4, 5)
    bias = torch.randn(6)
    layer = LowRankLinear.from_factors(left, right, bias)
    size = x.abs() @ (left.abs() @ right.abs()).T + bias.abs()
    with torch.no_grad():
        error = layer(x) - (x @ (left @ right).T + bias)
    assert (error.abs() <= 2 * (5 + 2 + 1) * EPS * size).all()  # two ways to add up 5·2 products and a bias
    assert "in_features=5, out_features=6, rank=2" in str(layer)
    assert LowRankLinear.from_factors(left, right, None).up.bias is None


@pytest.mark.parametrize("given", [None, "batches"])
def test_weights_that_have_a_low_rank_are_replaced_without_a_change(given):
    model = tiny()
    for i in range(2):
        low_rank_weight(model.get_submodule(NAME.format(i)), 5)
    before = logits(model)
    report = apply(model, {FFN: LowRank(rank=5)}, given and batches())
    # float64: errors of some thousand operations, in a network whose logits are of the size of 1 to 10; the weights that the data
    # see are met to √ε with damping, as a direction that no input takes is free.
    assert (logits(model) - before).abs().max() <= 1e-9
    assert len(report.changed) == 2 and "rank 5 of 32 keeps 100.0% of the energy (rank 5)" in report.changed[0]
    assert report.bytes_before - report.bytes_after == 2 * 8 * (64 * 32 - 5 * (64 + 32))


def test_ranks_follow_the_energy_of_each_layer_and_multiply_adds_the_ranks():
    model, dense = tiny(torch.float32), tiny(torch.float32)
    apply(model, {FFN: LowRank(energy=0.5)})
    macs = macs_per_token(dense, 10)
    for i in range(2):
        weight, layer = dense.get_submodule(NAME.format(i)).weight, model.get_submodule(NAME.format(i))
        assert layer.rank == rank_for_energy(singular_values(weight), 0.5)
        due = torch.matmul(*svd_factors(weight, layer.rank))
        assert torch.equal(layer.up.weight @ layer.down.weight, due)
        assert torch.equal(layer.up.bias, dense.get_submodule(NAME.format(i)).bias)
        macs += layer.rank * (64 + 32) - 64 * 32
    assert macs_per_token(model, 10) == macs


def test_with_sentences_each_layer_is_solved_on_what_the_layers_before_put_out():
    model, original = tiny(), tiny()
    apply(model, {FFN: LowRank(rank=4)}, batches(), damping=1e-4)
    seen = copy.deepcopy(original)
    seen.bert.encoder.layer[0].intermediate.dense = model.bert.encoder.layer[0].intermediate.dense
    linear = seen.get_submodule(NAME.format(1))
    moment = collect(seen, {"it": linear}, batches(), Hessian)["it"].matrix()
    left, right = activation_factors(linear.weight, moment, 4, damping=1e-4)
    layer = model.get_submodule(NAME.format(1))
    # The same inputs added up in the same order, but by other batches of rows in a product: equal but for rounding.
    torch.testing.assert_close(layer.up.weight @ layer.down.weight, left @ right, rtol=1e-9, atol=1e-9)
    plain = torch.matmul(*svd_factors(linear.weight, 4))
    weight = linear.weight.detach()
    assert output_error(weight, left @ right, moment) < output_error(weight, plain, moment)


def test_budgets_of_bytes_and_milliseconds_are_kept_and_used():
    model = tiny(torch.float32)
    apply(model, {FFN: LowRank(bytes=4000)})
    rank = model.get_submodule(NAME.format(0)).rank
    assert rank * 96 * 4 <= 4000 < (rank + 1) * 96 * 4
    model, latency = tiny(torch.float32), Latency(overhead=0.01, per_mac=1e-6, tokens=100)
    apply(model, {FFN: LowRank(milliseconds=0.1)}, latency=latency)
    rank = model.get_submodule(NAME.format(0)).rank
    assert latency.factored((64, 32), rank) <= 0.1 < latency.factored((64, 32), rank + 1)


def test_what_would_not_become_smaller_is_skipped_with_a_reason():
    model = tiny(torch.float32)
    remove_ffn_neurons(model, [torch.arange(0), torch.arange(64)])
    with torch.no_grad():  # of full energy at every rank
        model.bert.encoder.layer[1].attention.self.query.weight.copy_(torch.eye(32))
    plan = {FFN: LowRank(rank=3), "*.query": LowRank(energy=0.9), "classifier": LowRank(rank=3)}
    report = apply(model, plan)
    reasons = "\n".join(report.skipped)
    assert f"{NAME.format(0)}: it has no weights left" in reasons
    assert "layer.1.attention.self.query: two factors of rank 29 have 1,856 numbers, the matrix 1,024" in reasons
    assert "classifier: two factors of rank 3 have 105 numbers, the matrix 96" in reasons
    assert type(model.classifier) is nn.Linear and type(model.get_submodule(NAME.format(1))) is LowRankLinear
    assert largest_saving_rank((3, 32)) == 2


def test_nothing_that_would_become_smaller_is_an_error():
    model = tiny(torch.float32)
    with pytest.raises(CourseError, match=r"no layer would become smaller \(classifier: two factors.*Nothing was changed"):
        apply(model, {"classifier": LowRank(rank=3)})
    with pytest.raises(CourseError, match=r"no layer would become smaller"):
        apply(model, {"classifier": LowRank(rank=3)}, batches())
    assert type(model.classifier) is nn.Linear


def test_on_the_real_encoder_sentences_make_the_better_factors():
    """Measured, not a theorem: the last hidden states after half of the bytes of two feed-forward layers have gone."""
    plan = {"encoder.layer.[01].intermediate.dense": LowRank(bytes=384 * 1536 * 4 / 2)}
    encoder, data = real_encoder(), real_batches()
    with torch.no_grad():
        due = [encoder(**b).last_hidden_state[b["attention_mask"] == 1] for b in data]
    errors = []
    for given in (None, data):
        model = copy.deepcopy(encoder)
        report = apply(model, plan, given)
        assert report.bytes_before - report.bytes_after == 2 * 4 * (384 * 1536 - 153 * (384 + 1536))
        with torch.no_grad():
            got = [model(**b).last_hidden_state[b["attention_mask"] == 1] for b in data]
        errors.append(sum(float((a - b).square().sum()) for a, b in zip(got, due, strict=True)))
    assert errors[1] < errors[0] / 2


def test_bad_input_is_refused_before_anything_changes():
    model = tiny(torch.float32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    name = NAME.format(0)
    for plan, kind, message in (
        ({}, ValueError, "plan = {}"),
        ({"nothing": LowRank(rank=2)}, CourseError, "'nothing' matches nothing"),
        ({"*": 3}, ValueError, r"plan\['\*'\] = 3: expected a LowRank"),
        ({FFN: LowRank(rank=33)}, ValueError, f"{name}: rank = 33: expected a whole number between 1 and 32"),
        ({FFN: LowRank(rank=2), "classifier": LowRank(rank=4)}, ValueError, "classifier: rank = 4"),
        ({FFN: LowRank(bytes=10)}, ValueError, f"{name}: budget = 10: expected at least 384 bytes"),
        ({FFN: LowRank(milliseconds=1)}, ValueError, f"{name}: latency = None: expected a Latency"),
    ):
        with pytest.raises(kind, match=message):
            apply(model, plan)
    with pytest.raises(ValueError, match=r"batches = \[\]: expected at least one batch"):
        apply(model, {FFN: LowRank(rank=2)}, [])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for fields in ({}, {"rank": 2, "energy": 0.5}):
        with pytest.raises(ValueError, match=r"LowRank = .*expected exactly one of rank, energy, bytes, milliseconds"):
            LowRank(**fields)
    with pytest.raises(ValueError, match=r"energy = 1.5: expected a share"):
        LowRank(energy=1.5)
