"""``--engine kernel``: all cells run, confined; points stay those of the judge."""

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from stand_ins import LESSON, result_of

from course_lib.classroom import kernel_engine, kernel_run
from course_lib.classroom.confine import doctor
from course_lib.classroom.kernel import release
from course_lib.classroom.kernel_engine import Limits, kernel_grader, run_notebook
from course_lib.errors import CourseError

LIMITS = Limits(seconds=90, cell_seconds=20)


@functools.cache
def tiers() -> dict:
    """Each tier and why it is not here, None where it is."""
    return dict(doctor())


def notebook(*cells: str, kernel: str = "python3") -> bytes:
    made = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": c, "outputs": [], "execution_count": None}
        for i, c in enumerate(cells)
    ]
    about = {"kernelspec": {"name": kernel, "display_name": "x", "language": "python"}}
    return json.dumps({"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}).encode()


LOOK = """
import glob, os, socket, urllib.request
found = {"solutions": glob.glob("%s/solutions/*"), "processes": len([p for p in os.listdir("/proc") if p.isdecimal()])}
found["others"] = os.path.exists("%s")
try:
    open(os.path.join(os.path.dirname(glob.__file__), "x"), "w")
except OSError as error:
    found["write"] = type(error).__name__
try:
    socket.create_connection(("1.1.1.1", 53), timeout=2)
except OSError as error:
    found["network"] = type(error).__name__
from course_lib.exercises import check
found["library"] = callable(check)
print(found)
"""


@pytest.fixture(scope="module")
def looked(request, tmp_path_factory):
    """What a notebook that looks about found, in the first tier that this system has: ``(tier, what came of the run)``."""
    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_text("of another student")
    cells = "x = 1", "undefined", LOOK % (request.config.rootpath, secret), "print(x)"
    for tier in ("namespaces", "bubblewrap"):
        done = run_notebook(notebook(*cells), tier, LIMITS)
        if "notebook" in done:
            return tier, done
        assert tiers()[tier], f"there is {tier}, and yet {done}"
    pytest.skip("this system gives neither namespaces nor bubblewrap")


@pytest.fixture
def tier(looked):
    return looked[0]


def test_all_cells_run_confined_and_what_stopped_is_told_by_cell(looked):
    _, done = looked
    assert done["errors"] == [(2, "NameError: name 'undefined' is not defined")]
    cells = json.loads(done["notebook"])["cells"]
    said = eval("".join(cells[2]["outputs"][0]["text"]))
    assert said["solutions"] == [] and said["others"] is False and said["library"] is True
    assert "write" in said and "network" in said and said["processes"] < 10
    assert cells[3]["outputs"][0]["text"] == ["1\n"]


def test_unconfined_the_same_happens(tmp_path):
    done = run_notebook(notebook("import os", "print(os.getcwd())", "1 / 0"), "unconfined", LIMITS)
    assert done["errors"] == [(3, "ZeroDivisionError: division by zero")]
    assert "course-kernel-" in json.loads(done["notebook"])["cells"][1]["outputs"][0]["text"][0]


def test_whatever_a_notebook_does_an_answer_comes_back_and_nothing_is_left_running(tier):
    mark = f"course-left-{os.getpid()}"
    stays = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'])"
    done = run_notebook(notebook(stays, "import os; os._exit(1)", "1"), tier, LIMITS)
    assert done["errors"] == [(2, "ended the kernel; the cells after it were not run")]
    assert not _running(mark)
    assert "Jupyter cannot open it" in run_notebook(b"[", tier, LIMITS)["errors"][0][1]


def _running(mark: str) -> bool:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if mark.encode() in file.read() and int(pid) != os.getpid():
                return True
    return False


def test_a_notebook_that_never_ends_is_stopped(tier):
    started = time.monotonic()
    done = run_notebook(notebook("import time", "while True: time.sleep(1)"), tier, replace(LIMITS, seconds=3))
    assert done["errors"] == [(0, "the notebook did not end within 3 seconds")] and time.monotonic() - started < 60
    slow = run_notebook(notebook("1", "import time; time.sleep(60)"), tier, replace(LIMITS, cell_seconds=1))
    assert slow["errors"] == [(2, "did not end within 1 seconds; the cells after it were not run")]


def test_what_the_notebook_says_of_its_points_earns_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(
        kernel_engine, "run_notebook", lambda *given: {"errors": [(n, "no") for n in range(12)], "notebook": "{}"}
    )

    @contextlib.contextmanager
    def functions():
        yield lambda piece: result_of(*piece)

    data = b"def sparsity: print('1000 points')"
    with kernel_grader(functions, "namespaces", tmp_path) as grade:
        found = grade(("anna", LESSON, data))
    assert found.points == 0 and found.engine == "kernel"
    assert found.flags == (*(f"cell {n}: no" for n in range(10)), "2 more cells raise")
    assert (tmp_path / "anna" / f"{LESSON}.ipynb").read_text() == "{}"
    assert replace(found, engine="functions", flags=()) == result_of("anna", LESSON, data)


def test_a_notebook_that_could_not_be_read_is_not_run(tmp_path):
    @contextlib.contextmanager
    def functions():
        yield lambda piece: replace(result_of(*piece), error="It is cut off.")

    with kernel_grader(functions, "namespaces", tmp_path) as grade:
        assert grade(("anna", LESSON, b"")).engine == "kernel"


def test_landlock_alone_cannot_hold_a_kernel(tmp_path):
    with pytest.raises(CourseError, match="namespaces or bubblewrap"), kernel_grader(None, "landlock", tmp_path):
        raise AssertionError


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"[]", b'{"errors": 3}', b'{"errors": [["a", 1]], "notebook": ""}'),
        *(b'{"errors": [[1e999, "x"]], "notebook": ""}', b"[" * 100_000),
    ],
    ids=range(6),
)
def test_nonsense_from_a_run_is_an_answer_too(said, monkeypatch):
    monkeypatch.setattr(kernel_engine, "_run", lambda *given: said)
    assert run_notebook(b"", "namespaces", LIMITS)["errors"] == [(0, "its run ended before it could say anything")]


