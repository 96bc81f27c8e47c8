"""A search space: a recipe in whose steps a field may list several values to choose from."""

import copy
import json
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.recipes.recipe import FOLDER, STEPS, Recipe, declared_depth, depth, load_recipe, parse_recipe, read_toml


@dataclass(frozen=True)
class Choice:
    """A field with several values.

    Attributes:
        step: which step of the recipe, from 0.
        field: of the step.
        values: to choose from.
    """

    step: int
    field: str
    values: tuple


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        path: where it was read from.
        name: its name.
        data: what TOML read.
        choices: fields with several values, by names for people such as ``drop_layers.keep``.
    """

    path: Path
    name: str
    data: dict
    choices: dict[str, Choice]

    @property
    def size(self) -> int:
        """How many recipes there are in it."""
        return math.prod(len(c.values) for c in self.choices.values())

    def recipe(self, picked: Mapping[str, object], name: str | None = None) -> Recipe:
        """The recipe with these values, as a plain TOML text.

        Args:
            picked: a value for each of :attr:`choices`.
            name: of the recipe; None: that of the space.
        Raises:
            CourseError: see :func:`course_lib.recipes.recipe.load_recipe`.
        """
        data = copy.deepcopy(self.data) | {"name": name or self.name}
        for key, choice in self.choices.items():
            data["step"][choice.step][choice.field] = picked[key]
        return replace(parse_recipe(self.path, "", data), text=recipe_toml(data))

    def each(self) -> Iterator[Recipe]:
        """Recipes among which each value occurs: enough to look at every value before anything is trained."""
        first = {key: choice.values[0] for key, choice in self.choices.items()}
        yield self.recipe(first)
        yield from (self.recipe(first | {key: value}) for key, choice in self.choices.items() for value in choice.values[1:])

    def draw(self, rng: random.Random) -> dict[str, object]:
        """Values drawn at random, one for each choice."""
        return {key: rng.choice(choice.values) for key, choice in self.choices.items()}


def load_space(where: str) -> Space:
    """Read a search space: a preset's name (``auto``) or a TOML file.

    A field of a step is a choice when its value is nested one list deeper than the field itself: ``keep = [256, 512]`` of
    ``remove_ffn_neurons``, ``keep = [[0, 2], [0, 1, 2]]`` of ``drop_layers``.

    Raises:
        CourseError: what :func:`load_recipe` refuses, for any of the values; or nothing to choose.
    """
    path = Path(where) if where.endswith(".toml") else FOLDER / f"{where}.toml"
    if not path.is_file():
        load_recipe(where)  # says what there is
    data = read_toml(path)[1]
    steps = data["step"] = [data["step"]] if isinstance(data.get("step"), dict) else data.get("step", [])
    for field, value in data["teacher"].items() if isinstance(data.get("teacher"), dict) else ():
        if isinstance(value, list):
            raise CourseError(
                f"{path}, [teacher]: {field} = {value!r}; expected one value: students are judged by one teacher."
            )
    choices: dict[str, Choice] = {}
    for number, row in enumerate(steps if isinstance(steps, list) else []):
        kind = STEPS.get(row.get("do")) if isinstance(row, dict) and isinstance(row.get("do"), str) else None
        for field in fields(kind) if kind else ():
            value = row.get(field.name)
            if depth(value) > declared_depth(field.type):
                key = f"{row['do']}.{field.name}"
                key = key if key not in choices else f"step {number + 1} {key}"
                if not value or any(value.count(v) > 1 for v in value):
                    raise CourseError(f"{path}: {key} = {value!r}; expected values to choose from, each once.")
                choices[key] = Choice(number, field.name, tuple(value))
    space = Space(path, data.get("name", path.stem), data, choices)
    list(space.each())
    if not re.fullmatch(r"[\w.-]+", space.name):
        raise CourseError(f"{path}: name = {space.name!r}; expected letters, digits, - and _: it names files.")
    if space.size < 2:
        raise CourseError(
            f"{path}: nothing to choose. In a search space a field of a step lists its values, such as keep = [256, 512] of "
            "remove_ffn_neurons."
        )
    return space


def recipe_toml(data: dict) -> str:
    """A recipe as TOML text: name, [teacher], and a [[step]] for each.

    >>> print(recipe_toml({"name": "a", "step": [{"do": "drop_layers", "keep": [0, 2]}]}), end="")
    name = "a"
    <BLANKLINE>
    [[step]]
    do = "drop_layers"
    keep = [0, 2]
    """
    parts = [[f"name = {_value(data['name'])}"]]
    for head, rows in (("[teacher]", [data["teacher"]] if "teacher" in data else []), ("[[step]]", data.get("step", []))):
        parts += [[head, *(f"{key} = {_value(value)}" for key, value in row.items())] for row in rows]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(k)} = {_value(v)}' for k, v in value.items())} }}"
    if isinstance(value, str):  # a JSON text is a TOML one, but for this character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value).lower() if isinstance(value, bool) else repr(value)
