"""The extract of the peer benchmark that lesson 21 shows, and what it shows where there is none."""

import pytest

from course_lib.artifacts import write_json
from course_lib.errors import CourseError
from course_lib.measure import peers_sweep
from course_lib.measure.peers_sweep import POINTS, SHIPPED, SWEEP, peer_points, run, run_again


def contender(name, error=None):
    ms = {batch: {"median": value, "p95": 9.0} for batch, value in (("1", 1.5), ("32", 0.5))}
    return {"name": name, "f1": {"test": [0.8, 0.7, 0.9]}, "bytes": 17_500_000, "ms_per_sentence": ms, "error": error}


def card(*contenders):
    rows = [{**c, "model": c["name"].partition(",")[0]} for c in contenders]
    return {"contenders": rows, "date": "2026-01-02", "machine": {"cpu": "a processor", "threads": 2}}


FIGURES = {"f1": [0.8, 0.7, 0.9], "megabytes": 17.5, "ms_1": 1.5, "ms_32": 0.5}


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr(peers_sweep, "artifacts_folder", lambda: tmp_path)
    monkeypatch.setattr(peers_sweep, "stored", lambda name: [])
    (tmp_path / "course").mkdir()
    return tmp_path


def test_a_point_is_taken_from_the_benchmark(artifacts):
    write_json(artifacts / "peers.json", card(contender("student, ORT int8, mended")))
    assert SHIPPED in POINTS and run(SHIPPED) == FIGURES


def test_what_is_missing_or_failed_is_said(artifacts):
    with pytest.raises(CourseError, match=r"peers\.json is missing: `course peers` makes it"):
        run(SHIPPED)
    write_json(artifacts / "peers.json", card(contender("student, ORT int8, mended", error="it crashed")))
    with pytest.raises(CourseError, match="student, ORT int8, mended failed: it crashed"):
        run(SHIPPED)
    with pytest.raises(CourseError, match="teacher, PyTorch fp32 is not there"):
        run({"model": "teacher", "way": "PyTorch fp32"})


def test_without_the_sweep_the_scorecard_is_shown(artifacts, shown):
    assert peer_points()[0] == [] and "make course" in peer_points()[1]
    run_again(0.75)
    write_json(
        artifacts / "course" / "scorecard.json", card(contender("student, ORT int8"), contender("teacher, x", error="no"))
    )
    rows, source = peer_points()
    assert rows == [{"model": "student", "way": "ORT int8", **FIGURES}] and "2026-01-02, a processor, 2 threads" in source
    run_again(0.75)
    assert [s.data for s in shown] == [
        "F1 on test, run here: 0.750.",
        "F1 on test, run here: 0.750; in the table 0.800 [0.700, 0.900].",
    ]


def test_with_the_sweep_a_live_figure_is_held_to_its_interval(monkeypatch):
    asked = []
    monkeypatch.setattr(peers_sweep, "stored", lambda name: [{}])
    monkeypatch.setattr(peers_sweep, "load_sweep", lambda name: [FIGURES])
    monkeypatch.setattr(peers_sweep, "provenance", lambda name: "from there")
    monkeypatch.setattr(peers_sweep, "live_point", lambda *call: asked.append(call))
    assert peer_points() == ([FIGURES], "from there")
    run_again(0.75)
    assert asked == [("peers", SHIPPED, {"f1": 0.75})] and SWEEP.name == "peers"


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    import IPython.display

    found: list = []
    monkeypatch.setattr(IPython.display, "display", found.append)
    return found
