"""What a model needs beside its own files: packages on disk, and modules in memory."""

import importlib.metadata
import subprocess
import sys

from course_lib.errors import CourseError


def installed_bytes(*packages: str) -> int:
    """Bytes on disk of the files of these packages, without what they depend on.

    Raises:
        CourseError: one of them is not installed.
    """
    total = 0
    for package in packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise CourseError(f"{package} is not installed; its size cannot be measured.") from error
        paths = (file.locate() for file in files)
        total += sum(path.stat().st_size for path in paths if path.is_file())
    return total


def imported_by(module: str) -> set[str]:
    """Names of the modules that a fresh Python holds after importing this one.

    Raises:
        CourseError: it cannot be imported.
    """
    command = [sys.executable, "-c", "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)", module]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CourseError(f"{module}: {(done.stderr.strip().splitlines() or ['nothing on stderr'])[-1]}")
    return set(done.stdout.split())
