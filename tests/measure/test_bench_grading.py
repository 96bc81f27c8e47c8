"""The rows about grading: a small class graded for real; nbgrader's own time is asked for elsewhere."""

import json
import subprocess

import pytest

from course_lib.measure import bench, bench_grading
from course_lib.measure.bench_grading import Classes, grader, make_class, nbgrader_seconds, rows, timed

TINY = Classes(ours=2, theirs=1, growing=(1, 3))


def test_rows_compare_with_nbgrader_and_with_the_first_class(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(bench_grading, "nbgrader_seconds", lambda root, folder, count: 30.0)
    first, *growing = rows(bench.peak_mib, TINY)
    assert first["name"] == "grade 2 notebooks of 1_pruning, per notebook (nbgrader autograde, 1 of them)"
    assert first["theirs_ms"] == 30_000 and first["ratio"] == pytest.approx(30_000 / first["ours_ms"], rel=0.01)
    assert [r["name"].split()[1] for r in growing] == ["1", "3"] and growing[0]["ratio"] == 1
    assert growing[1]["theirs_ms"] == pytest.approx(3 * growing[0]["ours_ms"], abs=0.01)
    assert all(set(r) == {"name", "ours_ms", "theirs_ms", "ratio", "ours_peak_mib", "tensor_mib"} for r in (first, *growing))


def test_a_class_has_one_notebook_of_each_student_lessons_in_turn(tmp_path, request):
    make_class(request.config.rootpath, tmp_path, 4)
    found = sorted(p.relative_to(tmp_path / "one_each").parts for p in tmp_path.rglob("*.ipynb"))
    assert [f[0] for f in found] == ["0000", "0001", "0002", "0003"]
    assert found[0][2] == found[3][2] != found[1][2]


def test_nbgrader_works_in_a_course_of_its_own_and_must_have_graded_all(tmp_path, request, monkeypatch):
    make_class(request.config.rootpath, tmp_path / "class", 2)
    ran = []

    def run(command, cwd, env, **given):
        ran.append(command[3])
        assert (cwd / "nbgrader_config.py").exists() and env["COURSE_FAST"] == "1"
        for notebook in (cwd / "submitted").rglob("*.ipynb"):
            target = cwd / "autograded" / notebook.relative_to(cwd / "submitted")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps({}))

    monkeypatch.setattr(subprocess, "run", run)
    assert nbgrader_seconds(request.config.rootpath, tmp_path, 2) > 0 and ran == ["generate_assignment", "autograde"]
    monkeypatch.setattr(subprocess, "run", lambda command, **given: None)
    (tmp_path / "nbgrader").rename(tmp_path / "before")
    with pytest.raises(AssertionError, match="graded 0 of 1"):
        nbgrader_seconds(request.config.rootpath, tmp_path, 1)


def test_where_memory_cannot_be_measured_the_time_is_all_the_same():
    ran = []
    assert timed(lambda: ran.append(1), lambda run: None)[1] is None and ran == [1]
    assert timed(lambda: ran.append(1), lambda run: run() or 2.0)[1] == 2.0 and ran == [1, 1]
    assert callable(grader)
