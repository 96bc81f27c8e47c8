"""What workers print, shown as it comes with the rank before each line."""

import subprocess
import sys
import threading
from collections import deque
from typing import IO

KEPT = 60  # last lines on standard error, for the message about a worker that died without a word
NOISE = b"[Gloo] Rank "  # how many peers it is connected to, for each process group


class Logs:
    """Follows the standard output and error of workers until they end; a context manager."""

    def __init__(self) -> None:
        self.threads: dict[int, list[threading.Thread]] = {}
        self.lock = threading.Lock()
        self.last: dict[int, deque[str]] = {}

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *_) -> None:
        for rank in self.threads:
            self._finish(rank, 5)

    def follow(self, rank: int, worker: subprocess.Popen) -> None:
        """Show what this worker prints from now on."""
        self.last[rank], self.threads[rank] = deque(maxlen=KEPT), []
        for stream, name in ((worker.stdout, "stdout"), (worker.stderr, "stderr")):
            thread = threading.Thread(target=self._forward, args=(rank, stream, name), daemon=True)
            thread.start()
            self.threads[rank].append(thread)

    def last_words(self, rank: int) -> str:
        """The last lines that this worker, which has ended, wrote to standard error."""
        self._finish(rank, 1)
        return "".join(self.last[rank])

    def _finish(self, rank: int, within_s: float) -> None:
        for thread in self.threads[rank]:
            thread.join(timeout=within_s)  # ends with the worker, unless something else holds its output open

    def _forward(self, rank: int, stream: IO[bytes], name: str) -> None:
        with stream:
            for raw in stream:
                if raw.startswith(NOISE):
                    continue
                line = raw.decode(errors="replace")
                if name == "stderr":
                    self.last[rank].append(line)
                with self.lock:  # or lines of two ranks mix
                    print(f"[rank {rank}] {line.rstrip()}", file=getattr(sys, name), flush=True)
