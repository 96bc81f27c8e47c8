"""Why all-node static int8 destroys one encoder's F1 and spares another's: the padding of the calibration batches.

``python data_scripts/static_collapse.py`` quantizes the fine-tuned teacher twice with ONNX Runtime's ``quantize_static`` (min-max
ranges, every node), once calibrated sentence by sentence and once on padded batches, and prints F1 on validation sentences.
"""

import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from course_lib.artifacts import Cache, write_json
from course_lib.data.align import make_windows
from course_lib.data.generated import generate
from course_lib.deploy.engines import Engine, OnnxEngine, TorchEngine
from course_lib.deploy.peers import static_qdq
from course_lib.machine import machine, processors
from course_lib.models.zoo import load_token_classifier, load_tokenizer, model_tags
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags
from course_lib.recipes.recipe import load_recipe
from course_lib.recipes.teacher import Context, make_teacher

CALIBRATION = 128  # training sentences


def collapse(teacher: Path, train: list, validation: list, threads: int, seed: int = 0) -> list[dict]:
    """F1 of the teacher in float, and in int8 after calibration on single sentences and on padded batches of eight.

    Returns:
        ``{"calibrated", "f1"}`` each; ``calibrated`` is None for float, else the sentences of a batch.
    """
    tokenizer, model = load_tokenizer(teacher), load_token_classifier(teacher)
    words, gold = [s.words for s in validation], [s.tags for s in validation]
    drawn = random.Random(seed).sample(train, min(CALIBRATION, len(train)))
    rows = [list(w.ids) for w in make_windows([s.words for s in drawn], tokenizer)]

    def f1(engine: Engine) -> float:
        return round(entity_f1(gold, predict_tags(words, engine, tokenizer, model_tags(model))), 4)

    found = [{"calibrated": None, "f1": f1(TorchEngine(model))}]
    for size in (1, 8):
        with tempfile.TemporaryDirectory() as folder:
            made = static_qdq(teacher, Path(folder), rows, size)
            found.append({"calibrated": size, "f1": f1(OnnxEngine(made, threads))})
    return found


def main(
    sentences: Annotated[int, typer.Option(min=1, help="Validation sentences that are scored.")] = 400,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    artifacts: Annotated[Path, typer.Option(help="Folder of the cache.")] = Path("artifacts"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Show what padding in the calibration batches does to static int8."""
    threads, corpus = processors(), generate(seed)
    teacher = make_teacher(Context.create(corpus, Cache(artifacts / "cache"), seed, threads), "minilm", load_recipe("quick"))
    rows = collapse(teacher, corpus.train, corpus.validation[:sentences], threads, seed)
    for row in rows:
        how = "float" if row["calibrated"] is None else f"static int8, calibrated in batches of {row['calibrated']}"
        print(f"{how:45} F1 {row['f1']:.3f}")
    if json_file:
        write_json(json_file, {"seed": seed, "machine": machine(threads), "sentences": sentences, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
