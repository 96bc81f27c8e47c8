"""A process that loads one contender and times it when told; ``benchmark.py`` starts it.

Protocol: the command line gives kind, path, threads and a JSON file of the work; then each line
``{"batch": 32, "first": null, "tags": null}`` on standard input is answered by one line ``{"ms": [...], "peak_mib": ...}``, a
time for each full batch of the ``first`` sentences (all, if null). With a file name as ``tags``, the numbers of the tags that
won in these very outputs are written there, a list for each sentence. With ``"prose": true`` it is texts that are read, and a
time takes all from the raw text to its entities.

The work: ``rows``, piece ids for each sentence; and for prose ``texts``, the model ``folder`` with the tokenizer, ``tags`` by number
and ``max_pieces``.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from course_lib.deploy.kinds import load

Batch = tuple[list[int], np.ndarray, np.ndarray]


def padded(rows: list[list[int]], size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Full batches of ``size``: single sentences in their own order, larger batches sorted by length."""
    return [(ids, mask) for indices, ids, mask in numbered(rows, size) if len(indices) == size]


def numbered(rows: list[list[int]], size: int) -> list[Batch]:
    """All batches, the last one perhaps smaller, each with the numbers of its sentences."""
    from course_lib.data.align import pad

    order = list(range(len(rows))) if size == 1 else sorted(range(len(rows)), key=lambda i: len(rows[i]))
    chunks = [order[i : i + size] for i in range(0, len(rows), size)]
    return [(c, pad([rows[i] for i in c], 0), pad([[1] * len(rows[i]) for i in c], 0)) for c in chunks]


def peak_mib() -> float:
    """Largest resident memory of this process so far, in MiB (0 where the system does not tell)."""
    with contextlib.suppress(OSError, KeyError):  # Linux: of this program alone; ru_maxrss starts at what its parent held
        rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return round(int(rows["VmHWM"].split()[0]) / 1024, 1)
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    scale = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20, 1)


def one_pass(engine, rows: list[list[int]], size: int) -> tuple[list[float], list[list[int]]]:
    """Milliseconds of each full batch, and the tags that won: a number for each piece of each sentence.

    A last batch that is not full gives tags and no time.
    """
    times, tags = [], [[] for _ in rows]
    for indices, ids, mask in numbered(rows, size):
        start = time.perf_counter()
        logits = engine(ids, mask)
        if len(indices) == size:
            times.append((time.perf_counter() - start) * 1000)
        for i, best in zip(indices, logits.argmax(-1), strict=True):
            tags[i] = best[: len(rows[i])].tolist()
    return times, tags


def read_prose(engine, work: dict, size: int, first: int | None) -> list[float]:
    """Milliseconds of each ``size`` texts, from the text to the entities."""
    from course_lib.models.zoo import load_tokenizer
    from course_lib.ner.predict import predict_text

    tokenizer, texts, times = load_tokenizer(work["folder"]), work["texts"][:first], []
    for start in range(0, len(texts) - size + 1, size):
        began = time.perf_counter()
        chunk = texts[start : start + size]
        list(predict_text(chunk, engine, tokenizer, work["tags"], at_once=size, max_pieces=work["max_pieces"]))
        times.append((time.perf_counter() - began) * 1000)
    return times


def main(kind: str, path: str, threads: int, work_file: str) -> None:
    """Load, report, then answer requests until standard input ends."""
    work = json.loads(Path(work_file).read_text("utf-8"))
    rows = work["rows"]
    began = time.perf_counter()
    engine = load(kind, path, threads)
    engine(*padded(rows[:1], 1)[0])
    print(json.dumps({"load_s": round(time.perf_counter() - began, 3)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("prose"):
            times, tags = read_prose(engine, work, asked["batch"], asked.get("first")), []
        else:
            times, tags = one_pass(engine, rows[: asked.get("first")], asked["batch"])
        if asked.get("tags"):
            Path(asked["tags"]).write_text(json.dumps(tags), "utf-8")
        print(json.dumps({"ms": times, "peak_mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
