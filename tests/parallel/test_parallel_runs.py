"""The table of what parallel training costs: the same losses in every way, and figures that are what they say."""

import model_launches
import pytest
import torch

from course_lib.measure import parallel_runs
from course_lib.measure.parallel_runs import MICRO_BATCHES, ROWS, WAYS, drawn_batch, rows
from course_lib.parallel.cost import moment_bytes, pipeline_cost, sharded_cost, tensor_cost
from course_lib.parallel.schedule import gpipe, one_f_one_b

HIDDEN = 8 * 16 * 32  # B·L·D
GRID = "data × tensor, 2 × 2"
SPREAD = [way for way, workers, _ in ROWS if workers > 1]


@pytest.fixture(scope="module")
def row() -> dict:
    """The row of one process, at the size that the workers measured too."""
    (made,) = rows(model_launches.WORK, (("one process", 1, 1),))
    return made


@pytest.fixture(scope="module")
def measured() -> dict[str, list[dict]]:
    """What two and four workers measured, by way."""
    launched = [[rank["measured"] for rank in model_launches.results(workers)] for workers in (2, 4)]
    return {way: [rank[way] for rank in found] for found in launched for way in found[0]}


def test_a_row_has_the_figures_of_one_process(row):
    assert list(row) == "way workers threads seconds_per_step cpu_seconds_per_step peak_mib mib_sent messages losses".split()
    assert (row["way"], row["workers"], row["mib_sent"], row["messages"]) == ("one process", 1, [0.0], [0])
    assert (
        row["seconds_per_step"] > 0 and row["cpu_seconds_per_step"][0] > 0 and len(row["losses"]) == 4
    )  # one to warm up, two timed, one for the memory
    assert row["losses"][3] < row["losses"][0]


def test_a_row_of_more_workers_than_cores_says_that_they_share_them(monkeypatch):
    figures = {"seconds": [1.0], "cpu_seconds": [1.0], "peak_bytes": 1, "bytes": 1, "messages": 1, "losses": [1.0]}
    monkeypatch.setattr(parallel_runs, "run", lambda fn, workers, *_, threads: [figures] * workers)
    monkeypatch.setattr(parallel_runs, "processors", lambda: 2)
    made = {row["way"]: row for row in rows()}
    assert list(made) == ["one process", *SPREAD[:-1], f"{GRID}; 4 workers on 2 cores"]
    assert (made[f"{GRID}; 4 workers on 2 cores"]["workers"], made[f"{GRID}; 4 workers on 2 cores"]["threads"]) == (4, 1)
    monkeypatch.setattr(parallel_runs, "processors", lambda: 4)
    assert rows()[-1]["way"] == GRID


@pytest.mark.parametrize("way", SPREAD)
def test_every_way_has_the_loss_of_one_process(row, measured, way):
    # Sums in another order: over 3·32 + 8 + 16 + 64 terms in each of 2 layers, then over the logits of 128 pieces.
    bound = torch.finfo(torch.float32).eps * (2 * (3 * 32 + 8 + 16 + 64) + 128) * row["losses"][0]
    assert all(abs(found["losses"][0] - row["losses"][0]) <= bound for found in measured[way])
    assert all(found["losses"] == measured[way][0]["losses"] and len(found["seconds"]) == 2 for found in measured[way])


def test_bytes_are_those_of_the_cost_model_and_of_one_step(measured):
    tensor = tensor_cost(2, HIDDEN, 4, 2, vocabulary=True)
    sizes = [4 * HIDDEN // MICRO_BATCHES] * MICRO_BATCHES
    pipelines = [pipeline_cost(kind(2, MICRO_BATCHES), sizes) for kind in (gpipe, one_f_one_b)]
    for way, cost in (("tensor", tensor), ("pipeline, GPipe", pipelines[0]), ("pipeline, 1F1B", pipelines[1])):
        assert tuple(found["bytes"] for found in measured[way]) == cost.bytes
        assert tuple(found["messages"] for found in measured[way]) == cost.messages


def test_a_sharded_optimizer_sends_the_weights_round_once_more_and_takes_the_same_steps_with_half_the_moments(measured):
    plain, sharded = measured["data"], measured["data, sharded optimizer"]
    size = plain[0]["parameters"]
    cost = sharded_cost(size, 4, 2)
    assert tuple(s["bytes"] - p["bytes"] for p, s in zip(plain, sharded, strict=True)) == cost.bytes
    assert tuple(s["messages"] - p["messages"] for p, s in zip(plain, sharded, strict=True)) == cost.messages
    assert tuple(found["state_bytes"] for found in sharded) == moment_bytes(size, 4, 2)


def test_a_worker_of_a_split_model_keeps_less_than_one_that_has_all_of_it(measured):
    whole = min(found["peak_bytes"] for found in measured["data"])
    assert all(found["peak_bytes"] < whole for way in SPREAD if way != "data" for found in measured[way])
    kept = [[found["peak_bytes"] for found in measured[f"pipeline, {kind}"]] for kind in ("GPipe", "1F1B")]
    assert kept[0][1] > kept[1][1]  # the last stage keeps all micro-batches, or one


def test_the_table_compares_one_process_on_as_many_cores():
    assert {way for way, _, _ in ROWS} == set(WAYS)
    assert ("one process", 1, 2) in ROWS and [(way, w, t) for way, w, t in ROWS if w * t > 2] == [(GRID, 4, 1)]


def test_a_drawn_batch_is_the_same_each_time_and_has_no_labels_at_padding():
    (ids, mask, labels), again = drawn_batch(50, 4, 10), drawn_batch(50, 4, 10)
    assert torch.equal(ids, again[0]) and mask.sum(1).tolist() == [10, 9, 8, 7]
    assert torch.equal(labels == -100, mask == 0) and int(ids.min()) >= 5 and int(ids.max()) < 50
