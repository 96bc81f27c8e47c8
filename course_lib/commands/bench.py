"""``course bench``: how fast a shipped folder is here, in each engine that is installed."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.commands.options import Json, Model, Threads, write_figures


def bench(
    model: Model = Path("artifacts/course/model"),
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, help="Counted passes over the sentences.")] = 3,
    again: Annotated[bool, typer.Option(help="Measure again what is remembered of this file on this machine.")] = False,
    json_file: Json = None,
) -> None:
    """Time a shipped model in each engine, with all threads and with one; `course predict --engine auto` takes the fastest.

    Each engine runs in a process of its own on 96 hand-written sentences, one by one and in batches of 32.

    Example: `course bench --model artifacts/course/model --json bench.json`
    """
    from course_lib.console import say
    from course_lib.deploy.fastest import SENTENCES, fastest, measure
    from course_lib.deploy.scoring import NOT_SHIPPED
    from course_lib.machine import machine, processors

    count = threads or processors()
    say(f"timing {model} on {SENTENCES} sentences, up to {count} threads")
    rows = measure(model, count, rounds, again)
    from course_lib.artifacts import folder_bytes

    size = folder_bytes(model, without=NOT_SHIPPED)
    print(f"{model}, {size:,} bytes")
    print(
        f"{'engine':<14}{'threads':>8}{'ms, batch 1':>13}{'p95':>8}{'ms, batch 32':>14}{'load s':>8}{'MiB':>8}{'same tags':>11}"
    )
    for row in rows:
        if row["error"]:
            print(f"{row['engine']:<14}{row['threads']:>8}  {row['error']}")
            continue
        one, many = row["ms_per_sentence"]["1"], row["ms_per_sentence"]["32"]
        print(
            f"{row['engine']:<14}{row['threads']:>8}{one['median']:>13.3f}{one['p95']:>8.3f}{many['median']:>14.3f}"
            f"{row['load_s']:>8.2f}{row['peak_mib']:>8.0f}{row['same_tags']:>11.2%}"
        )
    for batch in (1, 32):
        engine, best = fastest(rows, batch)
        print(f"fastest at batch {batch}: {engine}, {best} {'thread' if best == 1 else 'threads'}")
    write_figures(json_file, {"model": str(model), "bytes": size, "machine": machine(count), "rows": rows})
