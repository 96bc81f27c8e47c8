"""The adaptive pruner: whatever the metric does, what comes back is the smallest model seen within the budget."""

import copy
import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bert import logits, small_bert
from torch import nn

from course_lib.errors import CourseError
from course_lib.measure.size import effective_parameters
from course_lib.pruning.adaptive import Adapted, Trial, prune_within
from course_lib.pruning.unit_masks import compact, mask_by_plan, unmask, visible_parameters
from course_lib.report import parameter_count


class Labelled(nn.Module):
    """A model that is nothing but the sparsities it was pruned to, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.sparsities, self.prunings = {}, 0


def label(model: Labelled, sparsities: dict[str, float]) -> None:
    model.sparsities, model.prunings = sparsities, model.prunings + 1


def arbitrary(draws: list[float], dense: float):
    """A metric without rhyme or reason: the next number drawn at each call."""
    numbers = itertools.chain([dense], itertools.cycle(draws))
    return lambda model: next(numbers)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0.5, 1.0), min_size=1, max_size=30),
    st.lists(st.integers(1, 9), min_size=1, max_size=30),
    st.sampled_from([("all",), ("heads", "neurons"), ("a", "b", "c")]),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_the_smallest_model_within_the_budget_is_returned_whatever_the_metric_does(draws, sizes, knobs, budget):
    numbers, model = itertools.cycle(sizes), Labelled()
    result = prune_within(model, label, arbitrary(draws, 0.8), budget, knobs, size=lambda m: next(numbers))
    inside = [t for t in result.log if t.within]
    best = min(inside, key=lambda t: (t.size, -t.metric, t.number))
    assert result.trial == best.number
    assert result.model.sparsities == (best.sparsities if best.number else {})
    assert all(t.within == (t.metric >= 0.8 - budget) for t in result.log)
    assert model.prunings == 0 and result.model is not model, "the given model is left alone"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.5, 1.0), min_size=1, max_size=30), st.sampled_from([("all",), ("a", "b")]))
def test_every_decision_follows_from_the_trial_before(draws, knobs):
    """One knob is turned, from where all stood, by its own step; the step is halved by failure alone."""
    log = prune_within(Labelled(), label, arbitrary(draws, 0.8), 0.05, knobs, size=lambda m: 1).log
    stand, steps = dict.fromkeys(knobs, 0.0), dict.fromkeys(knobs, 0.2)
    for number, trial in enumerate(log[1:], start=1):
        assert trial.number == number
        due = {**stand, trial.knob: min(0.95, stand[trial.knob] + steps[trial.knob])}
        assert trial.sparsities == pytest.approx(due)
        if trial.within:
            stand = trial.sparsities
            assert trial.decision == f"{trial.knob} stays at {stand[trial.knob]:.4g}"
        else:
            steps[trial.knob] /= 2
            assert trial.decision.startswith(f"{trial.knob} back to {stand[trial.knob]:.4g}, ")
    assert all(steps[k] < 0.025 or stand[k] >= 0.95 for k in knobs), "it ends when every knob rests"
    assert len(log) <= 1 + len(knobs) * (4 + 0.95 / 0.025)


def test_each_trial_starts_from_the_last_model_within_the_budget():
    """So that recovery training adds up; a model outside the budget is thrown away."""
    values = iter([0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1])
    result = prune_within(Labelled(), label, lambda m: next(values), 0.05, size=lambda m: 10 - m.prunings)
    assert [t.within for t in result.log] == [True, True, False, True, False, False, False][: len(result.log)]
    assert result.model.prunings == 2 and result.trial == 3
    assert result.model.sparsities == {"all": pytest.approx(0.3)}


def test_when_nothing_can_go_a_copy_of_the_model_comes_back():
    values = iter([0.9])
    model = Labelled()
    result = prune_within(model, label, lambda m: next(values, 0.0), 0.0)
    assert result.trial == 0 and result.model is not model and result.model.prunings == 0
    assert str(result.log[0]) == "0. all 0: metric 0.9000, size 0; the floor is 0.9000"
    assert [t.sparsities["all"] for t in result.log] == [0.0, 0.2, 0.1, 0.05, 0.025]
    assert result.log[-1].decision == "all back to 0, rests"


def test_among_models_of_one_size_the_better_then_the_earlier_one_is_taken():
    values = iter([0.9, 0.88, 0.89, 0.89, 0.89, 0.89])
    result = prune_within(Labelled(), label, lambda m: next(values), 0.05, highest=1.0, size=lambda m: 5)
    assert result.trial == 0
    values = iter([0.87, 0.88, 0.89, 0.89, 0.89, 0.89])
    assert prune_within(Labelled(), label, lambda m: next(values), 0.05, highest=1.0, size=lambda m: 5).trial == 2


def test_a_real_model_shrinks_within_its_budget_and_by_what_the_log_says():
    """Agreement with the whole model's own tags is the metric; masks move, and the best model is compacted."""
    model = small_bert(torch.float32)
    tags = logits(model).argmax(-1)
    seen = []

    def agreement(candidate) -> float:
        return float((logits(candidate).argmax(-1) == tags).float().mean())

    def prune(candidate, sparsities):
        unmask(candidate)
        mask_by_plan(candidate, {f"*.{kind}": share for kind, share in sparsities.items()})

    result = prune_within(
        model, prune, agreement, 0.2, ("heads", "neurons"), step=0.25, finest=0.1, size=visible_parameters, progress=seen.append
    )
    assert seen == result.log and result.log[result.trial].size == visible_parameters(result.model) < parameter_count(model)
    assert agreement(result.model) == result.log[result.trial].metric >= 0.8
    compact(result.model)
    assert parameter_count(result.model) == result.log[result.trial].size
    assert agreement(model) == 1.0


