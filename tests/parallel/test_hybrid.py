"""A grid of 2 replicas × 2 parts computes what one process computes; its groups are those of torch's device mesh."""

import doctest

import model_launches
import pytest
import torch

from course_lib.parallel import hybrid
from course_lib.parallel.cost import data_cost, hybrid_cost, pipeline_cost, tensor_cost
from course_lib.parallel.hybrid import mesh_ranks
from course_lib.parallel.schedule import one_f_one_b

EPS = torch.finfo(torch.float64).eps
SHARES = {"": ([4, 3], 4, 12 * 32), "real ": ([2, 2], 6, 8 * 384)}  # sentences of each replica, layers, L·D


@pytest.fixture(scope="module")
def ranks() -> list[dict]:
    """What each worker found."""
    return [found["hybrid"] for found in model_launches.results(4)]


def test_neighbours_share_a_replica_and_every_part_has_its_column(ranks):
    assert [rank["mesh"]["place"] for rank in ranks] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [rank["mesh"]["model"] for rank in ranks] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [rank["mesh"]["data"] for rank in ranks] == [[0, 2], [1, 3], [0, 2], [1, 3]]


@pytest.mark.oracles
def test_the_grid_is_that_of_init_device_mesh(ranks):
    for rank in ranks:
        assert rank["torch"] == {"ranks": [[0, 1], [2, 3]], **rank["mesh"]}
    assert mesh_ranks(2, 2) == ((0, 1), (2, 3))


@pytest.mark.parametrize("name", ["tensor", "real tensor"])
def test_data_and_tensor_parallelism_together_equal_one_process(ranks, name):
    for found in (rank[name] for rank in ranks):
        assert found["again"].endswith("expected none before a step: zero_grad() first")
        assert found["names"] and max(found["loss"], found["gradients"]) <= found["tolerance"]
        assert found["norm"] <= found["values"] * EPS  # a sum of so many squares, in another order


@pytest.mark.parametrize("name", ["pipeline", "real pipeline"])
@pytest.mark.parametrize("kind", ["gpipe", "one_f_one_b"])
def test_data_and_pipeline_parallelism_together_equal_one_process(ranks, name, kind):
    for rank in ranks:
        found = rank[name]["runs"][kind]
        assert max(found["loss"], found["gradients"]) <= rank[name]["tolerance"]
        assert found["norm"] <= rank[name]["values"] * EPS


def test_gradients_are_summed_along_a_column_and_those_that_no_replica_has_stay_away(ranks):
    by_column = [
        [[4.0, 4.0], [5.0, 6.0], None],
        [[6.0, 6.0], [5.0, 6.0], None],
    ]  # of ranks 0 and 2 it is 1 + 3, of 1 and 3 2 + 4
    assert [rank["summed"] for rank in ranks] == 2 * by_column


@pytest.mark.parametrize("encoder", SHARES)
def test_bytes_and_messages_of_data_and_tensor_are_those_of_the_cost_model(ranks, encoder):
    sentences, layers, elements = SHARES[encoder]
    found = [rank[f"{encoder}tensor"] for rank in ranks]
    columns = [data_cost([found[part]["bucket"]], 8, 2) for part in range(2)]
    cost = hybrid_cost([tensor_cost(layers, n * elements, 8, 2) for n in sentences], columns)
    assert tuple(f["inside"].bytes + f["between"].bytes for f in found) == cost.bytes
    assert tuple(f["inside"].messages + f["between"].messages for f in found) == cost.messages


@pytest.mark.parametrize("encoder", SHARES)
def test_bytes_messages_and_ticks_of_data_and_pipeline_are_those_of_the_cost_model(ranks, encoder):
    sentences, _, elements = SHARES[encoder]
    found = [rank[f"{encoder}pipeline"] for rank in ranks]
    replicas = [
        pipeline_cost(one_f_one_b(2, 2), [8 * elements * (n - n // 2), 8 * elements * (n // 2)], found[0]["tied"])
        for n in sentences
    ]
    cost = hybrid_cost(replicas, [data_cost([elements], 8, 2) for elements in found[0]["buckets"][:2]])
    assert tuple(f["inside"].bytes + f["between"].bytes for f in found) == cost.bytes
    assert tuple(f["inside"].messages + f["between"].messages for f in found) == cost.messages
    assert {f["ticks"] for f in found} == {cost.ticks} and cost.peak_activations == (2, 1, 2, 1)


def test_grids_and_batches_that_do_not_fit_are_refused(ranks):
    assert doctest.testmod(hybrid).failed == 0 < doctest.testmod(hybrid).attempted
    for found in (rank["refused"] for rank in ranks):
        assert found["grid"] == "ValueError: data × model = (3, 2): expected a product of 4, the number of workers"
        assert found["few"] == "ValueError: batch = (1, 12): expected at least 2 sentences, one for each replica"
        assert found["no label"] == "ValueError: tokens = 0: expected at least one token with a label"
    with pytest.raises(ValueError, match="data = 0: expected at least 1 replica"):
        mesh_ranks(0, 2)
    with pytest.raises(ValueError, match="model = 0: expected at least 1 worker for each replica"):
        mesh_ranks(2, 0)
