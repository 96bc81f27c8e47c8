"""Plans: what a pattern matches, what is left alone and why, and what is an error."""

import pytest
from torch import nn

from course_lib.errors import CourseError
from course_lib.plan import Matches, match, replace_module


class Loud(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """A subclass that only carries another name."""


def network() -> nn.Module:
    return nn.ModuleDict(
        {
            "words": nn.Embedding(7, 4),
            "layers": nn.ModuleList([nn.Linear(4, 4), Renamed(4, 4), Loud(4, 4)]),
            "head": nn.Linear(4, 7, bias=False),
        }
    )


def test_names_and_patterns_in_the_models_order():
    found = match(network(), {"head": "a", "layers.?": "b"}).found
    assert [(name, config) for name, (_, config) in found.items()] == [("layers.0", "b"), ("layers.1", "b"), ("head", "a")]
    assert [type(m) for m, _ in found.values()] == [nn.Linear, Renamed, nn.Linear]


def test_a_star_reaches_through_dots_and_kinds_choose():
    assert list(match(network(), {"*": 1}, (nn.Embedding,)).found) == ["words"]
    assert list(match(network(), {"*": 1}, (nn.Embedding, nn.Linear)).found) == ["words", "layers.0", "layers.1", "head"]


def test_a_subclass_with_its_own_forward_is_named_as_skipped():
    assert match(network(), {"*": 1}).skipped == ["layers.2: Loud is a Linear with a forward of its own"]
    with pytest.raises(CourseError, match=r"'layers.2' matches only modules that must be left alone \(layers.2: Loud"):
        match(network(), {"layers.2": 1, "head": 2})


def test_tied_weights_are_named_as_skipped():
    model = network()
    model["head"].weight = model["words"].weight
    matches = match(model, {"*": 1})
    assert list(matches.found) == ["layers.0", "layers.1"]
    assert "head: its weight is tied to words" in matches.skipped
    with pytest.raises(CourseError, match="head: its weight is tied to words"):
        match(model, {"head": 1})


def test_one_module_under_two_names_counts_as_tied():
    model = network()
    model["again"] = model["layers"][0]
    assert match(model, {"layers.*": 1}).skipped[0] == "layers.0: its weight is tied to again"


@pytest.mark.parametrize(
    "plan, message",
    [
        ({}, "at least one module name"),
        ({"laiers.0": 1}, r"'laiers.0' matches nothing in ModuleDict; expected a name like layers.0"),
        ({"nonsense": 1}, r"'nonsense' matches nothing"),
        ({"words": 1}, r"'words' matches no Linear; what it matches is a Embedding \(words\)"),
        ({"*": 1, "head": 2}, r"head is matched by '\*' and by 'head'"),
    ],
)
def test_bad_plans_are_errors(plan, message):
    with pytest.raises((CourseError, ValueError), match=message):
        match(network(), plan)


def test_a_module_is_replaced_in_place():
    model, new = network(), nn.Linear(4, 2)
    replace_module(model, "layers.1", new)
    assert model["layers"][1] is new
    replace_module(model, "head", new)
    assert model["head"] is new
    with pytest.raises(ValueError, match="the name of a module inside"):
        replace_module(model, "", new)


def test_matches_are_the_modules_and_their_configurations_in_the_models_order():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert match(model, {"2": "b", "0": "a"}) == Matches({"0": (model[0], "a"), "2": (model[2], "b")}, [])
