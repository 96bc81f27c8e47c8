"""Options that commands share, and what they do with them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from course_lib.errors import CourseError

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
TaskName = Annotated[
    Literal["ner", "classification"],
    typer.Option(
        help="What is learnt: `ner`, a tag for each word; or `classification`, a label for each text (then `--data` is `generated` or "
        "a folder with train.tsv, a label, a tab and a text a line)."
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", "--preset", help="A preset (`quick`) or a recipe as a .toml file.")]
LogDir = Annotated[
    Path | None,
    typer.Option(help="Write losses, F1, sparsity, scales and memory here as TensorBoard event files; off by default."),
]
Model = Annotated[Path, typer.Option(help="A model folder, such as artifacts/course/model.")]


def open_corpus(data: str, seed: int, artifacts: Path, repair: bool = False, task: str = "ner"):
    """The corpus by name; the generated one is also written out, so that it can be looked at."""
    from course_lib.console import say
    from course_lib.data.corpus import load_corpus

    if task == "classification":
        from course_lib.data.texts import generate_texts, load_texts, write_texts

        corpus = generate_texts(seed) if data == "generated" else load_texts(data, seed)
        folder = artifacts / "corpus" / f"messages-{corpus.fingerprint()[:12]}"
        for name, part in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test)):
            if data == "generated" and not (folder / f"{name}.tsv").exists():
                write_texts(folder / f"{name}.tsv", part)
    elif data != "generated":
        corpus = load_corpus(data, seed, repair)
    else:
        from course_lib.data.conll import write_conll
        from course_lib.data.generated import generate

        corpus = generate(seed)
        folder = artifacts / "corpus" / f"generated-{corpus.fingerprint()[:12]}"
        for name, part in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test)):
            if not (folder / f"{name}.txt").exists():
                write_conll(folder / f"{name}.txt", part)
    what = "sentences" if task == "ner" else "texts"
    say(f"corpus {corpus.name}: {len(corpus.train)} / {len(corpus.validation)} / {len(corpus.test)} {what}; {corpus.splits}")
    for note in corpus.notes:
        say(f"  {note}")
    return corpus


def open_context(
    data: str, seed: int, threads: int | None, artifacts: Path, force: bool, repair: bool, log_dir: Path | None = None,
    task: str = "ner",
):  # fmt: skip
    """The corpus, cache, seed, threads and tracker of a command's stages; ``threads`` None takes all processors."""
    from course_lib.artifacts import Cache
    from course_lib.machine import processors
    from course_lib.tracking import Tracker

    tracker = Tracker(log_dir)
    corpus = open_corpus(data, seed, artifacts, repair, task)
    from course_lib.recipes.teacher import Context

    context = Context.create(corpus, Cache(artifacts / "cache", force), seed, threads or processors())
    return replace(context, tracker=tracker)


def try_outputs(model: Path | None, json_file: Path | None) -> None:
    """Find out before the work, and not after it, that a result could not be written."""
    from course_lib.artifacts import require_replaceable, require_writable

    if model:
        require_replaceable(model)
        require_writable(model.parent)
    if json_file:
        require_writable(json_file.parent)
        if json_file.is_dir():
            raise CourseError(f"--json {json_file}: this is a folder; expected the name of a file.")


def write_figures(path: Path | None, figures: dict) -> None:
    """Write figures as JSON, where a file was asked for."""
    from course_lib.artifacts import write_json

    if path:
        write_json(path, figures)
