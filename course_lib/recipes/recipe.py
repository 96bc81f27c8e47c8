"""A compression recipe: an ordered list of steps as a TOML file, checked before anything runs."""

import tomllib
from dataclasses import MISSING, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import get_args, get_origin

from course_lib.errors import CourseError, did_you_mean

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Training:
    """How a model of the recipe is trained (see :class:`course_lib.ner.train.Settings`)."""

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-4
    freeze_embeddings: bool = False
    patience: int | None = None


@dataclass(frozen=True)
class DropLayers:
    """Keep only some encoder layers.

    Attributes:
        keep: their numbers, from 0; or
        count: how many, and which ones is chosen by validation F1 among all choices, before anything is trained again.
    """

    keep: list[int] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class RemoveHeads:
    """Keep this many attention heads per layer, those with the highest Taylor scores."""

    keep: int
    sentences: int = 512


@dataclass(frozen=True)
class RemoveFfnNeurons:
    """Keep this many feed-forward neurons per layer, chosen by ``score`` (``taylor`` or ``weight``)."""

    keep: int
    score: str = "taylor"
    sentences: int = 512


@dataclass(frozen=True)
class TrimVocabulary:
    """Keep only the word pieces that the training text needs, special ones, and single characters.

    The training text is then cut as before, so that what the teacher says of its pieces holds for the student's.

    Attributes:
        characters: the single characters to keep; "" keeps all that the vocabulary has.
        most: how many of the pieces that occur to keep, the most frequent ones; 0 keeps all. Words whose pieces go are spelt
            with shorter ones.
        positions: how many positions to keep, special pieces included; 0 keeps all. Longer sentences are read in windows.
    """

    characters: str = ""
    most: int = 0
    positions: int = 0


@dataclass(frozen=True)
class Distil:
    """Train on what the teacher says and on hard labels:

    ``(1 − hard_weight)·KD + hard_weight·CE + hidden_weight·hidden + relation_weight·relations``.

    Attributes:
        temperature: of the soft labels.
        hard_weight: of the corpus's own labels, where a sentence has any.
        hidden_weight: of the last hidden states.
        relation_weight: of the relations between the last layer's value vectors.
        ensemble: teachers whose logits are averaged: the teacher, and others trained alike with the next seeds.
        copies: changed copies of each training sentence that the teacher labels (:mod:`course_lib.data.augment`).
        generated: sentences of the generated corpus that the teacher labels.
        text: a file of plain text, a sentence or paragraph per line, that the teacher labels; "" is none.
        soup: students trained with this many seeds, whose weights are averaged where validation F1 gains from it.
    """

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-4
    temperature: float = 2.0
    hard_weight: float = 0.2
    hidden_weight: float = 0.0
    relation_weight: float = 0.0
    freeze_embeddings: bool = False
    patience: int | None = None
    ensemble: int = 1
    copies: int = 0
    generated: int = 0
    text: str = ""
    soup: int = 1


@dataclass(frozen=True)
class Quantize:
    """Dynamic int8 in ONNX Runtime; the word embeddings in 8 or in 4 bits (a scale per 32 numbers)."""

    per_channel: bool = True
    reduce_range: bool = False
    embedding_bits: int = 8


