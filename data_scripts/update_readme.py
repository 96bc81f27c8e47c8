"""Write measured figures into README.md, so that nobody types them: ``python data_scripts/update_readme.py``.

Reads ``artifacts/course``, ``artifacts/wikigold``, ``artifacts/uner_ewt``, ``artifacts/messages`` (scorecards), ``artifacts/techniques``
(``course techniques``), ``artifacts/peers*.json`` (``course peers``), ``artifacts/costs.json`` (``course costs``), ``artifacts/bench.json`` (``make bench``) and ``artifacts/proof.json`` (``prove_corpus.py --json``), fills the stretches between
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
from course_lib.data.texts import generate_texts
from course_lib.measure import bench, method_costs
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
        "flags, threads, versions and seed. What was measured on another machine names it."
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


def peer_cards() -> dict[str, dict]:
    """The races of ``course peers``, by corpus; the real corpus comes first."""
    files = {name: ARTIFACTS / f"peers-{name}.json" for name in ("uner_ewt", "wikigold")} | {
        "generated": ARTIFACTS / "peers.json"
    }
    found = {name: read_json(file) for name, file in files.items() if file.is_file()}
    if not found:
        raise FileNotFoundError(f"no peers.json in {ARTIFACTS}")
    return found


MOST_USED = (
    "PyTorch fp32",
    "PyTorch quantize_dynamic",
    "torchao int8, compiled",
    "ORT int8, fused",
    "OpenVINO bf16",
    "OpenVINO int8 (NNCF)",
)


def peers() -> str:
    """The ways most people know in the first race, and in every race what the shipped folder gains over what one would take instead."""
    cards = peer_cards()
    card = next(iter(cards.values()))
    lines = [peer_table(card, MOST_USED), ""]
    lines += ["| ★ on | F1 lost, points | fewer bytes | than eager PyTorch | than the fastest ready-made way | from raw text |"]
    lines += ["|---|---|---|---|---|---|", *(_gained(name, card) for name, card in cards.items())]
    lines += [
        "",
        f"Times as fast, batch 1 / 32; {card['machine']['threads']} threads, {card['date']}. F1 is that of the outputs that were timed, where int8",
    ]
    lines += ["activations may take other scales than in the table above: the third digit can differ."]
    return "\n".join(lines)


def peer_table(card: dict, only: tuple[str, ...] = ()) -> str:
    """Models by runtimes in one race."""
    entries = {c["name"]: c for c in card["contenders"]}
    final = next(c for c in card["contenders"] if c["final"])
    ways = list(dict.fromkeys(name.partition(", ")[2] for name in entries if not entries[name]["final"]))
    head = f"{card['data']['name']}: ms per sentence, batch 1 / 32"
    lines = [f"| {head} | teacher | F1 | MB | student | F1 | MB |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {way} | {_cells(entries.get(f'teacher, {way}'))} | {_cells(entries.get(f'student, {way}'))} |"
        for way in ways
        if not only or way in only
    ]
    return "\n".join([*lines, f"| the student as shipped ★ | – | – | – | {_cells(final)} |"])


def _gained(name: str, card: dict) -> str:
    eager, final = card["contenders"][0], next(c for c in card["contenders"] if c["final"])
    clicks = [c for c in card["contenders"] if c["model"] == "teacher" and "mended" not in c["name"]]
    d = final["difference"]
    lost = f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"
    speeds = _times([eager], final), _times(clicks, final), _times(clicks, final, "end_to_end_ms_per_sentence")
    return f"| {name} | {lost} | {eager['bytes'] / final['bytes']:.1f}× | {' | '.join(speeds)} |"


def _cells(entry: dict | None) -> str:
    if entry is None or entry["error"]:
        return "failed | – | –"
    one, many = (entry["ms_per_sentence"][size]["median"] for size in ("1", "32"))
    return f"{one:.2f} / {many:.2f} | {entry['f1']['test'][0]:.3f} | {entry['bytes'] / 1e6:.1f}"


def _times(others: list[dict], final: dict, figure: str = "ms_per_sentence") -> str:
    """How many times faster than the fastest of the others, for each batch size."""
    ran = [c for c in others if not c["error"]]
    best = {size: min(c[figure][size]["median"] for c in ran) / final[figure][size]["median"] for size in ("1", "32")}
    return f"{best['1']:.1f}× / {best['32']:.1f}×"


def messages() -> str:
    """Counting words against the encoder on the labelled messages (``course compress --task classification``)."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    card, corpus = read_json(ARTIFACTS / "messages" / "scorecard.json"), generate_texts(0)
    labels, gold = ([t.label for t in part] for part in (corpus.train, corpus.test))
    lines = ["| classifier | accuracy, test | MB |", "|---|---|---|"]
    for name, words in (("word counts", CountVectorizer()), ("words and pairs, tf-idf", TfidfVectorizer(ngram_range=(1, 2)))):
        model = LogisticRegression(max_iter=2000).fit(words.fit_transform([t.text for t in corpus.train]), labels)
        lines.append(
            f"| {name}, logistic regression | {model.score(words.transform([t.text for t in corpus.test]), gold):.3f} | – |"
        )
    for name, entry in zip(("minilm, fine-tuned", "the student that ships, int8"), shipped(card), strict=True):
        value, low, high = entry["f1"]["test"]
        lines.append(f"| {name} | {value:.3f} [{low:.3f}, {high:.3f}] | {entry['bytes'] / 1e6:.1f} |")
    _, one, many, _ = gains(card)
    lines += [
        "",
        f"The student is {one:.1f}× as fast as the eager fine-tuned encoder at batch 1, {many:.1f}× at batch 32 ({card['date']}).",
    ]
    return "\n".join(lines)


README, CORPUS, RESULTS = ROOT / "README.md", ROOT / "docs" / "corpus.md", ROOT / "docs" / "results.md"
SECTIONS: dict[str, tuple[Path, Callable[[], str]]] = {
    "scorecard": (README, lambda: markdown(read_json(ARTIFACTS / "course" / "scorecard.json")) + "\n" + summary()),
    "prediction": (README, prediction),
    "real": (README, real),
    "techniques": (RESULTS, techniques),
    "peers": (README, peers),
    "all_peers": (RESULTS, lambda: "\n\n".join(peer_table(card) for card in peer_cards().values())),
    "machine": (README, machine),
    "proof": (CORPUS, proof),
    "messages": (CORPUS, messages),
    "costs": (RESULTS, lambda: method_costs.markdown(read_json(ARTIFACTS / "costs.json")).rstrip()),
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
    if (ARTIFACTS / "costs_losses.png").is_file():
        shutil.copyfile(ARTIFACTS / "costs_losses.png", ROOT / "docs" / "costs_losses.png")
    for name in ("generated", "wikigold"):
        if (ARTIFACTS / "techniques" / f"{name}.md").is_file():
            shutil.copyfile(ARTIFACTS / "techniques" / f"{name}.md", ROOT / "docs" / f"techniques_{name}.md")


if __name__ == "__main__":
    main()
