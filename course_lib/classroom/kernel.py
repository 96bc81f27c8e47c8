"""System calls that Python has no function for, and the filter that takes from a process those it has no business with.

For a process that has no ``course_lib``: this file imports nothing of it. Linux on x86-64 and ARM64.
"""

import ctypes
import os
import platform
import re
import resource
import select
import signal

NUMBERS = {  # system call → its number on (x86_64, aarch64); None where there is none
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "prlimit64": (302, 261), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469), "truncate": (76, 45), "fcntl": (72, 25), "ioctl": (16, 29),
    "socket": (41, 198), "io_uring_setup": (425, 425), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semctl": (66, 191),
    "semop": (65, 193), "semtimedop": (220, 192), "msgget": (68, 186), "msgctl": (71, 187), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "memfd_create": (319, 279),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "syslog": (103, 116), "personality": (135, 92),
    "mount_setattr": (442, 442), "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446), "capset": (126, 91), "close_range": (436, 436),
}  # fmt: skip
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the table, AUDIT_ARCH
TO_ITSELF = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")  # allowed when the target is the process
TO_ZERO = ("prlimit64", "sched_setaffinity")  # allowed when the target is 0, the caller
COMMANDS = {  # refused with these as second argument
    "fcntl": (8, 10, 15, 1024, 1026),  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal to others; F_SETLEASE, F_NOTIFY
    "ioctl": (
        *(0x8901, 0x8902),  # FIOSETOWN, SIOCSPGRP: as F_SETOWN
        *(0x5412, 0x541C),  # TIOCSTI, TIOCLINUX: to type on a terminal
        *(0x40086602, 0x40046602, 0x401C5820),  # FS_IOC_SETFLAGS, its 32-bit form, FS_IOC_FSSETXATTR: attributes of files
    ),
}
USED_HERE = (
    "capset", "mount_setattr", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "close_range",
)  # fmt: skip
DENIED = tuple(n for n in NUMBERS if n not in ("clone", "clone3", *TO_ITSELF, *TO_ZERO, *COMMANDS, *USED_HERE))
OUTSIDE = (  # of these, what no program in a world of its own needs: other processes' memory, mounts, the kernel's workings
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise", "process_mrelease", "move_pages",
    "migrate_pages", "io_uring_setup", "unshare", "setns", "mount", "pivot_root", "chroot", "open_by_handle_at", "bpf",
    "perf_event_open", "userfaultfd", "add_key", "request_key", "keyctl", "syslog", "personality",
)  # fmt: skip

LIBRARY = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 4, 22, 38, 24
PR_SET_CHILD_SUBREAPER = 36
EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x00010000
TASKS_FOR_EACH = (5, 14)  # since then RLIMIT_NPROC counts a user namespace's processes apart from the user's others
CLONE_NEW = 0x7E020080  # a namespace of any kind


def supported() -> bool:
    """True on the systems whose numbers are known here."""
    return os.uname().sysname == "Linux" and platform.machine() in ARCHITECTURES


def release() -> tuple[int, int]:
    """The version of the running system, as (6, 14); (0, 0) when it has no such form."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def call(function: str, *arguments) -> int:
    """A function of the C library; an ``OSError`` with its name when it fails."""
    found = getattr(LIBRARY, function)(*arguments)
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
    return found


def system_call(name: str, *arguments) -> int:
    """A system call by its name in :data:`NUMBERS`, as :func:`call`."""
    number = NUMBERS[name][ARCHITECTURES[platform.machine()][0]]
    try:
        return call("syscall", ctypes.c_long(number), *arguments)
    except OSError as error:
        raise OSError(error.errno, f"{name}: {os.strerror(error.errno)}") from None


def hide_memory() -> None:
    """No other process of the same user may look into this one or trace it; children inherit that."""
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


class CapabilityHeader(ctypes.Structure):
    """Which form of the sets of capabilities is meant, and whose."""

    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def drop_capabilities() -> None:
    """Give up every capability for good."""
    for capability in range(64):
        try:
            call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError:  # there are no more
            break
    nothing = (ctypes.c_uint32 * 6)()
    system_call("capset", ctypes.byref(CapabilityHeader(0x20080522, 0)), nothing)


class Instruction(ctypes.Structure):
    """One instruction of the classic BPF machine."""

    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    """Instructions and how many they are."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]


