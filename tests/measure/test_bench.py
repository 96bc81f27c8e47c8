"""``make bench``: pairs agree before they are timed, and the figures have the form others read."""

import json

import pytest

from course_lib.measure import bench


def test_all_pairs_are_timed_and_written(tmp_path, capsys):
    figures = bench.main(tmp_path / "bench.json", repeats=1)
    assert json.loads((tmp_path / "bench.json").read_text()) == figures
    printed = capsys.readouterr().out
    assert len(figures["rows"]) == 3
    for row in figures["rows"]:
        assert set(row) == {"name", "ours_ms", "theirs_ms", "ratio", "ours_peak_mib"}
        # each of the three numbers is rounded to 3 digits by itself
        assert row["ratio"] == pytest.approx(row["theirs_ms"] / row["ours_ms"], abs=0.01, rel=0.01)
        assert row["ours_ms"] > 0 and row["name"] in printed


def test_pairs_that_disagree_are_not_timed():
    with pytest.raises(AssertionError, match="timing them would mean nothing"):
        bench._same(1.0, 1.1, 1e-3)


def test_the_two_sides_take_turns_and_the_warm_up_does_not_count():
    calls = []
    bench.median_ms(lambda: calls.append("ours"), lambda: calls.append("theirs"), repeats=2)
    assert calls == ["ours", "theirs"] * 3
