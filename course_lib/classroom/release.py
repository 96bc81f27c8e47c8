"""What an instructor hands out: a part's notebooks, what to install, how to begin; nothing that tells an answer but the library."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import course_lib
from course_lib.artifacts import new_folder
from course_lib.classroom.layout import Lesson, released
from course_lib.errors import CourseError

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
CONSTRAINTS = "constraints.txt"
README = """# {part}

You need Python {python} or newer. In this folder:

    python3 -m venv .venv
    . .venv/bin/activate            (on Windows: .venv\\Scripts\\activate)
    pip install -r requirements.txt
    jupyter lab

On Linux without a graphics card, this before the third line saves gigabytes:

    pip install torch -c constraints.txt --index-url https://download.pytorch.org/whl/cpu

Then work through, in this order:

{lessons}

Write your answers where a cell says YOUR CODE HERE, or YOUR ANSWER HERE. The cell below each exercise checks it at once, as often as you like, and
`hint("…")` gives one step at a time. You may add cells, helpers and imports wherever you like; keep the names of the functions.
Your answers will be tried on other inputs than those that the notebook's own checks draw.

Hand in the notebooks (the `.ipynb` files), with their names as they are.
"""


def release(root: Path, part: str, out: Path) -> list[Path]:
    """Write the folder for students.

    Args:
        root: the course's folder.
        part: its name, as ``1_pruning``.
        out: folder to make; an earlier release in it is replaced.
    Returns:
        The files, relative to ``out``.
    Raises:
        CourseError: ``out`` holds something else, the tested versions are not known, or the library's wheel cannot be built.
    """
    lessons = [lesson for lesson in released(root) if lesson.part == part]
    _require_ours(out)
    if not (root / CONSTRAINTS).is_file():
        raise CourseError(f"{root / CONSTRAINTS} is missing: it says which versions the course was tested with.")
    with new_folder(out) as folder:
        for file in sorted((root / "notebooks" / part).rglob("*")):
            if file.is_file() and ".ipynb_checkpoints" not in file.parts:
                target = folder / file.relative_to(root / "notebooks" / part)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        wheel = _wheel(folder)
        shutil.copyfile(root / CONSTRAINTS, folder / CONSTRAINTS)
        (folder / "requirements.txt").write_text(f"-c {CONSTRAINTS}\n./{wheel}\n", "utf-8")
        (folder / "README.md").write_text(_readme(part, lessons), "utf-8")
    return sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())


def _require_ours(out: Path) -> None:
    """Refuse to replace what is no release."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not list(out.glob("course_lib-*.whl")))):
        raise CourseError(f"{out} holds something else: expected a new folder, or an earlier release. Nothing was changed.")


def _wheel(folder: Path) -> str:
    """Build the library's wheel from a copy of its source, so that nothing is left beside that; returns its name."""
    source = Path(course_lib.__file__).parents[1]
    if not (source / "pyproject.toml").is_file():
        raise CourseError(f"{source} has no pyproject.toml: release from a clone of the course, installed with pip install -e.")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "course"
        shutil.copytree(source / "course_lib", copy / "course_lib", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(source / name, copy / name)
        command = [sys.executable, "-c", BUILD, str(folder.absolute())]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr.strip().splitlines() or ["no wheel was made"])[-1]
        raise CourseError(
            f"The library's wheel cannot be built: {said}. setuptools 77 or newer is needed: pip install -U setuptools"
        )
    return wheels[0].name


def _readme(part: str, lessons: list[Lesson]) -> str:
    listed = "\n".join(f"- `{lesson.stem}.ipynb`" for lesson in lessons)
    return README.format(part=part, lessons=listed, python="3.11")
