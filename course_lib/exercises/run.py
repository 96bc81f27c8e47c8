"""Running the learner's function on cases: the only place where a learner's code runs.

Whatever it does (raise, print, change its input, never return), an outcome comes back. When a class is graded, this file and
``values.py`` are given to a confined process that has no ``course_lib``: they import nothing of it but each other.
"""

import _thread
import contextlib
import functools
import inspect
import io
import random
import signal
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .values import article, copied, describe, kind, same

if TYPE_CHECKING:
    from course_lib.exercises.exercise import Case

PRINT_LIMIT = 10_000  # characters of a function's own output that are kept
AGAIN = 0.05  # seconds until a function that goes on all the same is stopped again
NOT_THEIRS = (str(Path(__file__).parents[1]), *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class TimeLimit(BaseException):
    """The learner's function ran too long. No Exception, so that an ``except Exception`` in it does not swallow it.

    A bare ``except`` does. So making one marks the alarm as due once more, and Python looks for due alarms when something is
    called and at the end of a loop's body, but not on the way to an ``except``: the next one is raised there, where the
    ``except`` no longer catches it.
    """

    __init__ = staticmethod(functools.partial(_thread.interrupt_main, getattr(signal, "SIGALRM", None)))  # no Python frame


@dataclass
class Outcome:
    """What came of one call.

    Attributes:
        output: what was returned.
        error: None, or what was raised: ``type: message``.
        line: of the learner's code where it was raised, as text.
        misfit: why it could not even be called, as a sentence.
        not_attempted: it raised NotImplementedError, as the stub does.
        timed_out: it was stopped.
        skipped: it was not tried, because of what happened in an earlier case.
        printed: its own output, cut at :data:`PRINT_LIMIT` characters.
        changed: positions of the arguments that it changed in place.
    """

    output: Any = None
    error: str | None = None
    line: str | None = None
    misfit: str | None = None
    not_attempted: bool = False
    timed_out: bool = False
    skipped: bool = False
    printed: str = ""
    changed: tuple[int, ...] = ()

    @property
    def returned(self) -> bool:
        """True when the function came to its end and returned something."""
        return self.output is not None and not (self.error or self.misfit or self.timed_out or self.skipped)


def can_stop() -> bool:
    """True where a function that never returns can be stopped: not on Windows, and only in the main thread."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def run_cases(function: Callable, cases: Sequence["Case"], seconds: float) -> list[Outcome]:
    """The outcome of each case. After a case that had to be stopped, or a first one not attempted, the others are skipped."""
    outcomes: list[Outcome] = []
    for case in cases:
        give_up = outcomes and (outcomes[0].not_attempted or outcomes[-1].timed_out or outcomes[-1].skipped)
        outcomes.append(Outcome(skipped=True) if give_up else run_case(function, case, seconds))
    return outcomes


def run_case(function: Callable, case: "Case", seconds: float) -> Outcome:
    """Call ``function`` on a copy of the case's arguments, silently and within the time limit."""
    outcome = Outcome(misfit=_misfit(function, case.args))
    if outcome.misfit:
        return outcome
    args = copied(case.args)
    printed = _Limited()
    with _undisturbed(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(_Limited()):
        try:
            outcome.output = _within(seconds, function, args, case.calls)
            if inspect.iscoroutine(outcome.output):
                outcome.output.close()  # or Python complains later that it was never awaited
        except NotImplementedError as error:
            outcome.not_attempted, outcome.error, outcome.line = True, _say(error), _line(error)
        except TimeLimit:
            outcome.timed_out = True
        except KeyboardInterrupt:  # the learner's wish
            raise
        except BaseException as error:
            outcome.error, outcome.line = _say(error), _line(error)
    outcome.printed = printed.getvalue()
    outcome.changed = tuple(i for i, (a, b) in enumerate(zip(args, case.args, strict=True)) if not _untouched(a, b))
    return outcome


def _call(function: Callable, args: tuple, calls: tuple) -> Any:
    """The learner's code runs below this frame and nowhere else, and the time limit stops nothing but that."""
    result = function(*args)
    return [_kept(getattr(result, name)(*copied(given))) for name, given in calls] if calls else _kept(result)


def _kept(output: Any) -> Any:
    """A copy, which later calls cannot change; what cannot be copied is judged as it is."""
    try:
        return copied(output)
    except Exception:
        return output


def _within(seconds: float, function: Callable, args: tuple, calls: tuple) -> Any:
    """:func:`_call`, with :class:`TimeLimit` raised in the learner's code after so many seconds, until it gives up."""
    if not can_stop():
        return _call(function, args, calls)

    def stop(signum, frame):
        while frame is not None and frame.f_code is not _call.__code__:
            frame = frame.f_back
        if frame is not None:
            raise TimeLimit

    others, interval = signal.setitimer(signal.ITIMER_REAL, 0)  # first, or it might ring for us
    handler, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        return _call(function, args, calls)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        if others:  # somebody else's timer goes on
            signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - start), 1e-3), interval)


def _untouched(after: Any, before: Any) -> bool:
    try:
        return same(after, before, rtol=0.0, atol=0.0)
    except Exception:  # changed into something that cannot even be compared
        return False


def _misfit(function: Callable, args: tuple) -> str | None:
    """Why the function cannot be called with so many arguments; None when it can."""
    if not callable(function):
        what = "None" if function is None else f"{describe(function)}, {article(kind(function))}"
        return f"Expected a function; this is {what}."
    name = getattr(function, "__name__", type(function).__name__)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args)
    except TypeError:
        takes = ", ".join(signature.parameters)
        given = f"{len(args)} argument{'s' * (len(args) != 1)}"
        return f"`{name}({takes})` is called with {given}, and cannot be. Keep the first line of the function as the lesson has it."
    return None


def _say(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _line(error: BaseException) -> str | None:
    """The last line of the traceback that is neither the library's nor Python's own."""
    below = error.__traceback__
    while below is not None and below.tb_frame.f_code is not _call.__code__:
        below = below.tb_next
    own = [f for f in traceback.extract_tb(below) if f.line and not f.filename.startswith(NOT_THEIRS)]
    return f"line {own[-1].lineno}: {own[-1].line}" if own else None


class _Limited(io.StringIO):
    """A text file that stops taking in more after :data:`PRINT_LIMIT` characters."""

    def write(self, text: str) -> int:
        room = PRINT_LIMIT - self.tell()
        if room > 0:
            super().write(text[:room])
        return len(text)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Random state, gradient mode and default type are as before afterwards; warnings do not reach the notebook."""
    numpy = sys.modules.get("numpy")
    states = torch.get_rng_state(), random.getstate(), numpy and numpy.random.get_state()
    dtype = torch.get_default_dtype()
    try:
        with warnings.catch_warnings(), torch.set_grad_enabled(torch.is_grad_enabled()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        if numpy:
            numpy.random.set_state(states[2])
