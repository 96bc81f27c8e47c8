"""What a learner calls: nothing raises, points are plain floats, standard error stays empty."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from samples import CLIP, Counter, clip

from course_lib.exercises import check, hint, registry, use
from course_lib.exercises.checks import check_seed, run_check
from course_lib.exercises.progress import read_progress
from course_lib.exercises.run import can_stop

pytestmark = pytest.mark.usefixtures("samples")


def good(w, limit):
    return torch.minimum(torch.maximum(w, torch.tensor(-limit)), torch.tensor(limit))


def one_sided(w, limit):
    return w.clamp(max=limit)


def stub(w, limit):
    raise NotImplementedError()


def test_a_right_answer_earns_its_points_and_a_card(said, progress):
    points = check("clip", good)
    assert type(points) is float and points == 4.0
    assert said() == "✔ clip: 3 of 3 cases pass, 4 of 4 points\n"
    entry = json.loads(progress.read_text())["exercises"]["clip"]
    assert entry["points"] == 4 and entry["state"] == "passed" and entry["attempts"] == 1


def test_a_wrong_answer_is_told_what_it_looks_like(said):
    points = check("clip", one_sided)
    assert type(points) is float and points == 0.0
    assert said() == ("✘ clip: 0 of 3 cases pass, 0 of 4 points\n  You get [-1, 0]: the negative side is left as it was.\n")
    assert read_progress()["exercises"]["clip"]["diagnosed"] == 1


def test_a_stub_is_not_attempted_and_told_how_to_go_on(said):
    points = check("clip", stub)
    assert type(points) is float and points == 0.0
    assert said() == (
        "… clip: not attempted yet (4 points wait)\n"
        '  Write the body and run this again; `hint("clip")` gives one step at a time.\n'
    )
    assert read_progress()["exercises"]["clip"]["attempts"] == 0


@pytest.mark.parametrize("function", [None, 3, "clip", torch.ones(2), Counter, lambda: 0, lambda w, limit: 1 / 0, torch.sum])
def test_whatever_is_checked_nothing_raises_and_points_are_a_float(function, said):
    points = check("clip", function)
    assert type(points) is float and points == 0.0
    assert said().startswith("✘ clip: 0 of 3 cases pass, 0 of 4 points\n  ")


@pytest.mark.parametrize(
    "exercise, words",
    [
        ("clop", "✘ There is no exercise 'clop'; did you mean 'clip'?"),
        ("", "✘ There is no exercise ''."),
        (good, '✘ The name of the exercise comes first, in quotes, as in `"good"`.'),
        ([1], '✘ The name of the exercise comes first, in quotes, as in `"clip"`.'),
    ],
)
def test_an_exercise_that_is_not_there_is_said_so(exercise, words, said):
    assert check(exercise, good) == 0.0
    assert said().startswith(words)
    hint(exercise)
    assert said().startswith(words)
    assert use(exercise, good) is good
    assert said() == words + "\n  Going on with the function as it is.\n"


def test_the_librarys_function_in_the_place_of_ones_own_earns_nothing(said, progress):
    """As when a cell further down, with `use`, has run before the check is run again."""
    points = check("clip", use("clip", stub))
    assert type(points) is float and points == 0.0
    assert said().endswith(
        "• clip: this is the library's function, not yours\n"
        "  A cell further down put it in the place of yours. Run the cell with your `clip` again, then this one.\n"
    )
    assert not progress.exists()
    assert use("clip", clip) is clip
    assert said().startswith("• Going on with the library's `clip`")


def test_an_answer_that_calls_the_library_is_told_so(said):
    def lazy(w, limit):
        return clip(w, limit)

    assert check("clip", lazy) == 4.0
    assert "  This answer calls the library's own. It passes here, but" in said()


def test_a_class_that_calls_the_library_is_told_so_too(said):
    class Lazy:
        def __init__(self, limit):
            self.theirs = Counter(limit)

        def step(self, by):
            return self.theirs.step(by)

    assert check("Counter", Lazy) == 2.0
    assert "This answer calls the library's own." in said()


def test_a_card_that_cannot_be_shown_in_full_is_shown_in_part(said, monkeypatch):
    """A fault of the course itself is said to be one."""
    broken = dataclasses.replace(CLIP, cases=lambda generator: [][0])
    monkeypatch.setattr(registry, "all_exercises", lambda: {"clip": broken})
    points = check("clip", good)
    assert type(points) is float and points == 0.0
    assert said() == "✘ clip: this check is broken (IndexError: list index out of range). It is not your answer's fault.\n"
    assert use("clip", good) is clip


def test_interrupting_a_check_keeps_the_notebook_alive(said, progress):
    def interrupted(w, limit):
        raise KeyboardInterrupt

    assert check("clip", interrupted) == 0.0
    assert said() == "• clip: interrupted; nothing was noted.\n"
    assert not progress.exists()
    assert use("clip", interrupted) is clip


def test_where_progress_cannot_be_kept_the_check_still_counts(said, progress):
    progress.parent.write_text("a file where a folder is needed")
    assert check("clip", good) == 4.0
    text = said()
    assert text.startswith("✔ clip: 3 of 3 cases pass, 4 of 4 points\n  Your progress could not be kept: ")
    assert "COURSE_PROGRESS" in text and "--artifacts" not in text


def test_where_nothing_can_be_stopped_a_learner_is_warned(said, monkeypatch):
    monkeypatch.delattr("signal.setitimer")  # as on Windows
    assert not can_stop() and check("clip", good) == 4.0
    assert "a function that never returns cannot be stopped: interrupt the kernel if this hangs." in said()


# Seeds. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, seed", [("", 0), ("7", 7), (" 12 ", 12), ("2147483647", 2**31 - 1)])
def test_the_seed_comes_from_the_environment(text, seed, monkeypatch):
    monkeypatch.setenv("COURSE_CHECK_SEED", text)
    assert check_seed() == seed and check("clip", good) == 4.0


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "2147483648"])
def test_a_seed_that_is_none_is_said_so(text, monkeypatch, said):
    monkeypatch.setenv("COURSE_CHECK_SEED", text)
    assert check("clip", good) == 0.0
    assert said() == f"✘ COURSE_CHECK_SEED = {text!r}: expected a whole number from 0 to 2147483647.\n"
    assert use("clip", good) is clip


def test_another_seed_draws_other_cases_so_that_a_memorised_output_fails(monkeypatch, said):
    known = {tuple(c.args[0].flatten().tolist()): clip(*c.args) for c in CLIP.draw(0)}

    def memorised(w, limit):
        return known.get(tuple(w.flatten().tolist()), w)

    assert check("clip", memorised) == 4.0
    monkeypatch.setenv("COURSE_CHECK_SEED", "1")
    assert check("clip", memorised) == 2.0  # the edges are the same
    assert use("clip", memorised) is clip


# use -----------------------------------------------------------------------------------------------------------------


def test_an_answer_that_passes_goes_to_work_and_any_other_makes_way_for_the_librarys(said):
    assert use("clip", good) is good
    assert said() == "✔ Going on with your `clip`.\n"
    for function in (stub, one_sided, None):
        assert use("clip", function) is clip
        assert said() == "• Going on with the library's `clip`; yours takes its place as soon as it passes.\n"


def test_partial_credit_is_not_enough_to_go_to_work():
    def strict(w, limit):
        return clip(w, limit) if limit else w

    assert check("clip", strict) == 2.0 and use("clip", strict) is clip


def test_what_was_just_checked_is_not_run_again():
    calls = []

    def counted(w, limit):
        calls.append(1)
        return w.clamp(-limit, limit)

    check("clip", counted)
    assert use("clip", counted) is counted and len(calls) == 3
    run_check(CLIP, counted, 1)
    assert len(calls) == 6


def test_a_function_without_source_is_run_again():
    namespace = {}
    exec("calls = []\ndef unseen(w, limit):\n    calls.append(1)\n    return w.clamp(-limit, limit)", namespace)
    check("clip", namespace["unseen"])
    assert use("clip", namespace["unseen"]) is namespace["unseen"] and len(namespace["calls"]) == 6


# hint ----------------------------------------------------------------------------------------------------------------


def test_hints_open_one_after_the_other(said):
    hint("clip")
    assert said() == "? Hint 1 of 2 for clip. 1 more: run it again.\n  1. Which entries are too large?\n"
    for _ in range(2):
        hint("clip")
        assert said() == (
            "? Hint 2 of 2 for clip. That was the last one.\n"
            "  1. Which entries are too large?\n  2. There is a function that does both sides at once.\n"
        )
    assert read_progress()["hints"] == {"clip": 2}


def test_where_it_cannot_be_kept_which_hints_are_open_all_are_shown(said, progress):
    progress.parent.write_text("a file where a folder is needed")
    hint("clip")
    text = said()
    assert text.startswith("? Hint 2 of 2 for clip.") and "  1. " in text and "All of them, since it could not be kept" in text


# In a process of its own. --------------------------------------------------------------------------------------------


def test_the_real_exercises_can_be_checked_from_a_script(tmp_path):
    """Without IPython's display machinery, and nothing on standard error, whatever the answer does there."""
    script = tmp_path / "answer.py"
    script.write_text(
        "import logging, sys, warnings\n"
        "from course_lib.exercises import check, hint, predict, quiz, reveal, use\n"
        "def sparsity(w):\n"
        "    print('to stderr', file=sys.stderr); warnings.warn('mind'); logging.warning('log')\n"
        "    return (w == 0).float().mean()\n"
        "assert check('sparsity', sparsity) == 2.0\n"
        "assert use('sparsity', sparsity) is sparsity\n"
        "hint('sparsity'); predict('p', 'How many?', answer=3); reveal('p', 4); quiz('why_predict', 'b')\n"
    )
    env = {**os.environ, "COURSE_PROGRESS": str(tmp_path / "p.json"), "COURSE_HEADLESS": "1"}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "✔ sparsity: 6 of 6 cases pass, 2 of 2 points" in done.stdout and "Off by 1." in done.stdout


def test_importing_the_names_of_a_lesson_loads_no_torch():
    code = "import sys, course_lib.exercises as e; print(sorted(e.__all__), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['check', 'fast', 'hint', 'pick', 'predict', 'quiz', 'reveal', 'use'] False\n"


def test_a_name_that_is_not_there_is_an_attribute_error():
    import course_lib.exercises

    with pytest.raises(AttributeError, match="no attribute 'chek'"):
        _ = course_lib.exercises.chek


def test_a_function_that_changes_its_input_goes_on_with_copies(capsys):
    import torch
    from samples import clip

    def in_place(w, limit):
        w.copy_(clip(w, limit))
        return w

    mine, w = use("clip", in_place), torch.tensor([-3.0, 0.5])
    result = mine(w, 1.0)
    assert torch.equal(w, torch.tensor([-3.0, 0.5])) and torch.equal(result, clip(w, 1.0))
    assert "It gets copies" in capsys.readouterr().out and mine.__name__ == "in_place"
