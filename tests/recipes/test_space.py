"""Search spaces: lists in the place of values, and the plain recipes they stand for."""

import random
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.errors import CourseError
from course_lib.recipes.recipe import Distil, DropLayers, RemoveFfnNeurons, load_recipe
from course_lib.recipes.space import load_space, recipe_toml

SPACE = """name = "mine"
[teacher]
epochs = 3
[[step]]
do = "drop_layers"
keep = [[0, 1], [0]]
[[step]]
do = "remove_ffn_neurons"
keep = [16, 32, 48]
score = "weight"
[[step]]
do = "distil"
temperature = [1.0, 2.0]
hard_weight = 0.5
[[step]]
do = "quantize"
per_channel = [true, false]
"""


@pytest.fixture
def space(tmp_path):
    def load(text=SPACE):
        (tmp_path / "mine.toml").write_text(text, "utf-8")
        return load_space(str(tmp_path / "mine.toml"))

    return load


def test_a_value_one_list_deeper_than_its_field_is_a_choice(space):
    found = space()
    assert {name: choice.values for name, choice in found.choices.items()} == {
        "drop_layers.keep": ([0, 1], [0]),
        "remove_ffn_neurons.keep": (16, 32, 48),
        "distil.temperature": (1.0, 2.0),
        "quantize.per_channel": (True, False),
    }
    assert found.name == "mine" and found.size == 2 * 3 * 2 * 2


def test_picked_values_make_a_plain_recipe_that_reads_back_the_same(space, tmp_path):
    found = space()
    for seed in range(20):
        picked = found.draw(random.Random(seed))
        recipe = found.recipe(picked, "best")
        (tmp_path / "best.toml").write_text(recipe.text, "utf-8")
        assert load_recipe(str(tmp_path / "best.toml")) == recipe
        assert recipe.name == "best" and recipe.of(DropLayers)[0].keep == picked["drop_layers.keep"]
        assert recipe.of(RemoveFfnNeurons)[0] == RemoveFfnNeurons(picked["remove_ffn_neurons.keep"], "weight")
        assert recipe.of(Distil)[0].temperature == picked["distil.temperature"]
    assert found.data == tomllib.loads(SPACE), "the space is as it was"


def test_each_value_occurs_among_the_recipes_that_are_looked_at_beforehand(space):
    recipes = list(space().each())
    assert {tuple(r.of(DropLayers)[0].keep) for r in recipes} == {(0, 1), (0,)}
    assert {r.of(RemoveFfnNeurons)[0].keep for r in recipes} == {16, 32, 48}
    assert len(recipes) == 1 + 1 + 2 + 1 + 1


def test_a_step_that_occurs_twice_has_choices_of_its_own(space):
    twice = SPACE.replace(
        '[[step]]\ndo = "remove', '[[step]]\ndo = "drop_layers"\nkeep = [[0], [1]]\n[[step]]\ndo = "remove', 1
    )
    found = space(twice)
    assert found.choices["drop_layers.keep"].step == 0 and found.choices["step 2 drop_layers.keep"].step == 1
    picked = found.draw(random.Random(0)) | {"drop_layers.keep": [0, 1], "step 2 drop_layers.keep": [1]}
    assert [s.keep for s in found.recipe(picked).of(DropLayers)] == [[0, 1], [1]]


def test_the_shipped_space_is_one():
    assert load_space("auto").size > 1
    with pytest.raises(CourseError, match="makes a search space, for `course search --space FILE`"):
        load_recipe("auto")


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("keep = [16, 32, 48]", "keep = [16, 0]", r"step 2 \(remove_ffn_neurons\): keep = 0; expected at least 1 neuron"),
        ("keep = [16, 32, 48]", 'keep = [16, "many"]', r"keep = 'many'; expected int"),
        ("keep = [16, 32, 48]", "keep = []", r"remove_ffn_neurons\.keep = \[\]; expected values to choose from, each once"),
        ("keep = [16, 32, 48]", "keep = [16, 16]", r"keep = \[16, 16\]; expected values to choose from, each once"),
        ("keep = [[0, 1], [0]]", "keep = [[0, 1], [1, 0]]", r"keep = \[1, 0\]; expected at least one layer number"),
        ("epochs = 3", "epochs = [3, 4]", r"\[teacher\]: epochs = \[3, 4\]; expected one value"),
        ("temperature", "temprature", "unknown field 'temprature'.* Did you mean 'temperature'"),
        ('do = "quantize"', 'do = "quantise"', "Did you mean 'quantize'"),
        (SPACE, "[teacher", "not TOML"),
        (SPACE, "teacher = 3", r"\[teacher\] = 3; expected a table"),
        (SPACE, "step = 3", r"\[\[step\]\] = 3; expected a table"),
        (SPACE, "step = [3]", r"\[\[step\]\] = 3; expected a table"),
        (SPACE, 'name = 3\n[[step]]\ndo = "distil"\n', "name = 3; expected a text"),
        ('name = "mine"', 'name = "a/b"', "name = 'a/b'; expected letters, digits"),
        (SPACE, 'step = { do = "distil" }', "expected the steps in the order"),
        (SPACE, '[[step]]\ndo = "distil"\n[[step]]\ndo = "quantize"\n', "nothing to choose"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(old, new, said, space):
    assert SPACE.count(old) == 1
    with pytest.raises(CourseError, match=rf"mine\.toml.*{said}"):
        space(SPACE.replace(old, new))


def test_a_missing_space_lists_the_presets():
    with pytest.raises(CourseError, match=r"not found. Expected a preset .*auto.* Did you mean 'auto'"):
        load_space("autoo")


scalars = st.one_of(
    st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text(st.characters(codec="utf-8"))
)


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.one_of(scalars, st.lists(scalars, max_size=3))), st.text()
)
def test_toml_written_is_read_as_the_same(row, name):
    data = {"name": name, "teacher": row, "step": [row, {"do": "x", "table": {"a b": [row.get("a", 1)]}}]}
    assert tomllib.loads(recipe_toml(data)) == data
