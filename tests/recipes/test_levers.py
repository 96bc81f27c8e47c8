"""Levers: each changes one thing of the base recipe, finished rows are kept, and the table says what they are worth."""

import json

import pytest

from course_lib.artifacts import Cache
from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.recipes import levers
from course_lib.recipes.levers import BASE, LEVERS, Lever, changed, markdown, measure, recipes
from course_lib.recipes.recipe import Distil, DropLayers, RemoveHeads, TrimVocabulary, check_fit, load_recipe

GOOD = "Ana\tB-PER\nleft\tO\nOslo\tB-LOC\n\nBob\tB-PER\nstayed\tO\n\n" * 12
SMALL = """name = "base"
[teacher]
epochs = 1
batch_size = 8
[[step]]
do = "drop_layers"
keep = [0]
[[step]]
do = "distil"
epochs = 1
batch_size = 8
hidden_weight = 1.0
[[step]]
do = "quantize"
"""


def test_the_base_is_the_preset_and_every_lever_a_recipe_of_its_own_that_fits_the_encoder():
    each = recipes("quick")
    assert list(each) == [lever.name for lever in LEVERS] and next(iter(each)) == BASE
    assert each[BASE].steps == load_recipe("quick").steps
    assert len({repr(r.steps) for r in each.values()}) == len(LEVERS)
    assert len({r.text for r in each.values()}) == len(LEVERS)
    assert {r.teacher for r in each.values()} == {load_recipe("quick").teacher}
    for recipe in each.values():
        check_fit(recipe, layers=6, neurons=1536, heads=12)


def test_a_lever_changes_what_it_names_and_nothing_else():
    each, base = recipes("quick"), load_recipe("quick")
    for name, kind in (("half of the heads", RemoveHeads), ("128 positions", TrimVocabulary)):
        (recipe,) = (r for n, r in each.items() if name in n)
        assert [s for s in recipe.steps if not isinstance(s, kind)] == list(base.steps)
    (recipe,) = (r for n, r in each.items() if "five layers chosen" in n)
    assert recipe.of(DropLayers)[0] == DropLayers(count=5)
    (distil,), (was,) = each["twice as many epochs"].of(Distil), base.of(Distil)
    assert distil.epochs == 2 * was.epochs


def test_a_base_with_a_step_twice_is_refused():
    data = {"name": "two", "step": [{"do": "drop_layers", "keep": [0, 1]}, {"do": "drop_layers", "keep": [0]}]}
    with pytest.raises(CourseError, match="'two': it has a step twice"):
        changed(data, Lever("any", {}))


def test_finished_rows_are_kept_and_times_are_brought_to_the_base_by_the_teacher_timed_beside(tmp_path):
    each = dict(list(recipes("quick").items())[:3])
    slow, asked = iter([1.0, 2.0, 4.0]), []

    def judge(recipe):
        asked.append(recipe.text)
        factor = next(slow)
        return {"f1": 0.5, "loss": 0.0, "bytes": 10, "ms": 0.5 * factor, "reference_ms": 3.0 * factor}

    seen = []
    rows = measure(Cache(tmp_path), ["a"], each, judge, seen.append)
    assert rows == seen and [r["ms"] for r in rows] == [0.5, 0.5, 0.5] and [r["lever"] for r in rows] == list(each)
    assert measure(Cache(tmp_path), ["a"], each, judge, seen.append) == rows and len(asked) == 3
    with pytest.raises(StopIteration):  # made of something else, it is judged anew
        measure(Cache(tmp_path), ["b"], each, judge, seen.append)


def test_the_table_shows_differences_from_the_base():
    rows = [
        {"lever": BASE, "f1": 0.8, "bytes": 2_000_000, "ms": 0.5},
        {"lever": "less", "f1": 0.79, "bytes": 1_000_000, "ms": 0.25},
    ]
    table = {
        "rows": rows, "data": {"name": "made up"}, "date": "2026-01-31", "recipe": "quick", "seed": 0, "teacher_f1": 0.81,
        "machine": {"threads": 2, "cpu": "a slow one"},
    }  # fmt: skip
    assert "| less | 0.790 | -1.0 | 1.0 | 0.25 | 2.00 |" in markdown(table)


def test_the_command_trains_each_and_writes_the_table(tmp_path, monkeypatch, capsys):
    (tmp_path / "small").mkdir()
    for split in ("train", "dev", "test"):
        (tmp_path / "small" / f"{split}.txt").write_text(GOOD, "utf-8")
    (tmp_path / "base.toml").write_text(SMALL)
    monkeypatch.setattr(levers, "LEVERS", (Lever(BASE, {}), Lever("hard labels", {"distil": {"hidden_weight": 0.0}})))
    monkeypatch.chdir(tmp_path)
    options = ["levers", "--data", "small", "--encoder", "tiny", "--recipe", "base.toml", "--threads", "1"]
    with pytest.raises(SystemExit) as done:
        main(options)
    assert done.value.code == 0
    table = json.loads((tmp_path / "artifacts" / "levers-small.json").read_text())
    assert [r["lever"] for r in table["rows"]] == [BASE, "hard labels"] and all(r["ms"] > 0 for r in table["rows"])
    out, err = capsys.readouterr()
    assert out == (tmp_path / "artifacts" / "levers-small.md").read_text() and "student: " in err
    with pytest.raises(SystemExit) as done:
        main([*options, "--only", "nothing"])
    assert done.value.code == 2 and "there are: the base recipe; hard labels" in capsys.readouterr().err
