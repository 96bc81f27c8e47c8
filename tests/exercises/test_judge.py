"""Points and diagnosis from outcomes."""

import dataclasses
import time

import pytest
import torch
from samples import CLIP, COUNTER, Counter, clip

from course_lib.exercises.checks import run_check
from course_lib.exercises.exercise import Case, Misconception
from course_lib.exercises.judge import judge
from course_lib.exercises.run import run_cases


def check(function, exercise=CLIP):
    return run_check(exercise, function, 0)


def test_the_reference_passes_with_all_points():
    for exercise in (CLIP, COUNTER):
        verdict = check(exercise.reference, exercise)
        assert (verdict.state, verdict.points, verdict.of) == ("passed", exercise.points, exercise.points)
        assert verdict.passed == verdict.cases and verdict.message == "" and verdict.notes == []


def test_a_part_counts_when_all_its_cases_pass():
    def strict(w, limit):
        return clip(w, limit) if limit else w

    verdict = check(strict)
    assert (verdict.state, verdict.points, verdict.passed, verdict.cases) == ("wrong", 2, 2, 3)
    assert "With a limit of 0" in verdict.message


def test_one_wrong_case_costs_its_whole_part():
    def small_only(w, limit):
        return clip(w, limit) if w.dim() == 1 else w

    verdict = check(small_only)
    assert (verdict.points, verdict.passed) == (2, 2)


def test_points_of_three_parts_are_rounded_thirds():
    thirds = dataclasses.replace(CLIP, cases=lambda g: [Case("c", (torch.ones(1), float(i)), part=str(i)) for i in range(3)])
    assert check(lambda w, limit: clip(w, limit) if limit else w + 1, thirds).points == pytest.approx(8 / 3, abs=1e-4)


def test_a_misconception_is_recognised_by_what_it_gives_on_all_failing_cases():
    def upper_side(w, limit):
        out = w.clone()
        out[out > limit] = limit
        return out.double()

    verdict = check(upper_side)
    assert verdict.misconception == "one_sided"
    assert verdict.message == "You get [-1, 0]: the negative side is left as it was."  # of the smallest failing case


def test_what_fits_a_misconception_on_some_failing_cases_only_is_not_one():
    def mixed(w, limit):
        return w.clamp(max=limit) if w.dim() == 1 else w

    verdict = check(mixed)
    assert verdict.misconception is None and verdict.message.startswith("With a limit of 0, `clip([-1, 2], 0)` gave [-1, 0]: ")


