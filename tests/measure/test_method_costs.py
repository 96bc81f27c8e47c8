"""The table of what methods cost: every part's rows become cells, and the command measures what it is asked for."""

import json
import re
import struct
from types import SimpleNamespace

import pytest

from course_lib.cli import main
from course_lib.commands import costs as command
from course_lib.data.generated import generate
from course_lib.measure import precision_runs
from course_lib.measure.method_costs import CELLS, HEADS, LEFT_OUT, NOTES, TITLES, markdown
from course_lib.measure.redundancy_runs import peak_bytes
from course_lib.measure.technique_bench import BATCH
from course_lib.models.surgery import encoder_layers
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
from course_lib.pruning.structure import drop_layers
from course_lib.recipes.compress import timed_rows
from course_lib.show.precision import losses_of_rows

ROW = {
    "name": "dense", "method": "the teacher", "strength": "–", "f1": {"validation": [0.8, 0.7, 0.9]}, "bytes": 90_000_000,
    "macs_per_token": 10_000_000, "speed": 1.0, "seconds": 0.1, "error": None,
}  # fmt: skip


def test_redundancy_is_compared_with_the_first_row_and_failures_are_told():
    less = ROW | {
        "name": "svd+recovery",
        "method": "SVD",
        "f1": {"validation": [0.775, 0.7, 0.9]},
        "bytes": 45_000_000,
        "speed": 1.5,
        "peak_bytes": 96 * 2**20,
    }
    failed = {"name": "x", "method": "sharing", "strength": "2 by 2", "error": "CourseError: too few layers"}
    first, second, third = CELLS["redundancy"]([ROW, less, failed])
    assert first == ["the teacher", "–", "0.800", "–", "90.0", "10.00", "–", "1.00", "0"], "measured before memory was"
    assert second[:5] == ["SVD, then trained", "–", "0.775", "-2.5", "45.0"] and second[6:8] == ["96", "1.50"]
    assert third[2] == "failed: CourseError: too few layers"
    assert {len(cells) for cells in (first, second, third)} == {len(HEADS["redundancy"])}


def test_of_workers_the_largest_figures_are_shown():
    row = {
        "way": "pipeline", "workers": 2, "threads": 1, "seconds_per_step": 0.5, "peak_mib": [100.4, 250.6], "mib_sent": [1.25, 1.0],
        "messages": [8, 9],
    }  # fmt: skip
    assert CELLS["parallel"]([row]) == [["pipeline", "2 × 1", "0.50", "251", "1.2", "9"]]
    assert len(HEADS["parallel"]) == 6


def test_the_command_trains_in_each_precision_and_writes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["costs", "--only", "training", "--encoder", "tiny", "--sentences", "32", "--threads", "1"])
    assert done.value.code == 0
    table = json.loads((tmp_path / "artifacts" / "costs.json").read_text())
    assert list(table) == ["training"] and len(table["training"]["rows"]) >= 4 and table["training"]["sentences"] == 32
    out = capsys.readouterr().out
    assert out == (tmp_path / "artifacts" / "costs.md").read_text() == markdown(table) and "| bf16 | 0." in out


def test_each_part_says_when_and_where_it_was_measured_in_the_order_of_the_parts():
    about = {"date": "2026-01-31", "seed": 0, "machine": {"cpu": "a slow one", "threads": 2}, "data": "made up"}
    row = {"way": "fp32", "score": 0.5, "seconds": 9.6, "peak_bytes": 2**21, "skipped": 0}
    text = markdown({"training": about | {"rows": [row], "sentences": 10, "epochs": 1}, "redundancy": about | {"rows": [ROW]}})
    assert text.index("Less redundancy") < text.index("Cheaper training") and text.count("a slow one, 2 thread(s).") == 2
    assert "| fp32 | 0.500 | 10 | 2 | – | – | 0 |" in text and "10 sentences of made up, 1 epochs" in text


def test_training_says_what_learns_what_is_stored_and_at_which_rate():
    account = [
        {"part": "weights", "dtype": "float32", "bytes": 91_600_000},
        {"part": "weights", "dtype": "int64", "bytes": 50_000},
        {"part": "gradients", "dtype": "float32", "bytes": 1_340_000},
        {"part": "activations", "dtype": "float32", "bytes": 5},
    ]
    row = {"way": "fp32, LoRA", "score": 0.5, "seconds": 9.6, "peak_bytes": 2**21, "skipped": 1, "account": account, "rate": 10}
    assert CELLS["training"]([row]) == [["fp32, LoRA, rate × 10", "0.500", "10", "2", "1.3", "91.7", "1"]]
    assert CELLS["training"]([row | {"rate": 1.0}])[0][0] == "fp32, LoRA" == CELLS["training"]([row | {"rate": 1}])[0][0]
    assert len(HEADS["training"]) == 7


def test_the_title_is_true_of_every_way():
    rates = {way.rate for way in precision_runs.WAYS.values()}
    assert rates == {1, 10} and "ten times" in TITLES["training"] and "and rates" not in TITLES["training"]
    assert {way.rate for way in precision_runs.CURVES.values()} == {1} and "and rates" in TITLES["curves"]


# Loss curves


def curve(task: str, way: str, losses: list[float], width: int, **more) -> dict:
    return {
        "task": task, "way": way, "metric": "validation F1", "score": 0.5, "loss": losses[-1], "losses": losses, "steps_per_point": width,
        "steps": width * len(losses), "skipped": 0, "scale": 1.0, "underflow": 0.0,
    } | more  # fmt: skip


