"""The main job from end to end: `course compress` as a process of its own, interrupted once, on a small corpus.

One run serves all tests of this file. Its encoder is `tiny`, so no figure says how good compression is; that the figures
are true to the model that ships is what is tested.
"""

import datetime
import html.parser
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from course_lib.artifacts import folder_bytes
from course_lib.cli import main
from course_lib.data.conll import read_conll
from course_lib.deploy.engines import open_model
from course_lib.models.zoo import load_tokenizer
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags
from course_lib.recipes import compress as compress_module

RECIPE = """# A recipe with a comment, kept to the letter.
name = "small"

[teacher]
epochs = 8
batch_size = 8
learning_rate = 5e-3

[[step]]
do = "drop_layers"
keep = [0]

[[step]]
do = "remove_ffn_neurons"
keep = 32
sentences = 64

[[step]]
do = "distil"
epochs = 3
batch_size = 8
learning_rate = 5e-3

[[step]]
do = "quantize"
"""
SIZES = {"train": 150, "dev": 40, "test": 60}
pytestmark = pytest.mark.timeout(1200)  # the first test waits for the run, half a minute on two free cores

OPTIONS = ("--data", "small", "--encoder", "tiny", "--recipe", "small.toml", "--seed", "3", "--threads", "1")

# The form of figures: null where None may stand, [x, y, z] a list of these, {"*": x} any names. Every field, no other.
INTERVAL = [float, float, float]
TIMES = {"median": float, "p95": float}
SPLITS = {"train": int, "validation": int, "test": int, "natural": int}
CONTENDER = {
    "name": str,
    "model": {"teacher", "student"},
    "engine": {"pytorch", "onnxruntime", "openvino"},
    "precision": {"fp32", "bf16", "int8"},
    "f1": {"validation": INTERVAL, "test": INTERVAL, "natural": INTERVAL},
    "bytes": int,
    "parameters_stored": int,
    "parameters_effective": int,
    "macs_per_token": int,
    "ms_per_sentence": {"1": TIMES, "32": TIMES},
    "end_to_end_ms_per_sentence": None,
    "peak_mib": float,
    "load_s": float,
    "final": bool,
    "difference": (None, {"against": str, "value": float, "low": float, "high": float}),
    "error": None,
}
FORM = {
    "date": str,
    "seed": int,
    "machine": {"cpu": str, "flags": list, "threads": int, "versions": {"*": str}},
    "data": {"name": str, "sentences": SPLITS, "tokens": SPLITS, "splits": str},
    "contenders": [CONTENDER] * 6,
    "notes": list,  # how the figures were taken, in words
}
CONTENDERS = [
    (f"{model}, {engine} {precision}", model, {"PyTorch": "pytorch", "ORT": "onnxruntime"}[engine], precision)
    for model in ("teacher", "student")
    for engine, precision in (("PyTorch", "fp32"), ("ORT", "fp32"), ("ORT", "int8"))
]


def assert_form(value, form, where="scorecard"):
    if isinstance(form, tuple):
        form = form[0] if value is None else form[1]
    if form is None or isinstance(form, type):
        assert value is None if form is None else type(value) is form, f"{where}: {value!r} is no {form}"
    elif isinstance(form, set):
        assert value in form, f"{where}: {value!r} is none of {form}"
    elif isinstance(form, list):
        assert type(value) is list and len(value) == len(form), f"{where}: {value!r}"
        for i, (part, shape) in enumerate(zip(value, form, strict=True)):
            assert_form(part, shape, f"{where}[{i}]")
    else:
        assert type(value) is dict and ("*" in form or value.keys() == form.keys()), f"{where}: {value!r}"
        for name, part in value.items():
            assert_form(part, form.get(name, form.get("*")), f"{where}.{name}")


def sentence(rng):
    """A sentence whose names can be told by the word before or after them."""
    a, b = (rng.choice("Ana Bob Cid Dee Eve Fay Gus Hal Ira Joe Kim Lee Max Ned Ola Pat".split()) for _ in range(2))
    p, q = (rng.choice("Rome Oslo Lima Bern Kyiv Riga Baku Doha".split()) for _ in range(2))
    text = rng.choice(
        (
            f"Mr/O {a}/B-PER {b}/I-PER is/O in/O {p}/B-LOC ./O",
            f"They/O said/O that/O the/O {p}/B-ORG Company/I-ORG was/O new/O ./O",
            f"It/O was/O for/O the/O city/O of/O New/B-LOC {q}/I-LOC ./O",
            "the/O club/O is/O new/O ./O",
            f"In/O {p}/B-LOC ,/O Mr/O {a}/B-PER said/O that/O it/O was/O at/O the/O {q}/B-ORG Club/I-ORG ./O",
        )
    )
    return "".join(pair.replace("/", "\t") + "\n" for pair in text.split())