def test_a_misconception_that_raises_where_the_answer_raises_is_recognised():
    mistake = Misconception("divides", lambda w, limit: w / (1 / limit if limit else 1 // 0), lambda case, output: "divided")
    exercise = dataclasses.replace(CLIP, misconceptions=(mistake,))

    def answer(w, limit):
        if limit == 0:
            raise ZeroDivisionError("I thought so")
        return w * limit

    assert check(answer, exercise).message == "divided"

    def other_error(w, limit):
        if limit == 0:
            raise ValueError("something else")
        return w * limit

    assert check(other_error, exercise).misconception is None


def test_of_two_misconceptions_that_fail_alike_the_one_that_passes_alike_is_named():
    both = Misconception("both", lambda w, limit: w.clamp(max=limit), lambda case, output: "always one-sided")
    flat = Misconception(
        "flat", lambda w, limit: w.clamp(max=limit) if w.dim() == 1 else clip(w, limit), lambda case, output: "flat"
    )
    exercise = dataclasses.replace(CLIP, misconceptions=(both, flat))
    assert check(flat.mistake, exercise).misconception == "flat"
    assert check(both.mistake, exercise).misconception == "both"

    def partly(w, limit):
        return w.clamp(max=limit) if limit else clip(w, limit)

    edges = dataclasses.replace(exercise, misconceptions=(flat, both))
    assert check(partly, edges).misconception == "both"  # neither passes where it passes, and only one gives what it gives

    first_only = dataclasses.replace(exercise, cases=lambda g: CLIP.cases(g)[::2])
    assert check(partly, first_only).misconception == "both"  # no way to tell: the first


def test_words_that_do_not_fit_an_output_are_left_unsaid():
    mistake = Misconception("list", lambda w, limit: w.tolist(), lambda case, output: f"{output.mean()}")
    verdict = check(lambda w, limit: w.tolist(), dataclasses.replace(CLIP, misconceptions=(mistake,)))
    assert verdict.misconception is None
    assert verdict.message == (
        "With a limit of 0, `clip([-1, 2], 0)` gave [-1, 2]: it returned a list; expected a float tensor."
    )


def endless(w, limit):
    while True:
        pass


def slow_on_matrices(w, limit):
    if w.dim() == 2:
        time.sleep(5)
    return w


class Halver:
    def __call__(self, w):
        return w / 2


async def later(w, limit):
    return w


def yields(w, limit):
    yield w


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda w, limit: None, "With a limit of 0, `clip([-1, 2], 0)`: it returned None. Does every path through the function end"),
        (lambda w, limit: 7, "With a limit of 0, `clip([-1, 2], 0)` gave 7: it returned an int; expected a float tensor."),
        (lambda w, limit: w[:1], "With a limit of 0, `clip([-1, 2], 0)` gave [-1]: its shape is (1,); expected (2,)."),
        (lambda w, limit: w / 0 * 0, "With a limit of 0, `clip([-1, 2], 0)` gave [nan, nan]: 2 of its 2 values are NaN, not a number."),
        (lambda w, limit: w.long(), "With a limit of 0, `clip([-1, 2], 0)` gave [-1, 2]: it returned an int tensor; expected a float tensor."),
        (lambda w, limit: w.to_sparse(), "With a limit of 0, `clip([-1, 2], 0)` gave a sparse tensor of shape (2,): it returned a sparse"),
        (lambda w, limit: 1 / 0, "With a limit of 0, `clip([-1, 2], 0)`: it raised ZeroDivisionError: division by zero (`line "),
        (lambda w: w, "`<lambda>(w)` is called with 2 arguments, and cannot be. Keep the first line of the function as the lesson has it."),
        ("clip", "Expected a function; this is 'clip', a str."),
        (later, "With a limit of 0, `clip([-1, 2], 0)` gave a coroutine: it is an `async` function, which returns later."),
        (yields, "With a limit of 0, `clip([-1, 2], 0)` gave a generator: it yields instead of returning. Is there a `yield`"),
        (Halver(), "`Halver(w)` is called with 2 arguments, and cannot be."),
    ],
)  # fmt: skip
def test_bad_input_is_described_by_the_smallest_failing_case(function, message):
    verdict = check(function)
    assert verdict.state == "wrong" and verdict.points == 0 and verdict.message.startswith(message)


def calls_itself(w, limit):
    return calls_itself(w, limit)


def quits(w, limit):
    raise SystemExit(1)


def test_two_errors_that_beginners_cannot_read_are_explained():
    assert "RecursionError" in check(calls_itself).message and check(calls_itself).message.endswith(
        "It calls itself and never stops."
    )
    assert check(quits).message.endswith("It ends the program instead of returning.")


def test_the_message_on_what_was_stopped_is_about_the_case_that_was_tried():
    """The first, though a later one, which was skipped, is smaller."""
    verdict = check(endless)
    assert verdict.points == 0 and verdict.passed == 0
    assert verdict.message == (
        "With a few weights, `clip([-3, 0.5, 2], 1)`: it did not return within 0.2 seconds and was stopped. "
        "Is there a loop that never ends?"
    )
    slow = dataclasses.replace(CLIP, misconceptions=(Misconception("slow", slow_on_matrices, lambda case, output: "slow"),))
    assert "did not return" in check(endless, slow).message
    assert check(slow_on_matrices, slow).misconception is None


def test_not_attempted_is_a_state_of_its_own():
    def stub(w, limit):
        raise NotImplementedError()

    verdict = check(stub)
    assert (verdict.state, verdict.points, verdict.message, verdict.passed) == ("not attempted", 0, "", 0)


def test_an_unfinished_branch_is_an_attempt():
    def half(w, limit):
        if limit == 0:
            raise NotImplementedError("later")
        return clip(w, limit)

    verdict = check(half)
    assert (verdict.state, verdict.points) == ("wrong", 2) and "NotImplementedError: later (`line" in verdict.message


class Unheard(dict):
    """What judging, comparing and describing fail on."""

    def items(self):
        raise RuntimeError("no items")

    __len__ = items


