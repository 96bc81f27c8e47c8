"""The main job: teacher → student → int8, measured side by side, with a folder to ship."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from course_lib.artifacts import code_digest, folder_bytes, new_folder, read_json, write_bytes, write_json, write_text
from course_lib.console import bar, say
from course_lib.data.align import make_windows
from course_lib.data.conll import Sentence
from course_lib.data.natural import load_natural
from course_lib.data.tags import keep_types, split_tag
from course_lib.deploy.benchmark import BATCH_SIZES, Contender, race
from course_lib.deploy.engines import OnnxEngine, TorchEngine
from course_lib.errors import CourseError
from course_lib.machine import int8_saturates, machine
from course_lib.measure.report import html_report
from course_lib.measure.scorecard import contender, scorecard
from course_lib.measure.size import effective_parameters, macs_per_token, stored_parameters
from course_lib.models.zoo import load_token_classifier, load_tokenizer, model_tags
from course_lib.ner.evaluate import f1_difference, f1_interval
from course_lib.recipes.recipe import Recipe
from course_lib.recipes.stages import check_recipe, make_ensemble, make_onnx, make_student
from course_lib.recipes.teacher import Context, max_pieces
from course_lib.tasks import NER, find_task

TIMED = 300  # test sentences that are timed
ROUNDS = 3
PLAN = (  # contender, model, engine, precision; the last one is shipped
    ("teacher, PyTorch fp32", "teacher", "pytorch", "fp32"),
    ("teacher, ORT fp32", "teacher", "onnxruntime", "fp32"),
    ("teacher, ORT int8", "teacher", "onnxruntime", "int8"),
    ("student, PyTorch fp32", "student", "pytorch", "fp32"),
    ("student, ORT fp32", "student", "onnxruntime", "fp32"),
    ("student, ORT int8", "student", "onnxruntime", "int8"),
)


def compress(context: Context, encoder: str, recipe: Recipe, out: Path) -> dict:
    """Run a recipe on a corpus and leave ``scorecard.json``, ``report.html``, two plots and ``model/`` in ``out``.

    Every stage is taken from the cache when nothing it depends on has changed.

    Returns:
        The scorecard.
    """
    check_recipe(encoder, recipe, context.corpus.task)
    teachers = make_ensemble(context, encoder, recipe)
    teacher, student = teachers[0], make_student(context, teachers, recipe)
    folders = {}
    for _, kind, engine, precision in PLAN:
        trained = teacher if kind == "teacher" else student
        folders[kind, engine, precision] = (
            trained if engine == "pytorch" else make_onnx(context, trained, recipe, precision == "int8")
        )
        if precision == "int8":
            context.tracker.int8_scales(trained.name, folders[kind, engine, precision] / "model.onnx")
    key = [
        [f.name for f in folders.values()],
        context.corpus.fingerprint(),
        context.corpus.figures(),
        machine(context.threads),
        context.seed,
    ]
    done = context.cache.path("scorecard", key, code_digest("measure", "deploy", "recipes/compress.py", "ner", "data"))
    if not context.cache.ready(done):
        card = measure(context, {"teacher": teacher, "student": student}, folders)
        with new_folder(done) as folder:
            write_json(folder / "scorecard.json", card)
    card = read_json(done / "scorecard.json")
    publish(card, folders[PLAN[-1][1:]], out)
    if any(entry["error"] for entry in card["contenders"]):
        shutil.rmtree(done)  # a crash is measured again next time
    return card


def measure(context: Context, trained: dict[str, Path], folders: dict[tuple[str, str, str], Path]) -> dict:
    """Scores, sizes and times of every contender of :data:`PLAN` as a scorecard."""
    corpus = context.corpus
    natural = [n.sentence for n in load_natural()]
    shared = corpus.types & {split_tag(t)[1] for s in natural for t in s.tags}
    parts = {"validation": (corpus.validation, None), "test": (corpus.test, None)}
    if shared:
        parts["natural"] = (natural, shared)
    tokenizers = {kind: load_tokenizer(folder) for kind, folder in trained.items()}
    models = {kind: load_token_classifier(folder) for kind, folder in trained.items()}
    limits, tags = {kind: max_pieces(model) for kind, model in models.items()}, model_tags(models["teacher"])

    predictions: dict[str, dict[str, list]] = {}
    with bar("scoring", len(PLAN) * sum(len(s) for s, _ in parts.values())) as advance:
        for name, kind, engine, precision in PLAN:
            folder = folders[kind, engine, precision]
            run = TorchEngine(models[kind]) if engine == "pytorch" else OnnxEngine(folder / "model.onnx", context.threads)
            predictions[name] = {}
            for part, (sentences, _) in parts.items():
                words = [s.words for s in sentences]
                predictions[name][part] = find_task(corpus.task).predict(
                    words, run, tokenizers[kind], tags, max_pieces=limits[kind], progress=advance
                )

    own = {kind: timed_rows(corpus.test, tokenizer, limits[kind], context.seed) for kind, tokenizer in tokenizers.items()}
    rows = own["teacher"]
    racers = [
        Contender(n, e, folders[k, e, p] if e == "pytorch" else folders[k, e, p] / "model.onnx", own[k]) for n, k, e, p in PLAN
    ]
    with bar("timing", len(PLAN) * (ROUNDS + 1) * len(BATCH_SIZES)) as advance:
        times = race(racers, rows, context.threads, ROUNDS, lambda name: advance())

    lengths = {kind: sum(map(len, r)) / len(r) for kind, r in own.items()}
    entries = []
    for (name, kind, engine, precision), time in zip(PLAN, times, strict=True):
        model = models[kind]
        f1 = {"natural": None} | {
            p: f1_interval(*_scored(s, predictions[name][p], only), seed=context.seed) for p, (s, only) in parts.items()
        }
        difference = None
        if name != PLAN[0][0]:
            gold = [s.tags for s in corpus.test]
            pair = predictions[name]["test"], predictions[PLAN[0][0]]["test"]
            value, low, high = f1_difference(gold, *pair, seed=context.seed)
            difference = {"against": PLAN[0][0], "value": value, "low": low, "high": high}
        entry = contender(
            name, kind, engine, precision, f1=f1, bytes=folder_bytes(folders[kind, engine, precision], without=("history.json",)),
            parameters_stored=stored_parameters(model), parameters_effective=effective_parameters(model),
            macs_per_token=macs_per_token(model, lengths[kind]), difference=difference, final=name == PLAN[-1][0],
            **{field: value for field, value in time.items() if field != "tags"},
        )  # fmt: skip
        entries.append(entry)
    data = corpus.figures()
    if shared:
        data["sentences"]["natural"], data["tokens"]["natural"] = len(natural), sum(len(s.words) for s in natural)
    return scorecard(context.seed, context.threads, data, entries, notes(context, rows, lengths, shared))


def _scored(sentences: Sequence[Sentence], predicted: list, only: set[str] | None) -> tuple[list, list]:
    """Gold and predicted tags, other types than ``only`` turned into O on both sides."""
    gold = [s.tags for s in sentences]
    if only is None:
        return gold, predicted
    return [keep_types(t, only) for t in gold], [keep_types(t, only) for t in predicted]


def timed_rows(sentences: Sequence[Sentence], tokenizer, limit: int, seed: int) -> list[list[int]]:
    """Piece ids of :data:`TIMED` sentences drawn by seed; a long sentence counts by each of its windows."""
    chosen = sorted(random.Random(seed).sample(range(len(sentences)), min(TIMED, len(sentences))))
    rows = [list(w.ids) for w in make_windows([sentences[i].words for i in chosen], tokenizer, limit)]
    if not rows:
        raise CourseError("The test sentences hold no word the tokenizer knows a piece for: there is nothing to time.")
    while len(rows) < max(BATCH_SIZES):  # a very small test set is timed several times over
        rows = rows + rows
    return rows


def notes(context: Context, rows: list, lengths: dict[str, float], shared: set[str]) -> list[str]:
    """How the figures were taken, in words."""
    theirs = "" if lengths["student"] == lengths["teacher"] else f", {lengths['student']:.1f} of the student's own"
    lines = [
        f"Latency: {len(rows)} test sentences (mean {lengths['teacher']:.1f} pieces{theirs}) tokenized beforehand, a process for each contender, taking turns, "
        f"{context.threads} threads, one warm-up pass and {ROUNDS} counted ones. Batch 1: median over sentences. Batch 32: sorted by "
        "length, padded to the longest, time divided by 32, median over batches.",
        "Bytes: all files one ships (model, config, tokenizer, recipe). Multiply-adds: linear layers and attention, per piece at the mean length.",
        "F1 in batches of 32 sorted by length; dynamic int8 takes one activation scale per batch, so its tags can depend on the batch.",
        f"Training: {'bf16 autocast, fp32 weights' if context.bf16 else 'fp32'}. The epoch was chosen on validation; test and natural chose nothing.",
    ]
    if context.corpus.task != NER.name:
        lines.append("F1 is the accuracy: each text has one label.")
    elif shared:
        missing = {"PER", "ORG", "LOC", "MISC"} - shared
        lines.append(
            "Natural set: hand-written sentences"
            + (f", without {', '.join(sorted(missing))}." if missing else ", all four types.")
        )
    else:
        lines.append("Natural set: not scored, it shares no entity type with this corpus.")
    if int8_saturates():
        lines.append(
            "This x86 processor has no VNNI: int8 kernels may saturate, which can cost F1 (reduce_range = true avoids it)."
        )
    return lines + context.corpus.notes


def publish(card: dict, shipped: Path, out: Path) -> None:
    """Write scorecard, report and plots, and the folder to ship."""
    from course_lib.show.plots import f1_against_bytes, f1_against_latency, png

    with new_folder(out / "model") as folder:
        for file in shipped.iterdir():
            shutil.copyfile(file, folder / file.name)
        write_json(folder / "scorecard.json", card)
    write_bytes(out / "f1_against_bytes.png", png(f1_against_bytes(card)))
    write_bytes(out / "f1_against_latency.png", png(f1_against_latency(card)))
    write_text(out / "report.html", html_report(card, str(out / "model")))
    write_json(out / "scorecard.json", card)
    say(f"wrote {out / 'scorecard.json'}, {out / 'report.html'} and {out / 'model'}")
