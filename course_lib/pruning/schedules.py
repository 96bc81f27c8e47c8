"""How much is pruned when: sparsity as a pure function of the step. Each starts at ``initial``, ends at ``final``, never falls.

Up to step 0 the sparsity is ``initial``, from step ``steps`` on it is ``final``, both exactly: a warm-up before and a recovery
after are steps below 0 and above ``steps``.
"""

import math

from course_lib.errors import expect


def one_shot(step: int, steps: int, final: float, initial: float = 0.0) -> float:
    """All at once, at step ``steps``.

    Args:
        step: of training, counted from the beginning of pruning.
        steps: at which the final sparsity is reached, at least 1.
        final, initial: sparsities, 0 ≤ initial ≤ final ≤ 1.
    Returns:
        The sparsity at this step.
    Raises:
        ValueError: sparsities outside [0, 1] or falling, or no steps.

    >>> [one_shot(step, 4, 0.5) for step in range(6)]
    [0.0, 0.0, 0.0, 0.0, 0.5, 0.5]
    """
    _check(steps, final, initial)
    return final if step >= steps else initial


def iterative(step: int, steps: int, final: float, initial: float = 0.0, rounds: int = 5) -> float:
    """``rounds`` equal rounds, each of which prunes the same fraction of the weights that are left.

    After round r the density is ``(1 − initial)·((1 − final)/(1 − initial))^(r/rounds)``: the prune-and-retrain loop of Han et al.
    2015 (1506.02626) at the rate of Frankle and Carbin 2018 (1803.03635).

    Args:
        step, steps, final, initial: as in :func:`one_shot`, with final below 1 (no fraction of the rest leaves nothing).
        rounds: pruning events, the last of them at ``steps``; at most ``steps``.

    >>> [iterative(step, 4, 0.75, rounds=2) for step in range(5)]
    [0.0, 0.0, 0.5, 0.5, 0.75]
    """
    _check(steps, final, initial)
    expect(1 <= rounds <= steps, "rounds", rounds, f"between 1 and {steps} steps")
    expect(final < 1, "final", final, "below 1")
    done = step * rounds // steps
    if done <= 0:
        return initial
    if done >= rounds:
        return final
    left = (1 - initial) * ((1 - final) / (1 - initial)) ** (done / rounds)
    return min(max(1 - left, initial), final)  # it lies between them but for rounding


def cubic(step: int, steps: int, final: float, initial: float = 0.0, every: int = 1) -> float:
    """Fast at first, when there is much to choose from, and slowly at the end: ``final + (initial − final)·(1 − t/steps)³``.

    Zhu and Gupta 2017 (1710.01878).

    Args:
        step, steps, final, initial: as in :func:`one_shot`.
        every: steps between two pruning events (their Δt), a divisor of ``steps``; t is ``step`` rounded down to a multiple.

    >>> [cubic(step, 2, 0.8) for step in range(4)]
    [0.0, 0.7000000000000001, 0.8, 0.8]
    """
    _check(steps, final, initial)
    expect(every >= 1 and steps % every == 0, "every", every, f"a divisor of {steps} steps")
    if step < every:
        return initial
    if step >= steps:
        return final
    left = 1 - step // every * every / steps
    return max(final + (initial - final) * (left * left * left), initial)  # not below it but for rounding


def _check(steps: int, final: float, initial: float) -> None:
    expect(steps >= 1 and not math.isinf(steps), "steps", steps, "at least 1")
    expect(0 <= initial <= final <= 1, "initial, final", (initial, final), "0 ≤ initial ≤ final ≤ 1")
