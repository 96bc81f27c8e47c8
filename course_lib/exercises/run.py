"""Running the learner's function on cases: the only place where a learner's code runs.

Whatever it does (raise, print, change its input, never return), an outcome comes back.
"""

import contextlib
import inspect
import io
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from course_lib.exercises.exercise import Case
from course_lib.exercises.values import copied, same

PRINT_LIMIT = 10_000  # characters of a function's own output that are kept


class TimeLimit(BaseException):
    """The learner's function ran too long. No Exception, so that an ``except Exception`` in it does not swallow it."""


@dataclass
class Outcome:
    """What came of one call.

    Attributes:
        output: what was returned.
        error: None, or what was raised: ``type: message``.
        line: of the learner's code where it was raised, as text.
        not_attempted: it raised NotImplementedError, as the stub does.
        timed_out: it was stopped.
        printed: its own output, cut at :data:`PRINT_LIMIT` characters.
        changed: positions of the arguments that it changed in place.
    """

    output: Any = None
    error: str | None = None
    line: str | None = None
    not_attempted: bool = False
    timed_out: bool = False
    printed: str = ""
    changed: tuple[int, ...] = ()


def can_stop() -> bool:
    """True where a function that never returns can be stopped: not on Windows, and only in the main thread."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def run_cases(function: Callable, cases: Sequence[Case], seconds: float) -> list[Outcome]:
    """The outcome of each case. After a case that had to be stopped the others are not tried."""
    outcomes: list[Outcome] = []
    for case in cases:
        if outcomes and outcomes[-1].timed_out:
            outcomes.append(Outcome(timed_out=True))
        elif outcomes and outcomes[0].not_attempted:
            outcomes.append(Outcome(not_attempted=True))
        else:
            outcomes.append(run_case(function, case, seconds))
    return outcomes


def run_case(function: Callable, case: Case, seconds: float) -> Outcome:
    """Call ``function`` on a copy of the case's arguments, silently and within the time limit."""
    outcome = Outcome()
    misfit = _misfit(function, case.args)
    if misfit:
        outcome.error = misfit
        return outcome
    args = copied(case.args)
    printed = _Limited()
    with _undisturbed(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(_Limited()):
        try:
            with _time_limit(seconds):
                result = function(*args)
                outcome.output = [getattr(result, name)(*copied(given)) for name, given in case.calls] if case.calls else result
        except NotImplementedError as error:
            outcome.not_attempted, outcome.error = True, _say(error)
        except TimeLimit:
            outcome.timed_out = True
        except (Exception, SystemExit) as error:
            outcome.error, outcome.line = _say(error), _line(error)
    outcome.printed = printed.getvalue()
    outcome.changed = tuple(i for i, (a, b) in enumerate(zip(args, case.args, strict=True)) if not _untouched(a, b))
    with contextlib.suppress(Exception):  # an output that cannot be copied is judged as it is
        outcome.output = copied(outcome.output)
    return outcome


def _untouched(after: Any, before: Any) -> bool:
    return same(after, before, rtol=0.0, atol=0.0)


def _misfit(function: Callable, args: tuple) -> str | None:
    """Why the function cannot be called with so many arguments; None when it can."""
    if not callable(function):
        return f"TypeError: a function was expected, and this is {function!r:.60}"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args)
    except TypeError:
        name = getattr(function, "__name__", "it")
        return f"TypeError: {name}{signature} cannot be called with {len(args)} argument{'s' * (len(args) != 1)}"
    return None


def _say(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _line(error: BaseException) -> str | None:
    """The last line of the traceback that is neither the library's nor Python's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames[1:] if "site-packages" not in f.filename and "/lib/python" not in f.filename]
    own = [f for f in own if f.filename != __file__]
    return f"line {own[-1].lineno}: {own[-1].line}" if own and own[-1].line else None


class _Limited(io.StringIO):
    """A text file that stops taking in more after :data:`PRINT_LIMIT` characters."""

    def write(self, text: str) -> int:
        room = PRINT_LIMIT - self.tell()
        if room > 0:
            super().write(text[:room])
        return len(text)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Random state and gradient mode are as before afterwards; warnings do not reach the notebook."""
    state, numpy_state = torch.get_rng_state(), _numpy_state()
    try:
        with warnings.catch_warnings(), torch.set_grad_enabled(torch.is_grad_enabled()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(state)
        _restore_numpy(numpy_state)


def _numpy_state():
    import numpy as np

    return np.random.get_state()


def _restore_numpy(state) -> None:
    import numpy as np

    np.random.set_state(state)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeLimit` in the running code after so many seconds, and again until it gives up."""
    if not can_stop():
        yield
        return

    armed = True

    def stop(signum, frame):
        if armed:
            raise TimeLimit

    handler = signal.signal(signal.SIGALRM, stop)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)  # again and again: a bare except may swallow one
    try:
        try:
            yield
        finally:
            armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)  # somebody else's timer goes on
