"""Grids of replicas × parts compute what one process computes; their groups are those of torch's device mesh."""

import doctest

import model_launches
import pytest
import torch
from hybrid_jobs import MICRO_BATCHES, SENTENCES, SHAPES

from course_lib.parallel import hybrid
from course_lib.parallel.collectives import chunk_bounds
from course_lib.parallel.cost import data_cost, hybrid_cost, pipeline_cost, tensor_cost
from course_lib.parallel.hybrid import mesh_ranks
from course_lib.parallel.schedule import one_f_one_b

EPS = torch.finfo(torch.float64).eps
SIZES = {"": (SENTENCES, 4, 12 * 32), "real ": (4, 6, 8 * 384)}  # sentences, layers, L·D
GRIDS = [shape for shapes in SHAPES.values() for shape in shapes]
CASES = [(shape, "") for shape in GRIDS] + [((2, 2), "real ")]


def on(shape: tuple[int, int]) -> list[dict]:
    """What each worker of a grid found."""
    return [found["hybrid"][shape] for found in model_launches.results(shape[0] * shape[1])]


@pytest.fixture(scope="module")
def ranks() -> list[dict]:
    """What each of 2 × 2 workers found that needs one grid alone."""
    return [found["hybrid"] for found in model_launches.results(4)]


def shares(sentences: int, replicas: int) -> list[int]:
    """Sentences of each replica."""
    return [end - start for start, end in chunk_bounds(sentences, replicas)]


def test_neighbours_share_a_replica_and_every_part_has_its_column():
    found = [rank["mesh"] for rank in on((2, 2))]
    assert [rank["place"] for rank in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [rank["model"] for rank in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [rank["data"] for rank in found] == [[0, 2], [1, 3], [0, 2], [1, 3]]


@pytest.mark.oracles
@pytest.mark.parametrize("shape", GRIDS)
def test_the_grid_is_that_of_init_device_mesh(shape):
    for rank in on(shape):
        assert rank["torch"] == {"ranks": [list(row) for row in mesh_ranks(*shape)], **rank["mesh"]}


@pytest.mark.oracles
def test_gradients_are_those_of_parallelize_module_and_distributed_data_parallel_on_a_device_mesh(ranks):
    for found in (rank["oracle"] for rank in ranks):
        assert found["names"] and found["distance"] <= found["tolerance"]


@pytest.mark.parametrize(("shape", "model"), [(s, f"{e}tensor") for s, e in CASES] + [(s, "tied tensor") for s in GRIDS])
def test_data_and_tensor_parallelism_together_equal_one_process(shape, model):
    for found in (rank[model] for rank in on(shape)):
        assert found["again"].endswith("expected none before a step: zero_grad() first")
        assert found["names"] and max(found["loss"], found["gradients"]) <= found["tolerance"]
        rounding = found["values"] * EPS  # a sum of so many squares, in another order
        assert found["shrunk"] and found["norm"] <= rounding and found["clipped"] <= found["tolerance"] + rounding


@pytest.mark.parametrize(("shape", "encoder"), CASES)
@pytest.mark.parametrize("kind", ["gpipe", "one_f_one_b"])
def test_data_and_pipeline_parallelism_together_equal_one_process(shape, encoder, kind):
    for rank in on(shape):
        whole = rank[f"{encoder}pipeline"]
        found, rounding = whole["runs"][kind], whole["values"] * EPS
        assert max(found["loss"], found["gradients"]) <= whole["tolerance"]
        assert found["norm"] <= rounding and found["clipped"] <= whole["tolerance"] + rounding


def test_gradients_are_summed_along_a_column_and_those_that_no_replica_has_stay_away(ranks):
    by_column = [
        [[4.0, 4.0], [5.0, 6.0], None],
        [[6.0, 6.0], [5.0, 6.0], None],
    ]  # of ranks 0 and 2 it is 1 + 3, of 1 and 3 2 + 4
    assert [rank["summed"] for rank in ranks] == 2 * by_column


def test_a_stage_of_which_nothing_is_trained_sends_no_gradients_and_the_other_is_trained(ranks):
    for rank, found in enumerate(found["frozen"] for found in ranks):
        for number, case in found.items():
            assert max(case["loss"], case["gradients"]) <= case["tolerance"]
            assert (case["trained"] > 0) == (case["sent"] > 0) == (rank % 2 != number)


@pytest.mark.parametrize(("shape", "encoder"), CASES)
def test_bytes_and_messages_of_data_and_tensor_are_those_of_the_cost_model(shape, encoder):
    (sentences, layers, elements), (data, parts) = SIZES[encoder], shape
    found = [rank[f"{encoder}tensor"] for rank in on(shape)]
    columns = [data_cost([found[part]["bucket"]], 8, data) for part in range(parts)]
    cost = hybrid_cost([tensor_cost(layers, n * elements, 8, parts) for n in shares(sentences, data)], columns)
    assert tuple(f["inside"].bytes + f["between"].bytes for f in found) == cost.bytes
    assert tuple(f["inside"].messages + f["between"].messages for f in found) == cost.messages


@pytest.mark.parametrize(("shape", "encoder"), CASES)
def test_bytes_messages_and_ticks_of_data_and_pipeline_are_those_of_the_cost_model(shape, encoder):
    (sentences, _, elements), (data, parts) = SIZES[encoder], shape
    found = [rank[f"{encoder}pipeline"] for rank in on(shape)]
    schedule = one_f_one_b(parts, MICRO_BATCHES)
    replicas = [
        pipeline_cost(schedule, [8 * elements * k for k in shares(n, MICRO_BATCHES)], found[0]["tied"])
        for n in shares(sentences, data)
    ]
    cost = hybrid_cost(replicas, [data_cost([elements], 8, data) for elements in found[0]["buckets"][:parts]])
    assert tuple(f["inside"].bytes + f["between"].bytes for f in found) == cost.bytes
    assert tuple(f["inside"].messages + f["between"].messages for f in found) == cost.messages
    assert {f["ticks"] for f in found} == {cost.ticks}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("grid", "ValueError: data × model = (3, 2): expected a product of 4, the number of workers"),
        ("few", "ValueError: batch = (1, 12): expected at least 2 sentences, 1 for each replica"),
        ("no label", "ValueError: tokens = 0: expected at least one token with a label"),
        ("unlike tensor", "ValueError: batch and micro-batches = {0: ({'ids': ((9, 12), "),
        ("unlike pipeline", "ValueError: batch and micro-batches = {0: ({'ids': ((9, 12), "),
        ("few for micro-batches", "ValueError: batch = (3, 12): expected at least 4 sentences, 2 for each replica"),
        ("micro-batches", "ValueError: batch and micro-batches = {0: "),
        ("mask", "ValueError: attention_mask = (9, 11): expected the ids' (9, 12)"),
        ("labels", "ValueError: labels = (8, 12): expected the ids' 9 sentences"),
        ("agreed", "not refused"),
        ("agreed pipeline", "not refused"),
    ],
)
def test_what_cannot_work_is_refused_by_every_worker_with_the_same_words(ranks, what, message):
    told = {rank["refused"][what] for rank in ranks}
    assert len(told) == 1 and told.pop().startswith(message), ranks[0]["refused"][what]


def test_grids_that_there_are_not_are_refused():
    assert doctest.testmod(hybrid).failed == 0 < doctest.testmod(hybrid).attempted
    with pytest.raises(ValueError, match="data = 0: expected at least 1 replica"):
        mesh_ranks(0, 2)
    with pytest.raises(ValueError, match="model = 0: expected at least 1 worker for each replica"):
        mesh_ranks(2, 0)
