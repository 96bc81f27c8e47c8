"""In a process of its own: give up what a learner's notebook must not have, then run all its cells in a kernel.

Started by :mod:`course_lib.classroom.kernel_engine`. The notebook comes by standard input; ``{"errors": [[cell, what]],
"notebook": text}`` goes out by standard output. Nothing that it says earns a point.
"""

import json
import os
import resource
import signal
import sys
from typing import NoReturn

MEGABYTE = 1 << 20
TMP_MEGABYTES = 512  # of files, all in memory
TASKS = 512  # processes and threads of a notebook's run


def main() -> None:
    """Confine, then run; settings are the program's argument, as JSON. Nothing outlives this process or its parent."""
    settings = json.loads(sys.argv[1])
    text = sys.stdin.read()
    apart = settings["tier"] != "unconfined"
    if "parent" in settings:
        _below(settings)
    _limit(settings, apart)
    if apart:
        from course_lib.classroom import kernel

        kernel.drop_capabilities()
        kernel.filter_system_calls(None)
    os.chdir("/tmp" if apart else settings["folder"])
    json.dump(run(text, settings["cell_seconds"]), sys.stdout)
    sys.stdout.flush()


def run(text: str, cell_seconds: float) -> dict:
    """Run all cells, those after an error too.

    Args:
        text: of the notebook.
        cell_seconds: one cell may take; one that takes longer ends the run.
    Returns:
        ``errors``: (cell from 1, what happened); ``notebook``: with its outputs; or ``unreadable``: why it is none.
    """
    import logging

    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    logging.disable(logging.CRITICAL)
    try:
        nb = nbformat.reads(text, as_version=4)
        nbformat.validate(nb)
    except Exception as error:  # nbformat has many ways to say so
        return {"unreadable": type(error).__name__}
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc")  # there is no network, not even to oneself
    client = NotebookClient(nb, km=manager, timeout=cell_seconds, allow_errors=True, record_timing=False)
    errors = []
    with client.setup_kernel():
        for number, cell in enumerate(nb.cells, start=1):
            try:
                client.execute_cell(cell, number - 1)
            except CellTimeoutError:
                errors.append((number, f"did not end within {cell_seconds:g} seconds; the cells after it were not run"))
                break
            except DeadKernelError:
                errors.append((number, "ended the kernel; the cells after it were not run"))
                break
            found = (o for o in cell.get("outputs", []) if o.output_type == "error")
            errors += [(number, f"{o.ename}: {(o.evalue.splitlines() or [''])[0]}") for o in found]
    return {"errors": errors, "notebook": nbformat.writes(nb)}


def _below(settings: dict) -> None:
    """Go on in a child: where the tier has namespaces, the first process of its own; this one waits for it, and ends all with it."""
    from course_lib.classroom import kernel, namespaces

    above, tier = os.getppid(), settings["tier"]
    kernel.call("prctl", kernel.PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != above or above != (settings["parent"] or above):  # it ended before that
        os._exit(1)
    system = namespaces.open_system()
    if tier == "namespaces":
        namespaces.enter(settings["root"], settings["reads"], settings["hides"])
    elif tier == "bubblewrap":
        try:
            kernel.call("unshare", namespaces.CLONE_NEWPID)
        except OSError:  # where bubblewrap is a program of root's: it gives no capability, and its own namespace has to do
            kernel.close_from(3)
            return
    else:
        kernel.adopt()
    own = os.pidfd_open(os.getpid())
    if child := os.fork():
        _supervise(child, tier)
    kernel.end_with(own)
    if tier == "unconfined":
        return
    namespaces.limit_tasks(system, TASKS)
    kernel.call("unshare", namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC)
    namespaces.mount("tmpfs", "/tmp", "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, f"size={TMP_MEGABYTES}m,mode=0700")
    kernel.close_from(3)


def _supervise(child: int, tier: str) -> NoReturn:
    """Wait for the child; when it has ended, or this process is told to end, nothing below it is left."""
    from course_lib.classroom import kernel

    def end(*_: object) -> None:
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    status = os.waitpid(child, 0)[1]  # of the first process of a namespace: when all in it have ended
    if tier == "unconfined":
        kernel.end_all_below(os.getpid())
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _limit(settings: dict, apart: bool) -> None:
    from course_lib.classroom.kernel import TASKS_FOR_EACH, release

    limits = {
        resource.RLIMIT_AS: settings["memory_megabytes"] * MEGABYTE,
        resource.RLIMIT_FSIZE: TMP_MEGABYTES * MEGABYTE,
        resource.RLIMIT_CPU: settings["seconds"],
        resource.RLIMIT_CORE: 0,
    }
    if apart and release() >= TASKS_FOR_EACH:
        limits[resource.RLIMIT_NPROC] = TASKS
    for what, value in limits.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


if __name__ == "__main__":
    main()
