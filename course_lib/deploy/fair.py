"""Comparing times without fooling oneself: taking turns, ratios within a turn, and raw records of a benchmark made comparable."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from course_lib.errors import expect


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, A B C, A B C, …: what happens to the machine happens to all.

    Args:
        contenders: name → what to time.
        rounds: calls of each, the first ones (to be left out as warm-up) among them.
    Returns:
        Name → a time for each round.
    """
    expect(rounds >= 1, "rounds", rounds, "at least 1")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1000)
    return times


def speedup(slow: Sequence[float], fast: Sequence[float], warm_up: int) -> float:
    """How many times as fast ``fast`` is: the median over rounds of the ratio of the two times of the same round.

    Args:
        slow, fast: milliseconds of the two contenders, a time for each round in which they took turns.
        warm_up: so many first rounds do not count.
    Returns:
        ``median(slow[i] / fast[i] for i >= warm_up)``; above 1 when ``fast`` is faster.
    Raises:
        ValueError: not as many times of one as of the other, or no round left.

    >>> speedup([90.0, 8.0, 9.0, 8.0], [5.0, 4.0, 3.0, 4.0], warm_up=1)
    2.0
    """
    expect(len(slow) == len(fast), "len(fast)", len(fast), f"{len(slow)}, one for each round")
    expect(0 <= warm_up < len(slow), "warm_up", warm_up, f"0 to {len(slow) - 1}: a round must be left")
    return statistics.median(a / b for a, b in zip(slow[warm_up:], fast[warm_up:], strict=True))


def fair_times(records: Sequence[Mapping]) -> dict[str, float]:
    """What raw records of a benchmark say when like is compared with like.

    Args:
        records: one for each call, ``{"contender": name, "sentences": their numbers, "threads", "warm_up": bool, "ms": of the
            call, "tokenizing_ms": the part of it that went to tokenizing, 0.0 where that was done beforehand}``.
    Returns:
        Contender → median milliseconds per sentence, without tokenizing, of its calls that are no warm-up and have a setting
        (sentences and threads) under which every contender was called.
    Raises:
        ValueError: there is no such setting.
    """
    counted = [r for r in records if not r["warm_up"]]
    settings: dict[str, set] = {r["contender"]: set() for r in records}
    for r in counted:
        settings[r["contender"]].add((tuple(r["sentences"]), r["threads"]))
    common = set.intersection(*settings.values())
    expect(bool(common), "records of", sorted(settings), "a setting under which every contender was called")
    times: dict[str, list[float]] = {name: [] for name in settings}
    for r in counted:
        if (tuple(r["sentences"]), r["threads"]) in common:
            times[r["contender"]].append((r["ms"] - r["tokenizing_ms"]) / len(r["sentences"]))
    return {name: statistics.median(own) for name, own in times.items()}
