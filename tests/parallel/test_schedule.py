"""Schedules: complete, as long and as hungry as the formulae say, and refused where stages would wait for each other."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.parallel import schedule as module
from course_lib.parallel.schedule import (
    BACKWARD,
    FORWARD,
    Action,
    Schedule,
    bubble,
    gpipe,
    one_f_one_b,
    peak_activations,
    start_ticks,
    total_ticks,
)

KINDS = st.sampled_from([gpipe, one_f_one_b])
SIZES = st.integers(1, 7)


def test_the_examples_hold():
    assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


@given(KINDS, SIZES, SIZES, SIZES, SIZES)
def test_the_bubble_is_p_minus_1_over_m_plus_p_minus_1_whatever_the_passes_last(kind, p, m, forward, backward):
    made = kind(p, m)
    assert total_ticks(made, forward, backward) == (m + p - 1) * (forward + backward)
    assert bubble(made, forward, backward) == pytest.approx((p - 1) / (m + p - 1), rel=1e-15, abs=0)  # one division apart


@given(SIZES, SIZES)
def test_gpipe_keeps_all_micro_batches_and_1f1b_no_more_than_there_are_stages_to_come(p, m):
    assert peak_activations(gpipe(p, m)) == [m] * p
    assert peak_activations(one_f_one_b(p, m)) == [min(m, p - stage) for stage in range(p)]


@given(KINDS, SIZES, SIZES, st.integers(1, 3))
def test_no_stage_does_two_things_at_once_and_nothing_starts_before_its_input_is_there(kind, p, m, backward):
    made = kind(p, m)
    lasts = {FORWARD: 1, BACKWARD: backward}
    starts = start_ticks(made, 1, backward)
    for stage, own in enumerate(starts):
        assert tuple(own) == made.actions[stage]
        ends = [tick + lasts[action.kind] for action, tick in own.items()]
        assert all(end <= begin for end, begin in zip(ends, list(own.values())[1:], strict=False))
        for action, tick in own.items():
            source = made.source(stage, action)
            if source is not None:
                assert starts[source][action] + lasts[action.kind] <= tick
            if action.kind == BACKWARD:
                assert own[Action(FORWARD, action.micro_batch)] < tick


@given(KINDS, SIZES, SIZES)
def test_what_one_stage_sends_its_neighbour_receives(kind, p, m):
    made = kind(p, m)
    sent = {(stage, made.target(stage, a), a) for stage, own in enumerate(made.actions) for a in own}
    received = {(made.source(stage, a), stage, a) for stage, own in enumerate(made.actions) for a in own}
    assert {s for s in sent if s[1] is not None} == {r for r in received if r[0] is not None}
    assert sum(s[1] is not None for s in sent) == 2 * m * (p - 1)


def test_the_first_stage_of_1f1b_runs_the_others_full_before_its_first_backward():
    assert str(one_f_one_b(3, 4)).splitlines() == [
        "stage 0: F0 F1 F2 B0 F3 B1 B2 B3",
        "stage 1: F0 F1 B0 F2 B1 F3 B2 B3",
        "stage 2: F0 B0 F1 B1 F2 B2 F3 B3",
    ]


@pytest.mark.parametrize("kind", [gpipe, one_f_one_b])
def test_nothing_to_do_is_refused(kind):
    with pytest.raises(ValueError, match="stages = 0: expected at least 1 stage"):
        kind(0, 3)
    with pytest.raises(ValueError, match="micro_batches = 0: expected at least 1 micro-batch"):
        kind(2, 0)
    with pytest.raises(ValueError, match="forward = 0: expected at least 1 tick"):
        start_ticks(kind(2, 2), forward=0)
    with pytest.raises(ValueError, match="backward = 0: expected at least 1 tick"):
        bubble(kind(2, 2), backward=0)


def parsed(*lines: str) -> Schedule:
    kinds = {"F": FORWARD, "B": BACKWARD}
    return Schedule("made up", tuple(tuple(Action(kinds[w[0]], int(w[1:])) for w in line.split()) for line in lines))


def test_an_incomplete_order_is_refused():
    with pytest.raises(ValueError, match=r"actions\[1\] = 'F0 F0': expected each of 1 micro-batches once forward, once back"):
        parsed("F0 B0", "F0 F0")
    with pytest.raises(ValueError, match=r"actions\[0\] = 'F0 B1 F1 B0': expected each backward after its forward"):
        parsed("F0 B1 F1 B0")
    with pytest.raises(ValueError, match=r"actions = \(\): expected at least one stage"):
        Schedule("empty", ())


def test_stages_that_would_wait_for_each_other_for_ever_are_named():
    circle = parsed("F0 B0 F1 B1", "F1 F0 B0 B1")  # stage 0 waits for B0, which waits for F1, which stage 0 has yet to send
    with pytest.raises(ValueError, match=r"schedule = \{0: 'B0', 1: 'F1'\}: expected an order in which no stages wait"):
        start_ticks(circle)
