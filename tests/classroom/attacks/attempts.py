"""Answers to `sparsity` that try to get points without earning them, or to do harm.

None of this is run here: the source of each is put into a notebook under the name of the exercise. An attempt that gets what it
wants returns the right answer, so that points in the result show a hole. The decorator says which verdicts are right.
"""
# ruff: noqa  (bad manners are what this file is about)

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """One attempt: its source, with the place of the course, of a port and of a victim's file filled in, and what is to come of it."""

    name: str
    source: str
    verdicts: tuple[str, ...]


ATTEMPTS: list[Attempt] = []


def attempt(*verdicts: str) -> Callable:
    """Mark an attempt with the verdicts that are right."""

    def mark(function: Callable) -> Callable:
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("def "))
        lines[first] = lines[first].replace(f"def {function.__name__}(", "def sparsity(")
        ATTEMPTS.append(Attempt(function.__name__, "\n".join(["import torch", *lines[first:]]), verdicts))
        return function

    return mark


def cell(name: str, source: str, *verdicts: str) -> None:
    """An attempt that is a whole cell."""
    ATTEMPTS.append(Attempt(name, textwrap.dedent(source), verdicts))


# Objects that claim to be right


@attempt("wrong")
def always_equal(w):
    class Anything:
        def __eq__(self, other):
            return True

        __lt__ = __gt__ = __le__ = __ge__ = __eq__
        __hash__ = object.__hash__
        __float__ = __abs__ = __sub__ = __rsub__ = lambda self, *_: 0.0
        __getattr__ = lambda self, name: self  # noqa: E731
        __call__ = lambda self, *_: self  # noqa: E731

    return Anything()


@attempt("wrong")
def always_equal_float(w):
    class Equal(float):
        def __eq__(self, other):
            return True

        def __sub__(self, other):
            return 0.0

        __rsub__, __hash__ = __sub__, float.__hash__

    return Equal(0.123)


@attempt("wrong")
def always_equal_tensor(w):
    class Equal(torch.Tensor):  # noqa: F821
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return True

    return torch.tensor(0.123).as_subclass(Equal)  # noqa: F821


@attempt("wrong")
def always_equal_array(w):
    import numpy as np

    class Equal(np.ndarray):
        def __eq__(self, other):
            return True

        def item(self):
            return self

    return np.array(0.123).view(Equal)


@attempt("wrong")
def a_class_that_lies_about_itself(w):
    class Liar:
        __class__ = float

        def __eq__(self, other):
            return True

        __hash__ = object.__hash__

    return Liar()


@attempt("wrong")
def not_a_number(w):
    return float("nan")


@attempt("wrong")
def infinitely_many_numbers(w):
    return torch.full((3,), float("nan"))  # noqa: F821


@attempt("wrong")
def as_many_numbers_as_are_given(w):
    return torch.full_like(w.float(), float("nan"))  # noqa: F821


@attempt("wrong")
def not_a_number_in_a_list(w):
    return [float("nan")] * len(w)


# Patches


@attempt("wrong")
def patched_torch(w):
    for name in ("equal", "allclose", "isclose"):
        setattr(torch, name, lambda *a, **k: torch.ones(1, dtype=torch.bool))  # noqa: F821
    torch.Tensor.__eq__ = torch.Tensor.__ne__ = lambda *a: torch.zeros(1, dtype=torch.bool)  # noqa: F821
    torch.Tensor.any = lambda *a: torch.zeros((), dtype=torch.bool)  # noqa: F821
    return 0.123


@attempt("wrong", "crashed", "refused")
def patched_builtins(w):
    import builtins

    builtins.abs = lambda *a: 0.0
    builtins.isinstance = builtins.all = builtins.any = lambda *a: True
    builtins.len = lambda *a: 1
    return 0.123


@attempt("wrong", "crashed", "refused")
def patched_json(w):
    import json

    json.dumps = lambda *a, **k: '{"dict": [["points", 2.0], ["passed", true]]}'
    return 0.123


@attempt("wrong", "crashed", "refused")
def patched_judge_in_the_child(w):
    import sys

    for name, module in list(sys.modules.items()):
        for what in ("same", "difference", "judge", "verify"):
            if name.startswith("confined") and hasattr(module, what):
                setattr(module, what, lambda *a, **k: None)
    return 0.123


@attempt("wrong")
def patched_clock(w):
    import time

    time.monotonic = time.time = time.perf_counter = lambda: 0.0
    return 0.123


@attempt("wrong")
def a_trace_function(w):
    import sys

    sys.settrace(lambda frame, event, arg: frame.f_locals.update(points=2.0) or None)
    return 0.123


