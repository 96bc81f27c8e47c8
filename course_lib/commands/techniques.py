"""``course techniques``: every pruning and quantization technique on one fine-tuned encoder, in one table."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.commands.options import (
    Artifacts,
    Data,
    Encoder,
    Json,
    RecipeName,
    Repair,
    Seed,
    Threads,
    open_context,
    try_outputs,
    write_figures,
)


def techniques(
    data: Data = "generated",
    encoder: Encoder = "minilm",
    recipe: RecipeName = "quick",
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only techniques of this name, such as `wanda-*`; may be repeated."),
    ] = None,
    recover: Annotated[bool, typer.Option(help="Also the rows with a short training.")] = True,
    repair: Repair = False,
) -> None:
    """Measure every technique on the fine-tuned encoder: F1, bytes and time, beside a plain baseline at equal bytes.

    Leaves ARTIFACTS/techniques/<corpus>.json and .md. Each finished row is kept: stop it when you like, it goes on from there.

    Example: `course techniques --only 'wanda-*' --only 'gptq-4'`
    """
    from course_lib.artifacts import require_writable, write_json, write_text
    from course_lib.console import bar, say
    from course_lib.measure.techniques import choose, markdown, run
    from course_lib.recipes.recipe import load_recipe

    chosen, settings = choose(only or (), recover), load_recipe(recipe)
    try_outputs(None, json_file)
    require_writable(artifacts / "techniques")
    context = open_context(data, seed, threads, artifacts, False, repair)
    from course_lib.measure.technique_bench import Bench
    from course_lib.recipes.teacher import make_teacher

    teacher = make_teacher(context, encoder, settings)
    bench, target = Bench(context, teacher, context.settings(settings.teacher)), artifacts / "techniques" / context.corpus.name
    with bar("techniques", len(chosen)) as advance:
        done = -1

        def progress(name: str) -> None:
            nonlocal done
            done += 1
            advance(completed=done, note=name)

        table = run(bench, chosen, progress)
    write_json(target.with_name(f"{target.name}.json"), table)
    write_text(target.with_name(f"{target.name}.md"), markdown(table))
    write_figures(json_file, table)
    print(markdown(table))
    failed = [row["name"] for row in table["rows"] if row["error"]]
    say(f"{len(table['rows']) - len(failed)} rows in {target}.json and .md")
    if failed:
        say(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)
