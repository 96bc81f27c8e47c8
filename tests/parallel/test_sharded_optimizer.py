"""The sharded optimizer takes AdamW's steps with 1/p of its state, and checkpoints go from any number of workers to any other."""

import math

import optimizer_jobs as jobs
import pytest
import torch
from safetensors.torch import save_file

from course_lib.errors import CourseError
from course_lib.parallel.checkpoint import load_weights, read_range, save_weights
from course_lib.parallel.collectives import chunk_bounds
from course_lib.parallel.cost import data_cost, moment_bytes, sharded_cost
from course_lib.parallel.launcher import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the checkpoints are."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def results(folder):
    """What each of four workers found."""
    return run(jobs.everything, 4, str(folder))


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
        assert tuple(case["bytes"] for case in cases) == moment_bytes(cases[0]["size"], 8, size)
        cost = sharded_cost(cases[0]["size"], 8, size)
        assert [case["sent"].bytes for case in cases] == [jobs.STEPS * n for n in cost.bytes]
        assert [case["sent"].messages for case in cases] == [jobs.STEPS * n for n in cost.messages]


def test_on_the_real_encoder_the_weights_are_those_of_plain_adamw(results):
    found, steps = results[0]["real"], jobs.REAL_STEPS
    assert all(result["real"]["alike"] for result in results[:2])
    # Gradients are off by at most δ = tolerance · largest (sums in another order); m̂ and √v̂ then too, as both are means. An update
    # lr·m̂/(√v̂ + ε), in which |m̂| ≤ √t·√v̂, moves by at most lr·δ·(1 + √t)/ε. That the weights, so far apart, change later gradients
    # by as much again is the factor 2.
    delta = found["tolerance"] * found["largest"]
    bound = 2 * steps * jobs.REAL_LR * delta * (1 + math.sqrt(steps)) / jobs.REAL_EPS
    assert found["distance"] <= bound < found["moved"] / 1000


def test_on_the_real_encoder_state_bytes_and_messages_are_those_of_the_cost_model(results):
    found, steps = [result["real"] for result in results[:2]], jobs.REAL_STEPS
    assert tuple(case["state"] for case in found) == moment_bytes(found[0]["size"], 8, 2)
    for which, cost in (("traffic", sharded_cost(found[0]["size"], 8, 2)), ("data", data_cost(found[0]["buckets"], 8, 2))):
        assert tuple(case[which].bytes for case in found) == tuple(steps * n for n in cost.bytes)
        assert tuple(case[which].messages for case in found) == tuple(steps * n for n in cost.messages)


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
        assert "(ranks 0, 1, 2, 3: ValueError: optimizer = 'an optimizer of other parameters'" in told["foreign"]
        assert "(rank 2: ValueError: optimizer = 'an optimizer of other parameters'" in told["one foreign"]
        assert told["empty"] == "ValueError: parameters = []: expected at least one, all of the same dtype"
        assert "CourseError: Cannot read" in told["damaged"] and "(ranks 0, 1, 2, 3: SafetensorError" in told["damaged"]
        assert told["unchanged"]


def test_a_worker_that_cannot_write_or_read_is_named_to_all_and_the_older_checkpoint_stays_whole(results):
    for result in results:
        told = result["refused"]
        assert "CourseError: Cannot write" in told["full"] and "(rank 1: OSError: [Errno 28] No space left" in told["full"]
        assert "CourseError: Cannot write" in told["index"] and "(rank 0: OSError: [Errno 28] No space left" in told["index"]
        assert "(rank 0: Cannot write" in told["name"] and "No space left on device" in told["name"]
        assert "(rank 0: Cannot write" in told["below a file"] and "index.json is a file where a folder" in told["below a file"]
        assert "CourseError: Cannot read" in told["unreadable"] and "(rank 3: OSError: [Errno 28]" in told["unreadable"]
        assert told["older is whole"] and told["left"] == ["1", "2", "3", "4", "kept", "new"]


def test_weights_go_from_any_split_to_any_other_to_the_bit(results):
    for rank, result in enumerate(results):
        mine = sum(size > rank for _, size in jobs.ROUTE)
        assert len(result["weights"]) == 2 * mine and all(result["weights"].values()), result["weights"]


@pytest.mark.parametrize("number", range(len(jobs.ROUTE)))
@pytest.mark.parametrize("kind", ["TokenClassification", "MaskedLM"])
def test_a_process_without_any_group_reads_what_workers_wrote_in_whatever_way(results, folder, number, kind):
    model, due = jobs.fresh(kind), dict(jobs.small(kind).named_parameters())
    load_weights(folder / "weights" / kind / str(number), model)
    assert jobs.same_tensors(dict(model.named_parameters()), due)


def test_what_a_process_without_any_group_writes_it_reads_buffers_included(tmp_path):
    model, again = jobs.Model(), jobs.Model()
    model.seen += 3
    with torch.no_grad():
        model.bias += 1
    save_weights(tmp_path / "a", model)
    load_weights(tmp_path / "a", again)
    assert jobs.same_tensors(again.state_dict(), model.state_dict()) and float(again.seen) == 3
    with pytest.raises(CourseError, match=r"Cannot read .* \(rank 0: .*b: no checkpoint of parallel workers there"):
        load_weights(tmp_path / "b", again)


def test_split_models_are_refused_where_a_whole_one_is_due_and_others_weights_by_all(results):
    for result in results:
        told = result["split"]
        assert told == results[0]["split"]
        assert told["slices"].startswith("ValueError: bert.encoder.layer.0.attention.self.query.weight = {0: ([8, 32], ")
        assert "save_weights is for slices and stages" in told["slices"] and "save_weights is for" in told["stage"]
        assert told["stage"].startswith("ValueError: embeddings.word_embeddings.weight = {0: ([130, 32], ")
        assert told["unlike"].startswith("ValueError: classifier.bias = {0: ([3], 'torch.float64', ")
        assert told["dtypes"] == "ValueError: model = ['torch.float32', 'torch.float64']: expected weights of one dtype"
        assert told["buffers"].startswith("ValueError: model = ['layers.0.seen']: expected a stage without buffers")
        assert "CourseError: Cannot write" in told["below a file"] and "(rank 0: Cannot write" in told["below a file"]
        assert "(ranks 0, 1, 2, 3: " in told["another"] and "it has no classifier.weight" in told["another"]
        assert "layer.0.intermediate.dense.weight, [64, 32] of torch.float64, does not fit [8, 32]" in told["shapes"]
        assert "(rank 3: " in told["fewer"] and "it has no bert.encoder.layer.4." in told["fewer"]
        assert "no worker has a place for bert.encoder.layer.3." in told["more"]
        assert "of optimizer it has None where ['bert.embeddings.word_embeddings.weight', " in told["no moments"]
        assert told["unchanged"] and told["nothing written"]


def test_any_range_of_a_vector_is_read_from_the_chunks_of_any_number_of_workers(tmp_path):
    vector = torch.arange(11)
    for workers in (1, 2, 4, 13):
        for rank, (start, end) in enumerate(chunk_bounds(11, workers)):
            file = tmp_path / f"rank-{rank:05d}-of-{workers:05d}.safetensors"
            save_file({"x": vector[start:end].clone()}, file)
        for start in range(12):
            for end in range(start, 12):
                assert read_range(tmp_path, "x", workers, 11, start, end).tolist() == vector[start:end].tolist()
