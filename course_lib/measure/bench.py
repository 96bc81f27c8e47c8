"""``make bench``: the library's own kernels beside well-known ones, in one run, as ratios.

Each pair does the same work on the same data and is checked to give the same result before it is timed. Pairs
take turns; medians count. Writes ``artifacts/bench.json``.
"""

import ctypes
import datetime
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from course_lib.artifacts import write_json
from course_lib.console import bar
from course_lib.machine import machine, processors
from course_lib.measure import bench_grading, bench_ner, bench_parallel, bench_quantization, bench_tensors, bench_training
from course_lib.measure.bench_tensors import Pair, Sizes

REPEATS = 7
ALL = (*bench_tensors.ALL, *bench_quantization.ALL, *bench_training.ALL)
LONG = 10.0  # seconds: a pair whose warm-up takes longer is run at most 3 times


def median_ms(
    ours: Callable[[], object],
    theirs: Callable[..., object],
    repeats: int = REPEATS,
    fresh: Callable[[], object] | None = None,
) -> tuple[float, float]:
    """Median milliseconds of both, run in turns after one warm-up each.

    Args:
        ours, theirs: what to time.
        repeats: runs that count; at most 3 where the warm-up took longer than :data:`LONG`.
        fresh: makes the argument of theirs, outside the timed part; None: it takes none.
    """
    times: tuple[list[float], list[float]] = ([], [])
    number, began = 0, time.perf_counter()
    while number <= repeats:
        other = theirs if fresh is None else partial(theirs, fresh())
        for run, kept in zip((ours, other), times, strict=True):
            start = time.perf_counter()
            run()
            if number:
                kept.append((time.perf_counter() - start) * 1000)
        if not number and time.perf_counter() - began > LONG:
            repeats = min(repeats, 3)
        number += 1
    return statistics.median(times[0]), statistics.median(times[1])


def peak_mib(run: Callable[[], object]) -> float | None:
    """By how much the process's resident memory peaks above its start in the call: Python, numpy and torch alike.

    Linux with glibc only, in a process of its own; None where memory cannot be trimmed or the mark not reset. Memory
    freed earlier is handed back first: used again, it would go unseen.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    except (OSError, AttributeError):
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def row(pair: Pair, repeats: int = REPEATS) -> dict:
    """One row of the table; ``ratio`` is theirs / ours, above 1 where ours is faster."""
    peak = peak_mib(pair.ours)
    a, b = median_ms(pair.ours, pair.theirs, repeats, pair.fresh)
    return {
        "name": pair.name,
        "ours_ms": round(a, 3),
        "theirs_ms": round(b, 3),
        "ratio": round(b / a, 3),
        "ours_peak_mib": None if peak is None else round(peak, 2),
        "tensor_mib": round(pair.tensor_bytes / 2**20, 3) or None,
    }


def ner_rows(sizes: Sizes, repeats: int = REPEATS) -> list[dict]:
    """The rows that work on sentences, whatever the sizes."""
    return [row(Pair(name, ours, lambda _, f=theirs: f(), 0), repeats) for name, ours, theirs in bench_ner.pairs()]


def tensor_rows(number: int, sizes: Sizes, repeats: int = REPEATS) -> list[dict]:
    """The row of one pair of :data:`ALL`."""
    import torch

    torch.manual_seed(0)
    return [row(ALL[number](sizes), repeats)]


def main(path: Path = Path("artifacts/bench.json"), repeats: int = REPEATS, sizes: Sizes | None = None) -> dict:
    """Time all pairs, each group in a fresh process, print the table, write the figures."""
    sizes, rows = sizes or Sizes(), []
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)
    with pool, bar("timing", 1 + len(ALL)) as advance:
        rows += pool.submit(ner_rows, sizes, repeats).result()
        advance()
        for number in range(len(ALL)):
            rows += pool.submit(tensor_rows, number, sizes, repeats).result()
            advance()
    rows += bench_parallel.rows(sizes, repeats)  # in worker processes of its own
    rows += bench_grading.rows(peak_mib)
    figures = {"date": datetime.date.today().isoformat(), "machine": machine(processors()), "rows": rows}
    write_json(path, figures)
    print(markdown(figures))
    return figures


def markdown(figures: dict) -> str:
    """The rows of ``artifacts/bench.json`` as a table."""
    lines = ["| pair | ours, ms | theirs, ms | theirs / ours | our peak, MiB | tensor, MiB |", "|---|---|---|---|---|---|"]
    for r in figures["rows"]:
        peak, tensor = (f"{r[key]:.1f}" if r[key] is not None else "–" for key in ("ours_peak_mib", "tensor_mib"))
        lines.append(f"| {r['name']} | {r['ours_ms']:.2f} | {r['theirs_ms']:.2f} | {r['ratio']:.2f} | {peak} | {tensor} |")
    m = figures["machine"]
    return "\n".join([*lines, "", f"{figures['date']}, {m['cpu']} ({', '.join(m['flags'])}), {m['threads']} threads."])


if __name__ == "__main__":
    main()
