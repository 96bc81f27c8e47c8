"""``course levers``: what each lever of a recipe is worth by itself."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.commands.options import (
    Artifacts,
    Data,
    Encoder,
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


def levers(
    data: Data = "generated",
    task: TaskName = "ner",
    encoder: Encoder = "minilm",
    recipe: RecipeName = "quick",
    only: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Only levers whose name holds this text; the base always runs.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    repair: Repair = False,
    log_dir: LogDir = None,
) -> None:
    """Change one thing of a recipe at a time, and measure on validation what it is worth: F1, bytes and time.

    Each row trains a student. Finished rows are kept: stop it when you like, it goes on from there. Leaves ARTIFACTS/levers.json and
    .md (of another corpus than the generated one: levers-NAME).

    Example: `course levers --only epochs --only copies`
    """
    import datetime

    from course_lib.artifacts import require_writable, write_json, write_text
    from course_lib.console import bar, say
    from course_lib.errors import CourseError
    from course_lib.recipes.levers import BASE, LEVERS, markdown, measure, recipes

    each = recipes(recipe)
    for text in only or []:
        if not any(text in lever.name for lever in LEVERS):
            raise CourseError(f"--only {text}: no lever is called so; there are: {'; '.join(lever.name for lever in LEVERS)}.")
    each = {name: r for name, r in each.items() if name == BASE or not only or any(text in name for text in only)}
    try_outputs(None, json_file)
    require_writable(artifacts)
    context = open_context(data, seed, threads, artifacts, False, repair, log_dir, task)
    from course_lib.machine import machine
    from course_lib.recipes.stages import CODE, check_recipe
    from course_lib.recipes.trial import Judge

    for one in each.values():
        check_recipe(encoder, one, task)
    judge = Judge(context, encoder, each[BASE])
    with bar("levers", len(each)) as advance:

        def progress(row: dict) -> None:
            advance()
            say(f"{row['lever']}: F1 {row['f1']:.4f}, {row['bytes'] / 1e6:.2f} MB, {row['ms']:.3f} ms")

        made_of = [judge.teacher.name, *context.training_key(*CODE), machine(context.threads)]
        rows = measure(context.cache, made_of, each, judge, progress)
    table = {
        "date": datetime.date.today().isoformat(), "seed": seed, "machine": machine(context.threads), "data": context.corpus.figures(),
        "recipe": each[BASE].name, "teacher_f1": round(judge.f1, 5), "rows": rows,
    }  # fmt: skip
    target = artifacts / ("levers" if data == "generated" and task == "ner" else f"levers-{context.corpus.name}")
    write_json(target.with_name(f"{target.name}.json"), table)
    write_text(target.with_name(f"{target.name}.md"), markdown(table))
    write_figures(json_file, table)
    print(markdown(table), end="")
    say(f"wrote {target}.json and .md")
