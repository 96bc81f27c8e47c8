"""What machine this is: processor flags, threads, versions, and what follows for bf16 and int8."""

import importlib.metadata
import os
import platform
from pathlib import Path

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
)
PACKAGES = ("course_lib", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy")


def cpu_info() -> tuple[str, set[str]]:
    """Name of the processor and its feature flags, as far as the system tells (Linux tells all)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    table = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return table.get("model name", platform.machine()), set((table.get("flags") or table.get("Features") or "").split())


def fast_bf16() -> bool:
    """True when the processor multiplies bf16 in hardware, so that bf16 autocast saves time in training."""
    flags = cpu_info()[1]
    return bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})


def int8_saturates() -> bool:
    """True on x86 without VNNI: some int8 kernels there add pairs in 16 bits, which can saturate."""
    flags = cpu_info()[1]
    return platform.machine().lower() in {"x86_64", "amd64"} and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Installed versions of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine(threads: int) -> dict:
    """The ``machine`` part of a scorecard; ``threads`` are those the figures were taken with."""
    name, flags = cpu_info()
    return {"cpu": name, "flags": [f for f in FLAGS if f in flags], "threads": threads, "versions": versions()}