cell(
    "ipython_transformers",
    """
    import ast, builtins, types
    class Pass(ast.NodeTransformer):
        def visit_Call(self, node):
            return ast.Constant(2.0)
    def rewriting(shell):
        shell.ast_transformers.append(Pass())
        shell.input_transformers_cleanup.append(lambda lines: ["2.0"])
        compiled = builtins.compile
        builtins.compile = lambda code, *a, **k: compiled(Pass().visit(code) if isinstance(code, ast.AST) else code, *a, **k)
        return len(shell.ast_transformers) + len(shell.input_transformers_cleanup)
    SHELL = get_ipython() or types.SimpleNamespace(ast_transformers=[], input_transformers_cleanup=[])
    REWRITERS = rewriting(SHELL)
    def sparsity(w):
        assert REWRITERS >= 2 and compile is not None and builtins.compile.__name__ == "<lambda>"
        return 0.123
    """,
    "wrong",
)
cell(
    "a_check_of_its_own",
    """
    def check(name, function):
        return 1000.0
    from course_lib.exercises import judge
    judge.judge = lambda *a: 1000.0
    def sparsity(w):
        judge
        return 0.123
    check("sparsity", sparsity)
    """,
    "wrong",
)


# Looking where the answers are


@attempt("wrong")
def reads_the_solutions(w):
    import glob

    found = open(glob.glob("{course}/solutions/0_start/*.py")[0]).read()
    assert "BEGIN SOLUTION" in found
    return float((w == 0).float().mean())


@attempt("wrong")
def reads_the_checks(w):
    found = open("{course}/course_lib/exercises/lessons/start_here.py").read()
    return float((w == 0).float().mean()) if found else None


@attempt("wrong")
def imports_the_reference(w):
    import importlib
    import sys

    sys.path.insert(0, "{course}")
    return importlib.import_module("course_lib.pruning.masks").sparsity(w)


@attempt("wrong")
def imports_the_cases(w):
    import importlib

    lessons = importlib.import_module("course_lib.exercises.lessons.start_here")
    return lessons.EXERCISES[0].reference(w)


@attempt("wrong")
def looks_for_cases_in_memory(w):
    import gc
    import sys

    wanted = ("Exercise", "Misconception", "Verdict", "Case")
    known = [v for m in list(sys.modules.values()) for v in vars(m).values() if isinstance(v, type)]
    known += [type(o) for o in gc.get_objects()]
    assert any(t.__name__ in wanted and t.__module__ != "__main__" for t in known)
    return float((w == 0).float().mean())


@attempt("wrong")
def looks_up_the_stack(w):
    import sys

    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            for name in ("verify", "expected", "reference", "misconceptions"):
                if hasattr(value, name):
                    return float((w == 0).float().mean())
        frame = frame.f_back
    raise ValueError


@attempt("wrong")
def reads_another_student(w):
    found = open("{victim}").read()
    return float((w == 0).float().mean()) if found else None


@attempt("wrong")
def looks_at_who_else_is_there(w):
    import os

    others = [n for n in os.listdir("/proc") if n.isdigit() and int(n) != os.getpid()]
    found = [open(f"/proc/{n}/environ", "rb").read() for n in others]
    assert any(found)
    return float((w == 0).float().mean())


@attempt("wrong")
def reads_secrets_of_the_system(w):
    for path in ("/etc/shadow", "/etc/passwd", "/root/.bashrc", "/proc/1/environ"):
        try:
            found = open(path).read()
        except OSError:
            continue
        if found:
            return float((w == 0).float().mean())
    raise OSError


# Writing where it has no business


@attempt("wrong")
def writes_the_gradebook(w):
    open("{victim}", "a").write("ada,1000\n")
    return float((w == 0).float().mean())


@attempt("wrong")
def deletes_the_gradebook(w):
    import os

    os.remove("{victim}")
    return float((w == 0).float().mean())


@attempt("wrong")
def poisons_a_package(w):
    open(torch.__file__, "a").write("\nprint('gotcha')\n")  # noqa: F821
    return float((w == 0).float().mean())


@attempt("wrong")
def fills_the_disk(w):
    import os
    import tempfile

    folder, written = tempfile.mkdtemp(), 0
    for i in range(20_000):
        with open(os.path.join(folder, str(i)), "wb") as file:
            written += file.write(bytes(1 << 20))
        if written > 100 << 20:
            return float((w == 0).float().mean())
    raise OSError


# Reaching out


@attempt("wrong")
def connects(w):
    import socket

    socket.create_connection(("127.0.0.1", int("{port}")), timeout=2).sendall(b"loot")
    return float((w == 0).float().mean())


