"""``course doctor``, ``prepare`` and ``train``: is the machine ready, and the models that the course starts from."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.commands.options import (
    Artifacts,
    Data,
    Encoder,
    Force,
    Json,
    LogDir,
    RecipeName,
    Repair,
    Seed,
    TaskName,
    Threads,
    open_context,
    try_outputs,
    write_figures,
)


def doctor(
    artifacts: Artifacts = Path("artifacts"),
    encoder: Encoder = "minilm",
    json_file: Json = None,
) -> None:
    """Check this machine: Python, packages, encoder, processor flags, disk.

    Example: `course doctor --json doctor.json`
    """
    from rich.console import Console
    from rich.markup import escape

    from course_lib.doctor import examine

    checks = examine(artifacts, encoder)
    marks = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}
    out = Console(highlight=False, soft_wrap=True)
    for check in checks:
        out.print(f"{marks[check['state']]} {check['what']}: {escape(check['found'])}")
    write_figures(json_file, {"checks": checks})
    if any(check["state"] == "bad" for check in checks):
        raise typer.Exit(1)


def prepare(
    data: Data = "generated",
    task: TaskName = "ner",
    encoder: Encoder = "minilm",
    recipe: RecipeName = "quick",
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    force: Force = False,
    repair: Repair = False,
    log_dir: LogDir = None,
) -> None:
    """Make the corpus, the teacher and the student that the lessons start from.

    Example: `course prepare --seed 0 --json prepared.json`
    """
    from course_lib.recipes.recipe import load_recipe

    chosen = load_recipe(recipe)
    try_outputs(None, json_file)
    context = open_context(data, seed, threads, artifacts, force, repair, log_dir, task)
    from course_lib.recipes.stages import check_recipe, make_ensemble, make_student

    check_recipe(encoder, chosen, task)
    teachers = make_ensemble(context, encoder, chosen)
    teacher, student = teachers[0], make_student(context, teachers, chosen)
    figures = {"data": context.corpus.figures(), "teacher": str(teacher), "student": str(student)}
    write_figures(json_file, figures)
    print(f"teacher {teacher}\nstudent {student}")


def train(
    out: Annotated[Path | None, typer.Option(help="Copy the trained model to this folder.")] = None,
    data: Data = "generated",
    task: TaskName = "ner",
    encoder: Encoder = "minilm",
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Passes over the training text.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Sentences in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(min=1e-9, max=0.1, help="Peak learning rate.")] = 2e-4,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many epochs without a better validation F1.")
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Same architecture, random weights.")] = False,
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    force: Force = False,
    repair: Repair = False,
    log_dir: LogDir = None,
) -> None:
    """Fine-tune an encoder on a corpus; killed and started again, it goes on where it was.

    Example: `course train --data my/corpus --epochs 8 --patience 2 --out my/model --json history.json`
    """
    import shutil
    from dataclasses import replace

    from course_lib.artifacts import new_folder, read_json
    from course_lib.recipes.recipe import Training, load_recipe

    try_outputs(out, json_file)
    recipe = replace(load_recipe("quick"), teacher=Training(epochs, batch_size, learning_rate, patience=patience))
    context = open_context(data, seed, threads, artifacts, force, repair, log_dir, task)
    from course_lib.recipes.teacher import make_teacher

    folder = make_teacher(context, encoder, recipe, pretrained=not from_scratch)
    history = read_json(folder / "history.json")
    if out is not None:
        with new_folder(out) as temporary:
            for file in folder.iterdir():
                shutil.copyfile(file, temporary / file.name)
    write_figures(json_file, {"data": context.corpus.figures(), "model": str(out or folder), **history})
    best = max(h["validation_f1"] for h in history["epochs"])
    print(f"{out or folder}: best validation F1 {best:.4f} after {len(history['epochs'])} epochs")
