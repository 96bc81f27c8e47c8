"""A fair race: every contender in a process of its own, taking turns on the same sentences."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_lib.errors import expect

BATCH_SIZES = (1, 32)


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        name: unique in the race.
        engine: a kind of :func:`course_lib.deploy.kinds.load`, such as ``pytorch`` or ``onnxruntime``.
        path: what it opens.
    """

    name: str
    engine: str
    path: Path


def race(
    contenders: Sequence[Contender],
    rows: list[list[int]],
    threads: int,
    rounds: int = 3,
    progress: Callable[[str], None] | None = None,
    singles: int | None = None,
    patience: float = 300.0,
) -> list[dict]:
    """Time contenders interleaved: A B C, A B C, …, after one warm-up pass of each.

    Args:
        contenders: who runs.
        rows: piece ids per sentence, special tokens included; the same for all, tokenized beforehand.
        threads: threads of each engine; only one contender computes at a time.
        rounds: counted passes over all rows, for each batch size.
        progress: called with a contender's name after each of its passes.
        singles: how many of the rows, from the first, run one by one; None: all.
        patience: seconds that loading or one pass may take.
    Returns:
        Per contender ``{"ms_per_sentence": {"1": {"median", "p95"}, "32": …}, "peak_mib", "load_s", "error", "tags"}``;
        ``tags`` are those that won in the last timed pass in batches of 32: a number for each piece of each row. A
        contender that crashed or took too long has an ``error`` and nulls.
    """
    expect(rounds >= 1, "rounds", rounds, "at least 1 counted round")
    expect(len(rows) >= max(BATCH_SIZES), "rows", len(rows), f"at least {max(BATCH_SIZES)} sentences, one full batch")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.json"
        file.write_text(json.dumps(rows))
        racers: list[_Racer] = []
        try:
            for contender in contenders:  # one after the other: loading is timed too
                racers.append(_Racer(contender, threads, file, patience))
                racers[-1].load()
            for size in BATCH_SIZES:
                for number in range(rounds + 1):
                    for place, racer in enumerate(racers):
                        tags = Path(scratch) / f"tags-{place}.json" if size > 1 and number == rounds else None
                        racer.run(size, number > 0, singles if size == 1 else None, tags)
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

    def __init__(self, contender: Contender, threads: int, rows_file: Path, patience: float) -> None:
        self.contender, self.times, self.error = contender, {size: [] for size in BATCH_SIZES}, None
        self.load_s = self.peak_mib = self.tags = None
        self.patience, self.late = patience, False
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
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip

    def load(self) -> None:
        """Wait until the model is loaded and has computed once."""
        self.load_s = self._answer().get("load_s")

    def _answer(self) -> dict:
        def give_up() -> None:
            self.late = True
            self.process.kill()

        timer = threading.Timer(self.patience, give_up)
        timer.start()
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):  # a runtime that talks
            line = self.process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        self.process.wait()
        if self.late:
            self.error = f"no answer within {self.patience:g} seconds"
            return {}
        self.stderr.seek(0)
        last = self.stderr.read().strip().splitlines()[-1:] or ["nothing on stderr"]
        self.error = f"ended with exit status {self.process.returncode}: {last[0]}"
        return {}

    def run(self, size: int, counted: bool, first: int | None = None, tags: Path | None = None) -> None:
        """One pass over the ``first`` sentences in batches of ``size``; ``tags``: where those that won go meanwhile."""
        if self.error:
            return
        try:
            self.process.stdin.write(json.dumps({"batch": size, "first": first, "tags": tags and str(tags)}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it died between two passes; _answer says why
            self._answer()
            return
        answer = self._answer()
        self.peak_mib = answer.get("peak_mib") or self.peak_mib
        if counted:
            self.times[size] += [t / size for t in answer.get("ms", [])]
        if tags and not self.error:
            self.tags = json.loads(tags.read_text("utf-8"))

    def figures(self) -> dict:
        """Medians and 95th percentiles in milliseconds per sentence."""
        if self.error:
            nothing = {str(size): {"median": None, "p95": None} for size in BATCH_SIZES}
            return {"ms_per_sentence": nothing, "peak_mib": None, "load_s": None, "error": self.error, "tags": None}
        table = {
            str(size): {"median": round(float(np.median(t)), 4), "p95": round(float(np.quantile(t, 0.95)), 4)}
            for size, t in self.times.items()
        }
        return {"ms_per_sentence": table, "peak_mib": self.peak_mib, "load_s": self.load_s, "error": None, "tags": self.tags}

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
