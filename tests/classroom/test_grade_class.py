"""Grading a class: killed at any moment it goes on, nothing is lost or graded twice, workers may die."""

import functools
import multiprocessing
import os
import random
import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins import HALF, LESSON, LESSONS, PART, SOLVED, WRONG, grader, in_this_process, result_of, unable

from course_lib.classroom import workers
from course_lib.classroom.grade_class import NOT_GRADED, Settings, clear_away, grade_class, locked, seed_of, ungraded
from course_lib.classroom.graders import functions_grader
from course_lib.classroom.grading_log import GradingLog
from course_lib.classroom.hand_back import hand_back
from course_lib.classroom.parts import OpenQuestion
from course_lib.classroom.results import from_json, to_json
from course_lib.classroom.submissions import collect
from course_lib.classroom.workers import Failed, dask, local
from course_lib.errors import CourseError

SETTINGS = Settings(3, "functions", True, "landlock", "code")
QUESTIONS = [OpenQuestion(LESSON, "why_zeros", 3.0, "Why?", "Because.")]
ABOUT = {"version": "1.0", "engine": "functions", "tier": "landlock", "seed": 3}
two_workers = functools.partial(local, workers=2)


@pytest.fixture
def handed_in(tmp_path):
    """Write submissions: ``handed_in(anna=b"…")``; returns the folder."""

    def write(**files: bytes) -> Path:
        for student, data in files.items():
            path = tmp_path / "in" / student / PART / f"{LESSON}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / "in"

    return write


def graded(source: Path, out: Path, opened=grader, spread=in_this_process, settings=SETTINGS, advance=lambda count: None):
    submissions = collect(source, PART, LESSONS, out / "collected")
    return grade_class(submissions, LESSONS, out, settings, opened, spread, advance)


def everything(source: Path, out: Path) -> None:
    hand_back(graded(source, out).results, LESSONS, QUESTIONS, PART, out, ABOUT)


def files(out: Path) -> dict[str, bytes]:
    """The final files: all but the log, whose order is that of the work."""
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if name != "log.jsonl" and not name.startswith(".")}


CLASS = {f"s{i:02}": random.Random(i).choice([SOLVED, WRONG, HALF]) + b" slow answer: %d" % i for i in range(12)}


def test_killed_at_ten_random_moments_the_final_files_are_those_of_an_undisturbed_run(tmp_path, handed_in):
    source, rng = handed_in(**CLASS), random.Random(0)
    everything(source, tmp_path / "first")  # what is imported here need not be in each copy
    started = time.monotonic()
    assert _forked(everything, source, tmp_path / "undisturbed", None) == 0
    seconds = time.monotonic() - started
    expected, codes = files(tmp_path / "undisturbed"), []
    assert {"results.jsonl", "history.jsonl", "gradebook.csv", "summary.html", "feedback/s00.html"} <= expected.keys()
    for number in range(10):
        out = tmp_path / "killed"
        left = seconds / (1 + number % 3)  # one that goes on has less to do
        codes.append(_forked(everything, source, out, rng.uniform(0, left)))
        if number % 3 == 2:  # every third time to the end, and anew
            assert _forked(everything, source, out, None) == 0
            assert files(out) == expected
            out.rename(tmp_path / f"done{number}")
    assert codes.count(-signal.SIGKILL) >= 8, "it was killed while it worked"


