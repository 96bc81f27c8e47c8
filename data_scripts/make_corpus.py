"""Write the generated corpus as CoNLL files: ``python data_scripts/make_corpus.py --out my/folder --seed 0``."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.artifacts import new_folder
from course_lib.data.conll import write_conll
from course_lib.data.generated import SIZES, generate


def main(
    out: Annotated[Path, typer.Option(help="Folder to write train.txt, dev.txt and test.txt to; it is replaced.")] = Path(
        "artifacts/corpus/generated"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same corpus, on every machine.")] = 0,
    train: Annotated[int, typer.Option(min=1, help="Training sentences.")] = SIZES["train"],
    validation: Annotated[int, typer.Option(min=1, help="Validation sentences.")] = SIZES["validation"],
    test: Annotated[int, typer.Option(min=1, help="Test sentences.")] = SIZES["test"],
) -> None:
    """Generate the corpus.

    Example: python data_scripts/make_corpus.py --out artifacts/corpus/large --train 20000
    """
    corpus = generate(seed, {"train": train, "validation": validation, "test": test})
    with new_folder(out) as folder:
        for name, part in (("train", corpus.train), ("dev", corpus.validation), ("test", corpus.test)):
            write_conll(folder / f"{name}.txt", part)
            print(f"{out / name}.txt: {len(part)} sentences, {sum(len(s.words) for s in part)} words")
    print(f"fingerprint {corpus.fingerprint()}")


if __name__ == "__main__":
    typer.run(main)
