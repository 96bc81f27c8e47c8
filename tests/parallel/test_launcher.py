"""The launcher: results by rank, errors that name the culprit, and nothing left however a call ends."""

import io
import linecache
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jobs
import psutil
import pytest
from torch.distributed import DistBackendError, DistStoreError

from course_lib import parallel
from course_lib.errors import CourseError
from course_lib.parallel import launcher
from course_lib.parallel.failures import Peers, WorkerError, cause
from course_lib.parallel.launcher import run
from course_lib.parallel.process_group import NEEDED, init_from_env
from course_lib.parallel.worker import stack_of_main_thread, tells_of_waiting, waits_for_peers

WITHIN = 15  # seconds from a failure to the end of all, as promised


def alive(pids) -> list[int]:
    """Those of these processes that run."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def listening() -> list:
    """Ports on which this process waits for connections."""
    return [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]


def left_in(folder: Path) -> list[int]:
    """The process ids that workers wrote there."""
    return [int(path.read_text()) for path in folder.iterdir() if path.suffix != ".new"]


def none_is_left(pids: list[int]) -> bool:
    """Whether all are gone, or go within :data:`WITHIN`."""
    deadline = time.monotonic() + WITHIN
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


def test_results_come_by_rank_and_output_with_its_rank_before_it(capfd):
    results = parallel.run(jobs.look_round, 2, 3, env={"COLOUR": "red"}, threads=1)
    assert [r["rank"] for r in results] == [0, 1]
    assert [r["sum"].item() for r in results] == [7, 7]  # (0 + 3) + (1 + 3)
    assert all((r["world_size"], r["threads"], r["colour"], r["stdin"]) == (2, 1, "red", "") for r in results)
    out, err = capfd.readouterr()
    assert sorted(out.split("\n")) == ["", "[rank 0] hello from stdout", "[rank 1] hello from stdout"]
    assert sorted(err.split("\n")) == ["", "[rank 0] hello from stderr", "[rank 1] hello from stderr"]
    with pytest.raises(AttributeError, match="no attribute 'ran'"):
        parallel.ran  # noqa: B018


def test_functions_without_a_module_go_by_value_and_ten_runs_at_once_do_not_meet():
    def mine(number):  # as in a notebook's cell: no module has it
        import torch
        import torch.distributed as dist

        t = torch.tensor([number])
        dist.all_reduce(t)
        return t.item()

    before, children = threading.active_count(), set(psutil.Process().children())
    sizes = [2, 2, 2, 2, 2, 1, 1, 1, 1, 1]
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda n, size: run(mine, size, 10**n), range(10), sizes))
    assert results == [[size * 10**n] * size for n, size in enumerate(sizes)]
    assert set(psutil.Process().children()) == children and threading.active_count() == before
    assert listening() == []


def test_output_is_shown_while_the_worker_still_runs(tmp_path, monkeypatch):
    answer = tmp_path / "answer"

    class Answering(io.StringIO):
        def write(self, text: str) -> int:
            if "[rank 0] are you there?" in text:
                answer.touch()
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Answering())
    assert run(jobs.speak_and_wait, 1, str(answer)) == [True]


@pytest.mark.parametrize(
    ("how", "workers", "message", "traceback"),
    [
        ("raise", 2, "rank 1 of 2 raised ValueError: no such tag", 'raise ValueError("no such tag")'),
        ("kill", 2, "rank 1 of 2 was killed by SIGKILL", ""),
        ("sleep", 3, "rank 1 of 3 kept its peers waiting in a collective for more than 2 s. It is here:", "time.sleep(600)"),
        ("disorder", 2, "Every rank waits for another, for more than 2 s: collectives in another order", "dist.recv("),
    ],
)
def test_a_worker_that_fails_ends_the_others_and_is_named(how, workers, message, traceback, tmp_path):
    with pytest.raises(WorkerError, match=re.escape(message)) as caught:
        run(jobs.fail, workers, 1, how, str(tmp_path), timeout_s=2)
    assert caught.value.rank == 1 or how == "disorder"
    assert traceback in caught.value.traceback and "worker.py" not in caught.value.traceback  # the called function's code alone
    assert time.time() - (tmp_path / "1").stat().st_mtime < 2 + WITHIN  # it wrote that just before it failed
    assert len(left_in(tmp_path)) == workers and alive(left_in(tmp_path)) == [] and listening() == []


def test_a_traceback_shows_the_line_of_a_cell_that_is_no_file():
    source = "def seventh(row):\n    return row[7]  # there are fewer\n"
    linecache.cache["<cell 3>"] = (len(source), None, source.splitlines(keepends=True), "<cell 3>")
    cell: dict = {}
    exec(compile(source, "<cell 3>", "exec"), cell)
    cell["seventh"].__module__ = "__main__"
    with pytest.raises(WorkerError, match="rank 0 of 1 raised IndexError: list index out of range") as caught:
        run(cell["seventh"], 1, [1, 2])
    assert "return row[7]  # there are fewer" in caught.value.traceback


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, tests among them, ignores it
sys.path.insert(0, {tests!r})
import jobs
from course_lib.parallel.launcher import run
run(jobs.wait_for_each_other, 2, sys.argv[1])
"""


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT)])
def test_a_parent_that_is_killed_or_interrupted_leaves_no_worker_that_waits_in_a_collective(ending, code, tmp_path):
    script = PARENT.format(tests=str(Path(__file__).parent))
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE, start_new_session=True)
    while len(left_in(tmp_path)) < 2:
        assert parent.poll() is None, parent.stderr.read().decode()
        time.sleep(0.05)
    os.kill(parent.pid, ending)
    _, errors = parent.communicate(timeout=WITHIN)
    assert parent.returncode == code and (ending == signal.SIGKILL or b"KeyboardInterrupt" in errors)
    assert none_is_left(left_in(tmp_path))


