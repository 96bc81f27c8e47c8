"""Fair comparisons: turns, ratios within rounds, records made comparable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.deploy.fair import fair_times, speedup, take_turns

MS = st.floats(0.1, 100.0)


def test_contenders_take_turns():
    said = []
    times = take_turns({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, rounds=3)
    assert said == ["a", "b"] * 3 and [len(t) for t in times.values()] == [3, 3]
    with pytest.raises(ValueError, match="rounds = 0"):
        take_turns({}, 0)


@given(st.lists(st.tuples(MS, MS), min_size=1, max_size=9), st.lists(st.floats(0.5, 20.0), min_size=9, max_size=9))
def test_what_slows_a_whole_round_down_leaves_the_speedup_as_it_is(rounds, drift):
    slow, fast = map(list, zip(*rounds, strict=True))
    disturbed = [[ms * d for ms, d in zip(row, drift, strict=False)] for row in (slow, fast)]
    # three roundings of a float64 each: 3 · 2^-53, far below 1e-12
    assert speedup(*disturbed, 0) == pytest.approx(speedup(slow, fast, 0), rel=1e-12)


def test_warm_up_rounds_do_not_count():
    assert speedup([900.0, 4.0, 9.0], [1.0, 2.0, 3.0], 1) == 2.5


@pytest.mark.parametrize(
    "slow, fast, warm_up, message",
    [
        ([1.0], [1.0, 2.0], 0, r"len\(fast\) = 2: expected 1"),
        ([1.0], [1.0], 1, "warm_up = 1"),
        ([1.0], [1.0], -1, "warm_up = -1"),
    ],
)
def test_bad_times_are_named(slow, fast, warm_up, message):
    with pytest.raises(ValueError, match=message):
        speedup(slow, fast, warm_up)


def call(contender, sentences, ms, threads=1, warm_up=False, tokenizing=0.0):
    row = {"contender": contender, "sentences": sentences, "threads": threads}
    return {**row, "warm_up": warm_up, "ms": ms, "tokenizing_ms": tokenizing}


def test_only_like_is_compared_with_like():
    records = [
        call("a", (1,), 500.0, warm_up=True),
        call("a", (1,), 8.0, tokenizing=2.0),
        call("a", (2,), 80.0),  # a sentence that b never read
        call("a", (3, 4), 20.0),
        call("b", (1,), 2.0),
        call("b", (1,), 0.1, threads=8),
        call("b", [3, 4], 4.0),
    ]
    assert fair_times(records) == {"a": (6.0 + 10.0) / 2, "b": 2.0}


def test_records_without_a_common_setting_cannot_be_compared():
    with pytest.raises(
        ValueError, match=r"records of = \['a', 'b'\]: expected a setting under which every contender was called"
    ):
        fair_times([call("a", (1,), 1.0), call("b", (1,), 1.0, threads=2)])
