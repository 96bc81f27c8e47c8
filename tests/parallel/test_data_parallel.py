"""Data parallelism: losses and every gradient are those of one process with the whole batch, and of DistributedDataParallel."""

import data_jobs
import pytest
import torch
from torch import nn

from course_lib.parallel.buckets import Bucket, make_buckets
from course_lib.parallel.collectives import chunk_bounds
from course_lib.parallel.launcher import run


@pytest.fixture(scope="module")
def results():
    """By rank: number of workers → what was found. Ranks 0 and 1 worked in fours and in twos."""
    return run(data_jobs.everything, 4)


@pytest.fixture(params=(2, 4), ids="{} workers".format)
def found(request, results):
    """What each of 2 or of 4 workers found."""
    return [result[request.param] for result in results[: request.param]]


def test_loss_and_every_gradient_are_those_of_one_process(found):
    assert len(found[0]["equal"]) == 2 * 4 + 1
    for rank in found:
        for name, case in rank["equal"].items():
            assert case["loss"] <= case["tolerance"] and case["gradients"] <= case["tolerance"], name
            assert case["same bits"], name


@pytest.mark.oracles
def test_gradients_are_those_of_distributed_data_parallel(found):
    for rank in found:
        assert rank["ddp"]["gradients"] <= rank["ddp"]["tolerance"]


def test_clipped_training_of_tied_weights_follows_one_process_and_copies_stay_equal_to_the_bit(found):
    for rank in found:
        training = rank["training"]
        # Each of 5 steps adds lr · momentum's 1/(1 − 0.9) times the gradients' distance; its effect on later gradients is of that
        # size again, as steps of rate 0.1 move weights by less than their own size.
        assert training["copies equal"] and training["weights"] <= 5 * 2 * training["tolerance"]
        for alone, parallel in training["norms"]:
            assert alone > 0.5 and abs(alone - parallel) <= 5 * 2 * training["tolerance"] * alone


def test_a_parameter_that_some_use_gets_their_sum_and_one_that_nobody_uses_gets_no_gradient(found):
    for rank in found:
        assert rank["used"] == {"first.weight": [[1.0, 1.0]], "other.weight": [[len(found) - 1.0] * 2], "nobody.weight": None}


def test_buckets_travel_before_backward_is_through(found):
    for number, rank in enumerate(found):
        case, workers = rank["overlap"], len(found)
        assert len(case["sizes"]) > 3
        begun, after = case["in flight"]
        assert len(case["sizes"]) - 3 <= begun < len(case["sizes"]) and after == 0  # all but those of the three embeddings
        parts = [[end - start for start, end in chunk_bounds(size, workers)] for size in case["sizes"]]
        due = sum(2 * sum(p) - p[number] - p[(number + 1) % workers] for p in parts) * 8
        assert case["traffic"].bytes == due and case["traffic"].messages == 2 * (workers - 1) * len(case["sizes"])
        assert case["after"] == 0


def test_mistakes_are_named_on_every_worker(found):
    for rank in found:
        told = rank["refused"]
        assert told["nan"].startswith("CourseError: Gradients with NaN or infinity (rank 1: ")
        assert told["twice"].startswith("CourseError: A second backward() before wait()")
        assert told["finite"] == "not refused"
        assert told["model"].startswith(
            "ValueError: weight = {0: ((2, 2), 'torch.float32', True), 1: ((3, 2), 'torch.float32', True)"
        )
        assert told["bytes"] == "ValueError: bucket_bytes = 0: expected a positive number of bytes"
        assert told["tokens"].startswith("CourseError: labels: every one of the whole batch is −100")


def test_gradients_of_an_earlier_step_are_refused_and_not_summed_again(found):
    due = "ValueError: gradient = 'weight': expected none before a step: zero_grad() first"
    for rank in found:
        told = rank["stale"]
        assert {told[how] for how in ("backward", "paused", "no part of the batch", "made")} == {due}
        assert told["sum"] == told["kept"] == [[len(found)] * 2]  # zeros that were left are no gradients
        assert told["afterwards"] == [[1.0, 1.0]]


def test_buckets_hold_all_parameters_last_first_and_no_more_than_allowed_unless_alone():
    parameters = [nn.Parameter(torch.zeros(n)) for n in (5, 100, 1, 2, 3)] + [nn.Parameter(torch.zeros(2).double())]
    buckets = make_buckets(parameters, 24)
    assert [bucket.sizes for bucket in buckets] == [[2], [3, 2, 1], [100], [5]]
    assert [p for bucket in buckets for p in bucket.parameters] == parameters[::-1]


def test_a_bucket_unpacks_what_it_packed():
    a, b, c = (nn.Parameter(torch.zeros(2, n)) for n in (1, 2, 3))
    a.grad, c.grad = torch.ones(2, 1), torch.arange(6.0).view(2, 3)
    bucket = Bucket((a, b, c))
    flat = bucket.pack()
    assert flat.tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 1, 0, 1]
    bucket.unpack(2 * flat)
    assert (
        b.grad is None
        and torch.equal(a.grad, torch.full((2, 1), 2.0))
        and torch.equal(c.grad, 2 * torch.arange(6.0).view(2, 3))
    )
