"""``course …``: the command line. Results go to standard output, progress and messages to standard error."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from course_lib import __version__
from course_lib.errors import CourseError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make Transformers smaller and faster: a course and its library.\n\nStart with `course doctor`, then `make course`, then `make lab`.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    str,
    typer.Option(
        help="`generated`, a folder with train.txt (dev.txt, test.txt) in CoNLL columns, or `hub:ID` where there is a network."
    ),
]
Encoder = Annotated[
    str, typer.Option(help="`minilm`, a folder in Hugging Face layout, a hub id, or `tiny` (random, for trying things).")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Seed of data, heads, batches and dropout: same seed, same result.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="Threads to compute with; default: all processors of this process.")
]
Artifacts = Annotated[Path, typer.Option(help="Folder for everything that is made.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to this file as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Make everything again, even what is cached.")]
Repair = Annotated[bool, typer.Option("--repair", help="Mend illegal tag transitions in the data instead of stopping.")]
RecipeName = Annotated[str, typer.Option("--recipe", "--preset", help="A preset (`quick`) or a recipe as a .toml file.")]
Model = Annotated[Path, typer.Option(help="A model folder, such as artifacts/course/model.")]


def _corpus(data: str, seed: int, artifacts: Path, repair: bool = False):
    """The corpus by name; the generated one is also written out, so that it can be looked at."""
    from course_lib.console import say
    from course_lib.data.corpus import load_corpus

    if data != "generated":
        corpus = load_corpus(data, seed, repair)
    else:
        from course_lib.data.conll import write_conll
        from course_lib.data.generated import generate

        corpus = generate(seed)
        folder = artifacts / "corpus" / f"generated-{corpus.fingerprint()[:12]}"
        for name, part in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test)):
            if not (folder / f"{name}.txt").exists():
                write_conll(folder / f"{name}.txt", part)
    say(f"corpus {corpus.name}: {len(corpus.train)} / {len(corpus.validation)} / {len(corpus.test)} sentences; {corpus.splits}")
    for note in corpus.notes:
        say(f"  {note}")
    return corpus


def _context(data: str, seed: int, threads: int | None, artifacts: Path, force: bool, repair: bool):
    from course_lib.artifacts import Cache
    from course_lib.machine import processors

    corpus = _corpus(data, seed, artifacts, repair)
    from course_lib.recipes.stages import Context

    return Context.create(corpus, Cache(artifacts / "cache", force), seed, threads or processors())


def _try_outputs(model: Path | None, json_file: Path | None) -> None:
    """Find out before the work, and not after it, that a result could not be written."""
    from course_lib.artifacts import require_replaceable, require_writable

    if model:
        require_replaceable(model)
        require_writable(model.parent)
    if json_file:
        require_writable(json_file.parent)
        if json_file.is_dir():
            raise CourseError(f"--json {json_file}: this is a folder; expected the name of a file.")


def _write_json(path: Path | None, figures: dict) -> None:
    from course_lib.artifacts import write_json

    if path:
        write_json(path, figures)


@app.command()
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
    _write_json(json_file, {"checks": checks})
    if any(check["state"] == "bad" for check in checks):
        raise typer.Exit(1)


@app.command()
def prepare(
    data: Data = "generated",
    encoder: Encoder = "minilm",
    recipe: RecipeName = "quick",
    seed: Seed = 0,
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    json_file: Json = None,
    force: Force = False,
    repair: Repair = False,
) -> None:
    """Make the corpus, the teacher and the student that the lessons start from.

    Example: `course prepare --seed 0 --json prepared.json`
    """
    from course_lib.recipes.recipe import load_recipe

    chosen = load_recipe(recipe)
    _try_outputs(None, json_file)
    context = _context(data, seed, threads, artifacts, force, repair)
    from course_lib.recipes.stages import check_recipe, make_student, make_teacher

    check_recipe(encoder, chosen)
    teacher = make_teacher(context, encoder, chosen)
    student = make_student(context, teacher, chosen)
    figures = {"data": context.corpus.figures(), "teacher": str(teacher), "student": str(student)}
    _write_json(json_file, figures)
    print(f"teacher {teacher}\nstudent {student}")


@app.command()
def train(
    out: Annotated[Path | None, typer.Option(help="Copy the trained model to this folder.")] = None,
    data: Data = "generated",
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
) -> None:
    """Fine-tune an encoder on a corpus; killed and started again, it goes on where it was.

    Example: `course train --data my/corpus --epochs 8 --patience 2 --out my/model --json history.json`
    """
    import shutil
    from dataclasses import replace

    from course_lib.artifacts import new_folder, read_json
    from course_lib.recipes.recipe import Training, load_recipe

    _try_outputs(out, json_file)
    recipe = replace(load_recipe("quick"), teacher=Training(epochs, batch_size, learning_rate, patience=patience))
    context = _context(data, seed, threads, artifacts, force, repair)
    from course_lib.recipes.stages import make_teacher

    folder = make_teacher(context, encoder, recipe, pretrained=not from_scratch)
    history = read_json(folder / "history.json")
    if out is not None:
        with new_folder(out) as temporary:
            for file in folder.iterdir():
                shutil.copyfile(file, temporary / file.name)
    _write_json(json_file, {"data": context.corpus.figures(), "model": str(out or folder), **history})
    best = max(h["validation_f1"] for h in history["epochs"])
    print(f"{out or folder}: best validation F1 {best:.4f} after {len(history['epochs'])} epochs")


@app.command()
def compress(
    data: Data = "generated",
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
) -> None:
    """The main job: fine-tune, cut, distil, export, int8, measure; leaves a scorecard, a report and a model to ship.

    Example: `course compress --data my/corpus --out my/result --json scorecard.json`
    """
    from rich.console import Console

    from course_lib.measure.scorecard import print_scorecard
    from course_lib.recipes.recipe import load_recipe

    chosen = load_recipe(recipe)
    context = _context(data, seed, threads, artifacts, force, repair)
    from course_lib.recipes.compress import compress as run

    target = out or artifacts / ("course" if data == "generated" else context.corpus.name)
    _try_outputs(target / "model", json_file)
    card = run(context, encoder, chosen, target)
    print_scorecard(card, Console(width=None if sys.stdout.isatty() else 150))
    _write_json(json_file, card)


@app.command()
def predict(
    text: Annotated[list[str] | None, typer.Argument(help="Texts, or `-` to read standard input line by line.")] = None,
    model: Model = Path("artifacts/course/model"),
    threads: Threads = None,
) -> None:
    """Find names in plain text: a JSON line for each sentence, with character offsets into the text (or input line).

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
    from course_lib.ner.predict import predict_text

    engine, tags = open_model(model, threads or processors())
    tokenizer, limit = load_tokenizer(model), max_pieces(read_json(model / "config.json"))
    for record in predict_text(_texts(text), engine, tokenizer, tags, max_pieces=limit):
        print(json.dumps(record, ensure_ascii=False), flush=True)


