"""In a process of its own: give up what a learner's notebook must not have, then run all its cells in a kernel.

Started by :mod:`course_lib.classroom.kernel_engine`. The notebook comes by standard input; ``{"errors": [[cell, what]],
"notebook": text}`` goes out by standard output. Nothing that it says earns a point.
"""

import contextlib
import json
import os
import resource
import sys

MEGABYTE = 1 << 20
TMP_MEGABYTES = 512  # of files, all in memory


def main() -> None:
    """Confine, then run; settings are the program's argument, as JSON."""
    settings = json.loads(sys.argv[1])
    text = sys.stdin.read()
    if settings["tier"] == "namespaces":
        _enter(settings)
    _limit(settings)
    os.chdir("/tmp" if settings["tier"] != "unconfined" else settings["folder"])
    json.dump(run(text, settings["cell_seconds"]), sys.stdout)


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


def _enter(settings: dict) -> None:
    """A world of its own, whose first process this one's child is; this one waits for it."""
    from course_lib.classroom import kernel, namespaces

    namespaces.enter(settings["root"], settings["reads"], settings["hides"])
    if child := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    kernel.call("unshare", namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC)
    namespaces.mount("tmpfs", "/tmp", "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, f"size={TMP_MEGABYTES}m,mode=0700")
    with contextlib.suppress(OSError):  # where part of /proc is covered the system gives no other one
        namespaces.mount("proc", "/proc", "proc", namespaces.MS_NOSUID | namespaces.MS_NODEV)
    kernel.drop_capabilities()


def _limit(settings: dict) -> None:
    limits = {
        resource.RLIMIT_AS: settings["memory_megabytes"] * MEGABYTE,
        resource.RLIMIT_FSIZE: TMP_MEGABYTES * MEGABYTE,
        resource.RLIMIT_CPU: settings["seconds"],
        resource.RLIMIT_CORE: 0,
    }
    for what, value in limits.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


if __name__ == "__main__":
    main()
