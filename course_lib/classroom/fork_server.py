"""A process that has torch loaded, is confined, and forks a child for each submission.

It is told so over a socket: ``F`` and a descriptor for the child's messages to fork, ``K`` to end the child. When the child has
ended, by itself or not, it answers with the child's status. When the other end of the socket closes, all is over: there is
nobody left to judge. It runs where there is no ``course_lib`` and imports nothing of it.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys

from .wire import NO_FORK, STATUS

TASKS = 320  # threads of a child, where the system counts them for each; it takes no less than 301
TASKS_MORE = 256  # where it counts all of a user's: as many more than there were when the server started


def main() -> None:
    """The whole life of a server; its settings are the program's argument, as JSON (see ``confine.py``)."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    try:
        _load(settings)
        own = _confine(settings)
    except OSError as error:
        control.sendall(f"no {error}".encode()[:1000].ljust(1000))
        return
    control.sendall(b"ok".ljust(1000))
    _serve(control, settings, own)


def _load(settings: dict) -> None:
    """Everything that children need, once; no tensor operation, no thread."""
    sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
    sys.path[:] = [p for p in sys.path if p not in settings["hides"]]
    import collections, dataclasses, functools, itertools, math, statistics, typing  # noqa: E401, F401, I001

    import torch

    from . import child  # noqa: F401

    torch.set_num_threads(1)
    torch.backends.cpu.get_cpu_capability()  # looks at the processor while /proc is there
    settings["limits"]["loaded"] = _address_space()
    settings["limits"]["tasks"] = tasks_of(os.geteuid()) + TASKS_MORE if settings["tier"] == "landlock" else TASKS
    gc.collect()
    gc.freeze()  # or the first collection in a child would write to every object, and copy every page
    gc.set_threshold(50_000)  # children are short-lived


def _address_space() -> int:
    """Bytes that this process has now; 0 where it is not known."""
    if not os.path.exists("/proc/self/statm"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def tasks_of(user: int) -> int:
    """Processes and threads that a user has, as ``/proc`` shows them."""
    count = 0
    for name in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else []):
        with contextlib.suppress(OSError), open(f"/proc/{name}/status") as file:
            about = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
            if int(about["Uid"].split()[0]) == user:
                count += int(about["Threads"])
    return count


def _confine(settings: dict) -> int | None:
    """Give up what children must not have. Returns a descriptor of this process where each child gets namespaces of its own."""
    from . import kernel, landlock, namespaces

    tier = settings["tier"]
    settings["system"] = namespaces.open_system() if tier in ("namespaces", "bubblewrap") else None
    if tier == "unconfined":
        kernel.adopt()
    if tier == "namespaces":
        namespaces.enter(settings["root"], settings["reads"], settings["hides"])
        if first := os.fork():  # the child is the first process of the new namespace, and goes on
            _outlive(first)
    own = os.pidfd_open(os.getpid()) if tier in ("namespaces", "bubblewrap") else None
    covered = any(path.startswith("/tmp/") for path in (sys.prefix, sys.base_prefix))
    if own is not None and (covered or not namespaces.can_fork_apart(own)):
        own = None  # Python would be covered by a child's own /tmp; and bubblewrap does not always give what it takes
    if own is None and tier != "unconfined":  # then all children have one /tmp, which must not take anything
        landlock.restrict(settings["reads"], settings["hides"])
    if tier != "unconfined":
        kernel.hide_memory()
    return own


def _outlive(first: int) -> None:
    """Outside: wait until the first process inside has ended."""
    from . import kernel

    kernel.close_from(3)
    os.waitpid(first, 0)
    os._exit(0)


def _serve(control: socket.socket, settings: dict, own: int | None) -> None:
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running, unconfined = None, settings["tier"] == "unconfined"
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            running = _reap(control, running, unconfined)
        if control not in ready:
            continue
        order, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if order == b"F" and running is None and len(descriptors) == 1:
            running = _fork(control, descriptors[0], settings, own)
        elif order == b"K" and running is not None:
            _kill(running, unconfined)
        elif order != b"K":
            if running is not None:
                _kill(running, unconfined)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _fork(control: socket.socket, descriptor: int, settings: dict, own: int | None) -> int | None:
    from . import namespaces

    try:
        pid = namespaces.fork_apart(own) if own is not None else os.fork()
    except OSError:
        control.sendall(STATUS.pack(NO_FORK))
        return None
    if pid:
        return pid
    status = 1
    try:
        from . import child

        sock = _alone(descriptor, settings, own is not None)
        sock.sendall(b"ok".ljust(settings["hello"]))
        child.serve(sock)
        status = 0
    finally:
        os._exit(status)  # whatever happened: a child must not go on as a second server


def _alone(descriptor: int, settings: dict, apart: bool) -> socket.socket:
    """In the child: give up everything but one socket, for good."""
    from . import kernel, namespaces

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    if apart:
        namespaces.limit_tasks(settings["system"], TASKS)
    os.dup2(descriptor, 3, inheritable=False)
    sock, limits = socket.socket(fileno=3), settings["limits"]
    try:
        if apart:
            namespaces.private_tmp(limits["tmp_megabytes"])
        kernel.close_from(4)
        _limit(limits, settings["tier"])
        if settings["tier"] != "unconfined":
            kernel.drop_capabilities()
            kernel.filter_system_calls(os.getpid())
    except OSError as error:
        sock.sendall(f"no {error}".encode()[: settings["hello"]].ljust(settings["hello"]))
        raise
    return sock


def _limit(limits: dict, tier: str) -> None:
    """Processor time, memory, sizes and numbers of files, and of threads where the system counts them for a user."""
    from . import kernel

    megabyte = 1 << 20
    most = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["tmp_megabytes"] * megabyte,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if limits["loaded"]:
        most[resource.RLIMIT_AS] = limits["loaded"] + limits["memory_megabytes"] * megabyte
    if tier == "landlock" or (tier != "unconfined" and kernel.release() >= kernel.TASKS_FOR_EACH):
        most[resource.RLIMIT_NPROC] = limits["tasks"]
    for what, value in most.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def _reap(control: socket.socket, running: int | None, unconfined: bool) -> int | None:
    """Collect all children that have ended; say so of the one that runs a submission, when nothing of it is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return running
        if pid == running:
            if unconfined:
                _end_all_below()
            control.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
            running = None


def _kill(pid: int, unconfined: bool) -> None:
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, signal.SIGKILL)
    if unconfined:
        _end_all_below()


def _end_all_below() -> None:
    """Also what an unconfined child started in a session of its own."""
    from . import kernel

    kernel.end_all_below(os.getpid())


if __name__ == "__main__":
    main()
