"""What a confined child must not reach in the processes and files of whoever grades it, tried by the system calls themselves."""

import contextlib
import os
import re
import resource
import subprocess
import sys

import numpy as np
import psutil
import pytest
from hand_in import MEGABYTES, SPARSITY, notebook
from test_confine import below, called, gone

from course_lib.classroom import confine, kernel, landlock, wire
from course_lib.classroom.confine import CONFINED, Limits, Server, ServerGone, doctor, start_server
from course_lib.classroom.grade_one import grade
from course_lib.errors import CourseError

LIMITS = Limits(memory_megabytes=1024, cpu_seconds=60, tmp_megabytes=8)


@pytest.fixture(scope="module")
def servers():
    """Servers by tier, of the tiers that this system has."""
    found = {}
    yield lambda tier: found.setdefault(tier, _server(tier))
    for server in found.values():
        if server is not None:
            server.close()


def _server(tier: str) -> Server | None:
    try:
        return Server(tier, LIMITS)
    except CourseError:
        return None


@pytest.fixture(params=CONFINED)
def server(request, servers):
    """A server of each tier that this system has."""
    found = servers(request.param)
    if found is None:
        pytest.skip(f"this system has no {request.param}")
    return found


def refused(server: Server, source: str) -> bool:
    """Whether every one of the calls that ``f`` makes fails: it returns a list of those that did not."""
    found = called(server.fork(), source)
    server.end()
    assert isinstance(found, list)
    return not found


TRIES = """
import ctypes, os, resource
LIBC = ctypes.CDLL(None, use_errno=True)
def tried(*calls):
    done = []
    for number, call in enumerate(calls):
        try:
            result = call()
        except (OSError, ValueError):
            continue
        if result != -1:
            done.append(number)
    return done
"""


def test_limits_priority_and_scheduling_of_others_stay(server):
    """By ``prlimit`` a child could have its server, and in turn every process of the user, ended for using processor time."""
    pids = [*below(server._process.pid), os.getpid(), 1]
    source = f"""{TRIES}
def f():
    done = []
    for pid in [os.getppid(), *{pids}]:
        done += tried(
            lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1000, 1000)) and None,
            lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
            lambda: os.sched_setaffinity(pid, [0]) if pid else -1,
            lambda: LIBC.sched_setscheduler(pid, 5, ctypes.byref(ctypes.c_int(0))) if pid else -1,
            lambda: LIBC.syscall({251 if os.uname().machine == "x86_64" else 30}, 1, pid, 3 << 13) if pid else -1,
        ) if pid else []
    return done + tried(lambda: os.setpriority(os.PRIO_USER, 0, 19), lambda: os.setpriority(os.PRIO_PGRP, 0, 19))
"""
    before = resource.prlimit(server._process.pid, resource.RLIMIT_CPU), os.getpriority(os.PRIO_PROCESS, server._process.pid)
    assert refused(server, source)
    after = resource.prlimit(server._process.pid, resource.RLIMIT_CPU), os.getpriority(os.PRIO_PROCESS, server._process.pid)
    assert before == after


def test_a_child_may_still_lower_its_own_limits(server):
    source = """import resource
def f():
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]"""
    assert called(server.fork(), source) == 32
    server.end()


def test_no_file_is_changed_or_shortened_by_its_path(server, tmp_path):
    """Landlock covers neither mode, owner, times nor attributes, and lengths from its third version on."""
    victim = tmp_path / "log.jsonl"
    victim.write_text("graded\n")
    victim.chmod(0o644)
    os.utime(victim, (1e9, 1e9))
    before = victim.stat()
    source = f"""{TRIES}
def f():
    path, raw = {str(victim)!r}, {os.fsencode(victim)!r}
    opened = os.open(os.__file__, os.O_RDONLY)
    same = os.fstat(opened).st_mode & 0o7777
    return tried(
        lambda: os.chmod(path, 0), lambda: os.chown(path, os.getuid(), os.getgid()), lambda: os.utime(path, (1, 1)),
        lambda: os.setxattr(path, "user.mark", b"1"), lambda: os.truncate(path, 0), lambda: os.lchown(path, 0, 0),
        lambda: LIBC.chmod(raw, 0), lambda: LIBC.truncate(raw, 0), lambda: os.removexattr(path, "user.mark"),
        lambda: os.fchmod(opened, same), lambda: os.fchown(opened, -1, -1),
    )
"""
    assert refused(server, source)
    after = victim.stat()
    assert (after.st_mode, after.st_mtime, after.st_size) == (before.st_mode, before.st_mtime, before.st_size)


