"""Schedules start and end exactly where they are told to and never fall."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.pruning.schedules import cubic, iterative, one_shot

SPARSITIES = st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)).map(sorted)


@settings(deadline=None)
@given(SPARSITIES, st.integers(1, 60), st.data())
def test_every_schedule_is_monotone_and_hits_both_ends_exactly(ends, steps, data):
    initial, final = ends
    rounds = data.draw(st.integers(1, steps))
    every = data.draw(st.sampled_from([d for d in range(1, steps + 1) if steps % d == 0]))
    for schedule, option in ((one_shot, {}), (iterative, {"rounds": rounds}), (cubic, {"every": every})):
        values = [schedule(step, steps, final, initial, **option) for step in range(-3, steps + 4)]
        assert values == sorted(values)
        assert values[:4] == [initial] * 4 and values[-4:] == [final] * 4


@settings(deadline=None)
@given(SPARSITIES, st.integers(2, 10), st.integers(1, 5))
def test_each_round_prunes_the_same_fraction_of_what_is_left(ends, rounds, length):
    """The ratio of densities is (1 − final)/(1 − initial) to the power 1/rounds; 1 − s loses eps of 1, so eps/(1 − s) relative."""
    initial, final = ends
    steps = rounds * length
    left = [1 - iterative(r * length, steps, final, initial, rounds) for r in range(rounds + 1)]
    fraction = ((1 - final) / (1 - initial)) ** (1 / rounds)
    for before, after in itertools.pairwise(left):
        assert math.isclose(after / before, fraction, rel_tol=8 * 2.3e-16 / (1 - final))
    assert len({iterative(step, steps, final, initial, rounds) for step in range(steps + 1)}) <= rounds + 1


def test_the_cubic_prunes_seven_eighths_in_the_first_half():
    assert cubic(50, 100, final=0.8) == 0.8 * 7 / 8
    assert cubic(59, 100, final=0.8, every=10) == cubic(50, 100, final=0.8)


@pytest.mark.oracles
@pytest.mark.parametrize("initial, final, every, events", [(0.0, 0.9, 1, 7), (0.2, 0.5, 10, 4), (0.0, 1.0, 3, 10)])
def test_torchs_cubic_scheduler_agrees_at_every_pruning_event(initial, final, every, events):
    """The same formula in another order: some fp64 roundings of numbers of at most 1."""
    cubic_sl = pytest.importorskip("torch.ao.pruning").CubicSL
    for event in range(-1, events + 3):
        theirs = cubic_sl.sparsity_compute_fn(initial, final, t=event * every + 5, t_0=5, dt=every, n=events)
        assert abs(cubic(event * every, every * events, final, initial, every) - theirs) < 8 * 2.3e-16


@pytest.mark.parametrize("schedule", [one_shot, iterative, cubic])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"final": 1.2}, r"initial, final = \(0\.0, 1\.2\): expected 0 ≤ initial ≤ final ≤ 1"),
        ({"final": 0.3, "initial": 0.5}, r"initial, final = \(0\.5, 0\.3\)"),
        ({"final": math.nan}, r"initial, final = \(0\.0, nan\)"),
        ({"steps": 0, "final": 0.5}, "steps = 0: expected at least 1"),
    ],
)
def test_impossible_ends_are_refused(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(**({"step": 0, "steps": 10} | arguments))


def test_rounds_and_intervals_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="rounds = 11: expected between 1 and 10 steps"):
        iterative(0, 10, 0.5, rounds=11)
    with pytest.raises(ValueError, match=r"final = 1\.0: expected below 1"):
        iterative(0, 10, 1.0)
    with pytest.raises(ValueError, match="every = 3: expected a divisor of 10 steps"):
        cubic(0, 10, 0.5, every=3)
