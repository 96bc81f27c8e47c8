"""What a shipped folder needs to run: seconds to load, milliseconds for a sentence, memory; on a small device if asked.

    python -m course_lib.deploy.small_device DIR TEXTS.json --cores 1 --memory 512

limits this very process, then loads DIR, finds the names in each text of a JSON list, and prints a JSON line. It needs what
:mod:`course_lib.deploy.runtime` needs and nothing else.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from course_lib.errors import CourseError, expect

WARM_UP = 20  # texts that are read once before those that are timed


def limit(cores: int | None = None, memory_mib: int | None = None) -> None:
    """Pin this process to its first processors and bound its memory, for good; None leaves it as it is.

    The bound is RLIMIT_AS: all address space, mapped files and what is reserved but never touched included. Resident memory
    cannot exceed it, so what runs under it runs on a device with this much memory and no swap. (Linux ignores RLIMIT_RSS, and
    RLIMIT_DATA leaves out shared libraries.)

    Args:
        cores: processors.
        memory_mib: MiB of address space.
    Raises:
        CourseError: this system cannot do it, or the process has fewer processors.
        ValueError: below 1.
    """
    for name, value in (("cores", cores), ("memory_mib", memory_mib)):
        expect(value is None or value >= 1, name, value, "at least 1")
    if cores is not None:
        if not hasattr(os, "sched_setaffinity"):
            raise CourseError("--cores: this system cannot pin a process to processors; leave it out.")
        available = sorted(os.sched_getaffinity(0))
        if cores > len(available):
            raise CourseError(f"--cores {cores}: this process has {len(available)} processors.")
        os.sched_setaffinity(0, available[:cores])
    if memory_mib is not None:
        try:
            import resource
        except ImportError as error:
            raise CourseError("--memory: this system cannot bound a process's memory; leave it out.") from error
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib * 2**20,) * 2)


def measure(folder: Path | str, texts: Sequence[str]) -> dict:
    """Load a shipped folder and find the names in texts, one after the other.

    Args:
        folder: with ``model.onnx``, ``config.json`` and ``tokenizer.json``.
        texts: a sentence each; the first :data:`WARM_UP` are read once before.
    Returns:
        ``threads``, ``import_s`` (libraries), ``load_s`` (model and tokenizer), ``ms`` (``median`` and ``p95`` of a text, from
        raw text to entities), ``peak_mib`` (resident, of the whole process), and ``entities``, a list for each text.
    Raises:
        CourseError: a file is missing, damaged, or of another model.
        ValueError: no text.
    """
    expect(len(texts) > 0, "texts", texts, "at least one text")
    began = time.perf_counter()
    import numpy as np

    from course_lib.deploy.runtime import Runtime
    from course_lib.deploy.worker import peak_mib
    from course_lib.machine import processors

    imported = time.perf_counter()
    runtime = Runtime(folder)
    loaded = time.perf_counter()
    for text in texts[:WARM_UP]:
        list(runtime.entities([text]))
    times, found = [], []
    for text in texts:
        start = time.perf_counter()
        records = list(runtime.entities([text]))
        times.append((time.perf_counter() - start) * 1000)
        found.append([entity for record in records for entity in record["entities"]])
    return {
        "threads": processors(),
        "import_s": round(imported - began, 3),
        "load_s": round(loaded - imported, 3),
        "ms": {"median": round(float(np.median(times)), 3), "p95": round(float(np.quantile(times, 0.95)), 3)},
        "peak_mib": peak_mib(),
        "entities": found,
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.deploy.small_device", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", help="a shipped model folder, such as artifacts/course/model")
    parser.add_argument("texts", metavar="TEXTS.json", help="a JSON list of texts")
    parser.add_argument("--cores", type=int, metavar="N", help="run on so many processors")
    parser.add_argument("--memory", type=int, metavar="MIB", help="run in so much address space")
    given = parser.parse_args(arguments)
    try:
        texts = json.loads(Path(given.texts).read_text("utf-8"))
        expect(isinstance(texts, list) and all(isinstance(t, str) for t in texts), given.texts, texts, "a JSON list of texts")
        limit(given.cores, given.memory)
        print(json.dumps(measure(given.folder, texts)))
    except (MemoryError, ImportError) as error:  # a library that cannot be mapped fails to import
        print(f"Error: out of memory with --memory {given.memory}, or a package is missing: {error}", file=sys.stderr)
        return 2
    except (CourseError, ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