def filter_system_calls(pid: int | None) -> None:
    """Refuse what a learner's code has no business with; for good, also to what it starts.

    With a ``pid``, for a process that calls functions: no new process, no program, no socket, no signal but to oneself, no
    look into another process, no limit, priority or scheduling of another, no change to mode, owner, times, attributes or
    length of a file by its path, no System V or POSIX queue, no mount. Without, for programs in a world of their own:
    :data:`OUTSIDE`, and no new namespace.

    A refused call fails with EPERM. ``clone3`` does not exist (its flags lie in memory, where a filter cannot look), so that
    the C library uses ``clone``, whose flags are looked at.

    Args:
        pid: of this process, the one it may send signals to; None for a process that starts others.
    """
    lines = filter_program(pid, platform.machine())
    code = (Instruction * len(lines))(*[Instruction(*line) for line in lines])
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(Program(len(lines), code)), 0, 0)


def filter_program(pid: int | None, machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as instructions ``(code, jump if true, jump if false, operand)`` of the classic BPF machine.

    Args:
        pid: as for :func:`filter_system_calls`.
        machine: as ``platform.machine()`` says.
    """
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse, absent = 0x7FFF0000, 0x80000000, 0x00050000 | EPERM, 0x00050000 | ENOSYS
    column, audit = ARCHITECTURES[machine]
    number = {name: numbers[column] for name, numbers in NUMBERS.items() if numbers[column] is not None}
    first_argument, second_argument = (load, 0, 0, 16), (load, 0, 0, 24)  # the half that counts: all are 32 bits wide
    lines = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]  # the architecture, then the number
    if machine == "x86_64":  # the same calls again under other numbers (x32)
        lines += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for name in OUTSIDE if pid is None else DENIED:
        if name in number:
            lines += [(equal, 0, 1, number[name]), (give, 0, 0, refuse)]
    lines += [(equal, 0, 1, number["clone3"]), (give, 0, 0, absent), (equal, 0, 4, number["clone"]), first_argument]
    if pid is None:
        return [*lines, (any_bit, 0, 1, CLONE_NEW), (give, 0, 0, refuse), *2 * [(give, 0, 0, allow)]]
    lines += [(any_bit, 1, 0, CLONE_THREAD), (give, 0, 0, refuse), (give, 0, 0, allow)]
    for name, target in [*((n, pid) for n in TO_ITSELF), *((n, 0) for n in TO_ZERO)]:
        lines += [(equal, 0, 4, number[name]), first_argument, (equal, 1, 0, target), (give, 0, 0, refuse), (give, 0, 0, allow)]
    for name, commands in COMMANDS.items():
        lines += [(equal, 0, 2 * len(commands) + 2, number[name]), second_argument]
        for command in commands:
            lines += [(equal, 0, 1, command), (give, 0, 0, refuse)]
        lines += [(give, 0, 0, allow)]
    return [*lines, (give, 0, 0, allow)]


def close_from(first: int) -> None:
    """Close every descriptor from this number on, whatever the limit on their number was when they were opened."""
    try:
        if not supported():
            raise OSError
        system_call("close_range", ctypes.c_uint(first), ctypes.c_uint(2**32 - 1), ctypes.c_uint(0))
    except OSError:  # before Linux 5.9
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        os.closerange(first, hard if 0 < hard < 1 << 20 else 1 << 20)


def end_with(parent: int) -> None:
    """From now on this process ends (SIGKILL: the first process of a namespace takes no other) when its parent has ended.

    Args:
        parent: descriptor of the parent (``os.pidfd_open``), made before this process was.
    """
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if select.select([parent], [], [], 0)[0]:  # it ended before that
        os._exit(1)


def adopt() -> None:
    """Processes below this one whose parent ends become its children, so that :func:`end_all_below` finds them. Linux only."""
    if supported():
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def below(pid: int) -> list[int]:
    """Processes below one, at any depth, as ``/proc`` shows them; none where it is not there."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else []):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if state not in (b"Z", b"X"):
            parents[int(name)] = int(parent)
    found, left = [], {pid}
    while left := {child for child, parent in parents.items() if parent in left}:
        found += left
    return found


def end_all_below(pid: int) -> None:
    """End all processes below one that this one may end; they are stopped first, or they would start others meanwhile."""
    spared: set[int] = set()
    while left := set(below(pid)) - spared:
        stopped: set[int] = set()
        while left := left - stopped - spared:
            spared |= _out_of_reach(left, signal.SIGSTOP)
            stopped |= left
            left = set(below(pid))
        _out_of_reach(stopped, signal.SIGKILL)


def _out_of_reach(processes: set[int], number: int) -> set[int]:
    """Send a signal; gives those that may not be sent one."""
    refused = set()
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.add(process)
    return refused
