"""How little a shipped folder needs: a clean environment with onnxruntime, tokenizers, numpy and this package, its size, and the
artifact's speed and memory in it, on this machine and on one core with 512 MiB.

The environment is made anew, without the dependencies of these packages and without pip, from the package index (or from
``--find-links``). Writes ``footprint.json`` and ``footprint.md`` below ``--artifacts``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated

import typer

from course_lib.artifacts import folder_bytes, write_json, write_text
from course_lib.console import say
from course_lib.data.corpus import load_corpus
from course_lib.data.generated import generate
from course_lib.errors import CourseError
from course_lib.machine import machine, processors

ROOT = Path(__file__).parent.parent
PACKAGES = ("onnxruntime", "tokenizers", "numpy")
CORES, MEMORY = 1, 512  # of the small machine: processors, MiB
TEXT = "Ana Ruiz flew from Lisbon to the Chelsea training ground."


def pins(constraints: str, names: Sequence[str]) -> list[str]:
    """The lines of a constraints file for these packages.

    Raises:
        CourseError: one is not pinned.

    >>> pins("a==1\\nb==2.5\\n", ["b"])
    ['b==2.5']
    """
    found = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.M))
    for name in names:
        if name not in found:
            raise CourseError(f"constraints.txt: {name} is not pinned; expected a line {name}==VERSION.")
    return [f"{name}=={found[name]}" for name in names]


def run(command: Sequence[object], **options) -> str:
    """What a command prints; a :class:`CourseError` with its last words when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise CourseError(f"{' '.join(map(str, command[:4]))} … ended with exit status {done.returncode}: {last[0]}")
    return done.stdout


def make_venv(folder: Path, links: Path | None = None) -> Path:
    """A virtual environment with :data:`PACKAGES` and this package alone; returns its Python."""
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    where = [] if links is None else ["--no-index", "--find-links", links]
    run([*install, *where, *pins((ROOT / "constraints.txt").read_text("utf-8"), PACKAGES)])
    run([*install, copy_sources(folder.parent / "source")])
    return python


def copy_sources(folder: Path) -> Path:
    """What pip builds this package from, in a folder of its own: it leaves files behind where it builds."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(ROOT / "course_lib", folder / "course_lib", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def sizes(python: Path) -> dict[str, float]:
    """MB of each package in an environment, and of the whole environment without its link to Python."""
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    found = {}
    for package in sorted(distributions(path=[str(site)]), key=lambda d: d.name.lower()):
        files = {Path(str(package.locate_file(f))) for f in package.files or []}
        found[package.name] = round(sum(f.stat().st_size for f in files if f.is_file()) / 1e6, 1)
    everything = (f for f in python.parent.parent.rglob("*") if f.is_file() and not f.is_symlink())
    return {**found, "all": round(sum(f.stat().st_size for f in everything) / 1e6, 1)}


def measured(python: Path, model: Path, texts: Path, *limits: object) -> dict:
    """Figures of :mod:`course_lib.deploy.small_device` in an environment, away from this folder and its package."""
    command = [python, "-m", "course_lib.deploy.small_device", model.resolve(), texts.resolve(), *limits]
    return json.loads(run(command, cwd=texts.parent))


def differing(a: Sequence, b: Sequence) -> int:
    """In how many texts other entities were found."""
    return sum(x != y for x, y in zip(a, b, strict=True))


def report(figures: Mapping) -> str:
    """The figures as a Markdown table and a line on the environment."""
    rows = ["| | cores | memory | loads in | ms per sentence (p95) | peak MiB |", "|---|---|---|---|---|---|"]
    for name, memory in (("free", "–"), ("limited", f"{MEMORY} MiB")):
        f = figures[name]
        seconds = f"{f['import_s'] + f['load_s']:.2f} s"
        rows.append(
            f"| {name} | {f['threads']} | {memory} | {seconds} | {f['ms']['median']:.2f} ({f['ms']['p95']:.2f}) | {f['peak_mib']:.0f} |"
        )
    parts = ", ".join(f"{name} {size:g}" for name, size in figures["venv_mb"].items() if name != "all")
    rows += [
        "",
        f"Environment: {figures['venv_mb']['all']:g} MB ({parts}); model: {figures['model_bytes'] / 1e6:.1f} MB. {figures['sentences']} "
        f"sentences, one by one from raw text to entities; under the limits other entities in {figures['differing']} of them.",
    ]
    return "\n".join(rows) + "\n"


def main(
    model: Annotated[Path, typer.Argument(help="A shipped model folder.")] = Path("artifacts/course/model"),
    data: Annotated[str, typer.Option(help="`generated`, or a corpus folder; its test sentences are read.")] = "generated",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    find_links: Annotated[Path | None, typer.Option(help="A folder of wheels instead of the package index.")] = None,
    artifacts: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("artifacts"),
) -> None:
    """Measure what a shipped folder needs to run."""
    if not (model / "model.onnx").is_file():
        raise CourseError(f"{model}: no model.onnx there. `make course` makes artifacts/course/model.")
    corpus = generate(seed) if data == "generated" else load_corpus(data, seed)
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.json"
        texts.write_text(json.dumps([" ".join(s.words) for s in corpus.test]), "utf-8")
        python = make_venv(Path(scratch) / "venv", find_links)
        said = run([python, "-m", "course_lib.deploy.runtime", model.resolve(), TEXT], cwd=scratch)
        say(said.strip())
        free, limited = (measured(python, model, texts, *o) for o in ((), ("--cores", CORES, "--memory", MEMORY)))
        figures = {
            "machine": machine(processors()),
            "model": str(model),
            "model_bytes": folder_bytes(model, without=("history.json", "scorecard.json")),
            "data": corpus.name,
            "sentences": len(corpus.test),
            "venv_mb": sizes(python),
            "prediction": json.loads(said.splitlines()[0]),
            "differing": differing(free.pop("entities"), limited.pop("entities")),
            "free": free,
            "limited": limited | {"cores": CORES, "memory_mib": MEMORY, "bound": "RLIMIT_AS"},
        }
    write_json(artifacts / "footprint.json", figures)
    write_text(artifacts / "footprint.md", report(figures))
    print(report(figures), end="")


if __name__ == "__main__":
    try:
        typer.run(main)
    except CourseError as error:
        sys.exit(f"Error: {error}")
