"""Is this machine ready? What is found, said plainly, with what to do where something is wrong."""

import shutil
import sys
import tempfile
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.machine import cpu_info, fast_bf16, int8_saturates, machine, processors, versions


def examine(artifacts: Path, encoder: str) -> list[dict[str, str]]:
    """Run all checks; each gives ``{"what", "state": "ok" | "note" | "bad", "found"}``."""
    checks = [_python(), _packages(), *_processor(), _encoder(encoder), _disk(artifacts)]
    return [{"what": what, "state": state, "found": found} for what, state, found in checks]


def _python() -> tuple[str, str, str]:
    version = ".".join(map(str, sys.version_info[:3]))
    return "Python", "ok" if sys.version_info >= (3, 11) else "bad", f"{version} (3.11 or newer is needed)"


def _packages() -> tuple[str, str, str]:
    found = versions()
    missing = [name for name, version in found.items() if version == "not installed" and name != "course_lib"]
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    return (
        "packages",
        "bad" if missing else "ok",
        text + ("; install with: pip install -e . -c constraints.txt" if missing else ""),
    )


def _processor() -> list[tuple[str, str, str]]:
    name, _ = cpu_info()
    flags = machine(processors())["flags"]
    int8 = "no VNNI: int8 kernels may saturate and are slow" if int8_saturates() else "int8 in hardware"
    bf16 = "trains in bf16 autocast" if fast_bf16() else "no fast bf16: trains in fp32, about half as fast"
    return [
        ("processor", "ok", f"{name}, {processors()} usable, flags: {' '.join(flags) or 'unknown'}"),
        ("int8", "note" if int8_saturates() else "ok", int8),
        ("bf16", "ok" if fast_bf16() else "note", bf16),
    ]


def _encoder(name: str) -> tuple[str, str, str]:
    from course_lib.models.zoo import find_encoder

    try:
        return "encoder", "ok", f"{name} at {find_encoder(name)}, weights verified"
    except CourseError as error:
        return "encoder", "bad", str(error)


def _disk(artifacts: Path) -> tuple[str, str, str]:
    folder = artifacts
    while not folder.exists():
        folder = folder.resolve().parent
    free = shutil.disk_usage(folder).free / 1e9
    try:
        with tempfile.TemporaryFile(dir=folder):
            writable = True
    except OSError:
        writable = False
    state = "bad" if not writable or free < 1 else "ok" if free > 3 else "note"
    return (
        "artifacts",
        state,
        f"{artifacts} ({'writable' if writable else 'NOT writable'}, {free:.1f} GB free; the main job needs 2 GB)",
    )