def test_an_output_that_cannot_be_judged_is_wrong_and_nothing_fails():
    def verify(case, output):
        return "no" if output["a"] else None

    exercise = dataclasses.replace(CLIP, verify=verify)
    verdict = check(lambda w, limit: Unheard(), exercise)
    assert verdict.message == (
        "With a limit of 0, `clip([-1, 2], 0)` gave an Unheard: what it returned, an Unheard, cannot be judged (KeyError)."
    )
    comparable = Misconception("unheard", lambda w, limit: {"a": 1}, lambda case, output: "known")
    strange = dataclasses.replace(exercise, misconceptions=(comparable,))
    assert check(lambda w, limit: Unheard(a=torch.ones(2)), strange).misconception is None


def test_an_output_on_another_device_is_wrong_and_nothing_fails():
    assert "cannot be judged" in check(lambda w, limit: w.to("meta")).message


def test_changing_the_input_and_printing_cost_nothing_and_are_noted():
    def in_place(w, limit):
        print("clipping", w)
        return w.clamp_(-limit, limit)

    verdict = check(in_place)
    assert verdict.state == "passed" and verdict.points == 4
    changed, printed = verdict.notes
    assert changed.startswith("It changes argument 1 in place. That is accepted, but")
    assert printed.startswith("It prints (") and "characters in one call, beginning with 'clipping tensor(" in printed


def test_a_flood_is_noted_without_being_shown():
    def flood(w, limit):
        print("\n" * 20_000)
        return clip(w, limit)

    assert check(flood).notes == [
        "It prints (10,000 or more characters in one call, beginning with ''), which is not shown here."
    ]


class Forgetful(Counter):
    def step(self, by):
        return super().step(by) * 1.5


class CountsInPlace:
    """A correct variant: the same tensor each time."""

    def __init__(self, limit):
        self.limit, self.total = limit, torch.zeros(1)

    def step(self, by):
        return self.total.add_(by).clamp_(max=self.limit)


class Unlimited:
    def __init__(self, limit):
        self.total = 0.0

    def step(self, by):
        self.total += by
        return torch.tensor([self.total])


def test_things_with_state_are_judged_by_a_list_of_calls():
    assert check(CountsInPlace, COUNTER).state == "passed"
    verdict = check(Unlimited, COUNTER)
    assert (verdict.points, verdict.passed) == (1, 1)
    assert verdict.message == (
        "With a limit that is met, `Counter(2).step(1).step(5)` gave [[1], [6]]: "
        "item 1: 1 of its 1 values is not right; the one at [0] is 6."
    )
    only_long = dataclasses.replace(COUNTER, cases=lambda g: COUNTER.cases(g)[:1])
    assert ".step(" in check(Forgetful, only_long).message and ") …` gave [" in check(Forgetful, only_long).message


def test_the_judgement_needs_no_learners_code():
    """Outcomes are data: run here, judged there."""
    cases = CLIP.draw(3)
    outcomes = run_cases(lambda w, limit: w, cases, 1.0)
    again = [dataclasses.replace(o) for o in outcomes]
    assert judge(CLIP, cases, again) == judge(CLIP, cases, outcomes)


def test_where_several_outputs_are_right_a_misconception_is_recognised_by_the_other_cases():
    """Keep one of two equal numbers: the mistake keeps none of the others either, but chooses another of the equals."""

    def verify(case, output):
        return (
            None
            if sorted(output.tolist()) == [False] * (len(output) - 1) + [True] and case.args[0][output] == case.args[0].max()
            else "no"
        )

    cases = [
        Case("different numbers", (torch.tensor([1.0, 3.0, 2.0]),)),
        Case("equals", (torch.tensor([2.0, 2.0]),), free=True),
    ]
    first = Misconception("smallest", lambda w: torch.arange(len(w)) == w.argmin(), lambda case, output: "the smallest")
    exercise = dataclasses.replace(CLIP, id="largest", cases=lambda g: cases, verify=verify, misconceptions=(first,))

    def smallest_from_behind(w):
        return torch.arange(len(w)) == len(w) - 1 - w.flip(0).argmin() if len(w) > 2 else torch.tensor([True, True])

    verdict = judge(exercise, cases, run_cases(smallest_from_behind, cases, 5.0))
    assert verdict.misconception == "smallest" and verdict.passed == 0
    only_free = judge(exercise, cases[1:], run_cases(lambda w: torch.tensor([True, True]), cases[1:], 5.0))
    assert only_free.misconception is None and "With equals" in only_free.message