def test_what_cannot_run_is_refused_before_any_process_starts():
    before = psutil.Process().children()
    with pytest.raises(ValueError, match="world_size = 0: expected a number of processes, at least 1"):
        run(max, 0)
    with pytest.raises(ValueError, match="fn = 'max': expected a function"):
        run("max", 2)
    with pytest.raises(ValueError, match="timeout_s = 0: expected a positive number of seconds"):
        run(max, 2, timeout_s=0)
    with pytest.raises(ValueError, match="threads = 0: expected at least 1"):
        run(max, 2, threads=0)
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        run(max, 2, threading.Lock())
    assert psutil.Process().children() == before


# Whose fault it is, from what the parent knows.

WAITED = {"error": "RuntimeError: Timed out", "traceback": "  File a\n    dist.barrier()", "waited": True}
SLEEPS = '  File "/a/train.py", line 3, in train\n    time.sleep(600)\n'
IN_TORCH = (
    '  File "/a/train.py", line 3, in train\n    x()\n  File "/v/torch/distributed/c.py", line 9, in barrier\n    work()\n'
)
IN_RING = '  File "/b/course_lib/parallel/data_parallel.py", line 9, in wait\n    work.result()\n'
IN_RING += '  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 4, in result\n    self._condition.wait(timeout)\n'
IN_RING += '  File "/usr/lib/python3.11/threading.py", line 4, in wait\n    waiter.acquire()\n'


def judged(
    reports: dict, dead: dict | None = None, stacks: dict | None = None, last: bool = True, words: dict | None = None
) -> WorkerError | None:
    """The verdict on four workers, of which rank 2 last wrote a word, and those of ``words`` what is there."""
    last_words = {2: "a word\n"} | (words or {})
    return cause(Peers(4, 5.0, reports, dead or {}, last_words), lambda ranks: {r: (stacks or {}).get(r) for r in ranks}, last)


def test_nobody_is_blamed_while_all_is_well_or_others_may_still_speak():
    assert judged({}) is None and judged({0: {"result": 1}}) is None
    assert judged({0: WAITED}, last=False) is None


def test_the_dead_and_those_with_an_error_of_their_own_come_before_those_who_waited():
    assert "rank 3 of 4 was killed by SIGKILL, perhaps for want of memory" in str(judged({0: WAITED}, {3: -signal.SIGKILL}))
    assert str(judged({0: WAITED}, {3: -signal.SIGSEGV})).startswith("rank 3 of 4 was killed by SIGSEGV.")
    ended = judged({}, {2: 7}, last=False)
    assert ended.rank == 2 and str(ended).startswith("rank 2 of 4 ended with exit code 7 before it returned.")
    assert ended.traceback.endswith("a word\n")
    own = {"error": "KeyError: 'x'", "traceback": "Traceback …", "waited": False, "at": 2.0}
    assert str(judged({0: WAITED, 1: own}, last=False)) == "rank 1 of 4 raised KeyError: 'x'\nTraceback …"
    earlier = own | {"error": "KeyError: 'y'", "at": 1.0}
    assert judged({0: WAITED, 1: own, 3: earlier}, last=False).rank == 3  # the other may be what follows from it


