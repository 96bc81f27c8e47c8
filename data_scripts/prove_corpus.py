"""Is the generated corpus worth compressing on? Prints the proof, from runs made now (and cached).

Four taggers are scored on its test and on the natural set: the fine-tuned default encoder, a dictionary of the
training entities, the same architecture without pretrained weights and, with ``--wikigold DIR``, the default encoder
trained on that corpus (``data_scripts/fetch_real.py wikigold`` gets it). The natural set is also predicted from
running prose, with the library's own sentence and word splitting.
"""

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from course_lib.artifacts import Cache, write_json
from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus, load_corpus
from course_lib.data.generated import generate
from course_lib.data.natural import NaturalSentence, load_natural
from course_lib.data.tags import spans
from course_lib.deploy.engines import open_model
from course_lib.machine import machine, processors
from course_lib.models.zoo import load_tokenizer
from course_lib.ner.dictionary import build_dictionary, dictionary_tags
from course_lib.ner.evaluate import f1_interval
from course_lib.ner.predict import predict_tags, predict_text
from course_lib.recipes.recipe import Training, load_recipe
from course_lib.recipes.teacher import Context, make_teacher

SMALL_CORPUS = Training(epochs=8, batch_size=16, learning_rate=3e-4)  # wikigold has a sixth of the sentences
FROM_SCRATCH = Training(epochs=6, batch_size=32, learning_rate=5e-4)  # random weights need longer; best epoch counts


def prose_f1(model: Path, natural: list[NaturalSentence], threads: int) -> float:
    """F1 by characters on the natural set, written out as running prose.

    Each stretch of one genre becomes one paragraph; sentences and words are found by the library. An entity is
    right when its type and both its character offsets are.
    """
    engine, tags = open_model(model, threads)
    tokenizer = load_tokenizer(model)
    right = predicted = gold = 0
    for _, group in groupby(natural, key=lambda n: n.genre):
        paragraph, truth = "", set()
        for item in group:
            paragraph += "\n" if paragraph and not paragraph.endswith((".", "!", "?", '"', ")")) else " " if paragraph else ""
            truth |= {(len(paragraph) + s.start, len(paragraph) + s.end, s.type) for s in item.character_spans()}
            paragraph += item.prose
        found = {
            (e["start"], e["end"], e["type"]) for r in predict_text([paragraph], engine, tokenizer, tags) for e in r["entities"]
        }
        right, predicted, gold = right + len(found & truth), predicted + len(found), gold + len(truth)
    return 2 * right / (predicted + gold)


def model_f1(model: Path, sentences: list[Sentence], threads: int) -> list[float]:
    """F1 with interval of a model folder on sentences."""
    engine, tags = open_model(model, threads)
    predicted = predict_tags([s.words for s in sentences], engine, load_tokenizer(model), tags)
    return f1_interval([s.tags for s in sentences], predicted)


def dictionary_f1(corpus: Corpus, sentences: list[Sentence]) -> list[float]:
    """F1 with interval of looking names up among the training entities."""
    dictionary = build_dictionary(corpus.train)
    return f1_interval([s.tags for s in sentences], [dictionary_tags(s.words, dictionary) for s in sentences])


def share_seen(corpus: Corpus) -> float:
    """Share of the test entities (type and lower-cased words) that occur in training."""
    names = [
        [(s.type, *(w.lower() for w in x.words[s.start : s.end])) for x in part for s in spans(x.tags)]
        for part in (corpus.train, corpus.test)
    ]
    train = set(names[0])
    return sum(name in train for name in names[1]) / len(names[1])


def main(
    wikigold: Annotated[
        Path | None, typer.Option(help="Folder of the wikigold corpus, to compare the transfer to natural text.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    artifacts: Annotated[Path, typer.Option(help="Folder of the cache.")] = Path("artifacts"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Print the proof that the generated corpus is worth compressing on."""
    threads, natural, recipe = processors(), load_natural(), load_recipe("quick")
    hand_written = [n.sentence for n in natural]
    corpus = generate(seed)
    context = Context.create(corpus, Cache(artifacts / "cache"), seed, threads)
    teacher = make_teacher(context, "minilm", recipe)
    scratch = make_teacher(context, "minilm", replace(recipe, teacher=FROM_SCRATCH), pretrained=False)
    rows = {
        "fine-tuned minilm": (model_f1(teacher, corpus.test, threads), model_f1(teacher, hand_written, threads)),
        "dictionary of training entities": (dictionary_f1(corpus, corpus.test), dictionary_f1(corpus, hand_written)),
        "same architecture, random weights": (
            model_f1(scratch, corpus.test, threads),
            model_f1(scratch, hand_written, threads),
        ),
    }
    if wikigold:
        other = Context.create(load_corpus(str(wikigold), seed), context.cache, seed, threads)
        rival = make_teacher(other, "minilm", replace(recipe, teacher=SMALL_CORPUS))
        rows["minilm trained on wikigold"] = (model_f1(rival, corpus.test, threads), model_f1(rival, hand_written, threads))
    prose = prose_f1(teacher, natural, threads)
    print(f"{'tagger':36} {'generated test':24} natural set")
    for name, (test, hand) in rows.items():
        print(f"{name:36} {test[0]:.3f} [{test[1]:.3f}, {test[2]:.3f}]   {hand[0]:.3f} [{hand[1]:.3f}, {hand[2]:.3f}]")
    print(f"fine-tuned minilm on the natural set as running prose: {prose:.3f}")
    print(f"test entities that occur in training: {share_seen(corpus):.1%}")
    if json_file:
        figures = {name: {"test": test, "natural": hand} for name, (test, hand) in rows.items()}
        write_json(
            json_file,
            {"seed": seed, "machine": machine(threads), "taggers": figures, "prose": prose, "seen": share_seen(corpus)},
        )


if __name__ == "__main__":
    typer.run(main)
