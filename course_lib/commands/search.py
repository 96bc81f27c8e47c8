"""``course search``: the best recipe under a budget."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from course_lib.commands.options import (
    Artifacts,
    Data,
    Encoder,
    Json,
    LogDir,
    Repair,
    Seed,
    TaskName,
    Threads,
    open_context,
    try_outputs,
    write_figures,
)
from course_lib.errors import CourseError

JUDGING = (  # what figures depend on beside the trained models; those of other code are not mixed in
    "recipes/trial.py", "deploy/export.py", "deploy/benchmark.py", "deploy/worker.py", "deploy/engines.py",
)  # fmt: skip
GOALS = {"f1": "loss", "bytes": "bytes", "ms": "ms"}


def search(
    space: Annotated[
        str, typer.Option(help="A preset (`auto`) or a recipe as a .toml file in which fields list values to choose from.")
    ] = "auto",
    trials: Annotated[int, typer.Option(min=1, help="Recipes to measure, those of earlier runs included.")] = 20,
    max_loss: Annotated[float | None, typer.Option(help="Points of F1 that may be lost against the teacher.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Bytes that all shipped files may take.")] = None,
    max_ms: Annotated[float | None, typer.Option(min=1e-6, help="Milliseconds that one sentence may take.")] = None,
    goal: Annotated[Literal["f1", "bytes", "ms"], typer.Option(help="What is best among recipes within the budget.")] = "f1",
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database that machines share; default: sqlite:///ARTIFACTS/search/NAME.db."),
    ] = None,
    data: Data = "generated",
    task: TaskName = "ner",
    encoder: Encoder = "minilm",
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    repair: Repair = False,
    log_dir: LogDir = None,
) -> None:
    """Try recipes of a space, judge them on validation, and write the best one within a budget as a plain recipe.

    Killed and started again it goes on. Leaves ARTIFACTS/search/NAME.toml for `course compress --recipe`, the Pareto front as .md,
    .png and .json, and the trials in NAME.db. One search at a time on a machine: two would disturb each other's times.

    Example: `course search --trials 30 --max-loss 0.5 --max-bytes 6000000 --goal ms`
    """
    from filelock import FileLock, Timeout

    from course_lib.artifacts import digest, file_sha256, require_writable
    from course_lib.console import bar, say
    from course_lib.recipes.budget import Budget
    from course_lib.recipes.found import report, result, row_of, write_found
    from course_lib.recipes.search import failures, measured, open_study, optuna_library, run_search
    from course_lib.recipes.space import load_space

    chosen, budget = load_space(space), Budget(max_loss, max_bytes, max_ms)
    optuna_library()
    try_outputs(None, json_file)
    require_writable(artifacts / "search")
    context = open_context(data, seed, threads, artifacts, False, repair, log_dir, task)
    from course_lib.machine import machine
    from course_lib.models.zoo import WEIGHTS, find_encoder
    from course_lib.recipes.stages import CODE, check_recipe
    from course_lib.recipes.trial import Judge

    recipes = list(chosen.each())
    for recipe in recipes:
        check_recipe(encoder, recipe, task)
    name = chosen.name if data == "generated" and task == "ner" else f"{chosen.name}-{context.corpus.name}"
    target = artifacts / "search" / name
    try:
        with FileLock(artifacts / "search" / ".lock", timeout=0):
            made_of = chosen.data, file_sha256(find_encoder(encoder) / WEIGHTS), context.training_key(*CODE, *JUDGING)
            study_name = f"{name}-{digest(*made_of)}"
            study = open_study(storage or f"sqlite:///{target}.db", study_name, seed)
            judge = Judge(context, encoder, recipes[0])
            with bar("search", trials) as advance:

                def progress(row: dict) -> None:
                    advance()
                    figures = (
                        f"F1 {row['f1']:.4f} ({row['loss']:+.2f} points lost), {row['bytes'] / 1e6:.2f} MB, {row['ms']:.3f} ms"
                    )
                    say(f"trial {row['trial']}: {', '.join(f'{k} {v}' for k, v in row['picked'].items())}: {figures}")

                run_search(study, chosen, judge, trials, budget, seed, progress)
            about = {
                "name": name, "size": chosen.size, "study": study_name, "machine": machine(context.threads), "seed": seed,
                "data": context.corpus.figures(), "teacher_f1": round(judge.f1, 5),
            }  # fmt: skip
            found = result(measured(study), failures(study), budget, GOALS[goal], about)
    except Timeout as error:
        raise CourseError(
            f"Another search runs with {artifacts}: let it end, or give this one a folder of its own (--artifacts DIR)."
        ) from error
    write_figures(json_file, found)
    print(report(found), end="")
    write_found(found, chosen, target)
    best = row_of(found, found["chosen"])
    say(f"wrote {target}.toml (trial {best['trial']}): course compress --recipe {target}.toml --data {data} --seed {seed}")
