"""Where a learner's code runs: which ways to confine it this system has, and a server that forks confined children.

==============  ===============================================================================================================
``namespaces``  user, PID, mount, network and IPC namespaces: for each child no network, nobody else to see, a read-only system
                without the course, a ``/tmp`` of its own
``bubblewrap``  the same, set up by the program ``bwrap`` where the system allows that to it alone
``landlock``    files by Landlock: the same are readable, nothing is writable; for systems that give no namespaces
``unconfined``  limits only, on demand: the code can read and do what you can
==============  ===============================================================================================================

In all but the last a filter of system calls takes away new processes, programs, sockets, whatever reaches another process (signals,
looks into it, its limits, its scheduling), and changes to mode, owner, times and attributes of files, which Landlock lets through.
All have limits on processor time, memory, and size and number of files. Threads are limited where the system counts them for each
child (``namespaces`` and ``bubblewrap`` since Linux 6.14, and for all but root since 5.14) or for the user (``landlock``, for all but
root); as root under ``landlock`` only memory and processor time limit them.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from course_lib.classroom.sight import bubblewrap, carry, hidden, readable
from course_lib.classroom.wire import NO_FORK, STATUS
from course_lib.errors import CourseError, expect

CONFINED = ("namespaces", "bubblewrap", "landlock")  # the first one that works is taken
START_SECONDS = 120.0  # for loading torch on a slow disk
HELLO = 300  # bytes of a child's first words: "ok", or why it could not be confined
START = "import sys; sys.path.insert(0, sys.argv[2]); from confined.classroom.fork_server import main; main()"


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        memory_megabytes: of address space, beyond what loading torch took.
        cpu_seconds: of processor time for all exercises of a notebook.
        tmp_megabytes: of files in its ``/tmp``, and of one file.
    """

    memory_megabytes: int = 1024
    cpu_seconds: int = 300
    tmp_megabytes: int = 32


class ServerGone(Exception):
    """The server has ended, as by a lack of memory; a new one can be started."""


class Server:
    """A confined process that forks a child on demand. Use it in ``with``; it ends with the process that started it."""

    def __init__(self, tier: str, limits: Limits, hides: Sequence[str | Path] = ()):
        """Start it.

        Args:
            tier: one of the table above.
            limits: for each child.
            hides: folders whose content children must not see, beside the course's.
        Raises:
            CourseError: this system does not have the tier; the message says why.
        """
        expect(tier in (*CONFINED, "unconfined"), "tier", tier, f"one of {', '.join(CONFINED)} or unconfined")
        if not hasattr(os, "fork"):
            raise CourseError("A class is graded on Linux, or on macOS with --unconfined: this system cannot fork processes.")
        self.tier = tier
        with tempfile.TemporaryDirectory(prefix="course-grade-") as folder:  # what it carries; loaded when this returns
            self._control, self._process = self._start(Path(folder), limits, [str(h) for h in hides])
        try:
            self._try()
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path, limits: Limits, hides: list[str]) -> tuple[socket.socket, subprocess.Popen]:
        carry(folder / "confined")
        (folder / "root").mkdir()
        reads, hides = readable(folder / "confined"), hidden(hides)
        wrapper = bubblewrap(reads, hides) if self.tier == "bubblewrap" else []
        control, theirs = socket.socketpair()
        settings = {
            **{"tier": self.tier, "control": theirs.fileno(), "reads": reads, "hides": hides},
            **{"root": str(folder / "root"), "limits": asdict(limits), "hello": HELLO},
        }
        program = [*wrapper, sys.executable, "-s", "-P", "-B", "-c", START, json.dumps(settings), str(folder)]
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with theirs:
            try:
                process = subprocess.Popen(
                    program, env=environment, cwd="/", pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                )  # fmt: skip
            except OSError as error:
                control.close()
                raise CourseError(f"{self.tier}: {program[0]} cannot be started ({error.strerror}).") from error
        control.settimeout(START_SECONDS)
        try:
            answer = control.recv(1000, socket.MSG_WAITALL).rstrip()
        except TimeoutError:
            process.kill()
            answer = f"it said nothing within {START_SECONDS:g} seconds".encode()
        if answer != b"ok":
            control.close()
            why = answer.removeprefix(b"no ").decode("utf-8", "replace") or _last_words(process)
            raise CourseError(f"{self.tier} is not available here: {why}.")
        return control, process

    def _try(self) -> None:
        """Have one child confine itself and end."""
        try:
            self.fork().close()
            code = self.end(patience=10)
        except ServerGone as error:
            raise CourseError(f"{self.tier} is not available here: {error}.") from error
        if code:
            raise CourseError(f"{self.tier} is not available here: a child with nothing to do ended with {code}.")

    def fork(self) -> socket.socket:
        """A new child, which has given up what it must not have; returns the socket to it. There is one at a time.

        Raises:
            ServerGone: the server has ended, or the child could not be confined.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"F"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise ServerGone("its server has ended") from error
        ours.settimeout(START_SECONDS)
        try:
            said = ours.recv(HELLO, socket.MSG_WAITALL).rstrip()
        except OSError as error:  # a time-out too
            said = f"no {error}".encode()
        if said != b"ok":
            ours.close()
            why = said.removeprefix(b"no ").decode("utf-8", "replace") or "it ended before it said so"
            with contextlib.suppress(ServerGone):
                self.end(patience=1.0)
            raise ServerGone(f"a child could not be confined: {why}")
        ours.settimeout(None)
        return ours

    def end(self, patience: float = 0.0) -> int:
        """End the child, if it has not ended.

        Args:
            patience: seconds to wait for it to end by itself.
        Returns:
            Its exit code; minus the number of the signal that ended it.
        Raises:
            ServerGone: the server has ended, and the child with it.
        """
        try:
            self._control.settimeout(max(patience, 1e-3))
            with contextlib.suppress(TimeoutError):
                return self._status()
            self._control.sendall(b"K")
            self._control.settimeout(START_SECONDS)
            return self._status()
        except OSError as error:
            raise ServerGone("its server has ended") from error

    def _status(self) -> int:
        data = self._control.recv(STATUS.size, socket.MSG_WAITALL)
        if len(data) < STATUS.size or STATUS.unpack(data)[0] == NO_FORK:
            raise ConnectionResetError
        return STATUS.unpack(data)[0]

    def close(self) -> None:
        """End the server and its child."""
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stderr.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _last_words(process: subprocess.Popen) -> str:
    """The last line that a process which is about to end has written to its error stream."""
    try:
        said = process.communicate(timeout=5)[1].decode("utf-8", "replace").strip()
    except subprocess.TimeoutExpired:
        said = ""
    return said.splitlines()[-1] if said else "it ended at once"


def start_server(limits: Limits, hides: Sequence[str | Path] = (), tier: str | None = None) -> Server:
    """A server of the best tier that this system has, or of a given one.

    Raises:
        CourseError: there is none, or not this one.
    """
    if tier is not None:
        return Server(tier, limits, hides)
    reasons = []
    for name in CONFINED:
        try:
            return Server(name, limits, hides)
        except CourseError as error:
            reasons.append(str(error))
    raise CourseError(
        "Learners' code cannot be confined here, so nothing is graded. "
        + " ".join(reasons)
        + " With --unconfined it would run with all your rights: do that only with code that you have read."
    )


def doctor() -> Iterator[tuple[str, str | None]]:
    """For each tier that confines: its name, and why it is not available, None when it is. Each is tried."""
    for tier in CONFINED:
        try:
            Server(tier, Limits()).close()
        except CourseError as error:
            yield tier, str(error)
        else:
            yield tier, None