ALLOWED = {  # beyond its type, what a field must be
    "epochs": (lambda v: v >= 1, "at least 1"),
    "batch_size": (lambda v: v >= 1, "at least 1"),
    "learning_rate": (lambda v: 0 < v < 1, "a number between 0 and 1, such as 5e-4"),
    "patience": (lambda v: v >= 1, "at least 1 epoch"),
    "temperature": (lambda v: 0 < v < inf, "a number above 0"),
    "hidden_weight": (lambda v: 0 <= v < inf, "a weight of at least 0"),
    "relation_weight": (lambda v: 0 <= v < inf, "a weight of at least 0"),
    "ensemble": (lambda v: v >= 1, "at least 1 teacher"),
    "soup": (lambda v: v >= 1, "at least 1 student"),
    "copies": (lambda v: v >= 0, "at least 0"),
    "generated": (lambda v: v >= 0, "at least 0 sentences"),
    "most": (lambda v: v >= 0, "at least 0 pieces; 0 keeps all that occur"),
    "positions": (lambda v: v == 0 or v >= 16, "at least 16 positions, or 0 for all"),
    "count": (lambda v: v >= 0, "how many layers to keep"),
    "embedding_bits": (lambda v: v in (4, 8), "4 or 8"),
    "hard_weight": (lambda v: 0 <= v <= 1, "a fraction between 0 and 1"),
    "sentences": (lambda v: v >= 1, "at least 1"),
    "score": (lambda v: v in ("taylor", "weight"), "'taylor' or 'weight'"),
    "RemoveFfnNeurons.keep": (lambda v: v >= 1, "at least 1 neuron"),
    "RemoveHeads.keep": (lambda v: v >= 1, "at least 1 head"),
    "DropLayers.keep": (lambda v: _ascending(v), "at least one layer number, from 0, in ascending order"),
}


def _ascending(keep: list) -> bool:
    return bool(keep) and all(type(i) is int and i >= 0 for i in keep) and keep == sorted(set(keep))


