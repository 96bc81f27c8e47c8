"""The peer benchmark: each model in each runtime, in one race, so that one sees which part of a gain comes from where."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_lib.artifacts import code_digest, folder_bytes, new_folder
from course_lib.console import bar
from course_lib.data.align import Window, make_windows
from course_lib.deploy.benchmark import BATCH_SIZES, Contender, Prose, race
from course_lib.deploy.peers import WAYS, Way, as_trained, make_way
from course_lib.deploy.scoring import NOT_SHIPPED
from course_lib.errors import CourseError
from course_lib.machine import versions
from course_lib.measure.scorecard import contender, markdown, scorecard
from course_lib.measure.size import effective_parameters, macs_per_token, stored_parameters
from course_lib.models.zoo import load_token_classifier, load_tokenizer, model_tags
from course_lib.ner.evaluate import f1_difference, f1_interval
from course_lib.ner.predict import tags_of_words
from course_lib.recipes.teacher import Context, max_pieces

SINGLES = 300  # test sentences that run one by one
PROSE = 512  # test sentences that run from raw text to entities
CALIBRATION = 128  # training sentences for the tools that calibrate
ROUNDS = 3
SHIPPED = Way("as shipped", "onnxruntime", "int8", "onnxruntime", as_trained, tuned=True)


@dataclass
class _Entry:
    """A model in a runtime: what it opens, or why it could not be made."""

    kind: str
    folder: Path
    way: Way
    opens: Path | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.way.name}"

    def bytes(self) -> int | None:
        if self.opens is None:
            return None
        return folder_bytes(self.opens if self.opens.is_dir() else self.opens.parent, without=NOT_SHIPPED)


def compare(
    context: Context,
    models: dict[str, Path],
    ways: Sequence[Way] = WAYS,
    rounds: int = ROUNDS,
    shipped: Path | None = None,
) -> dict:
    """Race every model in every way and score what came out of the timed passes.

    Args:
        context: corpus, cache, threads.
        models: "teacher" (first) and "student" → trained folder.
        ways: how they run; the first is what F1 differences are taken from, with the teacher.
        rounds: counted passes.
        shipped: the folder that is shipped, made of the last model: it takes part as it is and is marked final.
    Returns:
        The figures, in the form of a scorecard.
    """
    corpus = context.corpus
    trained = {kind: load_token_classifier(folder) for kind, folder in models.items()}
    first = next(iter(trained.values()))
    limits, tags = {kind: max_pieces(model) for kind, model in trained.items()}, model_tags(first)
    order = list(range(len(corpus.test)))
    random.Random(context.seed).shuffle(order)  # those that run one by one are a sample
    sentences = [corpus.test[i] for i in order]
    tokenizers = {kind: load_tokenizer(folder) for kind, folder in models.items()}
    windows = {kind: make_windows([s.words for s in sentences], t, limits[kind]) for kind, t in tokenizers.items()}
    calibration = {kind: _calibration(context, t, limits[kind]) for kind, t in tokenizers.items()}
    entries = [_Entry(kind, folder, way) for kind, folder in models.items() for way in ways]
    if shipped:
        kind, folder = list(models.items())[-1]
        entries.append(_Entry(kind, folder, SHIPPED, shipped / "model.onnx"))
    with bar("making", len(entries)) as advance:
        for entry in entries:
            _make(context, entry, calibration[entry.kind])
            advance(note=entry.name)
    racing = [e for e in entries if e.opens]
    rows = {kind: [list(w.ids) for w in own] for kind, own in windows.items()}
    for kind, own in rows.items():
        rows[kind] = own * -(-max(BATCH_SIZES) // len(own))  # a very small test set runs several times over
    texts = [" ".join(s.words) for s in sentences]
    prose = Prose((texts * max(BATCH_SIZES))[: max(PROSE, max(BATCH_SIZES))], entries[0].folder, tags, min(limits.values()))
    with bar("timing", 2 * len(racing) * (rounds + 1) * len(BATCH_SIZES)) as advance:
        racers = [Contender(e.name, e.way.kind, e.opens, rows[e.kind], e.folder) for e in racing]
        results = race(
            racers,
            rows[entries[0].kind],
            context.threads,
            rounds,
            lambda name: advance(note=name),
            singles=SINGLES,
            prose=prose,
        )
    timed = {e.name: result for e, result in zip(racing, results, strict=True)}
    lengths = {kind: sum(map(len, own)) / len(own) for kind, own in rows.items()}
    said = {e.name: _tags(timed.get(e.name), sentences, windows[e.kind], tags) for e in entries}
    reference, gold = said[entries[0].name], [s.tags for s in sentences]
    cards = []
    for entry in entries:
        model, predicted = trained[entry.kind], said[entry.name]
        figures = timed.get(entry.name) or {"error": entry.error}
        f1 = {"validation": None, "test": None, "natural": None}
        difference = None
        if predicted:
            f1["test"] = f1_interval(gold, predicted, seed=context.seed)
            if reference and entry is not entries[0]:
                value, low, high = f1_difference(gold, predicted, reference, seed=context.seed)
                difference = {"against": entries[0].name, "value": value, "low": low, "high": high}
        cards.append(
            contender(
                entry.name, entry.kind, entry.way.engine, entry.way.precision, f1=f1, bytes=entry.bytes(),
                parameters_stored=stored_parameters(model), parameters_effective=effective_parameters(model),
                macs_per_token=macs_per_token(model, lengths[entry.kind]), difference=difference,
                final=entry.way is SHIPPED,
                **{field: value for field, value in figures.items() if field != "tags"},
            )
        )  # fmt: skip
    return scorecard(
        context.seed, context.threads, corpus.figures(), cards, notes(context, len(rows[entries[0].kind]), lengths, rounds)
    )


def _calibration(context: Context, tokenizer, limit: int) -> list[list[int]]:
    train = context.corpus.train
    chosen = random.Random(f"{context.seed}/peers").sample(range(len(train)), min(CALIBRATION, len(train)))
    return [list(w.ids) for w in make_windows([train[i].words for i in chosen], tokenizer, limit)]


def _make(context: Context, entry: _Entry, calibration: list[list[int]]) -> None:
    if entry.opens:
        return
    code = code_digest("deploy/peers.py", "deploy/export.py", "deploy/embeddings.py", "deploy/norms.py")
    target = context.cache.path("peer", entry.way.name, entry.folder.name, calibration, versions(), code)
    try:
        if not context.cache.ready(target):
            with new_folder(target) as folder:
                make_way(entry.way, entry.folder, folder, calibration)
        found = [target / name for name in ("model.onnx", "model.xml") if (target / name).exists()]
        entry.opens = found[0] if found else entry.folder
    except CourseError as error:
        entry.error = str(error)


def _tags(result: dict | None, sentences: Sequence, windows: Sequence[Window], tags: list[str]) -> list[list[str]] | None:
    if not result or not result["tags"]:
        return None
    chosen = result["tags"][: len(windows)]
    return tags_of_words([len(s.words) for s in sentences], windows, chosen, tags)


def notes(context: Context, count: int, lengths: dict[str, float], rounds: int) -> list[str]:
    """How the figures were taken."""
    means = ", ".join(f"{kind} {length:.1f}" for kind, length in lengths.items())
    return [
        f"{count} windows of test sentences (mean pieces: {means}), tokenized beforehand, the same for all; a process for each "
        f"contender, taking turns, {context.threads} threads, one warm-up pass and {rounds} counted ones. Batch 32: sorted by length, "
        f"median over full batches. Batch 1: {min(SINGLES, count)} of them, median.",
        f"End to end: up to {PROSE} test sentences as raw text (words joined by spaces), split into sentences and words, tokenized, "
        "predicted and turned into entities with offsets.",
        "F1 is that of the very outputs that were timed, in batches of 32. Differences are from the first contender, paired.",
        f"Bytes: model file(s), config and tokenizer. What calibrates did so on {CALIBRATION} training sentences. OpenVINO was told "
        "its precision, which it would choose by itself.",
    ] + context.corpus.notes


def grid(card: dict, batch: str, figure: str = "ms_per_sentence") -> str:
    """Models by runtimes as Markdown: median milliseconds per sentence, "–" for what failed.

    Args:
        figure: ``ms_per_sentence``, or ``end_to_end_ms_per_sentence``: from raw text to entities.
    """
    models = list(dict.fromkeys(c["model"] for c in card["contenders"]))
    times: dict[str, dict[str, float | None]] = {}
    for c in card["contenders"]:
        way = c["name"].partition(", ")[2]
        times.setdefault(way, {})[c["model"]] = c[figure] and c[figure][batch]["median"]
    what = "ms per sentence" if figure == "ms_per_sentence" else "ms per sentence, text to entities"
    lines = [f"| {what}, batch {batch} | " + " | ".join(models) + " |", "| --- |" + " --- |" * len(models)]
    show: Callable[[float | None], str] = lambda ms: "–" if ms is None else f"{ms:.2f}"  # noqa: E731
    lines += [f"| {way} | " + " | ".join(show(row.get(m)) for m in models) + " |" for way, row in times.items()]
    return "\n".join(lines) + "\n"


def report(card: dict) -> str:
    """All tables of a comparison in Markdown, failures last."""
    failed = [f"- {c['name']}: {c['error']}" for c in card["contenders"] if c["error"]]
    parts = [f"# Peers on {card['data']['name']}, {card['date']}", markdown(card)]
    parts += [
        grid(card, batch, figure) for figure in ("ms_per_sentence", "end_to_end_ms_per_sentence") for batch in ("1", "32")
    ]
    parts += ["\n".join(["Failed:", "", *failed])] if failed else []
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in card["notes"])]) + "\n"
