# ruff: noqa: B012, E722, SIM105
"""Whatever a learner's function does, an outcome comes back and the notebook is as it was."""

import gc
import os
import random
import re
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from course_lib.exercises import run as running
from course_lib.exercises.exercise import Case
from course_lib.exercises.run import PRINT_LIMIT, can_stop, run_case, run_cases

W = torch.tensor([1.0, -2.0])
CASE = Case("two weights", (W,))
SHORT = 0.1  # seconds


def run(function, case: Case = CASE, seconds: float = 5.0):
    return run_case(function, case, seconds)


def test_an_answer_is_called_with_the_cases_arguments_and_its_output_kept():
    outcome = run(lambda w: 2 * w)
    assert torch.equal(outcome.output, 2 * W) and outcome.returned
    assert (outcome.error, outcome.misfit, outcome.changed, outcome.printed) == (None, None, (), "")


def test_an_output_that_is_changed_by_a_later_call_is_kept_as_it_was():
    class Growing:
        def __init__(self):
            self.buffer = torch.zeros(1)

        def step(self):
            return self.buffer.add_(1)

    outcome = run(Growing, Case("two steps", (), calls=(("step", ()), ("step", ()))))
    assert [float(o) for o in outcome.output] == [1, 2]


def test_arguments_are_copied_for_each_call_and_changes_of_them_noticed():
    given = torch.ones(2)

    class Careless:
        def __init__(self, w):
            w.zero_()

        def step(self, w):
            return w.zero_()

    case = Case("a step", (given,), calls=(("step", (given,)),))
    assert run(Careless, case).changed == (0,)
    assert torch.equal(given, torch.ones(2))
    assert run(lambda w: w.resize_(0)).changed == (0,)
    assert run(lambda w: w.mul(2)).changed == ()
    assert run(lambda w: w.append(1), Case("a list", ([0],))).changed == (0,)
    assert run(lambda d: d.update(a=run), Case("a dictionary", ({"a": torch.ones(1)},))).changed == (0,)
    assert run(lambda w: w.insert(0, 10**400) or w.pop(), Case("a list", ([1.0],))).changed == (0,)  # no float is as large
    assert torch.equal(W, torch.tensor([1.0, -2.0]))


def test_an_output_that_cannot_be_copied_is_judged_as_it_is():
    class Odd(list):
        def __init__(self, *, nothing):
            super().__init__([nothing])

    assert isinstance(run(lambda w: Odd(nothing=1)).output, Odd)


def takes_nothing():
    return 0.0


def takes_two(w, threshold):
    return w


@pytest.mark.parametrize(
    "function, words",
    [
        (takes_nothing, "`takes_nothing()` is called with 1 argument, and cannot be. Keep the first line of the function"),
        (takes_two, "`takes_two(w, threshold)` is called with 1 argument, and cannot be."),
        (3.0, "Expected a function; this is 3, a float."),
        (None, "Expected a function; this is None."),
    ],
)
def test_what_does_not_fit_the_arguments_is_not_called(function, words):
    outcome = run(function)
    assert outcome.misfit.startswith(words) and outcome.error is None and not outcome.returned


def test_a_function_without_a_signature_is_called_all_the_same():
    assert float(run(torch.sum).output) == -1  # of C, with nothing to inspect


def exits(w):
    sys.exit(3)


def divides(w):
    half = 1
    return half / 0


def recurses(w):
    return recurses(w)


def fails_in_the_library(w):
    return torch.nn.functional.linear(w, torch.ones(3, 3))


def fails_without_a_word(w):
    raise ValueError


def throws_its_own(w):
    class Mine(BaseException):
        pass

    raise Mine("not even an Exception")


def has_a_wordy_error(w):
    raise ValueError("x" * 1000 + "\nsecond line")


@pytest.mark.parametrize(
    "function, error, line",
    [
        (exits, "SystemExit: 3", "sys.exit(3)"),
        (divides, "ZeroDivisionError: division by zero", "return half / 0"),
        (recurses, "RecursionError: maximum recursion depth exceeded", "return recurses(w)"),
        (fails_in_the_library, "RuntimeError: ", "return torch.nn.functional.linear(w, torch.ones(3, 3))"),
        (fails_without_a_word, "ValueError", "raise ValueError"),
        (throws_its_own, "Mine: not even an Exception", 'raise Mine("not even an Exception")'),
        (has_a_wordy_error, "ValueError: " + "x" * 200, 'raise ValueError("x" * 1000 + "\\nsecond line")'),
        (lambda w: eval("1 / 0"), "ZeroDivisionError: division by zero", 'eval("1 / 0")'),
    ],
)
def test_what_is_raised_comes_back_as_text_with_the_learners_own_line(function, error, line):
    outcome = run(function)
    assert outcome.error.startswith(error) and len(outcome.error) < 300 and not outcome.returned
    assert re.match(r"line \d+: ", outcome.line) and line in outcome.line


def test_an_error_in_code_that_is_not_the_learners_has_no_line():
    outcome = run(torch.linalg.inv)
    assert outcome.error and outcome.line is None


def test_a_method_that_is_missing_is_an_error():
    assert run(lambda: 1.0, Case("a step", (), calls=(("step", ()),))).error == (
        "AttributeError: 'float' object has no attribute 'step'"
    )


def test_the_stub_is_not_attempted_and_no_other_case_is_tried():
    tried = []

    def stub(w):
        tried.append(w)
        raise NotImplementedError()

    outcomes = run_cases(stub, [CASE, CASE, CASE], 1.0)
    assert outcomes[0].not_attempted and [o.skipped for o in outcomes] == [False, True, True] and len(tried) == 1


def test_interrupting_is_the_learners_right():
    def interrupted(w):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted)


