"""Write measured figures into README.md, so that nobody types them: ``python data_scripts/update_readme.py``.

Reads ``artifacts/course``, ``artifacts/wikigold``, ``artifacts/uner_ewt`` (scorecards), ``artifacts/techniques``
(``course techniques``), ``artifacts/bench.json`` (``make bench``) and ``artifacts/proof.json`` (``prove_corpus.py --json``), fills the stretches between
``<!-- begin NAME -->`` and ``<!-- end NAME -->``, and copies the plot and the whole technique tables into ``docs``. A stretch whose
figures are not there stays as it is and is named.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from course_lib.artifacts import read_json, write_text
from course_lib.measure import bench
from course_lib.measure.scorecard import markdown

ROOT = Path(__file__).parent.parent
ARTIFACTS = ROOT / "artifacts"
TEXT = "Ana Ruiz flew from Lisbon to the Chelsea training ground."


def shipped(card: dict) -> tuple[dict, dict]:
    """The first contender (the eager teacher) and the one marked final."""
    return card["contenders"][0], next(c for c in card["contenders"] if c["final"])


def gains(card: dict) -> tuple[float, float, float, float]:
    """Test F1 points lost, times faster at batch 1 and at batch 32, times smaller: final against eager teacher."""
    teacher, final = shipped(card)
    speed = [teacher["ms_per_sentence"][b]["median"] / final["ms_per_sentence"][b]["median"] for b in ("1", "32")]
    return 100 * final["difference"]["value"], *speed, teacher["bytes"] / final["bytes"]


def summary() -> str:
    """One sentence on what the shipped model loses and gains."""
    card = read_json(ARTIFACTS / "course" / "scorecard.json")
    lost, one, many, smaller = gains(card)
    d = shipped(card)[1]["difference"]
    return (
        f"★ ships: {one:.1f}× faster than the eager teacher at batch 1, {many:.1f}× at batch 32, {smaller:.1f}× fewer bytes, "
        f"{lost:+.1f} points of test F1 (paired 95 % interval {100 * d['low']:+.1f} to {100 * d['high']:+.1f}). Times are medians in ms per sentence."
    )


def real() -> str:
    """A table of the real corpora."""
    rows = [
        "| corpus | test F1 teacher → shipped | difference, points | MB | faster, batch 1 / 32 | splits |",
        "|---|---|---|---|---|---|",
    ]
    measured = [name for name in ("wikigold", "uner_ewt") if (ARTIFACTS / name / "scorecard.json").is_file()]
    if not measured:
        raise FileNotFoundError(f"no scorecard of a real corpus in {ARTIFACTS}")
    for name in measured:
        card = read_json(ARTIFACTS / name / "scorecard.json")
        teacher, final = shipped(card)
        lost, one, many, _ = gains(card)
        d = final["difference"]
        rows.append(
            f"| {name} | {teacher['f1']['test'][0]:.3f} → {final['f1']['test'][0]:.3f} | {lost:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}] "
            f"| {teacher['bytes'] / 1e6:.1f} → {final['bytes'] / 1e6:.1f} | {one:.1f}× / {many:.1f}× | {card['data']['splits']} |"
        )
    return "\n".join(rows)


def proof() -> str:
    """The table of ``prove_corpus.py``."""
    figures = read_json(ARTIFACTS / "proof.json")
    rows = ["| tagger | F1, generated test | F1, natural set |", "|---|---|---|"]
    for name, f1 in figures["taggers"].items():
        cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in (f1["test"], f1["natural"])]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    rows.append("")
    rows.append(
        f"As running prose, split into sentences and words by the library, the natural set scores {figures['prose']:.3f}. "
        f"{figures['seen']:.0%} of the test's entities occur in training."
    )
    return "\n".join(rows)


def prediction() -> str:
    """What ``course predict`` prints for the example."""
    command = [sys.executable, "-m", "course_lib.cli", "predict", "--model", str(ARTIFACTS / "course" / "model"), TEXT]
    line = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    shown = f'$ course predict --model artifacts/course/model "{TEXT}"'
    return f"```console\n{shown}\n{json.dumps(line, ensure_ascii=False)}\n```"


def machine() -> str:
    """Date and machine of the main scorecard."""
    card = read_json(ARTIFACTS / "course" / "scorecard.json")
    m, v = card["machine"], card["machine"]["versions"]
    return (
        f"Measured on {card['date']}: {m['cpu']} ({', '.join(m['flags'])}), {m['threads']} threads, Linux, torch {v['torch']}, "
        f"onnxruntime {v['onnxruntime']}, transformers {v['transformers']}. Every number here comes from a run; its JSON names processor "
        "flags, threads, versions and seed."
    )


PRUNING = {  # rows of the short table: slug → method
    "magnitude-layer": "magnitude", "taylor": "Taylor scores", "wanda": "Wanda", "sparsegpt": "SparseGPT",
    "neurons": "feed-forward neurons", "heads": "attention heads", "layers": "whole layers", "l1-training": "L1 in a short training",
}  # fmt: skip
QUANTIZATION = {
    "rtn-tensor": "rounding, a scale per matrix", "rtn-channel": "a scale per row", "rtn-group": "a scale per 64",
    "asymmetric-group": "the same, asymmetric", "kmeans-tensor": "k-means levels per matrix", "gptq": "GPTQ, per 64",
    "awq": "AWQ, per 64", "int8-dynamic": "a scale per row, int8 inputs",
}  # fmt: skip


def short(slugs: dict[str, str], strengths: tuple[str, ...]) -> list[list[str]]:
    """Cells of a table of test F1: methods by strengths, generated corpus / wikigold."""
    tables = [read_json(ARTIFACTS / "techniques" / f"{name}.json")["rows"] for name in ("generated", "wikigold")]
    f1 = [{row["name"]: row["f1"]["test"][0] for row in table if row["f1"]} for table in tables]

    def cell(name: str) -> str:
        return " / ".join(f"{table[name]:.2f}".lstrip("0") for table in f1) if name in f1[0] else "–"

    return [[method, *(cell(f"{slug}-{strength}") for strength in strengths)] for slug, method in slugs.items()]


def techniques() -> str:
    """Pruning and quantization side by side, with the teacher's F1 above."""
    dense = [read_json(ARTIFACTS / "techniques" / f"{name}.json")["rows"][0] for name in ("generated", "wikigold")]
    threads = read_json(ARTIFACTS / "techniques" / "generated.json")["machine"]["threads"]
    head = f"Test F1, generated / wikigold. The teacher, trained with {threads} thread{'s' * (threads > 1)}: "
    head += " / ".join(f"{d['f1']['test'][0]:.2f}".lstrip("0") for d in dense) + "."
    rows = zip(short(PRUNING, ("50", "70", "90")), short(QUANTIZATION, ("8", "4", "2")), strict=True)
    lines = ["| pruned | 50 % | 70 % | 90 % | quantized | 8 bits | 4 | 2 |", "|---|---|---|---|---|---|---|---|"]
    return "\n".join([head, "", *lines, *(f"| {' | '.join(a + b)} |" for a, b in rows)])


