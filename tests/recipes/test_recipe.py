"""Recipes: what a file may say, and that whatever it may not say is refused before anything runs."""

import re
import tomllib

import pytest

from course_lib.errors import CourseError
from course_lib.recipes.recipe import (
    FOLDER,
    STEPS,
    Distil,
    DropLayers,
    Quantize,
    RemoveFfnNeurons,
    Training,
    check_fit,
    load_recipe,
)

GOOD = """name = "mine"
[teacher]
epochs = 3
learning_rate = 1e-3
patience = 2
[[step]]
do = "drop_layers"
keep = [0, 2]
[[step]]
do = "remove_ffn_neurons"
keep = 16
score = "weight"
[[step]]
do = "distil"
temperature = 3
[[step]]
do = "quantize"
reduce_range = true
"""


@pytest.fixture
def load(tmp_path):
    def load(text, name="mine.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_recipe(str(path))

    return load


def test_a_file_becomes_the_steps_it_lists_with_defaults_for_the_rest(load):
    recipe = load(GOOD)
    assert (recipe.name, recipe.text) == ("mine", GOOD)
    assert recipe.teacher == Training(epochs=3, batch_size=32, learning_rate=1e-3, patience=2)
    assert recipe.steps == (DropLayers([0, 2]), RemoveFfnNeurons(16, "weight"), Distil(temperature=3), Quantize(True, True))
    assert recipe.of(Quantize) == [Quantize(True, True)]
    assert load(GOOD.replace('name = "mine"\n', ""), "other.toml").name == "other"


@pytest.mark.parametrize("preset", sorted(p.stem for p in FOLDER.glob("*.toml") if p.stem != "auto"))
def test_every_preset_loads_and_says_all_its_fields(preset):
    recipe = load_recipe(preset)
    assert recipe.name == preset
    rows = tomllib.loads(recipe.text)["step"]
    assert [STEPS[row["do"]] for row in rows] == [type(s) for s in recipe.steps]
    for row, step in zip(rows, recipe.steps, strict=True):
        assert {k: v for k, v in row.items() if k != "do"}.items() <= vars(step).items()


def test_cuts_may_be_left_out_and_repeated_but_not_distillation_or_int8(load):
    cut = '[[step]]\ndo = "drop_layers"\nkeep = [0, 1]\n'
    rest = '[[step]]\ndo = "distil"\n[[step]]\ndo = "quantize"\n'
    assert [type(s) for s in load(rest).steps] == [Distil, Quantize]
    assert [type(s) for s in load(cut * 2 + rest).steps] == [DropLayers, DropLayers, Distil, Quantize]
    for text in ("", cut, rest * 2, '[[step]]\ndo = "distil"\n', '[[step]]\ndo = "quantize"\n', rest + cut):
        with pytest.raises(CourseError, match=r"mine\.toml: expected the steps in the order .*one distil and one quantize"):
            load(text)


def test_a_missing_recipe_lists_the_presets():
    for where in ("faster", "no/such.toml", "quick.toml", "../recipes"):
        with pytest.raises(CourseError, match=rf"--recipe {re.escape(where)}: not found. Expected a preset \(.*quick.*\) or a"):
            load_recipe(where)


# what is put where, and what the message must hold: the place, the value found and what was expected
WRONG = [
    ("[teacher]", "[teacher", ["not TOML"]),
    ("mine", "m\xe9".encode("latin-1"), ["not TOML", "utf-8"]),
    ('name = "mine"', 'nome = "mine"', ["['nome']", "expected name, [teacher] and [[step]]"]),
    ('name = "mine"', "name = 3", ["name = 3", "a text"]),
    ("[teacher]\nepochs = 3\nlearning_rate = 1e-3\npatience = 2", "teacher = 3", ["[teacher] = 3", "a table"]),
    (GOOD, "step = 3", ["[[step]] = 3", "a table"]),
    (GOOD, "step = [3]", ["[[step]] = 3", "a table"]),
    ('do = "quantize"', 'do = "shrink"', ["step 4", "do = 'shrink'", "'quantize'"]),
    ('do = "quantize"', "do = [1]", ["step 4", "do = [1]", "'quantize'"]),
    ('do = "quantize"\n', "", ["step 4", "do = None", "'quantize'"]),
    ("keep = 16", "keap = 16", ["step 2 (remove_ffn_neurons)", "'keap'", "'keep'"]),
    ("keep = 16\n", "", ["step 2 (remove_ffn_neurons)", "keep is missing"]),
    ("keep = 16", 'keep = "many"', ["step 2", "keep = 'many'", "int"]),
    ("keep = 16", "keep = true", ["step 2", "keep = True", "int"]),
    ("keep = 16", "keep = 1.5", ["step 2", "keep = 1.5", "int"]),
    ("keep = 16", "keep = 0", ["step 2", "keep = 0", "at least 1 neuron"]),
    ("keep = 16", "keep = [16]", ["step 2", "keep = [16]", "int"]),
    ("keep = [0, 2]", "keep = 2", ["step 1", "keep = 2", "list[int]"]),
    ("keep = [0, 2]", "keep = []", ["step 1", "keep = []", "at least one layer number"]),
    ("keep = [0, 2]", "keep = [2, 0]", ["step 1", "[2, 0]", "ascending"]),
    ("keep = [0, 2]", "keep = [0, 0]", ["step 1", "[0, 0]", "ascending"]),
    ("keep = [0, 2]", "keep = [-1]", ["step 1", "[-1]", "from 0"]),
    ("keep = [0, 2]", 'keep = ["a"]', ["step 1", "['a']", "layer number"]),
    ("keep = [0, 2]", "keep = [true]", ["step 1", "[True]", "layer number"]),
    ('score = "weight"', 'score = "luck"', ["step 2", "score = 'luck'", "'taylor' or 'weight'"]),
    ('score = "weight"', "sentences = 0", ["step 2", "sentences = 0", "at least 1"]),
    ("temperature = 3", "temperature = 0", ["step 3 (distil)", "temperature = 0", "above 0"]),
    ("temperature = 3", "temperature = nan", ["step 3", "temperature = nan", "above 0"]),
    ("temperature = 3", "temperature = inf", ["step 3", "temperature = inf", "above 0"]),
    ("temperature = 3", "hard_weight = 1.5", ["step 3", "hard_weight = 1.5", "fraction"]),
    ("temperature = 3", "hard_weight = -0.1", ["step 3", "hard_weight = -0.1", "fraction"]),
    ("temperature = 3", "hidden_weight = -1", ["step 3", "hidden_weight = -1", "at least 0"]),
    ("temperature = 3", "freeze_embeddings = 1", ["step 3", "freeze_embeddings = 1", "bool"]),
    ("temperature = 3", "batch_size = 0", ["step 3", "batch_size = 0", "at least 1"]),
    ("temperature = 3", "learning_rate = 5", ["step 3", "learning_rate = 5", "between 0 and 1"]),
    ("temperature = 3", "learning_rate = true", ["step 3", "learning_rate = True", "float"]),
    ("epochs = 3", "epochs = -3", ["[teacher]", "epochs = -3", "at least 1"]),
    ("epochs = 3", "epochs = 0", ["[teacher]", "epochs = 0", "at least 1"]),
    ("epochs = 3", 'epochs = "3"', ["[teacher]", "epochs = '3'", "int"]),
    ("patience = 2", "patience = 0", ["[teacher]", "patience = 0", "at least 1"]),
    ("reduce_range = true", "reduce_range = 1", ["step 4 (quantize)", "reduce_range = 1", "bool"]),
]


@pytest.mark.parametrize("old, new, said", WRONG, ids=[str(new)[:30] for _, new, _ in WRONG])
def test_what_is_wrong_is_said_with_place_value_and_expectation(old, new, said, load):
    assert GOOD.count(old) == 1
    text = GOOD.encode().replace(old.encode(), new if isinstance(new, bytes) else new.encode())
    with pytest.raises(CourseError) as caught:
        load(text)
    for part in ("mine.toml", *said):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "old, new, meant",
    [
        ('do = "quantize"', 'do = "quantise"', "quantize"),
        ('do = "remove_ffn_neurons"', 'do = "remove_ffn_neuron"', "remove_ffn_neurons"),
        ("temperature = 3", "temprature = 3", "temperature"),
        ("epochs = 3", "epoch = 3", "epochs"),
        ("[teacher]", "[techer]", "teacher"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_right_one(old, new, meant, load):
    with pytest.raises(CourseError, match=f" Did you mean '{meant}'\\?$"):
        load(GOOD.replace(old, new))


def test_a_misspelt_preset_is_answered_with_the_right_one_and_a_far_fetched_name_with_none():
    with pytest.raises(CourseError, match=r" Did you mean 'quick'\?$"):
        load_recipe("quik")
    with pytest.raises(CourseError, match=r"or a \.toml file\.$"):
        load_recipe("zebra")


@pytest.mark.parametrize("old, new", [("keep = 16", "keep = [16, 32]"), ("keep = [0, 2]", "keep = [[0], [0, 2]]")])
def test_a_search_space_is_no_recipe_and_the_message_names_the_command_for_it(old, new, load):
    with pytest.raises(CourseError, match=r"makes a search space, for `course search --space FILE`"):
        load(GOOD.replace(old, new))


def test_whole_numbers_serve_where_fractions_are_meant(load):
    assert load(GOOD.replace("temperature = 3", "hard_weight = 1")).of(Distil) == [Distil(hard_weight=1)]


def test_a_recipe_fits_the_encoder_it_is_for(load):
    recipe = load(GOOD)
    check_fit(recipe, layers=3, neurons=16, heads=4)
    with pytest.raises(CourseError, match=r"recipe 'mine': drop_layers keeps \[0, 2\], but there are only layers 0 to 1"):
        check_fit(recipe, layers=2, neurons=16, heads=4)
    with pytest.raises(CourseError, match="recipe 'mine': remove_ffn_neurons keeps 16, but a layer has only 15 neurons"):
        check_fit(recipe, layers=3, neurons=15, heads=4)


def test_each_cut_must_fit_what_the_one_before_left(load):
    again = '[[step]]\ndo = "drop_layers"\nkeep = [{}]\n[[step]]\ndo = "remove_ffn_neurons"'
    check_fit(load(GOOD.replace('[[step]]\ndo = "remove_ffn_neurons"', again.format(1))), layers=3, neurons=16, heads=4)
    with pytest.raises(CourseError, match="layers 0 to 1"):
        check_fit(load(GOOD.replace('[[step]]\ndo = "remove_ffn_neurons"', again.format(2))), layers=3, neurons=16, heads=4)