# Functions that never return by themselves. --------------------------------------------------------------------------


def work():
    return sum(range(50))


def loops(w):
    while True:
        pass


def loops_in_torch(w):
    while True:
        w = w * 1.0


def swallows_exceptions(w):
    while True:
        try:
            work()
        except Exception:
            pass


def swallows_everything(w):
    while True:
        try:
            work()
        except:
            pass


def swallows_everything_in_place(w):
    n = 0
    while True:
        try:
            n += 1
        except:
            n = 0


def sleeps_and_swallows(w):
    while True:
        try:
            time.sleep(10)
        except BaseException:
            continue


def swallows_twice(w):
    while True:
        try:
            while True:
                try:
                    work()
                except:
                    work()
        except:
            work()


def swallows_in_a_function(w):
    def patient():
        try:
            time.sleep(0.01)
        except:
            return False
        return True

    while True:
        patient()


def insists_with_finally(w):
    while True:
        try:
            work()
        finally:
            continue


def insists_with_recursion(w):
    try:
        time.sleep(10)
    except BaseException:
        return insists_with_recursion(w)


def generates(w):
    def endless():
        while True:
            try:
                yield work()
            except:
                pass

    return sum(endless())


def waits_for_a_thread(w):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


ENDLESS = [
    loops,
    loops_in_torch,
    swallows_exceptions,
    swallows_everything,
    swallows_everything_in_place,
    sleeps_and_swallows,
    swallows_twice,
    swallows_in_a_function,
    insists_with_finally,
    insists_with_recursion,
    generates,
    waits_for_a_thread,
]


@pytest.mark.parametrize("function", ENDLESS, ids=lambda f: f.__name__)
def test_what_never_returns_is_stopped(function):
    before = signal.getsignal(signal.SIGALRM)
    outcomes = run_cases(function, [CASE, CASE, CASE], SHORT)
    assert outcomes[0].timed_out and not outcomes[0].returned
    assert [o.skipped for o in outcomes] == [False, True, True]  # one wait is enough
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_function_that_returns_in_time_is_never_disturbed_afterwards():
    assert run(lambda w: w, seconds=SHORT).returned
    time.sleep(2 * SHORT)  # an alarm that was left would end this


def test_a_limit_that_runs_out_while_the_function_returns_disturbs_nothing_else():
    """The alarm is due at any time around the return: every outcome is whole, and nothing is raised elsewhere."""
    ends = 0
    for step in range(300):
        seconds = 2e-4 + step * 2e-6
        end = time.perf_counter() + 5e-4

        def nearly(w, end=end):
            while time.perf_counter() < end:
                pass
            return w

        outcome = run_case(nearly, CASE, seconds)
        assert outcome.timed_out != outcome.returned
        ends += outcome.returned
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 1 or signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_somebody_elses_timer_goes_on():
    """As that of pytest-timeout: it has run on meanwhile, and its handler is in place."""
    rang = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    others = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        start = time.monotonic()
        assert run(loops, seconds=0.2).timed_out
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.11  # 0.3 − 0.2, and the wait for the alarm itself
        assert run(loops, seconds=0.2).timed_out  # due meanwhile: it rings afterwards
        time.sleep(0.05)
        assert len(rang) == 1 and rang[0] - start >= 0.3
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *others)


def test_a_handler_that_python_does_not_know_is_replaced_by_the_default(monkeypatch):
    handler = signal.getsignal(signal.SIGALRM)
    real = signal.signal
    monkeypatch.setattr(running.signal, "signal", lambda *a: real(*a) and None)
    assert run(lambda w: w).returned
    monkeypatch.undo()
    assert signal.signal(signal.SIGALRM, handler) == signal.SIG_DFL


def test_where_nothing_can_be_stopped_functions_run_all_the_same(monkeypatch):
    found = []

    def elsewhere():
        found.append((can_stop(), run(lambda w: w).returned))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [(False, True)] and can_stop()
    monkeypatch.delattr(signal, "setitimer")  # as on Windows
    assert not can_stop() and run(lambda w: w).returned


# The notebook around it. ---------------------------------------------------------------------------------------------


def test_what_it_prints_is_kept_up_to_a_limit_and_shown_nowhere(capfd):
    def chatty(w):
        for _ in range(1000):
            print("x" * 100)
            sys.stderr.write("a complaint\n")
        warnings.warn("mind this", stacklevel=1)
        return w

    outcome = run(chatty)
    assert outcome.returned and len(outcome.printed) == PRINT_LIMIT and outcome.printed.startswith("xxx")
    assert capfd.readouterr() == ("", "")


def test_a_million_lines_cost_no_memory():
    def chatty(w):
        for _ in range(100_000):
            print(".")
        return w

    assert run(chatty).printed == ".\n" * (PRINT_LIMIT // 2)


def test_a_coroutine_is_closed_so_that_nobody_complains_about_it_later(capfd):
    async def answer(w):
        return w

    outcome = run(answer)
    assert outcome.returned
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del outcome
        gc.collect()
    assert capfd.readouterr().err == ""


def test_random_state_gradient_mode_default_type_and_warnings_are_as_before():
    def careless(w):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        warnings.simplefilter("error")
        return torch.rand(1)

    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    filters = list(warnings.filters)
    assert run(careless).returned
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert warnings.filters == filters
    with torch.no_grad():
        run(lambda w: torch.set_grad_enabled(True))
        assert not torch.is_grad_enabled()


def test_without_numpy_there_is_no_random_state_of_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy")
    assert run(lambda w: w).returned


def test_an_outcome_does_not_depend_on_the_folder_or_leave_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(lambda w: w).returned and os.listdir(tmp_path) == []
