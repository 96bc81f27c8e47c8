"""The search: every recipe once, figures that outlive a kill, and clear words when it cannot go on."""

import json
import multiprocessing
import os
import signal
import sys
import time

import pytest

from course_lib.errors import CourseError
from course_lib.recipes import search as module
from course_lib.recipes.budget import Budget
from course_lib.recipes.recipe import DropLayers, RemoveFfnNeurons
from course_lib.recipes.search import failures, measured, open_study, run_search
from course_lib.recipes.space import load_space

SPACE = """[[step]]
do = "drop_layers"
keep = [[0], [0, 1], [0, 1, 2]]
[[step]]
do = "remove_ffn_neurons"
keep = [16, 32, 48, 64]
[[step]]
do = "distil"
[[step]]
do = "quantize"
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "mine.toml").write_text(SPACE, "utf-8")
    return load_space(str(tmp_path / "mine.toml"))


@pytest.fixture
def study(tmp_path):
    return lambda **options: open_study(f"sqlite:///{tmp_path / 'search.db'}", "mine", **options)


def figures(recipe):
    """More layers and neurons cost bytes and time and save F1."""
    layers, neurons = len(recipe.of(DropLayers)[0].keep), recipe.of(RemoveFfnNeurons)[0].keep
    return {"loss": 10 / layers + 100 / neurons, "bytes": layers * neurons, "ms": layers * 0.1}


def test_every_recipe_is_tried_once_and_the_space_ends_the_search(space, study):
    asked, seen = [], []

    def evaluate(recipe):
        asked.append(recipe.text)
        return figures(recipe)

    run_search(study(), space, evaluate, trials=100, progress=seen.append)
    assert len(asked) == len({*asked}) == space.size == 12
    rows = measured(study())
    assert rows == seen and len(rows) == 12
    assert all({**figures(space.recipe(r["picked"])), "trial": r["trial"], "picked": r["picked"]} == r for r in rows)
    assert failures(study()) == []


def test_a_search_goes_on_where_it_was_and_the_number_of_trials_is_that_of_all_runs(space, study):
    asked = []

    def evaluate(recipe):
        asked.append(recipe.text)
        return figures(recipe)

    for trials, due in ((4, 4), (4, 4), (7, 7)):
        run_search(study(), space, evaluate, trials)
        assert len(asked) == len({*asked}) == due == len(measured(study()))


def test_the_same_seed_tries_the_same_recipes(space, tmp_path):
    tried = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        found = open_study(f"sqlite:///{tmp_path / name}.db", "mine", seed)
        run_search(found, space, figures, 6, Budget(loss=5.0), seed)
        tried.append([row["picked"] for row in measured(found)])
    assert tried[0] == tried[1] != tried[2]


def test_the_sampler_is_told_by_how_much_a_recipe_is_over_the_budget(space, study):
    run_search(study(), space, figures, 6, Budget(bytes=64))
    trials = study().get_trials()
    assert len(trials) >= 6 and all(t.constraints == {"bytes": t.values[1] / 64 - 1} for t in trials), "repeats included"


def test_times_are_brought_to_the_first_trial_by_the_reference_timed_beside(space, study):
    """A machine that is twice as slow shows the same figures: its reference is twice as slow too."""
    slow = iter([1.0, 2.0, 4.0])

    def evaluate(recipe):
        factor = next(slow)
        return figures(recipe) | {"ms": 0.5 * factor, "reference_ms": 3.0 * factor}

    run_search(study(), space, evaluate, 3)
    rows = measured(study())
    assert [r["ms"] for r in rows] == [0.5, 0.5, 0.5] and [r["ms_timed"] for r in rows] == [0.5, 1.0, 2.0]


def test_a_recipe_that_cannot_be_tried_is_listed_and_the_search_goes_on(space, study):
    def evaluate(recipe):
        if len(recipe.of(DropLayers)[0].keep) == 3:
            raise CourseError("there are only two layers")
        return figures(recipe)

    run_search(study(), space, evaluate, 100)
    bad = failures(study())
    assert len(measured(study())) == 8 and len(bad) == 4
    assert all(r["error"] == "there are only two layers" and len(r["picked"]["drop_layers.keep"]) == 3 for r in bad)
    run_search(study(), space, figures, 100)  # what was wrong has been put right
    assert len(measured(study())) == 12 and failures(study()) == []


def test_failures_without_end_stop_the_search(space, study):
    asked = []

    def evaluate(recipe):
        asked.append(recipe.text)
        raise ValueError("the disk is on fire")

    with pytest.raises(CourseError, match=r"5 recipes in a row could not be tried. The last one: the disk is on fire"):
        run_search(study(), space, evaluate, 12)
    assert len(asked) == len({*asked}) == 5


def test_what_an_interrupt_broke_off_comes_first_in_the_next_run(space, study):
    asked = []

    def evaluate(recipe):
        asked.append(recipe.text)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return figures(recipe)

    with pytest.raises(KeyboardInterrupt):
        run_search(study(), space, evaluate, 5)
    assert len(measured(study())) == 2
    run_search(study(), space, evaluate, 3)
    assert asked[3] == asked[2] and len(measured(study())) == 3 and failures(study()) == []


def search_and_die(folder, space, when):
    """A process that gets stuck in the trial of this number (from 0), leaving a file that says so."""
    done = []

    def evaluate(recipe):
        done.append(recipe)
        if len(done) > when:
            (folder / "stuck.json").write_text(json.dumps(recipe.text), "utf-8")
            time.sleep(600)
        return figures(recipe)

    run_search(open_study(f"sqlite:///{folder / 'search.db'}", "mine"), space, evaluate, 6)


def search_together(folder, space, both):
    """A process whose first trial ends when that of another has begun."""
    begun = []

    def evaluate(recipe):
        if not begun:
            both.wait(120)
        begun.append(recipe)
        return figures(recipe)

    run_search(open_study(f"sqlite:///{folder / 'search.db'}", "mine", seed=os.getpid()), space, evaluate, 8)


def test_two_processes_share_a_search(space, study, tmp_path):
    study()
    context = multiprocessing.get_context("spawn")
    both = context.Barrier(2)
    processes = [context.Process(target=search_together, args=(tmp_path, space, both), daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    rows = measured(study())
    assert 8 <= len(rows) <= 9 and len({json.dumps(row["picked"]) for row in rows}) == len(rows)
    tried = [t for t in study().get_trials() if t.state.name == "COMPLETE"]  # a recipe may still be queued
    assert {t.user_attrs["process"]["pid"] for t in tried} == {process.pid for process in processes}


def test_a_trial_that_another_process_finished_first_is_left_to_it(space, study):
    """SQLite lets two processes take the same queued trial."""
    asked = []

    def evaluate(recipe):
        asked.append(recipe)
        if len(asked) == 1:
            other = study()
            (running,) = [t for t in other.get_trials() if t.state.name == "RUNNING"]
            other._storage.set_trial_user_attr(running._trial_id, "figures", figures(recipe))
            other.tell(running.number, [figures(recipe)[aim] for aim in ("loss", "bytes", "ms")])
        return figures(recipe)

    run_search(study(), space, evaluate, 3)
    assert len(asked) == 3 == len(measured(study()))


def kill_in_a_trial(folder, space, when):
    process = multiprocessing.get_context("spawn").Process(target=search_and_die, args=(folder, space, when), daemon=True)
    process.start()
    until = time.monotonic() + 120
    while not (folder / "stuck.json").exists():
        assert process.is_alive() and time.monotonic() < until, process.exitcode
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    (folder / "stuck.json").unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_search_goes_on_and_the_trial_that_died_is_tried_again(space, study, tmp_path):
    kill_in_a_trial(tmp_path, space, when=2)
    found = study()
    assert len(measured(found)) == 2
    *before, died, queued = found.get_trials()
    assert {t.state.name for t in before} == {"COMPLETE"}
    assert (died.state.name, queued.state.name) == ("FAIL", "WAITING"), "the dead one is marked, and queued again"
    asked = []

    def evaluate(recipe):
        asked.append(recipe.text)
        return figures(recipe)

    run_search(found, space, evaluate, 6)
    again = space.recipe({name: json.loads(value) for name, value in died.params.items()})
    assert asked[0] == again.text and len(asked) == 4 and len(measured(found)) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # a trial is asked for without being run
def test_a_trial_whose_process_dies_again_and_again_is_given_up(space, study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 1)
    kill_in_a_trial(tmp_path, space, when=0)
    found = study()
    trial = found.ask()  # as another process would take it, and die
    trial.set_user_attr("process", {"host": module._host(), "pid": 2**22 + 1, "started": 0.0})
    module._suggest(trial, space)
    found = study()
    assert [t.state.name for t in found.get_trials()] == ["FAIL", "FAIL"], "not queued a second time"
    (row,) = failures(found)
    assert row["error"] == "its process died again and again"


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # a trial is asked for without being run
def test_a_trial_of_another_machine_or_a_living_process_is_left_alone(space, study):
    for process in ({"host": "elsewhere-1", "pid": 1, "started": 0.0}, module._process()):
        study().ask().set_user_attr("process", process)
    assert [t.state.name for t in study().get_trials()] == ["RUNNING", "RUNNING"]
    run_search(study(), space, figures, 5)
    assert len(measured(study())) == 3, "what others are trying counts"


@pytest.mark.parametrize(
    "storage, said",
    [("nonsense", "Could not parse"), ("sqlite:////no/such/folder/x.db", "unable to open"), ("what://x/y", "what")],
)
def test_a_database_that_cannot_be_opened_is_named(storage, said):
    with pytest.raises(CourseError, match=rf"--storage {storage}: .*{said}.*Expected a database such as sqlite:///search\.db"):
        open_study(storage, "mine")


def test_without_optuna_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CourseError, match=r"needs Optuna: pip install 'course_lib\[search\]'"):
        open_study("sqlite://", "mine")


def test_no_trials_are_refused(space, study):
    with pytest.raises(ValueError, match="trials = 0: expected at least 1 recipe"):
        run_search(study(), space, figures, 0)
