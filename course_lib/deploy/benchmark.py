"""A fair race: every contender in a process of its own, taking turns on the same sentences."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_lib.errors import expect

BATCH_SIZES = (1, 32)


@dataclass(frozen=True)
class Contender:
    """What is measured: a model folder in PyTorch or an ``.onnx`` file in ONNX Runtime."""

    name: str
    engine: str  # "pytorch" | "onnxruntime"
    path: Path


def race(
    contenders: Sequence[Contender],
    rows: list[list[int]],
    threads: int,
    rounds: int = 3,
    progress: Callable[[str], None] | None = None,
) -> list[dict]:
    """Time contenders interleaved: A B C, A B C, …, after one warm-up pass of each.

    Args:
        contenders: who runs.
        rows: piece ids per sentence, special tokens included; the same for all, tokenized beforehand.
        threads: threads of each engine; only one contender computes at a time.
        rounds: counted passes over all rows, for each batch size.
        progress: called with a contender's name after each of its passes.
    Returns:
        Per contender ``{"ms_per_sentence": {"1": {"median", "p95"}, "32": …}, "peak_mib", "load_s", "error"}``; a
        contender that crashed has an ``error`` and nulls.
    """
    expect(rounds >= 1, "rounds", rounds, "at least 1 counted round")
    expect(len(rows) >= max(BATCH_SIZES), "rows", len(rows), f"at least {max(BATCH_SIZES)} sentences, one full batch")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.json"
        file.write_text(json.dumps(rows))
        racers: list[_Racer] = []
        try:
            for contender in contenders:  # one after the other: loading is timed too
                racers.append(_Racer(contender, threads, file))
                racers[-1].load()
            for size in BATCH_SIZES:
                for number in range(rounds + 1):
                    for racer in racers:
                        racer.run(size, counted=number > 0)
                        if progress:
                            progress(racer.contender.name)
        finally:
            for racer in racers:
                racer.dismiss()
            for racer in racers:
                racer.stop()
    return [racer.figures() for racer in racers]


class _Racer:
    """One contender's process and its times."""

    def __init__(self, contender: Contender, threads: int, rows_file: Path) -> None:
        self.contender, self.times, self.error = contender, {size: [] for size in BATCH_SIZES}, None
        self.load_s = self.peak_mib = None
        command = [
            sys.executable,
            "-m",
            "course_lib.deploy.worker",
            contender.engine,
            str(contender.path),
            str(threads),
            str(rows_file),
        ]
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed by stop()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True)

    def load(self) -> None:
        """Wait until the model is loaded and has computed once."""
        self.load_s = self._answer().get("load_s")

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.stderr.seek(0)
        last = self.stderr.read().strip().splitlines()[-1:] or ["nothing on stderr"]
        self.error = f"ended with exit status {self.process.returncode}: {last[0]}"
        return {}

    def run(self, size: int, counted: bool) -> None:
        """One pass over all sentences in batches of ``size``."""
        if self.error:
            return
        try:
            self.process.stdin.write(json.dumps({"batch": size}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it died between two passes; _answer says why
            self._answer()
            return
        answer = self._answer()
        self.peak_mib = answer.get("peak_mib") or self.peak_mib
        if counted:
            self.times[size] += [t / size for t in answer.get("ms", [])]

    def figures(self) -> dict:
        """Medians and 95th percentiles in milliseconds per sentence."""
        if self.error:
            nothing = {str(size): {"median": None, "p95": None} for size in BATCH_SIZES}
            return {"ms_per_sentence": nothing, "peak_mib": None, "load_s": None, "error": self.error}
        table = {
            str(size): {"median": round(float(np.median(t)), 4), "p95": round(float(np.quantile(t, 0.95)), 4)}
            for size, t in self.times.items()
        }
        return {"ms_per_sentence": table, "peak_mib": self.peak_mib, "load_s": self.load_s, "error": None}

    def dismiss(self) -> None:
        """Ask the process to end."""
        with contextlib.suppress(BrokenPipeError):  # it is dead, and what it was last told is still in the buffer
            self.process.stdin.close()

    def stop(self) -> None:
        """Wait for the process to end, which :meth:`dismiss` asked it to."""
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.stderr.close()
