"""The cost model's closed forms; that runs count the same numbers is in the tests of each kind of parallelism."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.parallel import cost as module
from course_lib.parallel.cost import (
    Cost,
    data_cost,
    hybrid_cost,
    moment_bytes,
    pipeline_cost,
    ring_cost,
    sharded_cost,
    tensor_cost,
    total,
)
from course_lib.parallel.pipeline import HEADER
from course_lib.parallel.schedule import gpipe, one_f_one_b

SIZES = st.integers(1, 6)


def test_the_examples_hold():
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


@given(st.integers(1, 50), SIZES, st.sampled_from([2, 4, 8]))
def test_a_ring_over_p_workers_sends_2_p_minus_1_over_p_of_what_divides(each, p, itemsize):
    made = ring_cost(each * p, itemsize, p)
    assert made.bytes == (2 * (p - 1) * each * itemsize,) * p and made.messages == (2 * (p - 1),) * p


@given(st.integers(0, 50), SIZES)
def test_all_workers_of_a_ring_together_send_2_p_minus_1_times_the_tensor(elements, p):
    assert sum(ring_cost(elements, 4, p).bytes) == 2 * (p - 1) * 4 * elements


@given(st.integers(0, 50), SIZES)
def test_a_sharded_step_is_the_second_half_of_a_ring_and_shares_of_the_state_make_the_whole(elements, p):
    made = sharded_cost(elements, 4, p)
    assert sum(made.bytes) == (p - 1) * 4 * elements and max(made.messages) <= p - 1
    assert sum(moment_bytes(elements, 4, p)) == 2 * 4 * elements and max(moment_bytes(elements, 4, p)) <= 8 * -(-elements // p)


@given(st.sampled_from([gpipe, one_f_one_b]), SIZES, SIZES, st.integers(1, 1000))
def test_a_pipeline_sends_each_micro_batch_once_forward_and_once_back_at_every_joint(kind, p, m, size):
    made = pipeline_cost(kind(p, m), [size] * m)
    joints = [(stage > 0) + (stage < p - 1) for stage in range(p)]
    assert made.messages == tuple(m * n for n in joints) and made.bytes == tuple(m * n * (size + HEADER) for n in joints)
    assert made.ticks == 2 * (m + p - 1) and made.bubble == pytest.approx((p - 1) / (m + p - 1), rel=1e-15, abs=0)


def test_tied_embeddings_cost_the_first_and_the_last_stage_one_message():
    plain, tied = pipeline_cost(gpipe(3, 1), [10]), pipeline_cost(gpipe(3, 1), [10], tied=1000)
    assert [b - a for a, b in zip(plain.bytes, tied.bytes, strict=True)] == [1000, 0, 1000]
    assert [b - a for a, b in zip(plain.messages, tied.messages, strict=True)] == [1, 0, 1]
    assert pipeline_cost(gpipe(1, 1), [10], tied=1000).bytes == (0,)


def test_tensor_parallelism_costs_four_sums_a_layer_and_one_for_the_words():
    one = ring_cost(96, 4, 2).bytes[0]
    assert (
        tensor_cost(6, 96, 4, 2).bytes == (24 * one,) * 2 and tensor_cost(6, 96, 4, 2, vocabulary=True).bytes == (25 * one,) * 2
    )


def test_buckets_add_up():
    assert data_cost([6, 4], 4, 2) == Cost((40, 40), (4, 4), 2, 0.0, (1, 1)) == total([ring_cost(6, 4, 2), ring_cost(4, 4, 2)])


def test_a_grid_pays_in_its_rows_and_its_columns():
    replicas = [pipeline_cost(gpipe(2, m), [10] * m) for m in (1, 2)]
    made = hybrid_cost(replicas, [data_cost([4], 4, 2), data_cost([8], 4, 2)])
    assert made.bytes == (18 + 16, 18 + 32, 36 + 16, 36 + 32) and made.messages == (3, 3, 4, 4)
    assert made.ticks == 6 and made.bubble == pytest.approx(1 / 3) and made.peak_activations == (1, 1, 2, 2)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"sizes = \[10\]: expected one size for each of 2 micro-batches"):
        pipeline_cost(gpipe(2, 2), [10])
    two, three = data_cost([4], 4, 2), data_cost([4], 4, 3)
    with pytest.raises(ValueError, match=r"columns = 3: expected one for each part of every replica: \[2\]"):
        hybrid_cost([two], [two] * 3)
    with pytest.raises(ValueError, match=r"replicas = 1: expected one for each worker of every column: \[3\]"):
        hybrid_cost([two], [three] * 2)
    with pytest.raises(ValueError, match=r"costs = \[\]: expected at least one"):
        total([])
