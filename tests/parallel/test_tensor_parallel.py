"""Tensor parallelism at 2 and 4 workers computes what one process computes, and sends what the cost model says."""

import doctest

import model_launches
import pytest
import torch
from torch import nn

from course_lib.parallel import tensor_parallel
from course_lib.parallel.cost import tensor_cost
from course_lib.parallel.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_workers,
    even_part,
    part,
    reduce_from_workers,
    slice_rows,
)

WORKERS = (2, 4)
EPS = torch.finfo(torch.float64).eps
SIZES = {
    "tiny": (4, 7 * 12 * 32, True),
    "tied": (4, 7 * 12 * 32, False),
    "real": (6, 3 * 8 * 384, True),
}  # layers, B·L·D, words


@pytest.fixture(scope="module", params=WORKERS)
def ranks(request) -> list[dict]:
    """What each worker found."""
    return [found["tensor"] for found in model_launches.results(request.param)]


def test_the_examples_hold():
    assert doctest.testmod(tensor_parallel).failed == 0 < doctest.testmod(tensor_parallel).attempted


@pytest.mark.parametrize("name", SIZES)
def test_outputs_loss_and_every_gradient_equal_one_process(ranks, name):
    for found in (rank[name] for rank in ranks):
        assert found["names"] and found["parameters"] == {"tiny": 71, "tied": 74, "real": 103}[name]
        assert max(found["logits"], found["loss"], found["gradients"]) <= found["tolerance"]


@pytest.mark.parametrize("name", SIZES)
def test_weights_put_together_are_the_whole_models_to_the_bit(ranks, name):
    assert all(rank[name]["weights_equal"] for rank in ranks)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_whole_on_every_worker_has_the_same_gradient_there_to_the_bit(ranks, name):
    assert all(rank[name]["whole_gradients_equal"] for rank in ranks)


@pytest.mark.parametrize("name", SIZES)
def test_bytes_and_messages_are_those_of_the_cost_model(ranks, name):
    layers, elements, vocabulary = SIZES[name]
    cost = tensor_cost(layers, elements, 8, len(ranks), vocabulary)
    assert tuple(rank[name]["traffic"].bytes for rank in ranks) == cost.bytes
    assert tuple(rank[name]["traffic"].messages for rank in ranks) == cost.messages


@pytest.mark.parametrize("name", SIZES)
def test_a_worker_holds_its_share_of_what_is_split_and_frees_the_rest(ranks, name):
    for found in (rank[name] for rank in ranks):
        before, after = found["bytes"]
        assert before - after == 8 * (found["in_layers"] - found["split"])
    assert sum(rank[name]["split"] for rank in ranks) == ranks[0][name]["in_layers"]


def test_the_report_says_what_a_worker_has_left(ranks):
    heads, neurons = 4 // len(ranks), 64 // len(ranks)
    line = f"bert.encoder.layer.0: 4 → {heads} heads, 64 → {neurons} feed-forward neurons"
    assert ranks[0]["tiny"]["changed"][0] == line and len(ranks[0]["tiny"]["changed"]) == 5
    assert ranks[0]["tiny"]["changed"][4] == f"bert.embeddings.word_embeddings: 130 → {-(-130 // len(ranks))} rows"


def test_clipping_by_the_norm_of_all_slices_is_clipping_in_one_process(ranks):
    for found in (rank["clipped"] for rank in ranks):
        assert found["norm"] <= 54947 * EPS  # a sum of so many squares, in another order
        assert found["gradients"] <= found["tolerance"] + 54947 * EPS


def test_a_gradient_that_is_not_finite_is_found_and_its_rank_named(ranks):
    for found in (rank["clipped"] for rank in ranks):
        assert "ValueError: gradients = {0: " in found["nan"] and "1: nan" in found["nan"]


def test_rows_of_an_embedding_need_not_divide_and_padding_gets_no_gradient(ranks):
    assert all(rank["embedding"]["outputs"] and rank["embedding"]["gradients"] for rank in ranks)
    assert [i for rank in ranks for i in range(rank["embedding"]["rows"].start, rank["embedding"]["rows"].stop)] == list(
        range(11)
    )


