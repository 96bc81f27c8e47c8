"""A small world of its own for a process: no network, few files, all of them read-only, and nobody else to see.

For a process that has no ``course_lib``: this file imports nothing of it.
"""

import ctypes
import os
from collections.abc import Sequence

from .kernel import call, release, system_call

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_NOSUID, MS_NODEV, MS_REC, MS_BIND, MS_PRIVATE, MNT_DETACH = 2, 4, 16384, 4096, 1 << 18, 2
RDONLY, NOSUID, NODEV = 1, 2, 4  # for mount_setattr
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
INSIDE = 1000  # user and group id inside: nobody special
DEVICES = ("null", "zero", "random", "urandom")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """``mount(2)``."""
    encoded = [s.encode() if s is not None else None for s in (source, target, kind)]
    call("mount", *encoded, ctypes.c_ulong(flags), data.encode() if data else None)


def enter(root: str, reads: Sequence[str], hides: Sequence[str]) -> None:
    """Move this process to new namespaces in which only some paths exist, read-only.

    Its next child is the first process of a new PID namespace: when that ends, all below it ends.

    Args:
        root: an empty folder, which becomes the root of the file system.
        reads: paths that stay, where they are now.
        hides: folders below them that are empty.
    Raises:
        OSError: the system does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{INSIDE} {user} 1"), ("gid_map", f"{INSIDE} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    for path in reads:
        _show(root, path)
    for path in hides:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, "size=0,mode=0555")
    os.mkdir(f"{root}/dev")
    for device in DEVICES:
        _show(root, f"/dev/{device}", attributes=RDONLY | NOSUID)
    os.makedirs(f"{root}/tmp", exist_ok=True)
    os.makedirs(f"{root}/proc", exist_ok=True)
    os.chdir(root)
    system_call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    _set_attributes("/", RDONLY | NOSUID, recursive=False)


def fork_apart(own: int) -> int:
    """Fork; the child is the first process of a PID namespace of its own.

    Args:
        own: descriptor of this process (``os.pidfd_open``).
    Returns:
        As ``os.fork``.
    """
    call("setns", own, CLONE_NEWPID)  # back here, or there would be no second time
    call("unshare", CLONE_NEWPID)
    return os.fork()


def can_fork_apart(own: int) -> bool:
    """True where :func:`fork_apart` and :func:`private_tmp` work: tried with a child that ends at once."""
    try:
        child = fork_apart(own)
    except OSError:
        return False
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        private_tmp(1)
    except OSError:
        os._exit(1)
    os._exit(0)


def open_system() -> int | None:
    """A descriptor of the folder of the system's settings, which stays when ``/proc`` is gone; None where it is not there."""
    try:
        return os.open("/proc/sys/kernel", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def limit_tasks(system: int | None, most: int) -> bool:
    """Allow no more than so many processes and threads in this PID namespace, for good once capabilities are dropped.

    Args:
        system: from :func:`open_system`.
        most: at least 301, or the system refuses it.
    Returns:
        Whether it is so. Linux has such a limit for each namespace since 6.14; before, the same setting is that of the whole
        machine, which is left alone.
    """
    if os.getpid() != 1 or system is None or release() < (6, 14):
        return False
    for covered in (False, True):
        try:
            if covered:  # bubblewrap shows the settings read-only, which does not hold in mounts of one's own
                call("unshare", CLONE_NEWNS)
                call("umount2", b"/proc/sys", MNT_DETACH)
            where = {"path": "/proc/sys/kernel/pid_max"} if covered else {"path": "pid_max", "dir_fd": system}
            setting = os.open(flags=os.O_WRONLY | os.O_CLOEXEC, **where)
        except OSError:
            continue
        try:
            return os.write(setting, str(most).encode()) > 0
        except OSError:
            return False
        finally:
            os.close(setting)
    return False


def private_tmp(megabytes: int) -> None:
    """An empty ``/tmp`` that nobody else sees and that is gone with the process; ``/proc`` is empty."""
    call("unshare", CLONE_NEWNS | CLONE_NEWIPC)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={megabytes}m,nr_inodes=10000,mode=0700")
    mount("tmpfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "size=0,mode=0555")
    os.chdir("/tmp")


def _show(root: str, path: str, attributes: int = RDONLY | NOSUID | NODEV) -> None:
    """Let a path exist below the root: a link as a link, a file or folder read-only."""
    target = root + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    mount(path, target, flags=MS_BIND | MS_REC)
    _set_attributes(target, attributes, recursive=True)


def _set_attributes(path: str, attributes: int, recursive: bool) -> None:
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    system_call("mount_setattr", AT_FDCWD, path.encode(), flags, ctypes.byref(wanted), ctypes.c_size_t(32))