def _texts(arguments: list[str]) -> Iterator[str]:
    """The texts given, or the lines of standard input for ``-``, which must be UTF-8."""
    raw = sys.stdin.buffer if arguments == ["-"] else map(os.fsencode, arguments)
    for number, line in enumerate(raw, start=1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CourseError(f"TEXT, line {number}: not UTF-8 ({error.reason}). Convert the text to UTF-8.") from error


@app.command()
def score(
    model: Model = Path("artifacts/course/model"),
    data: Data = "generated",
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
    from course_lib.deploy.scoring import score_model
    from course_lib.machine import processors

    if split == "natural":
        from course_lib.data.natural import load_natural

        sentences, name = [n.sentence for n in load_natural()], "natural"
    elif split in ("validation", "test"):
        corpus = _corpus(data, seed, artifacts, repair)
        sentences, name = getattr(corpus, split), corpus.name
    else:
        raise CourseError(f"--split {split}: expected validation, test or natural.")
    natural = split == "natural"  # of no corpus: types that the model never learnt are left out, as in the scorecard
    figures = score_model(model, sentences, threads or processors(), seed, known_types_only=natural) | {
        "data": name,
        "split": split,
    }
    _write_json(json_file, figures)
    value, low, high = figures["f1"]
    print(f"{model} on {name} {split}: F1 {value:.4f} [{low:.4f}, {high:.4f}], {figures['bytes']:,} bytes")
    for kind, row in figures["types"].items():
        print(
            f"  {kind:12} F1 {row['f1']:.4f}  precision {row['precision']:.4f}  recall {row['recall']:.4f}  support {row['support']:.0f}"
        )


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"course_lib {__version__}")
        raise typer.Exit()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 well, 1 a check failed, 2 something the user can put right, 130 interrupted.

    A :class:`CourseError` is printed without a traceback.
    """
    from course_lib.console import stderr

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(arguments)
    except CourseError as error:
        stderr.print("[red]Error:[/red]", end=" ")
        stderr.print(str(error), soft_wrap=True, markup=False)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:
            stderr.print("Interrupted. Run the same command again: it goes on from the last checkpoint.")
        raise


if __name__ == "__main__":
    main()
