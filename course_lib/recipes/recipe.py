"""A compression recipe: an ordered list of steps as a TOML file, checked before anything runs."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from course_lib.errors import CourseError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Training:
    """How a model of the recipe is trained (see :class:`course_lib.ner.train.Settings`)."""

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-4
    patience: int | None = None


@dataclass(frozen=True)
class DropLayers:
    """Keep only these encoder layers."""

    keep: list[int]


@dataclass(frozen=True)
class RemoveFfnNeurons:
    """Keep this many feed-forward neurons per layer, chosen by ``score`` (``taylor`` or ``weight``)."""

    keep: int
    score: str = "taylor"
    sentences: int = 512


@dataclass(frozen=True)
class Distil:
    """Train on soft labels of the teacher plus hard labels: ``(1 − hard_weight)·KD + hard_weight·CE``."""

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-4
    temperature: float = 2.0
    hard_weight: float = 0.2
    patience: int | None = None


@dataclass(frozen=True)
class Quantize:
    """Dynamic int8 in ONNX Runtime."""

    per_channel: bool = True
    reduce_range: bool = False


STEPS = {"drop_layers": DropLayers, "remove_ffn_neurons": RemoveFfnNeurons, "distil": Distil, "quantize": Quantize}


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
        CourseError: not found, not TOML, an unknown step or field, a value of the wrong type.
    """
    path = Path(where) if where.endswith(".toml") else FOLDER / f"{where}.toml"
    if not path.is_file():
        presets = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise CourseError(f"--recipe {where}: not found. Expected a preset ({presets}) or a .toml file.")
    text = path.read_text("utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"{path}: not TOML: {error}.") from error
    unknown = set(data) - {"name", "teacher", "step"}
    if unknown:
        raise CourseError(f"{path}: unknown entries {sorted(unknown)}; expected name, [teacher] and [[step]].")
    steps = tuple(_step(path, i, dict(row)) for i, row in enumerate(data.get("step", []), start=1))
    order = [list(STEPS.values()).index(type(s)) for s in steps]
    if order != sorted(order) or any(sum(isinstance(s, kind) for s in steps) != 1 for kind in (Distil, Quantize)):
        raise CourseError(f"{path}: expected the steps in the order {list(STEPS)}, with one distil and one quantize.")
    return Recipe(data.get("name", path.stem), _build(path, "[teacher]", Training, data.get("teacher", {})), steps, text)


def _step(path: Path, number: int, row: dict) -> object:
    kind = row.pop("do", None)
    if kind not in STEPS:
        raise CourseError(f"{path}, step {number}: do = {kind!r}; expected one of {list(STEPS)}.")
    return _build(path, f"step {number} ({kind})", STEPS[kind], row)


def _build(path: Path, where: str, kind: type, row: dict) -> object:
    known = {f.name: f.type for f in fields(kind)}
    for name, value in row.items():
        if name not in known:
            raise CourseError(f"{path}, {where}: unknown field {name!r}; expected {sorted(known)}.")
        allowed = known[name] if isinstance(known[name], type) else getattr(known[name], "__origin__", int)
        number = allowed is float and isinstance(value, int) and not isinstance(value, bool)
        if not number and (not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool)):
            raise CourseError(f"{path}, {where}: {name} = {value!r}; expected {known[name]}.")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
            raise CourseError(f"{path}, {where}: {name} = {value!r}; expected a number of at least 0.")
    try:
        return kind(**row)
    except TypeError as error:
        raise CourseError(f"{path}, {where}: {error}.") from error