def test_no_descriptor_sends_signals_to_others(server):
    """``F_SETOWN`` makes the system send SIGIO, or any other with ``F_SETSIG``, in the child's name."""
    source = f"""{TRIES}
import fcntl, struct
def f():
    ours, theirs = os.pipe()
    others = [os.getppid(), {server._process.pid}, {os.getpid()}]
    found = []
    for pid in filter(None, others):
        found += tried(
            lambda: fcntl.fcntl(ours, fcntl.F_SETOWN, pid), lambda: fcntl.fcntl(ours, 15, struct.pack("ii", 1, pid)),
            lambda: fcntl.ioctl(3, 0x8901, struct.pack("i", pid)), lambda: fcntl.ioctl(3, 0x8902, struct.pack("i", pid)),
        )
    return found + tried(lambda: fcntl.fcntl(ours, 10, 9))
"""
    assert refused(server, source)


def test_queues_and_shared_memory_of_the_user_are_closed(server):
    """Landlock knows no System V objects; one of this process is what a child would find by its number."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    number = libc.shmget(0, 4096, 0o1600)
    assert number >= 0
    source = f"""{TRIES}
LIBC.shmat.restype = ctypes.c_void_p
def f():
    attached = LIBC.shmat({number}, None, 0)
    return tried(lambda: LIBC.shmctl({number}, 0, None)) + ([] if attached in (None, 2**64 - 1) else [9])
"""
    try:
        assert refused(server, source)
    finally:
        assert libc.shmctl(number, 0, None) == 0, "it is still there"


THREADS = """
import threading
def f():
    threading.stack_size(32768)
    wait, made = threading.Event(), 0
    try:
        while made < 3000:
            threading.Thread(target=wait.wait, daemon=True).start()
            made += 1
    except RuntimeError:
        pass
    wait.set()
    return made
"""


def test_threads_have_a_limit_where_the_system_counts_them(server):
    """A notebook's own threads, small ones: no more than a few hundred of them."""
    made = called(server.fork(), THREADS)
    server.end()
    if os.geteuid() == 0 and (server.tier == "landlock" or kernel.release() < (6, 14)):
        pytest.skip("root's processes are not counted")
    assert 0 < made < 1000


def test_a_server_has_one_thread(server):
    """Only then may it fork: a lock that another thread held would stay locked in the child."""
    forker = [psutil.Process(server._process.pid), *psutil.Process(server._process.pid).children(recursive=True)][-1]
    assert len(os.listdir(f"/proc/{forker.pid}/task")) == 1


BROKEN = (
    "import sys; sys.path.insert(0, sys.argv[2]); import confined.classroom.kernel as k, confined.classroom.fork_server as f; "
)
NO_FILTER = BROKEN + "k.filter_system_calls = lambda pid: k.call('prctl', 9999, 0, 0, 0, 0); f.main()"
DIES = BROKEN + "import os; k.filter_system_calls = lambda pid: os._exit(1); f.main()"
LEAVES = BROKEN + "import os, confined.classroom.child as c; c.serve = lambda sock: os._exit(3); f.main()"


