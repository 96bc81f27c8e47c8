"""A process of :func:`course_lib.parallel.launcher.run`: joins the group, calls the function, reports, waits for the others.

Nothing of it outlives the parent: Linux kills it when the parent dies, and everywhere the end of standard input, which the
parent holds open, does.
"""

import ctypes
import linecache
import os
import signal
import sys
import threading
import time
import traceback

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
# What is said when a peer is late or gone: by gloo, by the watchdog of NCCL, by NCCL. NCCL calls it an internal error too.
WAITED = ("gloo/transport", "Watchdog caught collective operation timeout", "ncclRemoteError", "ncclInternalError")
WAITED += ("NCCL communicator was aborted", "remote process exited or there was a network error")
OWN = (
    "ncclInvalidUsage",
    "ncclInvalidArgument",
    "ncclUnhandledCudaError",
)  # of the same type as the above, but no peer's fault


def die_with_parent(requests: int) -> None:
    """End this process as soon as its parent is gone; a line from the parent asks where the main thread is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()


def _listen(requests: int) -> None:
    with open(requests, "rb", buffering=0) as lines:
        while lines.readline():
            _store().set(f"stack/{os.environ['RANK']}", stack_of_main_thread())
    os.kill(os.getpid(), signal.SIGKILL)


def stack_of_main_thread() -> str:
    """What the main thread is doing, as in a traceback, from the called function on."""
    frames = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])
    ours = max((n + 1 for n, frame in enumerate(frames) if frame.filename == __file__), default=0)
    return "".join(traceback.format_list(frames[ours:] or frames))


def _store():
    """A connection of its own: another may be waiting for an answer."""
    import torch.distributed as dist

    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)


def waits_for_peers(error: BaseException | None) -> bool:
    """Whether an error is what a process sees when another one is late or gone (then the other one is to blame)."""
    if error is None:
        return False
    text = str(error)
    kind = type(error).__name__ in ("DistBackendError", "DistStoreError") and not any(words in text for words in OWN)
    return kind or tells_of_waiting(text) or waits_for_peers(error.__cause__ or error.__context__)


def tells_of_waiting(text: str) -> bool:
    """Whether a message, or what a process last wrote, has the words of one whose peer is late or gone."""
    return any(words in text for words in WAITED)


def main(backend: str, timeout_s: float, join_s: float, threads: int) -> None:
    """Serve one call: its function and arguments come from the parent's store, and the report goes there."""
    requests = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what the function reads from standard input is not the parent's requests
    os.close(nothing)
    die_with_parent(requests)
    from datetime import timedelta

    import cloudpickle
    import torch
    import torch.distributed as dist

    from course_lib.parallel.process_group import init_from_env

    torch.set_num_threads(threads)
    store, rank = _store(), os.environ["RANK"]
    try:
        init_from_env(backend, timeout_s, join_s)
        fn, args, file, lines = cloudpickle.loads(store.get("call"))
        if lines:
            linecache.cache[file] = (0, None, lines, file)
        report = cloudpickle.dumps({"result": fn(*args)})
    except BaseException as error:  # SystemExit too: no rank may leave its peers waiting
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        error.__traceback__ = error.__traceback__.tb_next  # without this function
        text = "".join(traceback.format_exception(error))
        report = cloudpickle.dumps({"error": what, "traceback": text, "waited": waits_for_peers(error), "at": time.time()})
    sys.stdout.flush()
    store.set(f"report/{rank}", report)
    store.wait(["over"], timedelta(days=365))  # whoever leaves earlier closes connections that others still use
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