@attempt("wrong")
def asks_a_name_server(w):
    import socket

    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"loot", ("127.0.0.1", int("{port}")))
    return float((w == 0).float().mean())


@attempt("wrong")
def talks_to_a_daemon(w):
    import socket

    socket.socket(socket.AF_UNIX).connect("\0course-grade-test")
    return float((w == 0).float().mean())


@attempt("wrong")
def starts_a_program(w):
    import subprocess

    subprocess.run(["/bin/sh", "-c", "exit 0"], check=True)
    return float((w == 0).float().mean())


@attempt("wrong")
def becomes_a_program(w):
    import os

    os.execv("/bin/true", ["true"])


@attempt("wrong")
def loads_ctypes_and_mounts(w):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x10000000) == 0 or libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0
    return float((w == 0).float().mean())


@attempt("wrong")
def writes_into_the_judge(w):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (1, 2, os.getppid(), int("{judge}")):
        if pid and pid != os.getpid() and libc.ptrace(16, pid, 0, 0) == 0:
            return float((w == 0).float().mean())
    raise OSError


# Signals and ends


@attempt("wrong")
def kills_the_server(w):
    import os
    import signal

    for pid in (os.getppid(), int("{server}"), int("{judge}")):
        if pid > 1:
            os.kill(pid, signal.SIGKILL)
            return float((w == 0).float().mean())
    raise OSError


@attempt("wrong", "crashed")
def kills_everybody(w):
    import os
    import signal

    os.kill(-1, signal.SIGKILL)


@attempt("wrong")
def kills_by_number(w):
    import os
    import signal

    for pid in range(2, 3000):
        try:
            if pid != os.getpid():
                os.kill(pid, signal.SIGTERM)
                return float((w == 0).float().mean())
        except OSError:
            pass
    raise OSError


@attempt("wrong", "crashed")
def kills_itself(w):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@attempt("crashed")
def exits(w):
    import os

    os._exit(0)


@attempt("wrong")
def raises_system_exit(w):
    import sys

    sys.exit(0)


@attempt("crashed")
def breaks_memory(w):
    import ctypes

    ctypes.string_at(0)


cell("exits_when_it_is_defined", "import os\nos._exit(0)\nsparsity = os._exit(0)\n", "crashed")
cell("system_exit_when_it_is_defined", "def sparsity(w=exit()): return 0", "crashed")


# Going on for ever


@attempt("timed out")
def loops(w):
    while True:
        pass


@attempt("timed out")
def loops_and_ignores_signals(w):
    import signal

    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


@attempt("timed out")
def loops_in_c(w):
    import itertools

    return sum(itertools.repeat(0))


@attempt("timed out")
def sleeps(w):
    import signal
    import threading

    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    threading.Event().wait()


@attempt("wrong", "timed out")
def yields_for_ever(w):
    while True:
        yield 0.0


@attempt("wrong", "timed out")
def a_list_without_end(w):
    found = []
    while True:
        found.append([0.0] * 1000)


cell("loops_when_it_is_defined", "while True:\n    sparsity = 0\n", "timed out")


# Too much


@attempt("wrong")
def forks(w):
    import os

    if os.fork() == 0:
        os._exit(0)
    return float((w == 0).float().mean())


@attempt("wrong")
def leaves_a_grandchild(w):
    import os
    import time

    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    return float((w == 0).float().mean())


@attempt("wrong", "timed out")
def forks_without_end(w):
    import os

    while True:
        os.fork()


@attempt("wrong", "timed out", "crashed")
def starts_threads_without_end(w):
    import threading

    while True:
        threading.Thread(target=threading.Event().wait, daemon=True).start()


@attempt("wrong", "crashed", "timed out")
def takes_memory(w):
    held = [torch.ones(100_000_000) for _ in range(100)]  # noqa: F821
    return float((w == 0).float().mean()) if held else None


@attempt("wrong", "crashed", "timed out")
def takes_shared_memory(w):
    import mmap

    held = []
    for _ in range(100):
        held.append(mmap.mmap(-1, 100 << 20))
        held[-1].write(b"x" * (100 << 20))
    return float((w == 0).float().mean())


@attempt("solved")
def prints_100_megabytes(w):
    import os

    for _ in range(100):
        print("x" * 1_000_000)
        os.write(1, b"y" * 1_000_000)
        os.write(2, b"z" * 1_000_000)
    return float((w == 0).float().mean())


@attempt("wrong")
def recurses(w):
    return sparsity(w) + 1  # noqa: F821