def test_of_the_silent_the_one_that_does_not_wait_itself_is_late():
    late = judged({0: WAITED}, stacks={1: IN_TORCH, 2: IN_RING, 3: SLEEPS})
    assert late.rank == 3 and late.traceback == SLEEPS
    assert "rank 3 of 4 kept its peers waiting in a collective for more than 5 s. It is here:" in str(late)
    assert "rank 2 of 4 kept its peers waiting in a collective for more than 5 s and does not answer" in str(
        judged({0: WAITED, 1: WAITED})
    )
    returned = judged({0: WAITED, 1: {"result": None}, 2: WAITED, 3: WAITED})
    assert returned.rank == 1 and "more than 5 s: it had returned" in str(returned)


def test_those_that_do_not_answer_are_asked_at_once_and_given_up_together(monkeypatch):
    clock, asked = [0.0], []

    class Worker:
        def __init__(self, rank: int) -> None:
            self.stdin = self
            self.rank = rank

        def write(self, line: bytes) -> None:
            asked.append((self.rank, clock[0]))

        def flush(self) -> None:
            if self.rank == 4:
                raise BrokenPipeError  # it is gone

    class Store:
        def check(self, keys: list[str]) -> bool:
            return keys == ["stack/5"] and clock[0] > 1

        def get(self, key: str) -> bytes:
            return IN_TORCH.encode()

    monkeypatch.setattr(
        launcher, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda s: clock.append(clock.pop() + s))
    )
    found = launcher._stacks({rank: Worker(rank) for rank in range(7)}, SimpleNamespace(store=Store()))
    assert asked == [(rank, 0.0) for rank in range(7)]
    assert found == {rank: IN_TORCH if rank == 5 else None for rank in range(7)}
    assert clock[0] <= launcher.ANSWER_S + 2 * launcher.POLL_S
    # What is promised: complaints, then the culprit's chance, then answers, then the processes' end.
    assert launcher.GRACE_S + clock[0] + 5 < WITHIN


def test_if_all_wait_each_ones_place_is_shown():
    told = judged({0: WAITED, 2: WAITED}, stacks={1: IN_TORCH, 3: IN_RING})
    assert str(told).startswith("Every rank waits for another") and told.rank == 0
    assert [line for line in told.traceback.splitlines() if line.startswith("rank ")] == [f"rank {r} of 4:" for r in range(4)]


def test_an_error_that_a_peers_absence_made_is_known_through_what_was_raised_from_it():
    gone = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    outer = ValueError("no sum")
    outer.__cause__ = gone
    assert waits_for_peers(gone) and waits_for_peers(outer) and waits_for_peers(DistStoreError("wait timeout"))
    assert not waits_for_peers(ValueError("no such tag")) and not waits_for_peers(None)


# As torch and NCCL wrote them; the numbers of lines, ranks and addresses vary.
WATCHDOG = (
    "[rank0]:[E321 02:07:08.408271257 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000) ran for 600060 "
    "milliseconds before timing out.\n"
    "terminate called after throwing an instance of 'c10::DistBackendError'\n"
    "  what():  [PG 1 Rank 0] Process group watchdog thread terminated with exception: [Rank 0] Watchdog caught collective "
    "operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, …)\n"
)
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268, {}\nLast error:\n{}"
REMOTE = NCCL.format(
    "remote process exited or there was a network error, NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a "
    "network error or a remote process exiting prematurely.",
    "socketProgressOpt: Call to recv from 10.0.0.2<33759> failed : Connection reset by peer",
)
INTERNAL = NCCL.format(
    "internal error, NCCL version 2.14.3\nncclInternalError: Internal check failed.",
    "Net : Connection closed by remote peer user<50260>",
)
DUPLICATE = NCCL.format(
    "invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.20.5\nncclInvalidUsage: This usually reflects invalid "
    "usage of NCCL library.",
    "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 10",
)
UNHANDLED = NCCL.format(
    "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.18.5\nncclUnhandledCudaError: Call to CUDA "
    "function failed.",
    "Cuda failure 'out of memory'",
)


