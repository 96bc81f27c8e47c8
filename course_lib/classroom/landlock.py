"""Landlock: a process gives up files for good; what it is not told to keep it cannot open.

For a process that has no ``course_lib``: this file imports nothing of it. See landlock(7).
"""

import ctypes
import os
from collections.abc import Iterator, Sequence

from .kernel import PR_SET_NO_NEW_PRIVS, call, system_call

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
FILES = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # version → how many rights to files it knows
CONNECT_OR_BIND = 3  # rights to TCP, since version 4
SCOPES = 3  # abstract sockets and signals, since version 6


class Rules(ctypes.Structure):
    """What the ruleset is about; all of it is refused, but for the exceptions added."""

    _fields_ = [("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class Beneath(ctypes.Structure):
    """An exception for a file, or for a folder and all that is in it."""

    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """The version of Landlock in the running system.

    Raises:
        OSError: it has none, or it is switched off.
    """
    return system_call("landlock_create_ruleset", None, ctypes.c_size_t(0), 1)


def restrict(reads: Sequence[str], hides: Sequence[str]) -> None:
    """From now on this process and its children read these paths and nothing else, and write to ``/dev/null`` alone.

    Args:
        reads: files and folders; those that do not exist are left out.
        hides: folders below them that stay closed.
    Raises:
        OSError: the system does not allow it.
    """
    known = version()
    files = (1 << FILES.get(known, 16)) - 1
    rules = Rules(files, CONNECT_OR_BIND if known >= 4 else 0, SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = system_call("landlock_create_ruleset", ctypes.byref(rules), ctypes.c_size_t(size), 0)
    for path in reads:
        for part in without(os.path.realpath(path), [os.path.realpath(h) for h in hides]):
            _allow(ruleset, part, EXECUTE | READ_FILE | READ_DIR)
    for device in ("null", "zero", "random", "urandom"):
        _allow(ruleset, f"/dev/{device}", READ_FILE | (WRITE_FILE if device == "null" else 0))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    system_call("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def without(path: str, hides: Sequence[str]) -> Iterator[str]:
    """The path, or what is in it, so that none of the hidden folders is covered.

    >>> list(without("/usr", ["/home/x"])), list(without("/home/x/y", ["/home/x"]))
    (['/usr'], [])
    """
    if any(path == hidden or path.startswith(hidden + "/") for hidden in hides):
        return
    if not any(hidden.startswith(path.rstrip("/") + "/") for hidden in hides):
        yield path
        return
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if not entry.is_symlink():
            yield from without(entry.path, hides)


def _allow(ruleset: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= ~READ_DIR
        system_call("landlock_add_rule", ruleset, 1, ctypes.byref(Beneath(rights, descriptor)), 0)
    finally:
        os.close(descriptor)