@pytest.mark.parametrize(
    "start, why",
    [
        (NO_FILTER, r"could not be confined: \[Errno 22\] prctl"),
        (DIES, "it ended before it said so"),
        (LEAVES, "nothing to do ended with 3"),
    ],
    ids=["refused", "dies", "ends badly"],
)
def test_a_tier_whose_child_cannot_confine_itself_is_not_available(start, why, monkeypatch):
    """Else each student would get it as the verdict on a notebook that could not be read."""
    tier = next(t for t, reason in doctor() if reason is None)
    monkeypatch.setattr(confine, "START", start)
    with pytest.raises(CourseError, match=f"{tier} is not available here: .*{why}"):
        Server(tier, LIMITS)
    assert re.search(why, dict(doctor())[tier])
    with pytest.raises(CourseError, match="cannot be confined here"):
        start_server(LIMITS)


def test_a_child_that_cannot_be_confined_later_is_no_verdict(monkeypatch):
    once = BROKEN + "import os; real, count, fork = k.filter_system_calls, [], f._fork; "
    once += "f._fork = lambda *a: (count.append(1), setattr(k, 'filter_system_calls', real if len(count) < 2 else lambda pid: os._exit(1)), fork(*a))[2]; f.main()"
    monkeypatch.setattr(confine, "START", once)
    tier = next(t for t, reason in doctor() if reason is None)
    with Server(tier, LIMITS) as server, pytest.raises(ServerGone, match="could not be confined"):
        grade(notebook(SPARSITY, MEGABYTES), "anna", "00_start_here", server)


LEFT = """import os, subprocess, sys
def start():
    direct = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    between = os.fork()
    if between == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"])
        os._exit(0)
    os.waitpid(between, 0)
    return direct
P = start()
def f(): return P.pid"""  # one below it, and one whose parent has ended


@pytest.mark.parametrize("how", ["ends", "is ended", "server closes"])
def test_unconfined_nothing_that_a_child_started_is_left_either(how):
    with Server("unconfined", LIMITS) as server:
        child = server.fork()
        data = np.frombuffer(notebook(LEFT), dtype=np.uint8)
        wire.send(child, {"do": "read", "with": {"data": data, "exercises": ["f"], "questions": {}}})
        wire.receive(child)
        wire.send(child, {"do": "build", "with": {"name": "f", "modules": {}, "others": {}}})
        assert wire.receive(child)["error"] is None
        processes = below(server._process.pid)[1:]
        assert len(processes) == 3, "the child, and two in sessions of their own"
        if how == "server closes":
            server.close()
        elif how == "ends":
            child.close()
            assert server.end(patience=10) == 0
        else:
            server.end()
        child.close()
        assert gone(processes, 5)
        if how != "server closes":
            server.fork().close()
            assert server.end(patience=10) == 0, "it goes on"


def test_every_descriptor_is_closed():
    program = """import os, resource
from course_lib.classroom.kernel import close_from
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
opened = [os.dup2(1, n) for n in (5, 255, 256, 300, 1999)]
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 2000))
close_from(5)
left = [n for n in opened if os.path.exists(f"/proc/self/fd/{n}")]
print(left)"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_child_has_no_descriptor_but_its_socket(server):
    source = """import os
def f():
    found = []
    for n in range(4, 4096):
        try:
            os.fstat(n)
            found.append(n)
        except OSError:
            pass
    return found"""
    assert called(server.fork(), source) == []
    server.end()


def test_each_way_that_there_is_grades_here(servers, record_property):
    """What ran: a tier that the system has by its own account must be among them."""
    ran = {}
    for tier in CONFINED:
        server = servers(tier)
        if server is not None:
            result = grade(notebook(f"import torch\n{SPARSITY}", MEGABYTES), "anna", "00_start_here", server, seed=1)
            ran[tier] = result.tier if result.points == result.max_points else result
    record_property("tiers", ", ".join(ran))
    assert ran == {tier: tier for tier, why in doctor() if why is None}
    by_the_system = set()
    if kernel.supported() and _succeeds("unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "true"):
        by_the_system.add("namespaces")
    if kernel.supported() and _succeeds("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"):
        by_the_system.add("bubblewrap")
    with contextlib.suppress(OSError, KeyError):
        by_the_system |= {"landlock"} if landlock.version() else set()
    assert by_the_system <= set(ran), f"it has {sorted(by_the_system)}, and {sorted(ran)} ran"


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
