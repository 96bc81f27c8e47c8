"""Ring collectives: the sums of torch.distributed, the bytes of the formula, and errors that name the rank."""

import collective_jobs as jobs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.parallel.collectives import chunk_bounds
from course_lib.parallel.launcher import run

P = 4


@pytest.fixture(scope="module")
def results():
    """By rank: sums, copies, messages about mistakes."""
    return run(jobs.everything, P, timeout_s=30)


def test_the_ring_sums_as_torch_does_in_groups_of_two_to_four_for_any_length_and_dtype(results):
    cases = [case for sums, _, _ in results for case in sums]
    assert len(cases) == (2 + 3 + 4) * len(jobs.LENGTHS) * len(jobs.DTYPES)
    for case in cases:
        total, theirs, size = case["total"], case["theirs"], case["size"]
        assert case["same bits"] and case["part is a part"] and total.dtype == theirs.dtype
        if not total.is_floating_point():
            assert torch.equal(total, theirs)
            continue
        # Each sum of p terms is off by at most (p − 1) · u · Σ|x|, u = eps / 2 the unit roundoff, (1 + eps)^p for higher orders;
        # torch's too, in another order.
        everyone = torch.stack([jobs.inputs(len(total), total.dtype, rank).double().abs() for rank in range(size)])
        eps = torch.finfo(total.dtype).eps
        bound = 2 * (size - 1) * eps / 2 * (1 + eps) ** size * everyone.sum(0)
        assert bool(((total.double() - theirs.double()).abs() <= bound).all())


def test_each_worker_sends_everything_twice_but_for_two_chunks(results):
    for sums, _, _ in results:
        for case in sums:
            size, rank, x = case["size"], case["rank"], case["total"]
            lengths = [end - start for start, end in chunk_bounds(len(x), size)]
            elements = 2 * len(x) - lengths[rank] - lengths[(rank + 1) % size]
            assert case["traffic"].bytes == elements * x.element_size()
            if len(x) % size == 0:
                assert case["traffic"].bytes * size == 2 * (size - 1) * len(x) * x.element_size()
            assert case["traffic"].messages == sum(
                lengths[(rank - step - begun) % size] > 0 for begun in (1, 0) for step in range(size - 1)
            )


def test_all_gather_stacks_by_rank_and_broadcast_copies_from_any_source(results):
    for rank, (_, copies, _) in enumerate(results):
        assert torch.equal(copies["gathered"], torch.arange(float(P))[:, None, None].expand(P, 2, 3))
        assert copies["gather traffic"].bytes == (P - 1) * 6 * 4 and copies["gather traffic"].messages == P - 1
        for source in range(P):
            got, traffic = copies[source]
            assert torch.equal(got, torch.arange(5) + 10 * source)
            assert traffic.bytes == (0 if (rank + 1) % P == source else 5 * 8)


def test_bad_input_is_refused_on_every_rank_alike_and_the_ring_goes_on(results):
    for _, _, messages in results:
        assert messages == results[0][2]
    told = results[0][2]
    assert "ValueError: shape and dtype of x = {0: ((3,), 'torch.float32'), 1: ((4,), 'torch.float32')" in told["shape"]
    assert "3: ((3,), 'torch.int64')" in told["dtype"]
    assert told["strides"].startswith("ValueError: x = 'a tensor with strides (4, 1)': expected a contiguous tensor")
    assert told["source"] == "ValueError: source = 4: expected a rank in the group, 0 to 3"
    assert told["nan"].startswith("CourseError: NaN or infinity before a sum over workers (rank 2: 2 of 4 values)")
    assert told["still in step"] is None


@given(st.integers(0, 100), st.integers(1, 12))
def test_chunks_follow_one_another_and_differ_by_at_most_one(length, parts):
    bounds = chunk_bounds(length, parts)
    sizes = [end - start for start, end in bounds]
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])] and bounds[-1][1] == length
    assert len(bounds) == parts and max(sizes) - min(sizes) <= 1