def kernels() -> str:
    """The rows of ``make bench``, two on a line: theirs / ours, and our peak memory in sizes of the tensor."""
    rows, cells = read_json(ARTIFACTS / "bench.json")["rows"], []
    for row in rows:
        peak = "–"
        if row["ours_peak_mib"] is not None and row["tensor_mib"]:
            peak = f"{row['ours_peak_mib'] / row['tensor_mib']:.1f}"
        cells.append(f"{row['name']} | {row['ratio']:.1f}× | {peak}")
    cells += ["| | "] * (len(cells) % 2)
    half = len(cells) // 2
    head = "pair (against) | faster | peak"
    lines = [f"| {head} | {head} |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {a} | {b} |" for a, b in zip(cells[:half], cells[half:], strict=True))])


README, CORPUS, RESULTS = ROOT / "README.md", ROOT / "docs" / "corpus.md", ROOT / "docs" / "results.md"
SECTIONS: dict[str, tuple[Path, Callable[[], str]]] = {
    "scorecard": (README, lambda: markdown(read_json(ARTIFACTS / "course" / "scorecard.json")) + "\n" + summary()),
    "prediction": (README, prediction),
    "real": (README, real),
    "techniques": (README, techniques),
    "kernels": (README, kernels),
    "machine": (README, machine),
    "proof": (CORPUS, proof),
    "bench": (RESULTS, lambda: bench.markdown(read_json(ARTIFACTS / "bench.json"))),
}


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the marks of ``name``; a missing mark is an error."""
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"there is no <!-- begin {name} --> … <!-- end {name} -->")
    return pattern.sub(lambda m: f"{m.group(1)}{content}\n{m.group(2)}", text)


def main() -> None:
    """Fill every section whose figures are there."""
    for name, (path, make) in SECTIONS.items():
        try:
            write_text(path, fill(path.read_text("utf-8"), name, make()))
            print(f"{name}: written")
        except Exception as error:
            print(f"{name}: left as it was ({error})")
    shutil.copyfile(ARTIFACTS / "course" / "f1_against_latency.png", ROOT / "docs" / "f1_against_latency.png")
    for name in ("generated", "wikigold"):
        if (ARTIFACTS / "techniques" / f"{name}.md").is_file():
            shutil.copyfile(ARTIFACTS / "techniques" / f"{name}.md", ROOT / "docs" / f"techniques_{name}.md")


if __name__ == "__main__":
    main()
