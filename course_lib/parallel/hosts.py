"""Two hosts on one machine: network namespaces joined by a cable, each with its own interfaces, addresses and ports.

What runs in one reaches the other over the (virtual) Ethernet alone, as between real hosts. Linux, as root.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from course_lib.errors import CourseError, expect

NETWORK = "10.213.7"  # of the cable; a namespace sees no other network, so nothing can have the same addresses


@dataclass(frozen=True)
class Host:
    """A namespace: its name, its end of the cable, its address there."""

    name: str
    interface: str
    address: str

    def command(self, argv: Sequence[str]) -> list[str]:
        """What runs ``argv`` in this host."""
        return ["ip", "netns", "exec", self.name, *argv]


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts and the cable between them, and take them away again.

    Raises:
        CourseError: this system or user may not make network namespaces.
    """
    hosts = tuple(Host(f"course-{os.getpid()}-{n}", f"course{n}", f"{NETWORK}.{n}") for n in (1, 2))
    made = []
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            made.append(host)
        ends = [[host.interface, "netns", host.name] for host in hosts]
        _ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _ip("-n", host.name, "link", "set", interface, "up")
        yield hosts
    finally:
        for host in made:  # the cable goes with them
            subprocess.run(["ip", "netns", "delete", host.name], check=True)


def torchrun(
    hosts: Sequence[Host], workers: int, argv: Sequence[str], port: int = 29500, timeout_s: float = 300.0
) -> list[str]:
    """Run ``torchrun`` on every host, ``workers`` processes each, and return what each host's printed.

    Args:
        argv: what each process runs, such as ``["-m", "course_lib.parallel.demo"]``.
        port: where the first host listens.
    Raises:
        CourseError: a host's torchrun failed or did not end in time; all are ended then.
    """
    expect(workers >= 1, "workers", workers, "at least 1 on each host")
    where = ["--nnodes", str(len(hosts)), "--nproc-per-node", str(workers), "--master-addr", hosts[0].address]
    command = [sys.executable, "-m", "torch.distributed.run", *where, "--master-port", str(port)]
    running, deadline = [], time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in hosts]
        for number, (host, file) in enumerate(zip(hosts, files, strict=True)):
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": host.interface, "OMP_NUM_THREADS": "1"}
            argument = host.command([*command, "--node-rank", str(number), *argv])
            running.append(subprocess.Popen(argument, env=environment, stdout=file, stderr=subprocess.STDOUT))
            stack.callback(_end, running[-1])
        while any(process.poll() is None for process in running):
            if time.monotonic() > deadline or any(process.returncode for process in running):
                break
            time.sleep(0.05)
        told = [_read(file) for file in files]
        for host, process, text in zip(hosts, running, told, strict=True):
            if process.returncode:
                raise CourseError(f"{host.name}: torchrun ended with exit code {process.returncode}:\n{text}")
        late = [host.name for host, process in zip(hosts, running, strict=True) if process.returncode is None]
        if late:
            raise CourseError(f"{', '.join(late)}: torchrun did not end within {timeout_s:g} s.")
    return told


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _end(process: subprocess.Popen) -> None:
    """End a torchrun that still runs; it ends its workers on SIGTERM."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise CourseError(
            f"`ip {' '.join(arguments)}` failed: {str(reason).strip()}. It needs Linux, iproute2 and root."
        ) from error
