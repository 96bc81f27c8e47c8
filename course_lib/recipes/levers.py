"""What each lever of a recipe is worth: a base recipe, then the same recipe with one thing changed, judged on validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from course_lib.artifacts import Cache, code_digest, digest, new_folder, read_json, write_json
from course_lib.errors import CourseError
from course_lib.recipes.recipe import FOLDER, STEPS, Recipe, load_recipe, parse_recipe, read_toml
from course_lib.recipes.space import recipe_toml

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
BASE = "the base recipe"
CODE = (  # what figures depend on beside the trained models
    "recipes/trial.py", "deploy/export.py", "deploy/embeddings.py", "deploy/norms.py", "deploy/benchmark.py", "deploy/worker.py",
)  # fmt: skip


@dataclass(frozen=True)
class Lever:
    """One change of a recipe.

    Attributes:
        name: for people.
        change: step's name → the fields that change; a step that the base lacks is put in its place.
        without: fields of steps that go, ``(step, field)``.
    """

    name: str
    change: Mapping[str, Mapping[str, object]]
    without: tuple[tuple[str, str], ...] = ()


LEVERS = (
    Lever(BASE, {}),
    Lever("hard labels alone, no teacher", {"distil": {"hard_weight": 1.0, "hidden_weight": 0.0}}),
    Lever("the teacher's logits, no hidden states", {"distil": {"hidden_weight": 0.0}}),
    Lever("and its relations of tokens", {"distil": {"relation_weight": 1.0}}),
    Lever("the labels of two teachers", {"distil": {"ensemble": 2}}),
    Lever("twice as many epochs", {"distil": {"epochs": 10}}),
    Lever("two changed copies of each sentence", {"distil": {"copies": 2}}),
    Lever("6 000 more sentences of generated text", {"distil": {"generated": 6000}}),
    Lever("a soup of two seeds", {"distil": {"soup": 2}}),
    Lever("five layers chosen by validation", {"drop_layers": {"count": 5}}, without=(("drop_layers", "keep"),)),
    Lever("the first five layers", {"drop_layers": {"keep": [0, 1, 2, 3, 4]}}),
    Lever("three layers chosen by validation", {"drop_layers": {"count": 3}}, without=(("drop_layers", "keep"),)),
    Lever("neurons scored by their weights", {"remove_ffn_neurons": {"score": "weight"}}),
    Lever("half as many neurons", {"remove_ffn_neurons": {"keep": 256}}),
    Lever("half of the heads", {"remove_heads": {"keep": 6}}),
    Lever("only the pieces of the training text", {"trim_vocabulary": {"characters": LETTERS}}),
    Lever("these pieces, and 128 positions", {"trim_vocabulary": {"characters": LETTERS, "positions": 128}}),
    Lever("the 2 000 most frequent pieces", {"trim_vocabulary": {"characters": LETTERS, "most": 2000}}),
    Lever("4-bit embeddings", {"quantize": {"embedding_bits": 4}}),
)


def changed(data: Mapping, lever: Lever) -> dict:
    """The base recipe's TOML data with the lever's change.

    Raises:
        CourseError: the base holds a step twice, so that it is unclear which one changes.
    """
    steps = {row["do"]: dict(row) for row in data["step"]}
    if len(steps) < len(data["step"]):
        raise CourseError(
            f"recipe {data['name']!r}: it has a step twice; expected each once, so that it is clear what changes."
        )
    for do, values in lever.change.items():
        steps[do] = {"do": do, **steps.get(do, {}), **values}
    for do, field in lever.without:
        steps[do].pop(field, None)
    return {**data, "step": sorted(steps.values(), key=lambda row: list(STEPS).index(row["do"]))}


def recipes(where: str) -> dict[str, Recipe]:
    """The recipe of each lever by its name.

    Args:
        where: a preset's name or a .toml file, the base.
    Raises:
        CourseError: see :func:`course_lib.recipes.recipe.load_recipe` and :func:`changed`.
    """
    load_recipe(where)  # says what is wrong with it
    path = Path(where) if where.endswith(".toml") else FOLDER / f"{where}.toml"
    data = read_toml(path)[1]
    made = {}
    for lever in LEVERS:
        own = changed(data, lever)
        made[lever.name] = replace(parse_recipe(path, "", own), text=recipe_toml(own))
    return made


def measure(
    cache: Cache, made_of: Sequence, each: Mapping[str, Recipe], judge: Callable[[Recipe], dict], progress
) -> list[dict]:
    """Judge every recipe; finished rows are kept in the cache, so that a stopped run goes on.

    Args:
        cache: where finished rows are kept.
        made_of: what figures depend on beside the recipe, JSON.
        judge: recipe → figures (:class:`course_lib.recipes.trial.Judge`).
        progress: called with each row.
    Returns:
        A row for each: ``lever``, the figures, and times brought to the base's by the teacher that took turns (``ms``).
    """
    rows = []
    for name, recipe in each.items():
        target = cache.path("lever", digest(made_of, code_digest(*CODE)), recipe.text)
        if not cache.ready(target):
            figures = judge(recipe)
            with new_folder(target) as folder:
                write_json(folder / "figures.json", figures)
        row = {"lever": name, **read_json(target / "figures.json")}
        row["ms"] = round(row["ms"] * (rows[0]["reference_ms"] / row["reference_ms"] if rows else 1.0), 4)
        rows.append(row)
        progress(row)
    return rows


def markdown(table: Mapping) -> str:
    """The table for people: what each lever changes against the base."""
    rows, base = table["rows"], table["rows"][0]
    lines = [
        "| changed against the base | F1 validation | points | MB | ms, batch 1 | times as fast |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        points = "–" if row is base else f"{100 * (row['f1'] - base['f1']):+.1f}"
        lines.append(
            f"| {row['lever']} | {row['f1']:.3f} | {points} | {row['bytes'] / 1e6:.1f} | {row['ms']:.2f} | {base['ms'] / row['ms']:.2f} |"
        )
    lines += [
        "",
        f"{table['data']['name']}, {table['date']}, recipe {table['recipe']}, seed {table['seed']}: one training each, so differences "
        f"below a point say little. The fp32 teacher has F1 {table['teacher_f1']:.3f} on validation. Times: ONNX Runtime int8, one "
        f"sentence, {table['machine']['threads']} threads, {table['machine']['cpu']}, taking turns with the teacher in int8.",
    ]
    return "\n".join(lines) + "\n"
