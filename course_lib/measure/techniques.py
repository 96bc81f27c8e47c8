"""One table of every technique on one fine-tuned encoder: F1, bytes and time, each beside plain magnitude or rounding at equal bytes.

Each row starts from the teacher's weights and is cached as soon as it is measured, so that a run that is stopped loses at most
the row it was at.
"""

import datetime
import difflib
import fnmatch
import functools
import time
from collections.abc import Callable, Sequence

import torch

from course_lib.artifacts import code_digest, new_folder, read_json, write_json
from course_lib.errors import CourseError
from course_lib.machine import machine
from course_lib.measure import codebook_techniques, pruning_techniques, quantization_techniques
from course_lib.measure.technique_bench import BATCH, Bench
from course_lib.measure.technique_bytes import Made, payload_bytes
from course_lib.measure.technique_row import Technique, recovered
from course_lib.models.zoo import TOKENIZER
from course_lib.ner.evaluate import f1_difference, f1_interval

DENSE = "dense"
PARTS = ("validation", "test")
CODE = (
    "measure", "pruning", "quantization", "models", "ner", "data", "calibration.py", "layerwise.py", "obs.py", "granularity.py",
    "plan.py", "recipes/teacher.py", "recipes/stages.py", "recipes/compress.py", "deploy/engines.py", "deploy/worker.py",
)  # fmt: skip


def all_techniques() -> list[Technique]:
    """Every row: the teacher as it is, pruning, quantization, and the teacher after as much training as a recovery."""
    dense = Technique(DENSE, "the teacher as it is", "none", "–", lambda model, bench: Made(model))
    trained = Technique(f"{DENSE}+recovery", "the teacher, trained on", "none", "–", recovered(dense.make), trained=True)
    codes = [*quantization_techniques.rows(), *codebook_techniques.rows()]
    return [dense, *pruning_techniques.rows(), *codes, *quantization_techniques.trained_rows(codes), trained]


def choose(only: Sequence[str] = (), recover: bool = True) -> list[Technique]:
    """The rows to run, in their order.

    Args:
        only: names or patterns with ``*`` and ``?``; none means all. The plain rows they are compared with, and the teacher,
            are always among them.
        recover: whether rows that train are wanted.
    Raises:
        CourseError: a pattern that matches no row, with close names.
    """
    known = {t.name: t for t in all_techniques() if recover or not t.trained}
    chosen = set(known) if not only else {DENSE}
    for pattern in only:
        matched = {name for name in known if fnmatch.fnmatchcase(name, pattern)}
        if not matched:
            close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or list(known)[:3]
            raise CourseError(f"--only {pattern}: matches no technique; expected a name like {', '.join(close)}, or a pattern.")
        chosen |= matched
    chosen |= {known[name].plain for name in chosen if known[name].plain}
    return [t for name, t in known.items() if name in chosen]


def run(bench: Bench, techniques: Sequence[Technique], progress: Callable[[str], None] | None = None) -> dict:
    """Measure the rows, or take them from the cache.

    Args:
        bench: teacher, data and settings.
        techniques: of :func:`choose`; the dense teacher is the first.
        progress: called with a row's name before it is measured, and with "" after the last.
    Returns:
        The table: where it was measured, on what, and ``rows``. A technique that failed has an ``error`` and no figures, and
        is tried again next time.
    """
    context, rows, reference = bench.context, [], None
    gold = {part: [s.tags for s in getattr(context.corpus, part)] for part in PARTS}
    versions = [str(torch.__version__), machine(context.threads), context.seed, code()]
    for technique in techniques:
        if progress:
            progress(technique.name)
        target = context.cache.path("technique", technique.name, bench.made_of(), versions)
        if not context.cache.ready(target):
            try:
                row, predicted = measure(bench, technique, gold, reference)
            except (CourseError, ValueError, RuntimeError) as error:
                rows.append(described(technique) | {"error": f"{type(error).__name__}: {error}"})
                continue
            with new_folder(target) as folder:
                write_json(folder / "row.json", row)
                write_json(folder / "predicted.json", predicted if technique.name == DENSE else {})
        rows.append(read_json(target / "row.json"))
        if technique.name == DENSE:
            reference = read_json(target / "predicted.json")
    if progress:
        progress("")
    return {
        "date": datetime.date.today().isoformat(),
        "seed": context.seed,
        "machine": machine(context.threads),
        "data": context.corpus.figures(),
        "teacher": bench.teacher.name,
        "rows": rows,
        "notes": notes(bench),
    }


@functools.cache
def code() -> str:
    """Hash of the code that measures: that of when this process began, not of what is edited meanwhile."""
    return code_digest(*CODE)


