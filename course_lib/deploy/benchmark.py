"""A fair race: every contender in a process of its own, taking turns on the same sentences."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
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
        rows: piece ids of the same sentences where its vocabulary is another; None: those of the race.
        tokenizer: folder of its own tokenizer, for prose; None: that of the race.
    """

    name: str
    engine: str
    path: Path
    rows: list[list[int]] | None = field(default=None, repr=False)
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Prose:
    """Raw text, to be timed from the text to its entities.

    Attributes:
        texts: a sentence each.
        folder: a model folder with the tokenizer that all contenders share.
        tags: T labels, by number.
        max_pieces: positions of the model.
    """

    texts: list[str]
    folder: Path
    tags: list[str]
    max_pieces: int


def race(
    contenders: Sequence[Contender],
    rows: list[list[int]],
    threads: int,
    rounds: int = 3,
    progress: Callable[[str], None] | None = None,
    singles: int | None = None,
    patience: float = 300.0,
    prose: Prose | None = None,
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
        prose: time the whole way from text to entities too (of ``singles`` texts when one by one).
    Returns:
        Per contender ``{"ms_per_sentence": {"1": {"median", "p95"}, "32": …}, "end_to_end_ms_per_sentence": the like, or None
        without prose, "peak_mib", "load_s", "error", "tags"}``; ``tags`` are those that won in the last timed pass in batches of 32: a number for each piece of each row. A
        contender that crashed or took too long has an ``error`` and nulls.
    """
    expect(rounds >= 1, "rounds", rounds, "at least 1 counted round")
    for count in {len(contender.rows or rows) for contender in contenders}:
        expect(count >= max(BATCH_SIZES), "rows", count, f"at least {max(BATCH_SIZES)} sentences, one full batch")
    with tempfile.TemporaryDirectory() as scratch:
        racers: list[_Racer] = []
        try:
            for number, contender in enumerate(contenders):  # one after the other: loading is timed too
                file = Path(scratch) / f"work-{number}.json"
                read = asdict(prose) | {"folder": str(contender.tokenizer or prose.folder)} if prose else {}
                file.write_text(json.dumps({"rows": contender.rows or rows} | read), "utf-8")
                racers.append(_Racer(contender, threads, file, patience))
                racers[-1].load()
            for size, end_to_end in [(size, e) for e in ([False, True] if prose else [False]) for size in BATCH_SIZES]:
                for number in range(rounds + 1):
                    for place, racer in enumerate(racers):
                        last = size > 1 and number == rounds and not end_to_end
                        tags = Path(scratch) / f"tags-{place}.json" if last else None
                        racer.run(size, number > 0, singles if size == 1 else None, tags, end_to_end)
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
        self.contender, self.error = contender, None
        self.times, self.whole = ({size: [] for size in BATCH_SIZES} for _ in range(2))
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

    def run(
        self, size: int, counted: bool, first: int | None = None, tags: Path | None = None, end_to_end: bool = False
    ) -> None:
        """One pass over the ``first`` sentences in batches of ``size``; ``tags``: where those that won go meanwhile."""
        if self.error:
            return
        asked = {"batch": size, "first": first, "tags": tags and str(tags), "prose": end_to_end}
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it died between two passes; _answer says why
            self._answer()
            return
        answer = self._answer()
        self.peak_mib = answer.get("peak_mib") or self.peak_mib
        if counted:
            (self.whole if end_to_end else self.times)[size] += [t / size for t in answer.get("ms", [])]
        if tags and not self.error:
            self.tags = json.loads(tags.read_text("utf-8"))

    def figures(self) -> dict:
        """Medians and 95th percentiles in milliseconds per sentence; nothing of one that failed."""
        failed = self.error is not None
        return {
            "ms_per_sentence": _summary({size: [] for size in BATCH_SIZES} if failed else self.times),
            "end_to_end_ms_per_sentence": None if failed or not any(self.whole.values()) else _summary(self.whole),
            "peak_mib": None if failed else self.peak_mib,
            "load_s": None if failed else self.load_s,
            "error": self.error,
            "tags": None if failed else self.tags,
        }

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


def _summary(times: dict[int, list[float]]) -> dict:
    return {
        str(size): {
            "median": round(float(np.median(t)), 4) if t else None,
            "p95": round(float(np.quantile(t, 0.95)), 4) if t else None,
        }
        for size, t in times.items()
    }