def test_the_program_in_the_confined_process_reads_limits_itself_runs_and_says_what_came_of_it(monkeypatch, tmp_path, capsys):
    limits = []
    monkeypatch.setattr(kernel_run.resource, "setrlimit", lambda what, value: limits.append((what, value)))
    monkeypatch.chdir(tmp_path)
    settings = {"tier": "unconfined", "folder": str(tmp_path), "seconds": 60, "cell_seconds": 1, "memory_megabytes": 100}
    monkeypatch.setattr(sys, "argv", ["kernel_run", json.dumps(settings)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(notebook("1 / 0", "import time; time.sleep(9)", "1").decode()))
    kernel_run.main()
    said = json.loads(capsys.readouterr().out)
    slow = "did not end within 1 seconds; the cells after it were not run"
    assert said["errors"] == [[1, "ZeroDivisionError: division by zero"], [2, slow]] and json.loads(said["notebook"])["cells"]
    assert len(limits) == 4 and all(soft == hard for _, (soft, hard) in limits)
    assert kernel_run.run("{", 1)["unreadable"] == "NotJSONError"
    assert kernel_run.run(notebook("import os; os._exit(0)", "1").decode(), 9)["errors"][0][0] == 1


@pytest.fixture(params=["namespaces", "bubblewrap"])
def each(request, looked):
    """Each tier that can hold a kernel, where this system has it."""
    if why := tiers()[request.param]:
        pytest.skip(why)
    return request.param


STAYS = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}])"
FORKS = """
import os, signal, time
made = []
try:
    while len(made) < 1000:
        made.append(os.fork())
        if not made[-1]:
            time.sleep(600)
            os._exit(0)
except OSError:
    pass
for pid in made:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(len(made))
"""


def test_a_notebook_that_forks_without_end_is_stopped_or_refused(each):
    mark = f"course-forks-{os.getpid()}-{each}"
    forever = FORKS.replace("for pid", "time.sleep(600)\nfor pid")
    done = run_notebook(notebook(STAYS.format(mark=mark), forever), each, LIMITS)
    assert done["errors"] == [(0, f"its run had more than {LIMITS.processes} processes and was stopped")]
    assert not _running(mark)
    if release() >= (6, 14):
        unwatched = run_notebook(notebook(FORKS), each, replace(LIMITS, processes=10_000, resident_megabytes=10**6))
        assert 100 < int(json.loads(unwatched["notebook"])["cells"][0]["outputs"][0]["text"][0]) < kernel_run.TASKS


def test_a_notebook_whose_processes_together_take_too_much_memory_is_stopped(each):
    mark = f"course-hogs-{os.getpid()}-{each}"
    hogs = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = os.urandom(1) * (300 << 20)
        time.sleep(600)
time.sleep(600)
"""
    done = run_notebook(notebook(STAYS.format(mark=mark), hogs), each, replace(LIMITS, resident_megabytes=900))
    assert done["errors"] == [(0, "its run took more than 900 MiB of memory and was stopped")]
    assert not _running(mark)


def test_a_kernel_gets_no_capability_and_no_namespace(each):
    tries = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
done = [libc.unshare(flag) for flag in (0x10000000, 0x20000, 0x40000000)]
done += [libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.umount2(b"/tmp", 2), libc.ptrace(16, os.getppid(), 0, 0)]
done += [libc.prctl(23, 21, 0, 0, 0), libc.mount(b"", b"/usr", b"", 4096 | 32, None)]
print(done)
"""
    done = run_notebook(notebook(tries), each, LIMITS)
    said = eval(json.loads(done["notebook"])["cells"][0]["outputs"][0]["text"][0])
    assert said == [-1] * 6 + [0, -1], "of those that drop CAP_SYS_ADMIN, the bounding set says 0"


GRADER = """
import sys
from course_lib.classroom.kernel_engine import Limits, run_notebook
sys.stdout.write("ready\\n")
sys.stdout.flush()
run_notebook(sys.stdin.buffer.read(), sys.argv[1], Limits())
"""


@pytest.mark.parametrize(
    "kind, how",
    [
        *[("namespaces", signal.SIGKILL), ("namespaces", signal.SIGINT)],
        *[("bubblewrap", signal.SIGKILL), ("unconfined", signal.SIGKILL)],
    ],
)
def test_when_the_grader_ends_no_process_of_a_run_is_left(kind, how, looked, tmp_path):
    if kind != "unconfined" and (why := tiers()[kind]):
        pytest.skip(why)
    stays = "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    grader = subprocess.Popen([sys.executable, "-c", GRADER, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    grader.stdin.write(notebook(stays, "time.sleep(600)"))
    grader.stdin.close()
    assert grader.stdout.readline() == b"ready\n"
    until = time.monotonic() + 60
    while not any("time.sleep(600)" in " ".join(_cmdline(p)) for p in psutil.Process(grader.pid).children(recursive=True)):
        assert time.monotonic() < until, "its process has begun"
        time.sleep(0.1)
    processes = psutil.Process(grader.pid).children(recursive=True)
    grader.send_signal(how)
    grader.wait(30)
    grader.stdout.close()
    assert psutil.wait_procs(processes, 20)[1] == []


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
