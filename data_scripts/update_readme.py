"""Write measured figures into README.md, so that nobody types them: ``python data_scripts/update_readme.py``.

Reads ``artifacts/course``, ``artifacts/wikigold``, ``artifacts/uner_ewt`` (scorecards) and ``artifacts/proof.json``
(``prove_corpus.py --json``), fills the stretches between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``, and copies
the plot. A stretch whose figures are not there stays as it is and is named.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from course_lib.artifacts import read_json, write_text
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
    return (
        "```json\n"
        + json.dumps(line, ensure_ascii=False).replace('"entities"', '\n "entities"').replace("}, {", "},\n  {")
        + "\n```"
    )


def machine() -> str:
    """Date and machine of the main scorecard."""
    card = read_json(ARTIFACTS / "course" / "scorecard.json")
    m, v = card["machine"], card["machine"]["versions"]
    return (
        f"Measured on {card['date']}: {m['cpu']} ({', '.join(m['flags'])}), {m['threads']} threads, Linux, torch {v['torch']}, "
        f"onnxruntime {v['onnxruntime']}, transformers {v['transformers']}."
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "scorecard": lambda: markdown(read_json(ARTIFACTS / "course" / "scorecard.json")).rstrip(),
    "summary": summary,
    "prediction": prediction,
    "real": real,
    "proof": proof,
    "machine": machine,
}


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the marks of ``name``; a missing mark is an error."""
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no <!-- begin {name} --> … <!-- end {name} -->")
    return pattern.sub(lambda m: f"{m.group(1)}{content}\n{m.group(2)}", text)


def main() -> None:
    """Fill every section whose figures are there."""
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    for name, make in SECTIONS.items():
        try:
            text = fill(text, name, make())
            print(f"{name}: written")
        except Exception as error:
            print(f"{name}: left as it was ({error})")
    write_text(readme, text)
    shutil.copyfile(ARTIFACTS / "course" / "f1_against_latency.png", ROOT / "docs" / "f1_against_latency.png")


if __name__ == "__main__":
    main()
