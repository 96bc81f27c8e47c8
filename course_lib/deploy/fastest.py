"""Which engine runs a shipped folder fastest here: measured once on this machine, and remembered."""

from pathlib import Path

from course_lib.artifacts import digest, file_sha256, read_json, write_json
from course_lib.data.align import make_windows
from course_lib.data.natural import load_natural
from course_lib.deploy.benchmark import Contender, race
from course_lib.deploy.engines import Engine, OnnxEngine, OpenVinoEngine, max_pieces, open_onnx
from course_lib.errors import CourseError, expect
from course_lib.machine import machine

SENTENCES = 96  # of the natural set
OPENERS = {"onnxruntime": OnnxEngine, "openvino": OpenVinoEngine}
ENGINES = ("auto", *OPENERS)


def memory() -> Path:
    """Folder where measurements are remembered."""
    import platformdirs

    return platformdirs.user_cache_path("course_lib") / "engines"


def settings(threads: int) -> list[tuple[str, int]]:
    """What is tried: each engine that is installed, with all threads and with one, which short sentences may prefer.

    >>> [s for s in settings(2) if s[0] == "onnxruntime"]
    [('onnxruntime', 2), ('onnxruntime', 1)]
    """
    from importlib.util import find_spec

    found = [name for name in OPENERS if find_spec(name)]
    return [(name, count) for name in found for count in dict.fromkeys((threads, 1))]


def measure(
    folder: Path | str, threads: int, rounds: int = 3, again: bool = False, remembered: Path | None = None
) -> list[dict]:
    """Time a shipped folder in every engine and setting, each in a process of its own, so that a crash is a row that says so.

    The measurement is taken from memory when this file was timed on this machine with these versions before.

    Args:
        folder: with ``model.onnx``, ``config.json`` and ``tokenizer.json``.
        threads: most threads to use.
        rounds: counted passes over :data:`SENTENCES` hand-written sentences.
        again: measure even what is remembered.
        remembered: folder of the memory; None: :func:`memory`.
    Returns:
        A row per setting: ``engine, threads, ms_per_sentence`` (as :func:`course_lib.deploy.benchmark.race` has it), ``load_s,
        peak_mib, error``, and ``same_tags``: the share of pieces whose tag is that of ONNX Runtime with all threads.
    Raises:
        CourseError: no model there.
    """
    folder = Path(folder)
    file = folder / "model.onnx"
    if not file.is_file():
        raise CourseError(f"{folder}: no model.onnx there. `make course` makes artifacts/course/model.")
    note = (remembered or memory()) / f"{digest(file_sha256(file), machine(threads))}.json"
    if note.is_file() and not again:
        return read_json(note)["rows"]
    from course_lib.models.zoo import load_tokenizer

    words = [n.sentence.words for n in load_natural()[:SENTENCES]]
    rows = [list(w.ids) for w in make_windows(words, load_tokenizer(folder), max_pieces(read_json(folder / "config.json")))]
    tried = settings(threads)
    results = []
    for count in dict.fromkeys(count for _, count in tried):  # a race states its threads once, for all that take part
        names = [name for name, c in tried if c == count]
        timed = race([Contender(f"{name}, {count}", name, file) for name in names], rows, count, rounds)
        results += [{"engine": name, "threads": count, **result} for name, result in zip(names, timed, strict=True)]
    first = results[0]["tags"]
    for row in results:
        row["same_tags"] = _same(row.pop("tags"), first)
        row.pop("end_to_end_ms_per_sentence")
    write_json(note, {"folder": folder.name, "machine": machine(threads), "rows": results})
    return results


def fastest(rows: list[dict], batch: int = 1) -> tuple[str, int]:
    """Engine and threads of the row with the lowest median at this batch size.

    Raises:
        CourseError: every engine failed.
    """
    expect(batch in (1, 32), "batch", batch, "1 or 32")
    well = [row for row in rows if not row["error"]]
    if not well:
        raise CourseError(f"No engine could run the model: {'; '.join(row['engine'] + ' ' + row['error'] for row in rows)}.")
    best = min(well, key=lambda row: row["ms_per_sentence"][str(batch)]["median"])
    return best["engine"], best["threads"]


def choose(folder: Path | str, engine: str, threads: int, batch: int = 1) -> tuple[str, int]:
    """The engine and threads to open a shipped folder with.

    Args:
        engine: a name of :data:`ENGINES`; ``auto`` takes the fastest, measured if need be.
    Raises:
        CourseError: no such engine, or one that is not installed.
    """
    from importlib.util import find_spec

    if engine not in ENGINES:
        raise CourseError(f"--engine {engine}: expected one of {', '.join(ENGINES)}.")
    if engine == "auto":
        return fastest(measure(folder, threads), batch)
    if not find_spec(engine):
        package = "'course_lib[bench]'" if engine == "openvino" else engine
        raise CourseError(f"--engine {engine}: it is not installed. pip install {package}.")
    return engine, threads


def open_with(folder: Path | str, engine: str, threads: int) -> tuple[Engine, list[str]]:
    """Open a shipped folder in an engine of :data:`OPENERS`: the engine and the tags its logits stand for."""
    run, tags = open_onnx(folder, threads)  # which checks the folder
    return (run if engine == "onnxruntime" else OPENERS[engine](Path(folder) / "model.onnx", threads)), tags


def _same(tags: list[list[int]] | None, first: list[list[int]] | None) -> float | None:
    if tags is None or first is None:
        return None
    pairs = [(a, b) for x, y in zip(tags, first, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)