STEPS = {
    "trim_vocabulary": TrimVocabulary, "drop_layers": DropLayers, "remove_heads": RemoveHeads, "remove_ffn_neurons": RemoveFfnNeurons,
    "distil": Distil, "quantize": Quantize,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A recipe and the text it was read from."""

    name: str
    teacher: Training
    steps: tuple[object, ...]
    text: str

    def of(self, kind: type) -> list:
        """The steps of one kind, in order."""
        return [s for s in self.steps if isinstance(s, kind)]


def load_recipe(where: str) -> Recipe:
    """Read a recipe: a preset's name (``quick``) or a TOML file.

    Raises:
        CourseError: not found, not TOML, an unknown or missing step or field, a value of the wrong type or range.
    """
    path = Path(where) if where.endswith(".toml") else FOLDER / f"{where}.toml"
    if not path.is_file():
        presets = sorted(p.stem for p in FOLDER.glob("*.toml"))
        meant = did_you_mean(path.stem, presets)
        raise CourseError(f"--recipe {where}: not found. Expected a preset ({', '.join(presets)}) or a .toml file.{meant}")
    return parse_recipe(path, *read_toml(path))


def read_toml(path: Path) -> tuple[str, dict]:
    """The text of a TOML file and what it says.

    Raises:
        CourseError: not UTF-8, or not TOML.
    """
    try:
        text = path.read_text("utf-8")
        return text, tomllib.loads(text)
    except ValueError as error:
        raise CourseError(f"{path}: not TOML: {error}.") from error


def parse_recipe(path: Path, text: str, data: dict) -> Recipe:
    """A recipe from its text and what TOML reads in it; ``path`` is for messages, and names it if the text does not.

    Raises:
        CourseError: see :func:`load_recipe`.
    """
    unknown = sorted(set(data) - {"name", "teacher", "step"})
    if unknown:
        meant = did_you_mean(unknown[0], ["name", "teacher", "step"])
        raise CourseError(f"{path}: unknown entries {unknown}; expected name, [teacher] and [[step]].{meant}")
    name, teacher, rows = data.get("name", path.stem), data.get("teacher", {}), data.get("step", [])
    rows = rows if isinstance(rows, list) else [rows]
    for entry, value, kind in (("name", name, str), ("[teacher]", teacher, dict), *(("[[step]]", row, dict) for row in rows)):
        if not isinstance(value, kind):
            raise CourseError(f"{path}: {entry} = {value!r}; expected {'a text' if kind is str else 'a table'}.")
    steps = tuple(_step(path, i, dict(row)) for i, row in enumerate(rows, start=1))
    order = [list(STEPS.values()).index(type(s)) for s in steps]
    if order != sorted(order) or any(sum(isinstance(s, kind) for s in steps) != 1 for kind in (Distil, Quantize)):
        raise CourseError(f"{path}: expected the steps in the order {list(STEPS)}, with one distil and one quantize.")
    return Recipe(name, _build(path, "[teacher]", Training, teacher), steps, text)


def check_fit(recipe: Recipe, layers: int, neurons: int, heads: int) -> None:
    """Find out before anything runs that a recipe was written for another encoder.

    Args:
        recipe: the recipe.
        layers, neurons, heads: of the encoder, feed-forward neurons and attention heads per layer.
    Raises:
        CourseError: it keeps layers, neurons or heads that the encoder does not have.
    """
    for step in recipe.steps:
        if isinstance(step, DropLayers):
            if bool(step.keep) == bool(step.count):
                raise CourseError(f"recipe {recipe.name!r}: drop_layers: expected either keep, a list of layers, or count.")
            if max(*step.keep, step.count - 1, 0) >= layers:
                raise CourseError(
                    f"recipe {recipe.name!r}: drop_layers keeps {step.keep or step.count}, but there are only layers 0 to {layers - 1}. "
                    "Give a recipe for this encoder: --recipe FILE.toml."
                )
            layers = step.count or len(step.keep)
        elif isinstance(step, RemoveHeads):
            heads = _fewer(recipe, "remove_heads", step.keep, heads, "heads")
        elif isinstance(step, RemoveFfnNeurons):
            neurons = _fewer(recipe, "remove_ffn_neurons", step.keep, neurons, "neurons")


def _fewer(recipe: Recipe, step: str, keep: int, units: int, what: str) -> int:
    if keep > units:
        raise CourseError(
            f"recipe {recipe.name!r}: {step} keeps {keep}, but a layer has only {units} {what}. "
            "Give a recipe for this encoder: --recipe FILE.toml."
        )
    return keep


def _step(path: Path, number: int, row: dict) -> object:
    kind = row.pop("do", None)
    if not isinstance(kind, str) or kind not in STEPS:
        raise CourseError(f"{path}, step {number}: do = {kind!r}; expected one of {list(STEPS)}.{did_you_mean(kind, STEPS)}")
    return _build(path, f"step {number} ({kind})", STEPS[kind], row)


def _build(path: Path, where: str, kind: type, row: dict) -> object:
    known = {f.name: f for f in fields(kind)}
    for name, value in row.items():
        if name not in known:
            raise CourseError(f"{path}, {where}: unknown field {name!r}; expected {sorted(known)}.{did_you_mean(name, known)}")
        declared = known[name].type
        types = int | float if declared is float else list if get_origin(declared) is list else declared
        if not isinstance(value, types) or (isinstance(value, bool) and declared is not bool):
            form = declared.__name__ if isinstance(declared, type) else str(declared)
            raise CourseError(f"{path}, {where}: {name} = {value!r}; expected {form}.{_searched(declared, value)}")
        holds, expected = ALLOWED.get(f"{kind.__name__}.{name}") or ALLOWED.get(name) or (lambda v: True, "")
        if not holds(value):
            raise CourseError(f"{path}, {where}: {name} = {value!r}; expected {expected}.{_searched(declared, value)}")
    missing = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in row]
    if missing:
        raise CourseError(f"{path}, {where}: {missing[0]} is missing; expected {sorted(known)}.")
    return kind(**row)


def _searched(declared: object, value: object) -> str:
    several = depth(value) > declared_depth(declared)
    return " A list of values to choose from makes a search space, for `course search --space FILE`." if several else ""


def depth(value: object) -> int:
    """How deep lists are nested: 0 for a number, 1 for a list of numbers.

    >>> depth(3), depth([3]), depth([[3], [4, 5]])
    (0, 1, 2)
    """
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def declared_depth(declared: object) -> int:
    """How deep lists of a declared type are nested.

    >>> declared_depth(int), declared_depth(int | None), declared_depth(list[int])
    (0, 0, 1)
    """
    inner = max(map(declared_depth, get_args(declared)), default=0)
    return inner + (declared is list or get_origin(declared) is list)
