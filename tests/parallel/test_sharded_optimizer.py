"""The sharded optimizer takes AdamW's steps with 1/p of its state, and checkpoints go from any number of workers to any other."""

import math

import optimizer_jobs as jobs
import pytest
import torch
from safetensors.torch import save_file

from course_lib.parallel.checkpoint import read_range
from course_lib.parallel.collectives import chunk_bounds
from course_lib.parallel.launcher import run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of four workers found."""
    return run(jobs.everything, 4, str(tmp_path_factory.mktemp("checkpoints")))


def test_steps_are_those_of_adamw(results):
    eps, steps = torch.finfo(torch.float64).eps, jobs.STEPS
    for result in results:
        for case in result["adamw"].values():
            assert case["size"] == 1279
            # An update is lr times |m̂| / √v̂. The moments after t steps are off by up to some 16·t roundings of the largest gradient
            # of an entry, which is at most √t · √v̂; the weight itself is rounded twice a step.
            bound = steps * eps * (jobs.LR * 16 * steps * math.sqrt(steps) + 2 * (case["largest"] + 1))
            assert case["distance"] <= bound and case["emptied"]
            assert case["largest"] > 0.1


def test_the_state_falls_to_one_part_in_p_and_each_step_sends_all_but_one_share(results):
    for size in (2, 3, 4):
        cases = [result["adamw"][size] for result in results[:size]]
        assert sum(case["bytes"] for case in cases) == cases[0]["whole bytes"] == 2 * 8 * cases[0]["size"]
        assert max(case["bytes"] for case in cases) <= math.ceil(cases[0]["size"] / size) * 2 * 8
        for rank, case in enumerate(cases):
            start, end = chunk_bounds(case["size"], size)[(rank + 1) % size]
            assert case["sent"] == jobs.STEPS * 8 * (case["size"] - (end - start))


def test_fewer_numbers_than_workers_and_a_parameter_named_twice_are_updated_once(results):
    for result in results:
        assert result["few"][4] == pytest.approx([-1.0, 1.0, -1.0], abs=1e-6)  # the first step is lr · sign, but for ε = 1e-8


def test_training_goes_on_to_the_bit_from_a_checkpoint_of_any_number_of_workers(results):
    for rank, result in enumerate(results):
        assert len(result["moved"]) == 4 * (4 - rank) and all(result["moved"].values()), result["moved"]


def test_bad_checkpoints_are_refused_by_all_and_change_nothing(results):
    for result in results:
        told = result["refused"]
        assert "no checkpoint of parallel workers there, index.json is missing" in told["absent"]
        assert "is no index of a checkpoint of parallel workers: KeyError('workers')" in told["no index"]
        assert "a checkpoint of another model: of weights it has ['bias', [12], 'torch.float64']" in told["another"]
        assert "where ['weight', [3, 2], 'torch.float32'] is due" in told["another"]
        assert told["foreign"].startswith("ValueError: optimizer = 'an optimizer of other parameters'")
        assert told["empty"] == "ValueError: parameters = []: expected at least one, all of the same dtype"
        assert "CourseError: Cannot read" in told["damaged"] and "rank 0: SafetensorError" in told["damaged"]
        assert told["unchanged"]


def test_a_worker_that_cannot_write_leaves_the_older_checkpoint_whole(results):
    for result in results:
        told = result["refused"]
        assert "CourseError: Cannot write" in told["full"] and "rank 1: OSError: [Errno 28] No space left" in told["full"]
        assert told["older is whole"] and told["left"] == ["1", "2", "3", "4", "kept", "new"]


def test_any_range_of_a_vector_is_read_from_the_chunks_of_any_number_of_workers(tmp_path):
    vector = torch.arange(11)
    for workers in (1, 2, 4, 13):
        for rank, (start, end) in enumerate(chunk_bounds(11, workers)):
            file = tmp_path / f"rank-{rank:05d}-of-{workers:05d}.safetensors"
            save_file({"x": vector[start:end].clone()}, file)
        for start in range(12):
            for end in range(start, 12):
                assert read_range(tmp_path, "x", workers, 11, start, end).tolist() == vector[start:end].tolist()