@pytest.mark.oracles
def test_slices_outputs_and_gradients_are_those_of_parallelize_module(ranks):
    for found in (rank["torch"] for rank in ranks):
        assert found["same_slices"] and max(found["logits"], found["gradients"]) <= found["tolerance"]


def test_workers_that_do_not_divide_heads_or_neurons_are_refused_before_anything_changes(ranks):
    for found in (rank["refused"] for rank in ranks):
        due = f"ValueError: workers = {len(ranks)}: expected a divisor of the "
        assert found["heads"] == due + "5 attention heads of bert.encoder.layer.0"
        assert found["neurons"] == due + "63 feed-forward neurons of bert.encoder.layer.0" and found["unchanged"]


def test_a_model_that_is_split_or_tied_is_refused(ranks):
    for found in (rank["refused"] for rank in ranks):
        assert found["twice"].startswith("CourseError: BertForTokenClassification holds slices already")
        assert "word_embeddings.weight and cls.predictions.decoder.weight are one matrix (tied)" in found["tied"]


def test_batches_that_differ_between_workers_are_refused_by_all_of_them(ranks):
    for found in (rank["refused"] for rank in ranks):
        assert found["shapes"].startswith("ValueError: inputs = {0: {'input_ids': ((6, 12)")
        assert found["values"].startswith("ValueError: inputs = {0: {'input_ids': ((7, 12)")
        assert found["agreed"] == "not refused"


# Without processes: all workers' parts, one after the other.


def test_column_and_row_parts_of_two_layers_add_up_to_both_layers():
    torch.manual_seed(0)
    first, second, x = nn.Linear(6, 8).double(), nn.Linear(8, 5, bias=False).double(), torch.randn(3, 6, dtype=torch.float64)
    due = second(torch.relu(first(x)))
    parts = [
        RowParallelLinear(second, rank, 4, lambda y: y)(torch.relu(ColumnParallelLinear(first, rank, 4, lambda y: y)(x)))
        for rank in range(4)
    ]
    bound = 8 * EPS * (second.weight.abs() @ torch.relu(first(x)).abs().T).max()  # a sum of 8 terms in another order
    assert (sum(parts) - due).abs().max() <= bound


def test_f_sums_gradients_and_g_sums_outputs():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = copy_to_workers(x, lambda t: 10 * t)
    y.sum().backward()
    assert y.tolist() == [1, 2] and x.grad.tolist() == [10, 10]
    z = torch.tensor([1.0, 2.0], requires_grad=True)
    y = reduce_from_workers(z, lambda t: 10 * t)
    y.sum().backward()
    assert y.tolist() == [10, 20] and z.grad.tolist() == [1, 1]


def test_slices_are_copies_with_their_biases_or_without_and_keep_what_is_frozen():
    linear = nn.Linear(3, 4)
    linear.weight.requires_grad_(False)
    own = slice_rows(linear, slice(1, 3))
    assert torch.equal(own.weight, linear.weight[1:3]) and torch.equal(own.bias, linear.bias[1:3])
    assert own.weight.untyped_storage().nbytes() == 2 * 3 * 4
    assert not own.weight.requires_grad and own.bias.requires_grad
    assert slice_rows(nn.Linear(3, 4, bias=False), slice(0, 2)).bias is None


def test_parts_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="rank = 2: expected between 0 and 1"):
        part(4, 2, 2)
    with pytest.raises(ValueError, match="workers = 0: expected at least 1"):
        part(4, 0, 0)
    with pytest.raises(ValueError, match="workers = 3: expected a divisor of the 4 inputs"):
        RowParallelLinear(nn.Linear(4, 2), 0, 3, lambda x: x)
    with pytest.raises(ValueError, match="workers = 2: expected a divisor of the 5 outputs"):
        ColumnParallelLinear(nn.Linear(4, 5), 0, 2, lambda x: x)
    with pytest.raises(ValueError, match="workers = 2: expected a divisor of the 0 heads"):
        even_part("heads", 0, 0, 2)
