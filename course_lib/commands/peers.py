"""``course peers``: the compressed model against what a user would otherwise take, in one race."""

from dataclasses import replace
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
from course_lib.errors import CourseError


def peers(
    data: Data = "generated",
    encoder: Encoder = "minilm",
    recipe: RecipeName = "quick",
    seed: Seed = 0,
    threads: Threads = None,
    trained_with: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Threads that the models are trained with, if others than they race with."),
    ] = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Only ways of this name, such as `ORT*`; may be repeated. PyTorch fp32 always runs."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Counted passes over the test sentences.")] = 3,
    repair: Repair = False,
) -> None:
    """Race teacher and student in PyTorch, ONNX Runtime and OpenVINO, as their own tools make them; in one table.

    Leaves ARTIFACTS/peers.json (of another corpus than the generated one: peers-NAME.json), and .md and .png beside it. What
    crashes is a row that says so. OpenVINO and NNCF come with `pip install 'course_lib[bench]'`.

    Example: `course peers --only 'ORT*' --only 'OpenVINO*'`
    """
    import fnmatch

    from course_lib.artifacts import require_writable, write_bytes, write_json, write_text
    from course_lib.console import say
    from course_lib.deploy.peers import WAYS
    from course_lib.recipes.recipe import load_recipe

    wanted = lambda name: any(fnmatch.fnmatchcase(name, p) for p in only or ["*"])  # noqa: E731
    chosen = [way for i, way in enumerate(WAYS) if i == 0 or wanted(way.name)]
    for pattern in only or []:
        if not any(fnmatch.fnmatchcase(way.name, pattern) for way in WAYS):
            raise CourseError(f"--only {pattern}: matches nothing; expected one of {', '.join(w.name for w in WAYS)}.")
    settings = load_recipe(recipe)
    try_outputs(None, json_file)
    require_writable(artifacts)
    context = open_context(data, seed, trained_with or threads, artifacts, False, repair)
    from course_lib.machine import processors
    from course_lib.measure.peers import compare, report
    from course_lib.recipes.stages import check_recipe, make_ensemble, make_onnx, make_student
    from course_lib.show.plots import f1_against_latency, png

    check_recipe(encoder, settings)
    teachers = make_ensemble(context, encoder, settings)
    models = {"teacher": teachers[0], "student": make_student(context, teachers, settings)}
    shipped = make_onnx(context, models["student"], settings, int8=True)
    card = compare(replace(context, threads=threads or processors()), models, chosen, rounds, shipped)
    name = "peers" if data == "generated" else f"peers-{context.corpus.name}"
    write_json(artifacts / f"{name}.json", card)
    write_text(artifacts / f"{name}.md", report(card))
    write_bytes(artifacts / f"{name}.png", png(f1_against_latency(card)))
    write_figures(json_file, card)
    print(report(card))
    say(f"wrote {artifacts / name}.json, .md and .png")