def test_the_size_of_masked_weights_is_what_is_not_zero():
    def prune(candidate, sparsities):
        with torch.no_grad():
            candidate.weight.view(-1)[: round(100 * sparsities["all"])] = 0.0

    model = nn.Linear(10, 10, bias=False)
    result = prune_within(copy.deepcopy(model), prune, lambda m: 1.0, 0.0, highest=0.9)
    assert effective_parameters(result.model) == 10 and result.log[-1].sparsities == {"all": 0.9}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -0.1}, "budget = -0.1: expected a loss of the metric, at least 0"),
        ({"budget": float("nan")}, "budget = nan"),
        ({"step": 0.0}, r"finest, step = \(0.025, 0.0\): expected 0 < finest ≤ step ≤ 1"),
        ({"finest": 0.0}, "0 < finest ≤ step ≤ 1"),
        ({"step": 1.5}, "0 < finest ≤ step ≤ 1"),
        ({"highest": 1.2}, "highest = 1.2: expected a sparsity above 0, at most 1"),
        ({"highest": 0}, "highest = 0"),
        ({"knobs": ()}, r"knobs = \(\): expected different names, at least one"),
        ({"knobs": ("a", "a")}, "expected different names, at least one"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prune_within(Labelled(), label, lambda m: 1.0, **{"budget": 0.1, **options})


@pytest.mark.parametrize("values", [[float("nan")], [0.9, float("nan")], [0.9, float("inf")]])
def test_a_metric_that_is_no_number_is_refused(values):
    numbers = iter(values)
    with pytest.raises(ValueError, match=r"metric = (nan|inf): expected a finite number"):
        prune_within(Labelled(), label, lambda m: next(numbers), 0.1)


# A log, and going on from it


def zeroed(candidate: nn.Module, sparsities: dict[str, float]) -> None:
    """Magnitude pruning of each layer by its name, and a step that stands for recovery: it adds up from trial to trial."""
    with torch.no_grad():
        for name, share in sparsities.items():
            weight = candidate.get_submodule(name).weight
            weight.mul_(1.01)
            weight.view(-1)[weight.abs().view(-1).argsort()[: round(share * weight.numel())]] = 0.0


class Measured:
    """Agreement with the dense model's outputs, and how often it was asked for."""

    def __init__(self) -> None:
        self.model, self.x = layers(), torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.calls = 0

    def __call__(self, candidate: nn.Module) -> float:
        self.calls += 1
        with torch.inference_mode():
            return -float((candidate(self.x) - self.model(self.x)).abs().mean())


def layers(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).double()


def search(log, progress=None, model=None, **options) -> tuple[Adapted, int]:
    metric = Measured()
    options = {"budget": 0.2, "knobs": ("0", "1"), **options}
    return prune_within(model or layers(), zeroed, metric, log=log, progress=progress, **options), metric.calls


def same(a: Adapted, b: Adapted) -> bool:
    states = a.model.state_dict(), b.model.state_dict()
    return (a.trial, a.log) == (b.trial, b.log) and all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_a_search_that_was_stopped_anywhere_goes_on_to_the_same_end_and_measures_nothing_twice(tmp_path):
    whole, calls = search(tmp_path / "whole.json")
    count = len(whole.log)
    assert calls == count > 6 and {t.within for t in whole.log} == {True, False} and whole.trial > 0
    for last in range(count):
        path, seen = tmp_path / f"{last}.json", []

        def stop(trial: Trial, last=last) -> None:
            if trial.number == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(path, stop)
        resumed, calls = search(path, seen.append)
        assert same(resumed, whole)
        assert calls == count - last - 1 and seen == whole.log[last + 1 :]
        assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_log_changes_nothing_and_holds_every_trial(tmp_path):
    with_log, _ = search(tmp_path / "log.json")
    assert same(with_log, search(None)[0])
    stored = json.loads((tmp_path / "log.json").read_text())["trials"]
    assert [Trial(**trial) for trial in stored] == with_log.log


def test_a_finished_search_is_not_measured_again(tmp_path):
    first, _ = search(tmp_path / "log.json")
    again, calls = search(tmp_path / "log.json", pytest.fail)
    assert same(again, first) and calls == 0


@pytest.mark.parametrize(
    "other",
    [{"budget": 0.1}, {"knobs": ("1", "0")}, {"step": 0.3}, {"finest": 0.02}, {"highest": 0.9}, {"model": layers(seed=1)}],
    ids=lambda other: next(iter(other)),
)
def test_a_log_of_another_model_or_other_settings_is_refused_and_kept(tmp_path, other):
    search(tmp_path / "log.json")
    before = (tmp_path / "log.json").read_bytes()
    with pytest.raises(
        CourseError, match=r"log\.json: its decisions are of another model or other settings\. Give another file"
    ):
        search(tmp_path / "log.json", **other)
    assert (tmp_path / "log.json").read_bytes() == before
