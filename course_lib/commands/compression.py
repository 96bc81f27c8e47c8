"""``course compress``, ``predict`` and ``score``: the main job, and what one does with the model it ships."""

import json
import os
import sys
from collections.abc import Iterator
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
    Model,
    RecipeName,
    Repair,
    Seed,
    TaskName,
    Threads,
    open_context,
    open_corpus,
    try_outputs,
    write_figures,
)
from course_lib.errors import CourseError


def compress(
    data: Data = "generated",
    task: TaskName = "ner",
    encoder: Encoder = "minilm",
    recipe: RecipeName = "quick",
    out: Annotated[
        Path | None, typer.Option(help="Where the results go; default: ARTIFACTS/course, or ARTIFACTS/<name of the data>.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    force: Force = False,
    repair: Repair = False,
    log_dir: LogDir = None,
) -> None:
    """The main job: fine-tune, cut, distil, export, int8, measure; leaves a scorecard, a report and a model to ship.

    Example: `course compress --data my/corpus --out my/result --json scorecard.json`
    """
    from rich.console import Console

    from course_lib.measure.scorecard import print_scorecard
    from course_lib.recipes.recipe import load_recipe

    chosen = load_recipe(recipe)
    context = open_context(data, seed, threads, artifacts, force, repair, log_dir, task)
    from course_lib.recipes.compress import compress as run

    target = out or artifacts / ("course" if data == "generated" and task == "ner" else context.corpus.name)
    try_outputs(target / "model", json_file)
    card = run(context, encoder, chosen, target)
    print_scorecard(card, Console(width=None if sys.stdout.isatty() else 150))
    write_figures(json_file, card)


def predict(
    text: Annotated[list[str] | None, typer.Argument(help="Texts, or `-` to read standard input line by line.")] = None,
    model: Model = Path("artifacts/course/model"),
    threads: Threads = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="`onnxruntime`, `openvino`, or `auto`: the fastest here, as `course bench` measures. Default: ONNX Runtime."
        ),
    ] = None,
) -> None:
    """Find names in plain text: a JSON line for each sentence, with character offsets into the text (or input line).

    A classifier says a label and its probabilities for each text instead.

    Example: `course predict --model artifacts/course/model "Ana Ruiz left Chelsea for Lisbon."`
    """
    if not text:
        raise CourseError(
            'TEXT is missing: give a text in quotes, or - to read standard input, as in `course predict "Ana left Lisbon."`'
        )
    from course_lib.artifacts import read_json
    from course_lib.deploy.engines import max_pieces, open_model
    from course_lib.machine import processors
    from course_lib.models.zoo import load_tokenizer
    from course_lib.tasks import task_of

    if engine:
        from course_lib.deploy.fastest import choose, open_with

        run, tags = open_with(model, *choose(model, engine, threads or processors()))
    else:
        run, tags = open_model(model, threads or processors())
    config = read_json(model / "config.json")
    for record in task_of(config).prose(_texts(text), run, load_tokenizer(model), tags, max_pieces=max_pieces(config)):
        print(json.dumps(record, ensure_ascii=False), flush=True)


def _texts(arguments: list[str]) -> Iterator[str]:
    """The texts given, or the lines of standard input for ``-``, which must be UTF-8."""
    raw = sys.stdin.buffer if arguments == ["-"] else map(os.fsencode, arguments)
    for number, line in enumerate(raw, start=1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CourseError(f"TEXT, line {number}: not UTF-8 ({error.reason}). Convert the text to UTF-8.") from error


def score(
    model: Model = Path("artifacts/course/model"),
    data: Data = "generated",
    task: TaskName = "ner",
    split: Annotated[str, typer.Option(help="`validation`, `test`, or `natural` (the hand-written set).")] = "test",
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    repair: Repair = False,
) -> None:
    """Score a model folder on a corpus: entity F1 with its interval, by type, and bytes.

    Example: `course score --model artifacts/course/model --split natural --json score.json`
    """
    from course_lib.console import say
    from course_lib.deploy.scoring import score_model
    from course_lib.machine import processors

    if split == "natural":
        from course_lib.data.natural import load_natural

        sentences, name = [n.sentence for n in load_natural()], "natural"
    elif split in ("validation", "test"):
        corpus = open_corpus(data, seed, artifacts, repair, task)
        sentences, name = getattr(corpus, split), corpus.name
    else:
        raise CourseError(f"--split {split}: expected validation, test or natural.")
    natural = split == "natural"  # of no corpus: types that the model never learnt are left out, as in the scorecard
    figures = score_model(model, sentences, threads or processors(), seed, known_types_only=natural) | {
        "data": name,
        "split": split,
    }
    write_figures(json_file, figures)
    if figures["unknown_types"]:
        say(
            f"{model} never learnt {', '.join(figures['unknown_types'])}: they are {'left out' if natural else 'counted as missed'}."
        )
    value, low, high = figures["f1"]
    print(f"{model} on {name} {split}: F1 {value:.4f} [{low:.4f}, {high:.4f}], {figures['bytes']:,} bytes")
    for kind, row in figures["types"].items():
        print(
            f"  {kind:12} F1 {row['f1']:.4f}  precision {row['precision']:.4f}  recall {row['recall']:.4f}  support {row['support']:.0f}"
        )
