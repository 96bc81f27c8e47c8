"""``course costs``: what each method beside pruning and quantization costs and gains on the real encoder."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.commands.options import (
    Artifacts,
    Encoder,
    Json,
    LogDir,
    Seed,
    Threads,
    open_context,
    try_outputs,
    write_figures,
)

EPOCHS = 2  # of the trainings that are compared
CURVE_SIZES = {"digits_epochs": 60, "epochs": 3, "sentences": 480}  # of the trainings whose losses are drawn


def costs(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Only `redundancy`, `training`, `parallel` or `curves`; may be repeated."),
    ] = None,
    sentences: Annotated[
        int,
        typer.Option(min=32, help="Training sentences for the comparison of precisions; the curves take 480 of them at most."),
    ] = 1500,
    encoder: Encoder = "minilm",
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    log_dir: LogDir = None,
    json_file: Json = None,
) -> None:
    """Measure low rank, sharing and merging; mixed precision, accumulation, checkpointing; parallelism; losses in each precision.

    The curves are of the digits in fp32, bf16, fp16 with and without a loss scale, and bf16 and fp32 in turns; and of the encoder in fp32,
    bf16 and, where the processor has products of it, fp16.

    F1 is on validation. Leaves ARTIFACTS/costs.json and .md, with the parts that an earlier run measured, and of the curves costs_losses.png;
    finished rows of the first part are kept when it is stopped. Half an hour on two cores, most of it for the first part.

    Example: `course costs --only parallel`
    """
    import datetime
    from dataclasses import replace

    from course_lib.artifacts import read_json, require_writable, write_bytes, write_json, write_text
    from course_lib.console import bar, say
    from course_lib.errors import CourseError
    from course_lib.measure.method_costs import HEADS, LEFT_OUT, markdown
    from course_lib.recipes.recipe import load_recipe

    parts = list(dict.fromkeys(only or HEADS))
    if unknown := [part for part in parts if part not in HEADS]:
        raise CourseError(f"--only {unknown[0]}: expected one of {', '.join(HEADS)}.")
    try_outputs(None, json_file)
    require_writable(artifacts)
    context = open_context("generated", seed, threads, artifacts, False, False, log_dir)
    from course_lib.machine import machine
    from course_lib.measure import parallel_runs, precision_runs, redundancy_runs

    measured: dict[str, list[dict]] = {}
    more: dict[str, dict] = {"training": {"sentences": sentences, "epochs": EPOCHS}}  # what the table says of a part besides
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
            measured["training"] = precision_runs.compare(
                task, progress=lambda name: advance(note=name), tracker=context.tracker
            )
        if "parallel" in parts:
            measured["parallel"] = parallel_runs.rows(parallel_runs.Work(encoder=encoder))
        if "curves" in parts:
            few, ways = min(sentences, CURVE_SIZES["sentences"]), precision_runs.encoder_curves()
            more["curves"] = CURVE_SIZES | {"sentences": few, "left_out": "" if "fp16" in ways else LEFT_OUT}
            digits = precision_runs.digits_task(CURVE_SIZES["digits_epochs"], seed=seed)
            corpus = replace(context.corpus, train=context.corpus.train[:few])
            task = precision_runs.encoder_task(corpus, encoder, epochs=CURVE_SIZES["epochs"], seed=seed)
            note = lambda name: advance(note=name)  # noqa: E731
            rows = precision_runs.curves(digits, progress=note, tracker=context.tracker)
            measured["curves"] = rows + precision_runs.curves(task, ways, note, context.tracker)
    about = {
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "machine": machine(context.threads),
        "data": context.corpus.name,
    }
    target = artifacts / "costs.json"
    table = read_json(target) if target.is_file() else {}
    for part, rows in measured.items():
        table[part] = {**about, "rows": rows} | more.get(part, {})
    write_json(target, table)
    write_text(artifacts / "costs.md", markdown(table))
    if "curves" in measured:
        from course_lib.show.plots import png
        from course_lib.show.precision import losses_of_rows

        write_bytes(artifacts / "costs_losses.png", png(losses_of_rows(measured["curves"])))
    write_figures(json_file, table)
    print(markdown(table), end="")
    say(f"wrote {target} and .md" + (" and costs_losses.png" if "curves" in measured else ""))
    context.tracker.close()