@pytest.mark.parametrize("text", [WATCHDOG, REMOTE, INTERNAL])
def test_what_nccl_says_of_a_late_peer_is_a_wait_whatever_the_type_of_error(text):
    assert waits_for_peers(DistBackendError(text)) and waits_for_peers(RuntimeError(text)) and tells_of_waiting(text)


@pytest.mark.parametrize("text", [DUPLICATE, UNHANDLED])
def test_what_nccl_says_of_the_process_itself_is_no_wait(text):
    assert not waits_for_peers(DistBackendError(text)) and not tells_of_waiting(text)


def test_who_was_ended_by_the_watchdog_of_nccl_waited_and_the_one_it_waited_for_is_named():
    aborted, words = {0: -signal.SIGABRT, 1: -signal.SIGABRT}, {0: WATCHDOG, 1: WATCHDOG}
    assert judged({}, aborted, last=False, words=words) is None
    late = judged({}, aborted, {2: IN_TORCH, 3: SLEEPS}, words=words)
    assert late.rank == 3 and late.traceback == SLEEPS
    killed = judged({}, {**aborted, 3: -signal.SIGKILL}, last=False, words=words)
    assert killed.rank == 3 and "was killed by SIGKILL" in str(killed)
    own = {"error": "KeyError: 'x'", "traceback": "Traceback …", "waited": False, "at": 1.0}
    assert judged({3: own}, aborted, last=False, words=words).rank == 3
    other = judged({}, {**aborted, 2: -signal.SIGABRT}, last=False, words=words)  # aborted for another reason
    assert other.rank == 2 and other.traceback.endswith("a word\n")
    alone = judged({}, dict.fromkeys(range(4), -signal.SIGABRT), words=dict.fromkeys(range(4), WATCHDOG))
    assert str(alone).startswith("Every rank waits for another") and alone.traceback.count("Rank 0] Watchdog caught") == 8


def test_a_stack_ends_where_the_main_thread_is():
    assert stack_of_main_thread().rstrip().splitlines()[-2].endswith("in stack_of_main_thread")


# Under torchrun, and joining as there.


def test_a_worker_that_raises_under_torchrun_is_named_and_the_exit_code_tells():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", jobs.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    cause_of_all = done.stderr[done.stderr.index("Root Cause (first observed failure):") :]
    assert re.search(r"rank +: 1 \(local_rank: 1\)\n +exitcode +: 1 ", cause_of_all)
    assert "[rank1]: ValueError: no such tag" in done.stderr


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def torchrun(monkeypatch):
    """Sets what torchrun sets."""

    def set_all(rank: int, port: int, world_size: int = 3) -> None:
        values = {"RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    for name in (*NEEDED, "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    return set_all


def test_missing_ranks_are_named(torchrun):
    torchrun(0, free_port())
    with pytest.raises(CourseError, match=r"After 0\.2 s these ranks of 3 have not joined: 1, 2\."):
        init_from_env(join_s=0.2)
    torchrun(1, free_port())
    with pytest.raises(CourseError, match=r"After 1 s rank 0 of 3 has not joined: nobody answers at 127.0.0.1"):
        init_from_env(join_s=1)


def test_a_port_that_is_taken_is_named(torchrun):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        torchrun(0, port)
        with pytest.raises(CourseError, match=f"MASTER_PORT = {port} is taken on 127.0.0.1; choose another"):
            init_from_env(join_s=1)


def test_a_process_that_nobody_numbered_is_told_how_to_start(torchrun):
    with pytest.raises(CourseError, match="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set: start this with `torchrun"):
        init_from_env()
    torchrun(3, free_port())
    with pytest.raises(ValueError, match="RANK = 3: expected a number from 0 to WORLD_SIZE − 1 = 2"):
        init_from_env()
    with pytest.raises(ValueError, match="backend = 'mpi': expected gloo or nccl"):
        init_from_env("mpi")


def test_nccl_without_a_gpu_is_refused(torchrun, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(CourseError, match="backend = 'nccl' needs an NVIDIA GPU"):
        init_from_env("nccl")
