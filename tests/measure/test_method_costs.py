"""The table of what methods cost: every part's rows become cells, and the command measures what it is asked for."""

import json

import pytest

from course_lib.cli import main
from course_lib.measure.method_costs import CELLS, HEADS, markdown

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
    }
    failed = {"name": "x", "method": "sharing", "strength": "2 by 2", "error": "CourseError: too few layers"}
    first, second, third = CELLS["redundancy"]([ROW, less, failed])
    assert first == ["the teacher", "–", "0.800", "–", "90.0", "10.00", "1.00", "0"]
    assert second[:5] == ["SVD, then trained", "–", "0.775", "-2.5", "45.0"] and second[6] == "1.50"
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
    assert "| fp32 | 0.500 | 10 | 2 | 0 |" in text and "10 sentences of made up, 1 epochs" in text


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
    assert done.value.code == 2 and "expected one of redundancy, training, parallel" in capsys.readouterr().err
