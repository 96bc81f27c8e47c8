"""``course costs``: what each method beside pruning and quantization costs and gains on the real encoder."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.commands.options import Artifacts, Encoder, Json, Seed, Threads, open_context, try_outputs, write_figures

EPOCHS = 2  # of the trainings that are compared


def costs(
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Only `redundancy`, `training` or `parallel`; may be repeated.")
    ] = None,
    sentences: Annotated[int, typer.Option(min=32, help="Training sentences for the comparison of precisions.")] = 1500,
    encoder: Encoder = "minilm",
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
) -> None:
    """Measure low rank, sharing and merging; mixed precision, accumulation, checkpointing; data, tensor and pipeline parallelism.

    F1 is on validation. Leaves ARTIFACTS/costs.json and .md, with the parts that an earlier run measured; finished rows of the first part are
    kept when it is stopped. Half an hour on two cores, most of it for the first part.

    Example: `course costs --only parallel`
    """
    import datetime
    from dataclasses import replace

    from course_lib.artifacts import read_json, require_writable, write_json, write_text
    from course_lib.console import bar, say
    from course_lib.errors import CourseError
    from course_lib.measure.method_costs import HEADS, markdown
    from course_lib.recipes.recipe import load_recipe

    parts = list(dict.fromkeys(only or HEADS))
    if unknown := [part for part in parts if part not in HEADS]:
        raise CourseError(f"--only {unknown[0]}: expected one of {', '.join(HEADS)}.")
    try_outputs(None, json_file)
    require_writable(artifacts)
    context = open_context("generated", seed, threads, artifacts, False, False)
    from course_lib.machine import machine
    from course_lib.measure import parallel_runs, precision_runs, redundancy_runs

    measured: dict[str, list[dict]] = {}
    with bar("costs") as advance:
        if "redundancy" in parts:
            from course_lib.measure.technique_bench import Bench
            from course_lib.recipes.teacher import make_teacher

            recipe = load_recipe("quick")
            bench = Bench(context, make_teacher(context, encoder, recipe), context.settings(recipe.teacher))
            measured["redundancy"] = redundancy_runs.run(bench, redundancy_runs.rows(), lambda name: advance(note=name))
        if "training" in parts:
            corpus = replace(context.corpus, train=context.corpus.train[:sentences])
            task = precision_runs.encoder_task(corpus, encoder, epochs=EPOCHS, seed=seed)
            measured["training"] = precision_runs.compare(task, progress=lambda name: advance(note=name))
        if "parallel" in parts:
            measured["parallel"] = parallel_runs.rows(parallel_runs.Work(encoder=encoder))
    about = {
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "machine": machine(context.threads),
        "data": context.corpus.name,
    }
    target = artifacts / "costs.json"
    table = read_json(target) if target.is_file() else {}
    for part, rows in measured.items():
        table[part] = {**about, "rows": rows} | ({"sentences": sentences, "epochs": EPOCHS} if part == "training" else {})
    write_json(target, table)
    write_text(artifacts / "costs.md", markdown(table))
    write_figures(json_file, table)
    print(markdown(table), end="")
    say(f"wrote {target} and .md")
