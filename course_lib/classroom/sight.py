"""What a confined process sees: Python, its packages, the system's libraries, and a few files of the course; no more."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from course_lib.errors import CourseError

CARRIED = {  # the files that the confined process has of the course; none knows cases, references or points
    "exercises": ("values.py", "run.py"),
    "classroom": (
        *("fork_server.py", "child.py", "wire.py", "plain.py", "extract.py", "statements.py", "names.py"),
        *("kernel.py", "namespaces.py", "landlock.py"),
    ),
}
SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/usr", "/etc/ld.so.cache", "/etc/localtime")


def carry(folder: Path) -> None:
    """Copy what the confined process needs of the course to a folder, as a package."""
    course = Path(__file__).parents[1]
    for package, files in CARRIED.items():
        (folder / package).mkdir(parents=True)
        for name in files:
            shutil.copyfile(course / package / name, folder / package / name)
        (folder / package / "__init__.py").touch()
    (folder / "__init__.py").touch()


def readable(folder: Path) -> list[str]:
    """What the confined process may read: Python, its packages, the system's libraries, and the folder; parents first."""
    import torch

    paths = {*SYSTEM, sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(torch.__file__)), str(folder)}
    return sorted(p for p in paths if os.path.lexists(p))


def hidden(more: Sequence[str]) -> list[str]:
    """Folders that the confined process must not see even where they are below one that it reads."""
    course = Path(__file__).parents[1]
    return sorted({str(course), *(os.path.abspath(m) for m in more)})


def bubblewrap(reads: Sequence[str], hides: Sequence[str]) -> list[str]:
    """The command that runs another one in a world of its own.

    Raises:
        CourseError: ``bwrap`` is not installed.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise CourseError("bubblewrap is not available here: the program bwrap is not installed.")
    command = [program, "--unshare-all", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--tmpfs", "/tmp"]
    if not os.stat(program).st_mode & 0o4000:  # a program of root's gives no capabilities
        command += ["--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]
    for path in reads:
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for path in hides:
        if any(path.startswith(read + "/") for read in reads):
            command += ["--tmpfs", path, "--remount-ro", path]
    if os.path.isdir("/sys/devices/system/cpu"):
        command += ["--ro-bind", "/sys/devices/system/cpu", "/sys/devices/system/cpu"]
    for path in ("/dev/shm", "/dev", "/"):  # what bubblewrap makes itself could be written to by all children
        command += ["--remount-ro", path]
    return [*command, "--chdir", "/", "--"]