def test_a_curve_becomes_a_row_of_the_table():
    row = curve("digits", "fp16, not scaled", [1.0, 0.0071234], 5, skipped=2, underflow=0.0191, metric="validation accuracy")
    assert CELLS["curves"]([row]) == [["digits", "fp16, not scaled", "0.0071", "0.500 (accuracy)", "10", "2", "1.91%"]]
    assert len(HEADS["curves"]) == 7 and set(TITLES) == set(HEADS) == set(CELLS) == set(NOTES)


def test_peak_memory_is_the_weights_and_what_a_batch_of_the_timed_sentences_holds():
    """What the first matrix of a feed-forward block makes is alive with its input. One layer less saves its weights, and what the
    embeddings made is then the input of the last layer itself, where it was alive beside it."""
    corpus = generate(0, {"train": 1, "validation": 1, "test": 40})
    folder, tokenizer = find_encoder("tiny"), load_tokenizer(find_encoder("tiny"))
    bench = SimpleNamespace(context=SimpleNamespace(corpus=corpus, seed=0), tokenizer=tokenizer, limit=64)
    model, smaller = (load_token_classifier(folder, corpus.tags, 0) for _ in range(2))
    drop_layers(smaller, [0])
    weights = sum(p.nbytes for p in model.parameters())
    batch = max(len(row) for row in timed_rows(corpus.test, tokenizer, 64, 0)) * BATCH
    ffn, hidden = model.config.intermediate_size, model.config.hidden_size
    assert peak_bytes(model, bench) >= weights + 4 * batch * (ffn + hidden)
    layer = sum(p.nbytes for p in encoder_layers(model)[1].parameters())
    assert layer <= peak_bytes(model, bench) - peak_bytes(smaller, bench) <= layer + 4 * batch * hidden


def test_curves_are_drawn_against_steps_and_a_way_has_one_colour_in_all_panels():
    rows = [curve("digits", way, [4.0, 2.0, 1.0, 1.0], 5) for way in ("fp32", "bf16", "fp16")]
    rows += [curve("encoder", way, [2.0, 1.0], 1) for way in ("fp32", "fp16")]
    figure = losses_of_rows(rows, points=2)  # 4 points of 5 steps, two by two
    digits, encoder, below, _ = figure.axes
    assert [axes.get_title() for axes in (digits, encoder)] == ["digits", "encoder"] and digits.get_yscale() == "log"
    assert list(digits.lines[0].get_xdata()) == [5.0, 15.0] and list(digits.lines[0].get_ydata()) == [3.0, 1.0]
    assert list(encoder.lines[0].get_xdata()) == [1.0] and list(below.lines[1].get_ydata()) == [0.0, 0.0]
    assert encoder.lines[1].get_color() == digits.lines[2].get_color() != digits.lines[1].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fp32", "bf16", "fp16"]
    with pytest.raises(ValueError, match=r"panels = \[\]: expected 1 to 6 ways"):
        losses_of_rows([])
    with pytest.raises(ValueError, match="points = 0"):
        losses_of_rows(rows, 0)


def test_the_command_draws_losses_of_the_digits_and_of_the_encoder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "CURVE_SIZES", {"digits_epochs": 2, "epochs": 1, "sentences": 48})
    monkeypatch.setattr(precision_runs, "encoder_curves", lambda: ["fp32", "bf16"])
    with pytest.raises(SystemExit) as done:
        main(["costs", "--only", "curves", "--encoder", "tiny", "--threads", "1", "--log-dir", "log"])
    assert done.value.code == 0
    part = json.loads((tmp_path / "artifacts" / "costs.json").read_text())["curves"]
    names = [(row["task"], row["way"]) for row in part["rows"]]
    assert names == [("digits", way) for way in precision_runs.CURVES] + [
        ("tiny on generated", way) for way in ("fp32", "bf16")
    ]
    assert all(0 < len(row["losses"]) <= 200 and row["steps"] in (32, 3) for row in part["rows"])
    assert (part["digits_epochs"], part["epochs"], part["sentences"], part["left_out"]) == (2, 1, 48, LEFT_OUT)
    png = (tmp_path / "artifacts" / "costs_losses.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and min(struct.unpack(">II", png[16:24])) > 400
    out, told = (text.replace("\n", " ") for text in capsys.readouterr())
    assert "| digits | fp16, not scaled |" in out and "on 48 sentences of generated" in out and LEFT_OUT in out
    assert "costs_losses.png" in told and len(list((tmp_path / "log").iterdir())) == len(names)


def test_the_help_names_every_part(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["costs", "--help"])
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert all(part in said for part in HEADS)


def test_what_another_run_measured_stays(tmp_path, monkeypatch, capsys):
    from course_lib.measure import parallel_runs

    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()
    about = {"date": "2026-01-31", "seed": 0, "machine": {"cpu": "a slow one", "threads": 2}, "data": "made up"}
    (tmp_path / "artifacts" / "costs.json").write_text(json.dumps({"redundancy": about | {"rows": [ROW]}}))
    monkeypatch.setattr(parallel_runs, "rows", lambda work: [])
    with pytest.raises(SystemExit) as done:
        main(["costs", "--only", "parallel", "--encoder", "tiny", "--threads", "1"])
    assert done.value.code == 0
    table = json.loads((tmp_path / "artifacts" / "costs.json").read_text())
    assert table["redundancy"]["rows"] == [ROW] and table["parallel"]["rows"] == []


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit) as done:
        main(["costs", "--only", "pruning"])
    assert done.value.code == 2 and "expected one of redundancy, training, parallel, curves" in capsys.readouterr().err
