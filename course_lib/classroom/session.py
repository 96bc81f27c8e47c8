"""A conversation with one confined child: a notebook goes in, outcomes of calls come out; the child is not trusted.

Whatever the child does (ends, says nothing, says nonsense), the judge gets an answer in time.
"""

import dataclasses
import re
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from course_lib.classroom import wire
from course_lib.classroom.confine import Server
from course_lib.exercises.exercise import Case
from course_lib.exercises.run import PRINT_LIMIT, Outcome

READ_SECONDS = 30.0  # for the syntax tree of a notebook
BUILD_SECONDS = 20.0  # for the constants and imports that an answer needs
GRACE = 2.0  # beyond a case's seconds, after which the child would have stopped it itself
TEXT_LIMIT = 1000  # characters of a text from the child
FIELDS = {f.name for f in dataclasses.fields(Outcome)}
TYPES = {  # of the fields of an outcome that a child fills in; exact ones
    **dict.fromkeys(("error", "line", "misfit"), (str, type(None))),
    **dict.fromkeys(("not_attempted", "timed_out", "skipped"), (bool,)),
    **{"printed": (str,), "changed": (tuple,)},
}


class Lost(Exception):
    """The child has ended. ``why`` is a verdict, ``says`` a sentence for the learner."""

    def __init__(self, why: str, says: str):
        super().__init__(says)
        self.why, self.says = why, says


class Session:
    """One child. Use it in ``with``."""

    def __init__(self, server: Server):
        self._server = server
        self._socket = server.fork()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def open(self) -> bool:
        """True until the child has ended."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """End the child."""
        if self.open:
            self._socket.close()
            self._server.end()

    def read(self, notebook: bytes, exercises: Sequence[str], questions: Mapping[str, str]) -> dict[str, Any]:
        """Send a notebook; what ``child.read`` says of it."""
        data = np.frombuffer(notebook, dtype=np.uint8)
        found = self._ask("read", {"data": data, "exercises": list(exercises), "questions": dict(questions)}, READ_SECONDS)
        return found if isinstance(found, dict) else {"unreadable": "it could not be read"}

    def build(self, name: str, modules: Mapping[str, str], others: Mapping[str, Any]) -> dict[str, Any]:
        """Have an answer's code run; what ``child.build`` says."""
        asked = {"name": name, "modules": dict(modules), "others": dict(others)}
        found = self._ask("build", asked, BUILD_SECONDS)
        if not isinstance(found, dict) or not isinstance(found.get("failed"), list):
            raise self._nonsense()
        error, failed = found.get("error"), found["failed"][:3]
        if type(error) not in (str, type(None)) or not all(type(f) is str for f in failed):
            raise self._nonsense()
        return {"error": None if error is None else clean(error), "failed": [clean(f) for f in failed]}

    def call(self, case: Case, seconds: float) -> Outcome:
        """Have the answer called on a case."""
        try:
            found = self._ask("call", {"call": [case.args, case.calls], "seconds": seconds}, seconds + GRACE)
        except Lost as lost:
            if lost.why == "timed out":
                return Outcome(timed_out=True)
            raise
        if not isinstance(found, dict) or set(found) != FIELDS or any(type(found[n]) not in of for n, of in TYPES.items()):
            raise self._nonsense()
        if found["skipped"] or not all(type(i) is int and 0 <= i < len(case.args) for i in found["changed"]):
            raise self._nonsense()  # whether a case is tried is for the judge to say
        for name in ("error", "line", "misfit"):
            found[name] = None if found[name] is None else clean(found[name])
        return Outcome(**found | {"printed": clean(found["printed"], PRINT_LIMIT)})

    def _ask(self, what: str, message: dict, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        try:
            wire.send(self._socket, {"do": what, "with": message}, deadline)
            return wire.receive(self._socket, deadline)
        except TimeoutError:
            self.close()
            raise Lost("timed out", f"it did not come to an end within {seconds:g} seconds and was stopped") from None
        except wire.WireError as error:
            raise self._nonsense(str(error)) from None
        except (EOFError, OSError):
            self._socket.close()
            raise Lost("crashed", _ended(self._server.end(patience=1.0))) from None
        except Exception as error:  # in what came: what was sent is the judge's own
            raise self._nonsense(f"an answer that cannot be read ({type(error).__name__})") from None

    def _nonsense(self, what: str = "no answer") -> Lost:
        self.close()
        return Lost("refused", f"it sent what is none of its business to send: {what}")


def clean(text: Any, limit: int = TEXT_LIMIT) -> str:
    """Text from a child, fit for a file: no addresses, which differ from run to run, no strange characters, not too long."""
    text = re.sub(r"\b0x[0-9a-f]{6,}\b", "0x…", str(text)[:limit])
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def _ended(code: int) -> str:
    if code >= 0:
        return f"it ended the whole process (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"it ended the whole process ({name})"