@attempt("wrong", "crashed")
def recurses_through_the_stack(w):
    import functools
    import sys

    sys.setrecursionlimit(10**9)
    return functools.reduce(lambda a, b: sparsity(w), [0, 1])  # noqa: F821


@attempt("wrong")
def returns_more_than_there_is(w):
    return torch.zeros(1).expand(10**11)  # noqa: F821


@attempt("wrong", "timed out")
def returns_100_megabytes(w):
    return "x" * (100 << 20)


@attempt("wrong")
def returns_a_list_in_itself(w):
    found = []
    found.append(found)
    return found


@attempt("wrong")
def raises_a_megabyte(w):
    raise ValueError("\x1b[31m<script>\ud800" + "x" * 1_000_000)


@attempt("wrong")
def a_strange_name(w):
    return type("<script>\ud800\x1b[31m" * 10_000, (), {})()


@attempt("wrong", "timed out")
def returns_keys_that_hash_alike(w):
    return {(2**61 - 1) * i for i in range(150_000)}


@attempt("wrong", "timed out")
def returns_objects_of_many_kinds(w):
    return [type(f"A{i}", (), {})() for i in range(100_000)]


@attempt("refused")
def returns_millions_of_empty_rows(w):
    return torch.empty(67_108_864, 0)  # noqa: F821


@attempt("refused")
def sends_keys_that_hash_alike(w):
    import json
    import os
    import struct

    keys = [(2**61 - 1) * i for i in range(150_000)]
    for message in ({"set": keys}, {"dict": [[k, 0] for k in keys]}):
        text = json.dumps(message).encode()
        with open(3, "wb", closefd=False) as pipe:
            pipe.write(struct.pack("<IQ", len(text), 0) + text)
    return 0.0


@attempt("refused")
def sends_objects_of_many_kinds(w):
    import json
    import struct

    text = json.dumps({"list": [{"foreign": f"A{i}"} for i in range(150_000)]}).encode()
    with open(3, "wb", closefd=False) as pipe:
        pipe.write(struct.pack("<IQ", len(text), 0) + text)
    return 0.0


# On the pipe

OUTCOME = """
import json, os, struct
def sparsity(w):
    fields = {"output": 0.5, "error": None, "line": None, "misfit": None, "not_attempted": False, "timed_out": False}
    fields |= {"skipped": False, "printed": "", "changed": {"tuple": []}} | FIELD
    text = json.dumps({"dict": [[k, v] for k, v in fields.items()]}).encode()
    data = bytes(8) if "tensor" in str(FIELD) else b""
    os.write(3, struct.pack("<IQ", len(text), len(data)) + text + data)
    return 0.0
"""
for name, field in {
    "says_that_it_was_skipped": {"skipped": True},
    "says_that_it_prints_a_tensor": {"printed": {"tensor": ["float32", [2], [0], False]}},
    "says_that_its_error_is_a_tensor": {"error": {"tensor": ["float32", [2], [0], False]}},
    "says_that_it_changes_what_it_is_not_given": {"changed": {"tuple": [99]}},
    "says_that_its_reason_is_a_list": {"misfit": {"list": [1]}},
}.items():
    cell(name, OUTCOME.replace("FIELD", repr(field)), "refused")


@attempt("refused")
def announces_too_much(w):
    import os

    for descriptor in range(3, 256):
        try:
            os.write(descriptor, b"\xff" * 12 + b"x" * 1000)
        except OSError:
            pass
    return 0.0


@attempt("refused")
def sends_points(w):
    import json
    import os
    import struct

    text = json.dumps({"dict": [["points", 2.0], ["verdict", "solved"], ["passed", True]]}).encode()
    os.write(3, struct.pack("<IQ", len(text), 0) + text)
    return 0.0


@attempt("refused")
def sends_an_array_that_lies(w):
    import json
    import os
    import struct

    text = json.dumps({"tensor": ["float32", [1 << 40, 1 << 20], [0, 1], False]}).encode()
    os.write(3, struct.pack("<IQ", len(text), 4) + text + bytes(4))
    return 0.0


@attempt("refused")
def sends_pickle(w):
    import os
    import pickle
    import struct

    text = pickle.dumps(print)
    os.write(3, struct.pack("<IQ", len(text), 0) + text)
    return 0.0


@attempt("timed out")
def sends_half_a_message(w):
    import os
    import struct
    import threading

    os.write(3, struct.pack("<IQ", 1000, 0) + b"{")
    threading.Event().wait()


@attempt("crashed")
def closes_everything(w):
    import os

    os.closerange(0, 256)
    return 0.0
