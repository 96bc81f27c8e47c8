"""The command of `make test` over notebooks: what it runs, what it compares, and that it copes with none."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def recipe(root: Path) -> str:
    """What `make test` would run in this course folder, all installed."""
    shutil.copyfile(REPOSITORY / "Makefile", root / "Makefile")
    (root / ".venv").mkdir()
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):  # the last one is the newest
        (root / name).touch()
    command = ["make", "--dry-run", "test", f"BIN={Path(sys.executable).parent}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def run(copied):
    """Run the part of `make test` that runs notebooks below a folder; returns (exit status, output)."""

    lines = recipe(copied.root).replace("\\\n", " ").splitlines()

    def run_below(folder: str):
        [command] = [line for line in lines if "--nbval-lax" in line and line.endswith(folder)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("COURSE_", "COV_"))}
        done = subprocess.run(
            command, shell=True, cwd=copied.root, env=environment, capture_output=True, text=True, timeout=200
        )
        return done.returncode, done.stdout + done.stderr

    return run_below


def test_solutions_pass_and_uncompared_outputs_may_differ(run, copied, edit, cell):
    edit(copied.solution, lambda nb: cell(nb, "check-sparsity")["outputs"].clear())
    status, said = run("solutions")
    assert status == 0 and re.search(r"\d+ passed", said), said


def test_a_compared_output_that_differs_fails(run, copied, edit):
    def change(nb):
        next(c for c in nb["cells"] if "tags" in c["metadata"])["outputs"][0]["text"] = ["0.75 of the weights are zero\n"]

    edit(copied.solution, change)
    status, said = run("solutions")
    assert status == 1 and "1 failed" in said and "0.75 of the weights are zero" in said, said


def test_learners_notebooks_run_unsolved_and_a_cell_that_raises_fails(run, copied, edit, cell):
    status, said = run("notebooks")
    assert status == 0 and re.search(r"\d+ passed", said), said
    edit(copied.notebook, lambda nb: nb["cells"][1]["source"].append("\n1 / 0"))
    status, said = run("notebooks")
    assert status == 1 and "ZeroDivisionError" in said


def test_it_copes_with_no_lessons(tmp_path):
    for name in ("solutions", "notebooks"):
        (tmp_path / name).mkdir()
    text = recipe(tmp_path)
    assert (
        "--nbval" not in text and 'echo "solutions: no notebooks yet"' in text and 'echo "notebooks: no notebooks yet"' in text
    )
