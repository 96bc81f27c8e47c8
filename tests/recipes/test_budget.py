"""The Pareto front, and what a budget leaves of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.recipes.budget import AIMS, Budget, choose, nearest, pareto_front

ROWS = [
    {"loss": 0.2, "bytes": 900, "ms": 0.9},
    {"loss": 0.6, "bytes": 600, "ms": 0.5},
    {"loss": 1.5, "bytes": 500, "ms": 0.3},
    {"loss": 1.6, "bytes": 700, "ms": 0.6},
]
figures = st.fixed_dictionaries({aim: st.integers(0, 5) for aim in AIMS})


def test_without_limits_every_row_is_kept_and_the_goal_decides():
    assert [choose(ROWS, Budget(), goal) for goal in ("loss", "bytes", "ms")] == [0, 2, 2]


def test_the_best_row_within_all_limits_is_chosen():
    assert choose(ROWS, Budget(ms=0.6), "loss") == 1
    assert choose(ROWS, Budget(loss=1.0), "ms") == 1
    assert choose(ROWS, Budget(loss=1.0, bytes=900), "loss") == 0, "a limit that is met exactly is kept"
    assert choose(ROWS, Budget(loss=0.5, bytes=700)) is None
    assert choose([], Budget()) is None


def test_ties_are_broken_by_the_other_figures():
    rows = [{"loss": 1, "bytes": 5, "ms": 2}, {"loss": 1, "bytes": 5, "ms": 1}, {"loss": 1, "bytes": 6, "ms": 0}]
    assert choose(rows, Budget(), "loss") == 1


def test_the_nearest_row_exceeds_the_limits_least_in_sum():
    assert nearest(ROWS, Budget(loss=0.5, bytes=700)) == 1  # 0.1 points over, against 28.6 % of the bytes
    assert nearest(ROWS, Budget(loss=0.1, bytes=850)) == 0  # 0.1 and 5.9 %
    assert nearest(ROWS, Budget(ms=0.1)) == 2


def test_an_unknown_goal_is_refused():
    with pytest.raises(ValueError, match="goal = 'f1': expected one of"):
        choose(ROWS, Budget(), "f1")


@given(st.lists(figures, max_size=8))
def test_the_front_is_what_nothing_beats_and_it_beats_all_the_rest(rows):
    front = pareto_front(rows)
    beats = lambda a, b: a != b and all(a[k] <= b[k] for k in AIMS)  # noqa: E731
    assert not any(beats(other, rows[i]) for i in front for other in rows)
    assert all(any(beats(rows[i], rows[j]) for i in front) for j in range(len(rows)) if j not in front)


@given(st.lists(figures, min_size=1, max_size=8), st.fixed_dictionaries({aim: st.none() | st.integers(1, 5) for aim in AIMS}))
def test_the_chosen_row_is_on_the_front_and_a_kept_budget_is_nobody_s_excess(rows, limits):
    budget = Budget(**limits)
    for goal in AIMS:
        chosen = choose(rows, budget, goal)
        if chosen is None:
            assert all(max(budget.excess(row).values()) > 0 for row in rows)
        else:
            assert budget.kept(rows[chosen])
            assert rows[chosen] in [rows[i] for i in pareto_front(rows)]