def measure(bench: Bench, technique: Technique, gold: dict, reference: dict | None) -> tuple[dict, dict]:
    """One row, and the tags it predicted by part of the corpus.

    Args:
        gold: tags by part; ``reference``: those that the dense teacher predicted, None when this is it.
    """
    model = bench.fresh()
    torch.manual_seed(bench.context.seed)
    start = time.perf_counter()
    made = technique.make(model, bench)
    seconds = time.perf_counter() - start
    made.model.eval()
    predicted = {part: bench.predict(made.model, getattr(bench.context.corpus, part)) for part in PARTS}
    seed, against = bench.context.seed, reference or predicted
    payload = payload_bytes(made)
    rest = (bench.teacher / TOKENIZER).stat().st_size + len(made.model.config.to_json_string().encode())
    milliseconds, speed = bench.pace(made.model)
    row = described(technique) | {
        "f1": {part: f1_interval(gold[part], predicted[part], seed=seed) for part in PARTS},
        "difference": {part: f1_difference(gold[part], predicted[part], against[part], seed=seed) for part in PARTS},
        "payload": payload,
        "bytes": payload + rest,
        "ms_per_sentence": milliseconds,
        "speed": speed,
        "seconds": round(seconds, 1),
        "note": made.note,
    }
    return row, predicted


def described(technique: Technique) -> dict:
    """The fields of a row that are known before it is measured; the figures are null."""
    return {
        "name": technique.name, "method": technique.method, "family": technique.family, "strength": technique.strength,
        "kind": technique.kind, "plain": technique.plain, "trained": technique.trained, "f1": None, "difference": None,
        "payload": None, "bytes": None, "ms_per_sentence": None, "speed": None, "seconds": None, "note": "", "error": None,
    }  # fmt: skip


def notes(bench: Bench) -> list[str]:
    """How the figures were taken."""
    sizes, precision = bench.sizes, "bf16 autocast" if bench.settings.bf16 else "fp32"
    calibration, recovery = (min(n, len(bench.prepared.windows)) for n in (sizes.calibration, sizes.recovery))
    return [
        f"F1: strict entity F1 with a 95 % bootstrap interval; the difference from the dense teacher is paired. {calibration} "
        "training sentences calibrate; what a technique chooses by F1 it chooses on validation sentences.",
        "Bytes: every tensor as the technique stores it (codes, scales, codebooks, masks, all that stayed in float), tokenizer "
        "and config; not the header of the file.",
        f"Speed: the teacher's time over this model's, batches of {BATCH} in PyTorch, threads: {bench.context.threads}, in turns, "
        f"median of {sizes.passes} passes after a batch that does not count. The model is timed as the technique leaves it: zeros "
        "and packed codes save bytes, not time.",
        f"Trained rows saw {recovery} training sentences once, in {precision}, at a learning rate of "
        f"{bench.settings.learning_rate:g}; seconds are those of the technique, training included.",
    ]


def markdown(table: dict) -> str:
    """The table in Markdown, trained rows apart; beside each technique its plain row at equal bytes."""
    by_name = {row["name"]: row for row in table["rows"]}
    blocks = []
    for title, trained in (("Without training", False), ("With a short training", True)):
        rows = [row for row in table["rows"] if row["trained"] == trained]
        if rows:
            blocks += [f"## {title}", _lines(rows, by_name)]
    failed = [f"- {row['name']}: {row['error']}" for row in table["rows"] if row["error"]]
    if failed:
        blocks += ["## Failed", "\n".join(failed)]
    head = f"# Techniques on {table['data']['name']}, {table['date']}"
    return "\n\n".join([head, *blocks, "\n".join(f"- {note}" for note in table["notes"])]) + "\n"


def _lines(rows: list[dict], by_name: dict[str, dict]) -> str:
    header = ["technique", "", "F1 test", "− dense", "F1 validation", "MB", "speed", "s", "plain: F1 test", "MB"]
    cells = [header, ["---"] * len(header)]
    for row in rows:
        if row["error"]:
            continue
        plain = by_name.get(row["plain"] or "") or {}
        beside = [_f1(plain["f1"]["test"]), f"{plain['bytes'] / 1e6:.2f}"] if plain.get("f1") else ["–", "–"]
        figures = [_f1(row["f1"]["test"]), _f1(row["difference"]["test"], "+.3f"), f"{row['f1']['validation'][0]:.3f}"]
        size = [f"{row['bytes'] / 1e6:.2f}", f"{row['speed']:.2f}×", f"{row['seconds']:.0f}"]
        cells.append([f"{row['method']} (`{row['name']}`)", row["strength"], *figures, *size, *beside])
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _f1(value: list[float], form: str = ".3f") -> str:
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"
