"""Training on top of weights that stay as they are: what LoRA and adapters share. Attach, train what was added, save that alone.

The base may be a float layer or one of integer codes (:mod:`course_lib.quantization`): it is never changed, so a compressed model goes on
learning while its codes stay the same, byte for byte.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from course_lib.artifacts import new_folder, read_json, write_json
from course_lib.errors import CourseError, expect
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.packed_linear import PackedLinear

LINEAR = (nn.Linear, Int8Linear, PackedLinear)
WEIGHTS, CONFIG = "added.safetensors", "added.json"


class AddedModule(nn.Module):
    """A layer with trainable weights added to it.

    Attributes:
        base: the layer as it was.
        kind, config: what was added, as stored in a file.
    """

    kind: str
    base: nn.Module
    config: dict

    def added(self) -> dict[str, nn.Parameter]:
        """The weights that were added, by name; the base's are not among them."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("base.")}


def added_modules(model: nn.Module) -> dict[str, AddedModule]:
    """The layers that something was added to, by name.

    Raises:
        CourseError: there are none.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, AddedModule)}
    if not found:
        raise CourseError(f"{type(model).__name__}: nothing was added to it; attach LoRA or adapters first.")
    return found


def freeze_base(model: nn.Module, also: tuple[str, ...] = ("classifier",)) -> int:
    """Leave only the added weights trainable, and the modules named in ``also`` (a new head); returns how many numbers that is.

    Gradients then pass through layers of integer codes as if they were of floats.

    Raises:
        CourseError: nothing was added.
    """
    added = {id(p) for m in added_modules(model).values() for p in m.added().values()}
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.pass_gradients = True
    for name, p in model.named_parameters():
        p.requires_grad_(p.is_floating_point() and (id(p) in added or any(part in name.split(".") for part in also)))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def save_added(model: nn.Module, folder: Path, also: tuple[str, ...] = ("classifier",)) -> None:
    """Write the added weights, and those of ``also``, as safetensors with a JSON of what they are; the folder is whole or absent.

    Raises:
        CourseError: nothing was added.
    """
    from safetensors.torch import save_file

    modules = added_modules(model)
    tensors = {name: p.detach().contiguous() for name, p in _own(model, modules, also)}
    with new_folder(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / CONFIG, {name: {"kind": m.kind, **m.config} for name, m in modules.items()})


def load_added(model: nn.Module, folder: Path, also: tuple[str, ...] = ("classifier",)) -> None:
    """Put saved weights into a model to which the same was attached.

    Raises:
        CourseError: a file is missing or damaged, or belongs to what was attached otherwise.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    modules, stored = added_modules(model), read_json(folder / CONFIG)
    here = {name: {"kind": m.kind, **m.config} for name, m in modules.items()}
    if stored != here:
        other = next(name for name in {**stored, **here} if stored.get(name) != here.get(name))
        raise CourseError(
            f"{folder}: {other} is {stored.get(other)} there and {here.get(other)} in the model; attach the same first."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CourseError(f"Cannot read {folder / WEIGHTS}: {error}. Save it again.") from error
    own = dict(_own(model, modules, also))
    wrong = [n for n in {**own, **tensors} if n not in own or n not in tensors or own[n].shape != tensors[n].shape]
    if wrong:
        raise CourseError(
            f"{folder}: {', '.join(wrong[:3])}: missing, unknown or of another shape; expected the weights of this model."
        )
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(tensors[name])


def _own(model: nn.Module, modules: Mapping[str, AddedModule], also: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter]]:
    added = {id(p) for m in modules.values() for p in m.added().values()}
    for name, p in model.named_parameters():
        if id(p) in added or any(part in name.split(".") for part in also):
            yield name, p


def added_dtype(base: nn.Module) -> torch.dtype:
    """What is added to a float layer has its dtype; what is added to integer codes is float32."""
    return base.weight.dtype if isinstance(base, nn.Linear) else torch.float32


def expect_finite(name: str, weight: torch.Tensor) -> None:
    """Refuse a weight of any shape that holds NaN or Inf."""
    expect(bool(torch.isfinite(weight).all()), name, "NaN or Inf", "finite weights")
