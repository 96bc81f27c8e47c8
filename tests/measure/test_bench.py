"""``make bench``: pairs agree before they are timed, and the figures have the form others read."""

import json
from pathlib import Path

import pytest

from course_lib.errors import CourseError
from course_lib.measure import bench, bench_ner, bench_tensors
from course_lib.measure.bench_tensors import Sizes

TINY = Sizes(width=16, vocabulary=50, layers=1, tokens=2048)


@pytest.mark.oracles
def test_all_pairs_are_timed_and_written(tmp_path, capsys, monkeypatch):
    """Each in a process of its own; that every pair agrees is the next test."""
    pytest.importorskip("kmeans1d")
    monkeypatch.setattr(bench, "ALL", bench.ALL[:2])
    monkeypatch.setattr(bench.bench_grading, "rows", lambda peak_mib: [])  # test_bench_grading.py has them
    figures = bench.main(tmp_path / "bench.json", repeats=1, sizes=TINY)
    assert json.loads((tmp_path / "bench.json").read_text()) == figures
    printed = capsys.readouterr().out
    assert len(figures["rows"]) == 3 + len(bench.ALL) + 4
    assert [row["name"].startswith("parallel ") for row in figures["rows"]] == [False] * (3 + len(bench.ALL)) + [True] * 4
    for row in figures["rows"]:
        assert set(row) == {"name", "ours_ms", "theirs_ms", "ratio", "ours_peak_mib", "tensor_mib"}
        assert row["ours_ms"] > 0 and row["name"] in printed
        # each of the three numbers is rounded to 3 digits by itself
        assert row["ratio"] == pytest.approx(row["theirs_ms"] / row["ours_ms"], abs=0.01, rel=0.02)


@pytest.mark.oracles
@pytest.mark.parametrize("make", bench.ALL, ids=lambda make: make.__name__)
def test_a_pair_on_tiny_tensors_agrees(make):
    import torch

    pytest.importorskip("kmeans1d")
    torch.manual_seed(0)
    row = bench.row(make(TINY), repeats=1)
    assert row["ours_ms"] > 0 and row["tensor_mib"] != 0


def test_pairs_that_disagree_are_not_timed():
    with pytest.raises(AssertionError, match="timing them would mean nothing"):
        bench_ner.same(1.0, 1.1, 1e-3)
    with pytest.raises(AssertionError, match="CSR: ours and theirs differ"):
        bench_tensors.agree(False, "CSR")


def test_a_missing_package_names_the_extra_that_brings_it():
    with pytest.raises(CourseError, match="oracles"):
        bench_tensors.oracle("no_such_package_at_all")


def test_the_two_sides_take_turns_and_the_warm_up_does_not_count():
    calls = []
    bench.median_ms(lambda: calls.append("ours"), lambda: calls.append("theirs"), repeats=2)
    assert calls == ["ours", "theirs"] * 3


def test_what_theirs_works_on_is_made_anew_for_each_run():
    made, given = iter(range(9)), []
    bench.median_ms(lambda: None, given.append, repeats=2, fresh=lambda: next(made))
    assert given == [0, 1, 2]


def test_a_long_pair_is_run_three_times(monkeypatch):
    monkeypatch.setattr(bench, "LONG", -1.0)
    calls = []
    bench.median_ms(lambda: calls.append(1), lambda: None)
    assert len(calls) == 1 + 3


def test_the_peak_counts_what_torch_allocates():
    import torch

    peak = bench.peak_mib(lambda: torch.ones(64 * 2**18).sum())
    assert (peak is None) == (not Path("/proc/self/clear_refs").exists())
    assert peak is None or 60 <= peak <= 80  # 64 MiB of new pages, each touched; a few may have been resident before


def test_the_markdown_table_has_a_line_for_each_row_and_a_dash_for_what_was_not_measured():
    row = {"name": "a", "ours_ms": 2.0, "theirs_ms": 3.0, "ratio": 1.5, "ours_peak_mib": None, "tensor_mib": 4.0}
    about = {"date": "2026-01-02", "machine": {"cpu": "a processor", "flags": ["avx2"], "threads": 2}}
    lines = bench.markdown({"rows": [row], **about}).splitlines()[2:]
    assert lines == ["| a | 2.00 | 3.00 | 1.50 | – | 4.0 |", "", "2026-01-02, a processor (avx2), 2 threads."]
