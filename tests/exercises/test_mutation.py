"""Checks notice when a solution is changed: of the mutants that are not equivalent at least 95 % are caught."""

import ast
import dataclasses
from pathlib import Path

import mutation
import pytest
import torch
from mutation import defined, main, mutants, solutions, tally
from samples import CLIP, COUNTER

from course_lib.exercises.checks import run_check
from course_lib.exercises.registry import find

INPUTS = 300  # of 10 000: `python -m tests.exercises.mutation` draws them all
SOURCE = '''# %% [markdown]
# # A lesson

# %%
import torch

LARGE = load_everything()


def sides(limit):
    return -limit, limit


# %% exercise="clip"
def clip(w: torch.Tensor, limit: float) -> torch.Tensor:
    """Within ±limit; 3 is no part of the solution."""
    ### BEGIN SOLUTION
    low, high = sides(limit)
    inside = (low <= w) & (w <= high)
    return torch.where(inside, w, w.sign() * limit)
    ### END SOLUTION

# %% check="clip"
check("clip", clip)

# %% exercise="Counter"
class Counter:
    def __init__(self, limit):
        ### BEGIN SOLUTION
        self.limit = limit
        self.count = torch.zeros(1)
        ### END SOLUTION

    def step(self, by):
        ### BEGIN SOLUTION
        self.count = (self.count + by).clamp(max=self.limit)
        return self.count
        ### END SOLUTION
'''


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "1_part" / "01_sample.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def changes(body: str, tmp_path, exercise: str = "f") -> set[str]:
    path = tmp_path / "01_one.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    path.write_text(f'# %% exercise="f"\ndef f(w, k=1):\n    ### BEGIN SOLUTION\n{lines}\n    ### END SOLUTION\n')
    (solution,) = solutions(path)
    return {m.after for m in mutants(solution)}


@pytest.mark.parametrize(
    "body, expected",
    [
        ("return w + k", {"w - k", "w", "k"}),
        ("return w // k", {"w / k", "w * k", "w", "k"}),
        ("w += k", {"w -= k"}),
        ("return w < k", {"w <= k", "w >= k"}),
        ("return w == k != w", {"w != k != w", "w == k == w"}),
        ("return w and k", {"w or k"}),
        ("return not w", {"w"}),
        ("return -w", {"w"}),
        ("return w[3]", {"4", "2", "6", "0"}),
        ("return w[1]", {"2", "0"}),
        ("return 0.5", {"1.5", "-0.5", "1.0", "0.0"}),
        ("return True", {"False"}),
        ("return w.max(k)", {"w.min"}),
        ("return max(w)", {"min"}),
        ("return w.sum(dim=k)", {"w.mean", "w.sum()"}),
        ("return w.clamp(min=k)", {"w.clamp()", "w.clamp(max=k)"}),
        ("return w.abs()", {"w"}),
        ("return torch.abs(w)", {"w"}),
        ("return abs(w)", {"w"}),
        ("return w.frob()", set()),
        ("return w[:k]", {"k:", ":k + 1", ":k - 1"}),
        ("return w[1:]", {":1", "0", "2"}),
        ("return w[k:w], w[::k]", set()),
        ("w[k] = k", {"pass"}),
        ("w.append(k)", {"pass"}),
        ("return w if k else 'text'", {"w if not k else 'text'"}),
        ("if k:\n    return w", {"if not k:"}),
        ("while w in k:\n    w += k", {"while not w in k:", "w not in k", "w -= k"}),
    ],
)
def test_every_operator_constant_comparison_name_and_keyword_is_changed(body, expected, tmp_path):
    assert changes(body, tmp_path) == expected


def test_only_lines_between_the_marks_are_changed_and_earlier_definitions_are_at_hand(source):
    clip, counter = solutions(source)
    assert (clip.lesson, clip.exercise, counter.exercise) == ("01_sample", "clip", "Counter")
    assert "sides" in clip.names and "LARGE" not in clip.names and "clip" not in clip.names and "clip" in counter.names
    assert {m.before for m in mutants(clip)} >= {"low <= w", "(low <= w) & (w <= high)", "w.sign() * limit", "w.sign()"}
    assert not any("3" in m.before for m in mutants(clip))
    assert {m.before for m in mutants(counter)} >= {"self.count + by", "torch.zeros", "1"}


def test_a_mutant_differs_from_the_solution_in_one_place(source):
    solution = solutions(source)[0]
    w = torch.tensor([-3.0, 0.5, 3.0])
    outputs = {m.after: m.function(w, 1.0) for m in mutants(solution) if m.after in ("w > high", "w")}
    assert torch.equal(outputs["w > high"], torch.tensor([-1.0, 1.0, 3.0]))
    assert torch.equal(outputs["w"], torch.tensor([-3.0, 0.5, 3.0]))  # w.sign() became w
    assert ast.dump(solution.tree) == ast.dump(solutions(source)[0].tree)


def test_mutants_are_caught_or_equivalent_or_survive(source):
    clip, counter = (tally(s, e, INPUTS) for s, e in zip(solutions(source), (CLIP, COUNTER), strict=True))
    assert not clip.survivors and clip.caught == 9
    assert {m.after for m in clip.equivalent} >= {"low < w", "w < high"}  # at the limit the limit comes out either way
    assert not counter.survivors and counter.caught >= 4


def test_what_a_weak_check_misses_survives(source):
    weak = dataclasses.replace(CLIP, cases=lambda generator: CLIP.cases(generator)[1:2], verify=lambda case, output: None)
    result = tally(solutions(source)[0], weak, INPUTS)
    assert result.survivors and result.to_catch == result.caught + len(result.survivors)
    mutant, case = next((m, c) for m, c in result.survivors if m.after == "w > high")
    assert case.label == "a matrix" and mutant.before == "w <= high"


def test_the_command_prints_the_tally_and_every_survivor(source, monkeypatch, capsys):
    weak = dataclasses.replace(CLIP, verify=lambda case, output: None)
    monkeypatch.setattr(mutation, "SOLUTIONS", source.parents[1])
    monkeypatch.setattr(mutation, "INPUTS", INPUTS)
    monkeypatch.setattr(mutation, "find", {"clip": weak, "Counter": COUNTER}.get)
    main([])
    out = capsys.readouterr().out
    assert "01_sample clip: " in out and "  SURVIVES, line 6: `w <= high` → `w > high`; differs for a few weights" in out
    assert "01_sample Counter: " in out and out.splitlines()[-1].endswith(" %)")
    main(["00_other"])
    assert capsys.readouterr().out == "0 of 0 caught (0.0 %)\n"


@pytest.mark.parametrize("path", mutation.lessons(), ids=lambda p: p.stem)
def test_the_solutions_of_a_lesson_earn_full_marks_whatever_the_seed(path):
    for solution in solutions(path):
        for seed in range(5):
            verdict = run_check(find(solution.exercise), defined(solution), seed)
            assert verdict.state == "passed", f"{solution.exercise}: {verdict.message}"


@pytest.mark.parametrize("path", mutation.lessons(), ids=lambda p: p.stem)
def test_at_least_95_per_cent_of_a_lessons_mutants_are_caught(path):
    results = [tally(s, find(s.exercise), INPUTS) for s in solutions(path)]
    missed = [f"{r.exercise}, line {m.line}: {m.before} → {m.after}" for r in results for m, _ in r.survivors]
    assert sum(r.caught for r in results) >= 0.95 * sum(r.to_catch for r in results), missed
