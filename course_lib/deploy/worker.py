"""A process that loads one contender and times it when told; ``benchmark.py`` starts it.

Protocol: the command line gives kind, path, threads and a JSON file of piece ids per sentence; then each line
``{"batch": 32}`` on standard input is answered by one line ``{"ms": [...]}``, a time for each batch.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np


def load(kind: str, path: str, threads: int):
    """The engine of a contender: ``pytorch`` (model folder) or ``onnxruntime`` (.onnx file)."""
    if kind == "onnxruntime":
        from course_lib.deploy.engines import OnnxEngine

        return OnnxEngine(path, threads)
    import torch

    from course_lib.deploy.engines import TorchEngine
    from course_lib.models.zoo import load_token_classifier

    torch.set_num_threads(threads)
    return TorchEngine(load_token_classifier(path))


def padded(rows: list[list[int]], size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of ``size``: single sentences in their own order, larger batches sorted by length."""
    from course_lib.data.align import pad

    rows = rows if size == 1 else sorted(rows, key=len)
    chunks = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
    return [(pad(chunk, 0), pad([[1] * len(row) for row in chunk], 0)) for chunk in chunks]


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


def main(kind: str, path: str, threads: int, rows_file: str) -> None:
    """Load, report, then answer requests until standard input ends."""
    with open(rows_file, encoding="utf-8") as file:
        rows = json.load(file)
    began = time.perf_counter()
    engine = load(kind, path, threads)
    engine(*padded(rows[:1], 1)[0])
    print(json.dumps({"load_s": round(time.perf_counter() - began, 3)}), flush=True)
    for line in sys.stdin:
        times = []
        for ids, mask in padded(rows, json.loads(line)["batch"]):
            start = time.perf_counter()
            engine(ids, mask)
            times.append((time.perf_counter() - start) * 1000)
        print(json.dumps({"ms": times, "peak_mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