def _forked(run, source: Path, out: Path, kill_after: float | None) -> int:
    """Run it in a copy of this process, killed after so many seconds; its exit code."""
    process = os.fork()
    if not process:
        try:
            run(source, out)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_what_was_graded_is_not_graded_again_and_a_changed_submission_is(tmp_path, handed_in):
    source, out = handed_in(anna=WRONG, ben=HALF), tmp_path / "out"
    assert graded(source, out).anew == 2
    assert graded(source, out).anew == 0
    again = graded(handed_in(anna=SOLVED), out)
    assert again.anew == 1 and [r.points for r in again.results] == [2.0, 1.0]
    (earlier,) = [from_json(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert (earlier.student, earlier.points) == ("anna", 0.0)
    back = graded(handed_in(anna=WRONG), out)
    assert back.anew == 0 and back.results[0].points == 0.0, "it was graded before"


def test_another_seed_or_engine_grades_again(tmp_path, handed_in):
    source, out = handed_in(anna=WRONG), tmp_path / "out"
    assert [graded(source, out, settings=s).anew for s in (SETTINGS, replace(SETTINGS, seed=4))] == [1, 1]
    assert graded(source, out, settings=replace(SETTINGS, engine="kernel")).anew == 1
    assert graded(source, out, settings=replace(SETTINGS, reference_earns=False)).anew == 1
    assert graded(source, out, settings=replace(SETTINGS, code="mended")).anew == 1
    assert graded(source, out, settings=replace(SETTINGS, tier="bubblewrap")).anew == 0, "a verdict does not depend on that"


@pytest.mark.parametrize("torn", [b'{"key": "a", "resu', b"\0" * 99, b'{"key": "a", "result": {}}\n', b"\xff\n[1]\nnull\n"])
def test_a_torn_line_of_the_log_costs_what_it_was_about_alone(torn, tmp_path, handed_in):
    source, out = handed_in(anna=WRONG, ben=HALF), tmp_path / "out"
    whole = graded(source, out).results
    log = out / "log.jsonl"
    first = log.read_bytes().splitlines(keepends=True)[0]
    log.write_bytes(first + torn)
    again = graded(source, out)
    assert again.anew == 1 and again.results == whole
    assert graded(source, out).anew == 0, "what was appended after the torn line is whole"


def test_a_verdict_is_on_disk_before_the_next_piece_is_waited_for(tmp_path, handed_in):
    out, seen = tmp_path / "out", []
    graded(
        handed_in(anna=WRONG, ben=HALF), out, advance=lambda n: seen.append((n, (out / "log.jsonl").read_bytes().count(b"\n")))
    )
    assert seen == [(0, 0), (1, 1), (1, 2)]


def test_the_name_of_a_new_log_is_flushed_too(tmp_path, monkeypatch):
    flushed, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino) or real(file))
    GradingLog(tmp_path / "log.jsonl").close()
    assert tmp_path.stat().st_ino in flushed


