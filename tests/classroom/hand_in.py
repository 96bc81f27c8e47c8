"""Notebooks as learners hand them in, and a server to grade them with."""

import functools
import json
from collections.abc import Iterable

import pytest

from course_lib.classroom.confine import Limits, Server
from course_lib.errors import CourseError

SPARSITY = "def sparsity(w):\n    return float((w == 0).float().mean())"
MEGABYTES = "def megabytes(parameters, bits):\n    return parameters * bits / 8 / 1e6"
LIMITS = Limits(memory_megabytes=512, cpu_seconds=60, tmp_megabytes=8)


def code(source: str, **course: str) -> dict:
    """A code cell."""
    metadata = {"course": course} if course else {}
    return {"cell_type": "code", "source": source.splitlines(keepends=True), "metadata": metadata, "outputs": []}


def text(source: str, name: str = "", **course: str) -> dict:
    """A markdown cell."""
    return {"cell_type": "markdown", "source": source, "metadata": {"course": course} if course else {}, "id": name}


def notebook(*cells: str | dict, lesson: str | None = "00_start_here", **metadata: object) -> bytes:
    """The bytes of a notebook; a string is a code cell."""
    about = {"kernelspec": {"name": "python3", "language": "python"}, **({"course": {"lesson": lesson}} if lesson else {})}
    content = {"cells": [code(c) if isinstance(c, str) else c for c in cells], "metadata": about | metadata, "nbformat": 4}
    return json.dumps(content | {"nbformat_minor": 5}).encode()


@functools.cache
def server(tier: str = "namespaces") -> Server:
    """One server for all tests; the test is skipped where this system has no such tier."""
    try:
        return Server(tier, LIMITS)
    except CourseError as error:
        pytest.skip(str(error))


def close(tiers: Iterable[str] = ("namespaces", "bubblewrap", "landlock", "unconfined")) -> None:
    """End the servers."""
    if server.cache_info().currsize:
        for tier in tiers:
            server(tier).close()
        server.cache_clear()
