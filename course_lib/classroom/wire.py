"""Messages over a socket between a judge and a learner's code: frames of JSON and plain arrays, never pickle.

A frame is two lengths, a JSON text, and the bytes of the arrays in it one after another (see ``plain.py``). What comes from a
learner's process may say anything: lengths are checked before anything is read, and the buffer grows with what comes.

For a process that has no ``course_lib``: this file imports nothing of it.
"""

import socket
import struct
import time
from typing import Any

from .plain import ARRAY_LIMIT, WireError, decoded, encoded

LENGTHS = struct.Struct("<IQ")  # of the text and of the arrays
STATUS = struct.Struct("<i")  # how a child ended, from the server
NO_FORK = -1000  # the status of a child that could not be made
TEXT_LIMIT = 4 << 20  # bytes


def send(sock: socket.socket, message: Any, deadline: float | None = None) -> None:
    """Send one message.

    Args:
        sock: a stream socket.
        message: None, bool, numbers, strings, tensors, NumPy arrays and containers of these; another object becomes a
            :class:`Foreign`.
        deadline: by ``time.monotonic()``; None waits.
    Raises:
        WireError: it is too large, or nested too deeply.
        TimeoutError, OSError: the other side does not take it.
    """
    text, arrays = encoded(message)
    size = sum(map(len, arrays))
    if len(text) > TEXT_LIMIT or size > ARRAY_LIMIT:
        raise WireError(f"it has {len(text) + size:,} bytes, which is more than can be sent")
    _wait(sock, deadline)
    sock.sendall(b"".join((LENGTHS.pack(len(text), size), text, *arrays)))


def receive(sock: socket.socket, deadline: float | None = None) -> Any:
    """Receive one message.

    Args:
        sock: a stream socket.
        deadline: by ``time.monotonic()``; None waits.
    Raises:
        WireError: what comes is no message.
        EOFError: the other side has closed the socket.
        TimeoutError: it did not come in time.
    """
    text, arrays = LENGTHS.unpack(_read(sock, LENGTHS.size, deadline))
    if text > TEXT_LIMIT or arrays > ARRAY_LIMIT:
        raise WireError("a message of more bytes was announced than are taken")
    header = _read(sock, text, deadline)
    return decoded(header, _read(sock, arrays, deadline))


def _wait(sock: socket.socket, deadline: float | None) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def _read(sock: socket.socket, size: int, deadline: float | None) -> bytearray:
    """Exactly so many bytes; the buffer grows with what comes, not with what was announced."""
    data = bytearray()
    while len(data) < size:
        _wait(sock, deadline)
        piece = sock.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return data