def write_corpus(folder):
    rng = random.Random(0)
    folder.mkdir()
    for name, count in SIZES.items():
        (folder / f"{name}.txt").write_text("\n".join(sentence(rng) for _ in range(count)))


def start(folder, *arguments):
    """The installed `course` command in a process of its own."""
    command = Path(sys.executable).with_name("course")
    return subprocess.Popen(
        [str(command), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job's is ignored
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Two processes: one interrupted (SIGINT, as by Ctrl-C) after the second epoch, one that finishes."""
    folder = tmp_path_factory.mktemp("course")
    write_corpus(folder / "small")
    (folder / "small.toml").write_text(RECIPE)
    arguments = ("compress", *OPTIONS, "--json", "figures.json")
    with start(folder, *arguments) as first:
        lines = []
        for line in first.stderr:
            lines.append(line)
            if "epoch 2:" in line:
                first.send_signal(signal.SIGINT)
                break
        rest, _ = first.stderr.read(), first.wait()
    left = sorted(str(f.relative_to(folder)) for f in folder.rglob("*"))
    with start(folder, *arguments) as second:
        out, err = second.communicate()
    return SimpleNamespace(
        folder=folder,
        interrupted=SimpleNamespace(code=first.returncode, err="".join(lines) + rest, left=left),
        code=second.returncode,
        out=out,
        err=err,
        target=folder / "artifacts" / "small",
        card=json.loads((folder / "artifacts" / "small" / "scorecard.json").read_text("utf-8")),
    )


@pytest.fixture
def copy(run, tmp_path, monkeypatch):
    """The run's folder, copied, as the current folder."""
    shutil.copytree(run.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def course(capsys):
    """Run a command here; returns stdout and stderr, after it ended well."""
    before = torch.get_num_threads()

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert stop.value.code == 0, captured.err
        return captured

    yield run
    torch.set_num_threads(before)


# --- interrupted, and finished by a second run


def test_an_interrupted_run_exits_130_with_advice(run):
    assert run.interrupted.code == 130
    assert "Traceback" not in run.interrupted.err
    assert run.interrupted.err.splitlines()[-1] == (
        "Interrupted. Run the same command again: it goes on from the last checkpoint."
    )


def test_an_interrupted_run_publishes_nothing(run):
    assert any(".training" in path for path in run.interrupted.left), "a checkpoint is left to go on from"
    assert not any("scorecard" in path or "report" in path for path in run.interrupted.left)
    assert "figures.json" not in run.interrupted.left and "artifacts/small/model" not in run.interrupted.left


def test_the_second_run_goes_on_and_finishes(run):
    assert run.code == 0, run.err
    teacher, student = run.err.split("student: ")
    assert [line.split(":")[0].strip() for line in teacher.splitlines() if "validation F1" in line] == [
        f"epoch {n}" for n in range(3, 9)
    ]
    assert student.count("validation F1") == 3
    names = sorted(f.name.split("-")[0] for f in (run.folder / "artifacts" / "cache").iterdir())
    assert names == ["int8", "int8", "onnx", "onnx", "scorecard", "student", "teacher"], "no checkpoint, nothing half-made"


# --- the scorecard


def test_the_scorecard_has_exactly_its_form(run):
    assert_form(run.card, FORM)
    assert datetime.date.fromisoformat(run.card["date"])
    assert all(type(text) is str for text in (*run.card["machine"]["flags"], *run.card["notes"]))
    assert run.card["seed"] == 3 and run.card["machine"]["threads"] == 1


def test_a_form_that_differs_is_noticed(run):
    for wrong in (
        {**run.card, "extra": 1},
        {k: v for k, v in run.card.items() if k != "seed"},
        {**run.card, "seed": "3"},
        {**run.card, "contenders": run.card["contenders"][:5]},
        {**run.card, "contenders": [{**run.card["contenders"][0], "bytes": None}, *run.card["contenders"][1:]]},
    ):
        with pytest.raises(AssertionError):
            assert_form(wrong, FORM)


def test_all_six_contenders_run_and_exactly_the_last_is_final(run):
    found = [(c["name"], c["model"], c["engine"], c["precision"]) for c in run.card["contenders"]]
    assert found == CONTENDERS
    assert [c["final"] for c in run.card["contenders"]] == [False] * 5 + [True]


def test_the_data_are_counted(run):
    data, files = run.card["data"], {}
    for name, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        text = (run.folder / "small" / f"{name}.txt").read_text()
        files[split] = len(text.strip().split("\n\n")), sum(1 for line in text.splitlines() if line)
    assert {s: (data["sentences"][s], data["tokens"][s]) for s in files} == files
    assert (data["name"], data["splits"]) == ("small", "train, dev and test as given")
    assert data["sentences"]["natural"] > 100 and any("without MISC" in note for note in run.card["notes"])


def test_intervals_are_ordered_and_the_model_has_learnt(run):
    for c in run.card["contenders"]:
        for value, low, high in c["f1"].values():
            assert 0 <= low <= value <= high <= 1
        assert c["f1"]["test"][0] > 0.5, "or the other tests compare nothing with nothing"
    first, *others = run.card["contenders"]
    assert first["difference"] is None
    for c in others:
        difference = c["difference"]
        assert difference["against"] == first["name"] and difference["low"] <= difference["value"] <= difference["high"]
        # Three figures, each rounded to four digits.
        assert difference["value"] == pytest.approx(c["f1"]["test"][0] - first["f1"]["test"][0], abs=1.5e-4)


def test_both_engines_score_alike_in_fp32(run):
    """Logits agree within 1e-4, so no tag differs unless two are that close: F1 is the same."""
    for model in ("teacher", "student"):
        torch_fp32, ort_fp32 = (c for c in run.card["contenders"] if c["model"] == model and c["precision"] == "fp32")
        assert torch_fp32["f1"] == ort_fp32["f1"]


def test_sizes_are_those_of_the_files_and_shrink(run):
    cache = run.folder / "artifacts" / "cache"
    for c in run.card["contenders"]:
        prefix = c["model"] if c["engine"] == "pytorch" else "int8" if c["precision"] == "int8" else "onnx"
        sizes = [
            sum(f.stat().st_size for f in folder.iterdir() if f.name != "history.json") for folder in cache.glob(f"{prefix}-*")
        ]
        assert c["bytes"] in sizes
    assert run.card["contenders"][-1]["bytes"] == folder_bytes(run.target / "model", without=("scorecard.json",))
    teacher, student = run.card["contenders"][0], run.card["contenders"][3]
    for figure in ("bytes", "parameters_stored", "parameters_effective", "macs_per_token"):
        assert student[figure] < teacher[figure]
        assert len({c[figure] for c in run.card["contenders"] if c["model"] == "student"}) == (3 if figure == "bytes" else 1)
    assert run.card["contenders"][-1]["bytes"] == min(c["bytes"] for c in run.card["contenders"])
    assert teacher["parameters_effective"] <= teacher["parameters_stored"]


def test_times_and_memory_are_positive(run):
    for c in run.card["contenders"]:
        for row in c["ms_per_sentence"].values():
            assert 0 < row["median"] <= row["p95"]
        assert c["peak_mib"] > 1 and c["load_s"] > 0
    peaks = {c["engine"]: c["peak_mib"] for c in run.card["contenders"]}
    assert peaks["onnxruntime"] < peaks["pytorch"], "each contender's own memory, not this process's"


# --- what is published


def test_the_figures_are_written_wherever_asked(run):
    written = (run.target / "scorecard.json").read_bytes()
    assert (run.folder / "figures.json").read_bytes() == written
    assert (run.target / "model" / "scorecard.json").read_bytes() == written


def test_the_table_is_printed_with_every_contender(run):
    for c in run.card["contenders"]:
        assert c["name"] in run.out
    assert run.out.count("★") == 1
    words = " ".join(run.out.split())
    assert all(" ".join(note.split()) in words for note in run.card["notes"])


def test_the_shipped_folder_is_complete(run):
    names = {f.name for f in (run.target / "model").iterdir()}
    assert names == {"model.onnx", "config.json", "tokenizer.json", "recipe.toml", "scorecard.json"}
    assert (run.target / "model" / "recipe.toml").read_text() == RECIPE
    assert {f.name for f in run.target.iterdir()} == {
        "model",
        "scorecard.json",
        "report.html",
        "f1_against_bytes.png",
        "f1_against_latency.png",
    }


class Page(html.parser.HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.links, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_data(self, data):
        self.text += data


def test_the_report_is_self_contained_and_names_all_contenders(run):
    source = (run.target / "report.html").read_text("utf-8")
    page = Page(source)
    assert len(page.links) == 2 and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http://" not in source and "https://" not in source
    for c in run.card["contenders"]:
        assert c["name"] in page.text
    for picture in ("f1_against_bytes.png", "f1_against_latency.png"):
        assert (run.target / picture).read_bytes().startswith(b"\x89PNG")


# --- the model that ships


@pytest.mark.parametrize("split", ["validation", "test", "natural"])
def test_the_shipped_folder_scores_what_the_scorecard_says(split, run, monkeypatch, course, tmp_path):
    """To the last digit: the same model, batches, threads and seed."""
    monkeypatch.chdir(run.folder)
    file = tmp_path / "score.json"
    out, _ = course(
        "score", "--model", run.target / "model", "--data", "small", "--split", split, "--seed", "3", "--threads", "1",
        "--json", file,
    )  # fmt: skip
    figures, final = json.loads(file.read_text()), run.card["contenders"][-1]
    assert figures["f1"] == final["f1"][split]
    assert figures["bytes"] == final["bytes"] and f"{final['bytes']:,} bytes" in out
    assert (figures["data"], figures["split"]) == ("natural" if split == "natural" else "small", split)
    assert f"F1 {figures['f1'][0]:.4f}" in out and set(figures["types"]) == {"LOC", "ORG", "PER"}
    assert all(kind in out for kind in figures["types"])


def test_the_shipped_folder_predicts_what_is_scored(run):
    engine, tags = open_model(run.target / "model", threads=1)
    sentences = read_conll(run.folder / "small" / "test.txt").sentences
    predicted = predict_tags([s.words for s in sentences], engine, load_tokenizer(run.target / "model"), tags)
    value = entity_f1([s.tags for s in sentences], predicted)
    assert round(value, 4) == run.card["contenders"][-1]["f1"]["test"][0]


def test_it_finds_names_in_running_text(run, course):
    text = "Mr Ana Bob is in Rome. They said that the Oslo Company was new."
    out, err = course("predict", "--model", run.target / "model", text)
    assert err == ""
    records = [json.loads(line) for line in out.splitlines()]
    assert [r["text"] for r in records] == ["Mr Ana Bob is in Rome.", "They said that the Oslo Company was new."]
    assert [text[r["start"] : r["end"]] for r in records] == [r["text"] for r in records]
    found = [e for r in records for e in r["entities"]]
    assert found and all(e["text"] == text[e["start"] : e["end"]] for e in found)
    assert {e["type"] for e in found} <= {"LOC", "ORG", "PER"}


# --- again


def test_a_second_run_takes_everything_from_the_cache(run, copy, course):
    (copy / "artifacts" / "small" / "report.html").unlink()
    out, err = course("compress", *OPTIONS, "--json", "again.json")
    assert err.splitlines()[0].startswith("corpus small: 150 / 40 / 60 sentences")
    assert [line for line in err.splitlines()[1:] if not line.startswith("wrote ")] == [], "no training, no export"
    assert (copy / "again.json").read_bytes() == (run.target / "scorecard.json").read_bytes()
    assert (copy / "artifacts" / "small" / "scorecard.json").read_bytes() == (copy / "again.json").read_bytes()
    assert (copy / "artifacts" / "small" / "report.html").read_bytes() == (run.target / "report.html").read_bytes()
    assert out.count("★") == 1


def test_force_makes_everything_again_to_the_same_bits(run, copy, course, monkeypatch):
    """So a run that was interrupted ends with the weights of one left alone: the same key, machine and one thread.

    Only the two ONNX contenders that matter are measured, to save time; F1 and bytes are the same, times are new.
    """
    monkeypatch.setattr(compress_module, "PLAN", (compress_module.PLAN[1], compress_module.PLAN[-1]))
    marker = copy / "artifacts" / "small" / "model" / "history.json"
    marker.write_text("{}")
    _, err = course("compress", *OPTIONS, "--force")
    assert err.count("epoch 1:") == 2 and err.count("exporting ") == 2 and err.count("quantizing ") == 1
    for kind in ("teacher", "student"):
        (before,) = (run.folder / "artifacts" / "cache").glob(f"{kind}-*")
        again = copy / "artifacts" / "cache" / before.name
        assert again.stat().st_ctime > before.stat().st_ctime
        assert (again / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()
    shipped, first = ((root / "artifacts" / "small" / "model" / "model.onnx").read_bytes() for root in (copy, run.folder))
    assert shipped == first
    card = json.loads((copy / "artifacts" / "small" / "scorecard.json").read_text("utf-8"))
    again, before = card["contenders"][-1], run.card["contenders"][-1]
    for figure in ("f1", "bytes", "parameters_stored", "macs_per_token", "final"):
        assert again[figure] == before[figure]
    assert not marker.exists(), "the folder is replaced as a whole"