def test_what_killed_runs_left_half_written_is_deleted_and_nothing_else(tmp_path):
    left = (
        ".results.jsonl.ab_d1234",
        ".feedback.old.abcd1234",
        ".gradebook.csv.00000000",
        "executed/anna/.01_l1.ipynb.abcd1234",
    )
    stay = (
        ".lock",
        "log.jsonl",
        ".results.jsonl.mine",
        ".feedback",
        "my.results.jsonl.abcd1234",
        ".thesis.tex.abcd1234",
        "feedback/a.html",
    )
    for name in (*left, *stay):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".feedback.abcd1234").mkdir()
    (tmp_path / ".feedback.abcd1234" / "a.html").touch()
    clear_away(tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == set(stay)
    assert not (tmp_path / ".feedback.abcd1234").exists()


def test_a_full_disk_is_an_error_that_says_so(tmp_path, monkeypatch):
    log = GradingLog(tmp_path / "log.jsonl")
    monkeypatch.setattr(os, "write", lambda file, data: len(data) // 2)
    with pytest.raises(CourseError, match="No space left"):
        log.append("key", result_of("anna", LESSON, WRONG))
    log.close()


def test_a_worker_that_raises_or_dies_costs_its_piece_alone_and_a_rerun_tries_again(tmp_path, handed_in):
    source = handed_in(anna=SOLVED, ben=b"def sparsity: raises", cleo=b"def sparsity: dies", dora=HALF, **CLASS)
    found = graded(source, tmp_path / "out", spread=two_workers)
    assert found.anew == 2 + len(CLASS)
    assert sorted(found.failed) == [
        ("ben", LESSON, "ValueError: no good"),
        ("cleo", LESSON, "the process that graded it ended (exit code 7)"),
    ]
    by_student = {r.student: r for r in found.results}
    assert by_student["cleo"].flags == (NOT_GRADED,) and by_student["cleo"].points == 0 and by_student["dora"].points == 1
    assert by_student["cleo"].max_points == by_student["anna"].max_points
    assert len(graded(source, tmp_path / "out", spread=two_workers).failed) == 2, "they are tried again, and nobody else is"


def test_a_worker_that_is_stuck_is_ended_and_the_others_go_on(tmp_path, handed_in):
    source = handed_in(anna=SOLVED, ben=b"def sparsity: stuck", **CLASS)
    found = graded(source, tmp_path / "out", spread=functools.partial(local, workers=2, seconds=2))
    assert found.failed == [("ben", LESSON, "it did not come to an end in time and was stopped")]
    assert found.anew == 1 + len(CLASS)
    assert not multiprocessing.active_children()


def test_workers_that_cannot_begin_end_the_run_with_their_reason(tmp_path, handed_in):
    with pytest.raises(CourseError, match="confines nothing"):
        graded(handed_in(anna=SOLVED), tmp_path / "out", opened=unable, spread=two_workers)


def test_workers_end_when_the_one_who_gives_out_work_is_killed(tmp_path, handed_in):
    """A grandchild's end is seen by the pipe that it holds open."""
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        os.close(ours)
        os.set_inheritable(theirs, True)
        for name, _ in local(iter([(0, ("anna", LESSON, SOLVED)), (1, ("ben", LESSON, SOLVED))]), grader, 1):
            if name == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    os.close(theirs)
    os.waitpid(process, 0)
    assert os.read(ours, 1) == b"", "nobody holds the other end any more"
    os.close(ours)


def test_what_was_refused_gets_no_points_its_reason_and_a_flag(tmp_path, handed_in):
    source = handed_in(anna=SOLVED)
    (source / "ben" / PART).mkdir(parents=True)
    (source / "ben" / PART / f"{LESSON}.ipynb").symlink_to("/etc/passwd")
    found = graded(source, tmp_path / "out").results
    assert found[1].error == f"{LESSON}.ipynb is a link, which is not followed." and found[1].flags == (NOT_GRADED,)
    assert [e.verdict for e in found[1].exercises] == ["missing", "missing"]
    assert all(from_json(to_json(r)) == r for r in found)


def test_a_submission_that_changes_while_the_class_is_graded_is_left_for_the_next_run(tmp_path, handed_in):
    source, out = handed_in(anna=SOLVED, ben=WRONG), tmp_path / "out"
    found = graded(source, out, advance=lambda n: handed_in(ben=HALF) if n else None)
    assert found.failed == [("ben", LESSON, f"{LESSON}.ipynb has changed while submissions were graded; grade again.")]
    assert graded(source, out).results[1].points == 1


def test_the_seed_is_kept_with_the_results_and_drawn_when_none_is_given(tmp_path):
    drawn = seed_of(tmp_path / "a", None)
    assert seed_of(tmp_path / "a", None) == drawn != seed_of(tmp_path / "b", None)
    assert seed_of(tmp_path / "a", 5) == 5 == seed_of(tmp_path / "a", None)


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(CourseError, match="another run"), locked(tmp_path):
        raise AssertionError


def test_a_submission_of_no_lesson_has_no_exercises(tmp_path, handed_in):
    (submission,) = collect(handed_in(anna=b"def other(): ..."), PART, LESSONS, tmp_path)
    assert ungraded(submission, (), SETTINGS, "why").max_points == 0


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


def test_a_dask_cluster_of_two_workers_gives_the_same_results(tmp_path, handed_in, cluster):
    source = handed_in(zoe=b"def sparsity: raises", **CLASS)
    spread = functools.partial(dask, scheduler=cluster.scheduler_address)
    there = graded(source, tmp_path / "there", spread=spread)
    here = graded(source, tmp_path / "here")
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert there.failed == here.failed == [("zoe", LESSON, "ValueError: no good")] and there.anew == len(CLASS)


def test_a_piece_that_kills_each_worker_of_a_cluster_costs_itself_alone(tmp_path, handed_in):
    distributed = pytest.importorskip("distributed")
    from dask import config as dask_config

    source = handed_in(zoe=b"def sparsity: dies", anna=SOLVED, ben=HALF)
    with (
        dask_config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        found = graded(source, tmp_path / "out", spread=functools.partial(dask, scheduler=cluster.scheduler_address))
    assert found.anew == 2
    assert found.failed == [("zoe", LESSON, "the process that graded it ended, and so did those that tried it again")]


def test_a_cluster_confines_and_grades_as_this_machine_does(tmp_path, handed_in, cluster):
    from hand_in import MEGABYTES, SPARSITY, notebook

    right, wrong = notebook(f"import torch\n{SPARSITY}", MEGABYTES), notebook("def sparsity(w): return 3.0", MEGABYTES)
    opened = functools.partial(functions_grader, {}, 3)
    source = handed_in(anna=right, ben=wrong)
    there = graded(source, tmp_path / "there", opened, functools.partial(dask, scheduler=cluster.scheduler_address))
    here = graded(source, tmp_path / "here", opened)
    assert there.results == here.results and not there.failed
    assert [r.points for r in there.results] == [there.results[0].max_points, 2.0]


def test_without_a_scheduler_the_error_says_how_to_start_one(monkeypatch):
    monkeypatch.setattr(workers, "SCHEDULER_SECONDS", 0.2)
    with pytest.raises(CourseError, match="dask scheduler"):
        list(dask(iter([(0, b"")]), grader, "tcp://127.0.0.1:9"))


def test_failed_work_says_why():
    assert str(Failed("why")) == "why"
