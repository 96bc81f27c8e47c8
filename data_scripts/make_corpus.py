"""Write the generated corpus as CoNLL files: ``python data_scripts/make_corpus.py --out my/folder --seed 0``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from course_lib.artifacts import new_folder
from course_lib.data.conll import write_conll
from course_lib.data.corpus import Corpus
from course_lib.data.generated import SIZES, generate
from course_lib.errors import CourseError

FILES = {"train.txt", "dev.txt", "test.txt"}


def check_out(out: Path) -> None:
    """Refuse to replace anything but an earlier result of this script.

    Raises:
        CourseError: ``out`` is a file, or a folder that holds something else.
    """
    strangers = sorted(p.name for p in out.iterdir() if p.name not in FILES) if out.is_dir() else []
    if strangers or out.is_file():
        found = f"{strangers[0]} is there" if strangers else "it is a file"
        raise CourseError(
            f"--out {out} is not a folder that this script made ({found}). Choose another, or remove it yourself."
        )


def write(corpus: Corpus, out: Path) -> None:
    """Write the three files, all of them or none."""
    with new_folder(out) as folder:
        for name, part in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test)):
            write_conll(folder / f"{name}.txt", part)
            print(f"{out / name}.txt: {len(part)} sentences, {sum(len(s.words) for s in part)} words")
    print(f"fingerprint {corpus.fingerprint()}")


def main(
    out: Annotated[
        Path, typer.Option(help="Folder to write train.txt, dev.txt and test.txt to; an earlier result there is replaced.")
    ] = Path("artifacts/corpus/generated"),
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same corpus, on every machine.")] = 0,
    train: Annotated[int, typer.Option(min=1, help="Training sentences.")] = SIZES["train"],
    validation: Annotated[int, typer.Option(min=1, help="Validation sentences.")] = SIZES["validation"],
    test: Annotated[int, typer.Option(min=1, help="Test sentences.")] = SIZES["test"],
) -> None:
    """Generate the corpus.

    Example: python data_scripts/make_corpus.py --out artifacts/corpus/large --train 20000
    """
    try:
        check_out(out)
        write(generate(seed, {"train": train, "validation": validation, "test": test}), out)
    except CourseError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
