"""System calls that Python has no function for, and the filter that takes from a process those it has no business with.

For a process that has no ``course_lib``: this file imports nothing of it. Linux on x86-64 and ARM64.
"""

import ctypes
import os
import platform

NUMBERS = {  # system call → its number on (x86_64, aarch64); None where there is none
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "socket": (41, 198), "io_uring_setup": (425, 425), "mq_open": (240, 180),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "memfd_create": (319, 279),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "syslog": (103, 116), "personality": (135, 92),
    "mount_setattr": (442, 442), "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446), "capset": (126, 91),
}  # fmt: skip
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the table, AUDIT_ARCH
TO_ITSELF = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")  # allowed when the target is the process
USED_HERE = ("capset", "mount_setattr", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
DENIED = tuple(n for n in NUMBERS if n not in ("clone", "clone3", *TO_ITSELF, *USED_HERE))

LIBRARY = ctypes.CDLL(None, use_errno=True)
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 4, 22, 38, 24
EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x00010000


def supported() -> bool:
    """True on the systems whose numbers are known here."""
    return os.uname().sysname == "Linux" and platform.machine() in ARCHITECTURES


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


def filter_system_calls() -> None:
    """No new process, no program, no socket, no signal but to oneself, no look into another process, no mount; for good.

    A refused call fails with EPERM. ``clone3`` does not exist (its flags lie in memory, where a filter cannot look), so that
    the C library uses ``clone``, which may make threads only.
    """
    lines = filter_program(os.getpid(), platform.machine())
    code = (Instruction * len(lines))(*[Instruction(*line) for line in lines])
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(Program(len(lines), code)), 0, 0)


def filter_program(pid: int, machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as instructions ``(code, jump if true, jump if false, operand)`` of the classic BPF machine.

    Args:
        pid: of the process, the one it may send signals to.
        machine: as ``platform.machine()`` says.
    """
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse, absent = 0x7FFF0000, 0x80000000, 0x00050000 | EPERM, 0x00050000 | ENOSYS
    column, audit = ARCHITECTURES[machine]
    number = {name: numbers[column] for name, numbers in NUMBERS.items() if numbers[column] is not None}
    lines = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]  # the architecture, then the number
    if machine == "x86_64":  # the same calls again under other numbers (x32)
        lines += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for name in DENIED:
        if name in number:
            lines += [(equal, 0, 1, number[name]), (give, 0, 0, refuse)]
    lines += [(equal, 0, 1, number["clone3"]), (give, 0, 0, absent)]
    first_argument = (load, 0, 0, 16)
    lines += [(equal, 0, 4, number["clone"]), first_argument, (any_bit, 1, 0, CLONE_THREAD), (give, 0, 0, refuse)]
    lines += [(give, 0, 0, allow)]
    for name in TO_ITSELF:
        lines += [(equal, 0, 4, number[name]), first_argument, (equal, 1, 0, pid), (give, 0, 0, refuse), (give, 0, 0, allow)]
    return [*lines, (give, 0, 0, allow)]
