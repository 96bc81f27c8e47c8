"""A quantized model as a folder of plain integers, scales and codebooks, which loads without the float model.

``model.safetensors`` holds packed codes, scales, zero points, codebooks and what stayed in float; ``quantization.json`` the scheme of
each quantized module; ``config.json`` the architecture. Of a weight with a mask, the mask's bits are stored, and the
codes (or floats) of those entries that stay. No pickle: loading a stranger's folder runs no code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from course_lib.artifacts import new_folder, read_json, write_json
from course_lib.errors import CourseError
from course_lib.models.surgery import from_config
from course_lib.models.zoo import CONFIG, TOKENIZER, WEIGHTS, hugging_face
from course_lib.plan import replace_module
from course_lib.pruning.bits import pack_bits, unpack_bits
from course_lib.quantization.apply import Quantized, empty_module
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.nodes import QuantizedNode
from course_lib.quantization.packing import pack, unpack
from course_lib.quantization.qat import QatLinear
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.smooth import InputScaledLinear
from course_lib.quantization.weights import PackedWeight

PLAN, FORMAT = "quantization.json", "course quantized model, 1"
IN_MEMORY = ("codes", "weight.packed")  # a module's own layout of its codes
HEADS = {"token classification": "AutoModelForTokenClassification", "none": "AutoModel"}


@dataclass
class Stored:
    """A quantized model as what goes into two files.

    Attributes:
        tensors: of ``model.safetensors``.
        plan: of ``quantization.json``.
    """

    tensors: dict[str, torch.Tensor]
    plan: dict

    @property
    def payload(self) -> int:
        """Bytes of all tensors; ``model.safetensors`` has 8 and its header more."""
        return sum(t.nbytes for t in self.tensors.values())


def to_stored(model: nn.Module, masks: Mapping[str, torch.Tensor] | None = None) -> Stored:
    """A quantized model as tensors and a plan; what is tied is stored once.

    Args:
        model: a token classifier or bare encoder, with quantized modules or without.
        masks: parameter name (``….weight`` for a quantized module) → bool mask of the weight's shape, True where it stays, such as
            :class:`course_lib.pruning.masks.Masks`. Weights that it prunes must be zero, exactly.
    Raises:
        CourseError: a model of another kind, one in training for integers or with simulated nodes; a mask for no weight, of
            another shape, or over weights that are not zero.
    """
    head = _head(model)
    left, tensors = dict(masks or {}), {}
    quantized = {name: m for name, m in model.named_modules() if isinstance(m, Quantized)}
    for name, module in quantized.items():
        codes, mask = _codes(module), left.pop(f"{name}.weight", None)
        if mask is not None:
            _check_mask(f"{name}.weight", mask, _holder(module).dequantize())
            if module.scheme.size > 1:
                raise CourseError(f"masks: {name} has codes of {module.scheme.size} weights each; a mask cannot leave out any.")
            tensors[f"{name}.mask"], codes = pack_bits(mask), codes[mask]
        tensors[f"{name}.codes"] = pack(codes, module.scheme.bits)
        tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items() if k not in IN_MEMORY}
    owner: dict[int, str] = {}
    shared, masked = {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if any(name.startswith(f"{q}.") for q in quantized):
            continue
        if id(tensor) in owner:
            shared[name] = owner[id(tensor)]
            continue
        owner[id(tensor)], mask = name, left.pop(name, None)
        if mask is None:
            tensors[name] = tensor.detach()
        else:
            _check_mask(name, mask, tensor.detach())
            tensors |= {f"{name}.mask": pack_bits(mask), f"{name}.values": tensor.detach()[mask]}
            masked[name] = list(mask.shape)
    if left:
        raise CourseError(f"masks: {next(iter(left))} is no weight of the model, or is tied to another one; expected its name.")
    return Stored(
        {name: t.contiguous() for name, t in tensors.items()},
        {
            "format": FORMAT,
            "head": head,
            "modules": {name: module.scheme.to_json() for name, module in quantized.items()},
            "input_scaled": [name for name, m in model.named_modules() if isinstance(m, InputScaledLinear)],
            "masked": masked,
            "shared": shared,
        },
    )


def from_stored(stored: Stored, config) -> nn.Module:
    """The model of :func:`to_stored`, in evaluation mode.

    Args:
        stored: tensors and plan.
        config: of transformers: the architecture.
    Raises:
        KeyError, ValueError, RuntimeError, AttributeError: tensors, plan and architecture that do not belong together.
    """
    plan, tensors = stored.plan, dict(stored.tensors)
    if plan["format"] != FORMAT:
        raise ValueError(f"format = {plan['format']!r}: expected {FORMAT!r}")
    with torch.random.fork_rng(devices=[]):  # the weights it draws are all replaced
        model = from_config(getattr(hugging_face(), HEADS[plan["head"]]), config)
    for name in plan["input_scaled"]:
        inner = model.get_submodule(name)
        replace_module(model, name, InputScaledLinear(inner, torch.ones(inner.in_features)))
    for name, fields in plan["modules"].items():
        module = empty_module(model.get_submodule(name), Scheme.from_json(fields))
        replace_module(model, name, module)
        mine = {k.removeprefix(f"{name}."): tensors.pop(k) for k in list(tensors) if k.startswith(f"{name}.")}
        _fill(module, mine)
        tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
    for name, shape in plan["masked"].items():
        mask = unpack_bits(tensors.pop(f"{name}.mask"), shape)
        kept = tensors.pop(f"{name}.values")
        tensors[name] = kept.new_zeros(shape).masked_scatter_(mask, kept)
    model.load_state_dict(tensors | {alias: tensors[name] for alias, name in plan["shared"].items()}, assign=True)
    for alias, name in plan["shared"].items():
        parent, _, attribute = alias.rpartition(".")
        setattr(model.get_submodule(parent), attribute, model.get_parameter(name))
    return model.eval()


def save_quantized(
    model: nn.Module, tokenizer: Tokenizer, folder: Path | str, masks: Mapping[str, torch.Tensor] | None = None
) -> Stored:
    """Write ``model.safetensors``, ``quantization.json``, ``config.json`` and ``tokenizer.json``; whole or not at all.

    Args:
        model, masks: as for :func:`to_stored`, each mask of its weight's shape.
        tokenizer: the model's own.
        folder: a new one, or one to replace.
    Returns:
        What was written; its ``payload`` are the bytes of the tensors.
    Raises:
        CourseError: as :func:`to_stored`, or a folder that cannot be written.
    """
    stored = to_stored(model, masks)
    with new_folder(folder) as temporary:
        save_file(stored.tensors, temporary / WEIGHTS)
        write_json(temporary / PLAN, stored.plan)
        model.config.save_pretrained(temporary)
        tokenizer.save(str(temporary / TOKENIZER), pretty=False)
    return stored


def load_quantized(folder: Path | str) -> nn.Module:
    """The model of a folder that :func:`save_quantized` wrote, in evaluation mode; the float model is not needed.

    Raises:
        CourseError: files that are missing, damaged or of different models.
    """
    folder = Path(folder)
    missing = [name for name in (CONFIG, PLAN, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise CourseError(f"{folder}: {', '.join(missing)} missing; expected a folder written by save_quantized.")
    plan = read_json(folder / PLAN)
    try:
        config = hugging_face().AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return from_stored(Stored(load_file(folder / WEIGHTS), plan), config)
    except Exception as error:  # safetensors, transformers and torch each have their own
        raise CourseError(
            f"Cannot load {folder}: {type(error).__name__}: {str(error).rstrip('.')}. The files are damaged or of different models; "
            "save it again."
        ) from error


def _head(model: nn.Module) -> str:
    """Which of :data:`HEADS` a model has."""
    for name, module in model.named_modules():
        if isinstance(module, QatLinear | QuantizedNode):
            raise CourseError(
                f"{name} is a {type(module).__name__}, which no file holds; export a trained model, or quantize it."
            )
    if type(model).__name__.endswith("ForTokenClassification"):
        return "token classification"
    if getattr(model, "base_model", None) is model:
        return "none"
    raise CourseError(f"{type(model).__name__}: expected a token classifier or a bare encoder of transformers.")


def _holder(module: nn.Module) -> Int8Linear | PackedWeight:
    """What has the codes of a quantized module."""
    return module if isinstance(module, Int8Linear) else module.weight


def _codes(module: nn.Module) -> torch.Tensor:
    return module.codes if isinstance(module, Int8Linear) else module.weight.codes()


def _fill(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put what was stored of a module into an empty one: the codes last, as the code of 0 depends on the rest."""
    packed, mask = tensors.pop("codes"), tensors.pop("mask", None)
    own = {k: v for k, v in module.state_dict().items() if k in IN_MEMORY}
    module.load_state_dict(tensors | own)
    empty, signed = _holder(module).zero_codes(), _codes(module).dtype == torch.int8
    stays = torch.ones_like(empty, dtype=torch.bool) if mask is None else unpack_bits(mask, empty.shape)
    kept = unpack(packed, module.scheme.bits, int(stays.sum()), signed)
    _holder(module).store(empty.masked_scatter(stays, kept))


def _check_mask(name: str, mask: torch.Tensor, weight: torch.Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise CourseError(f"masks: {name} is {mask.dtype} {tuple(mask.shape)}; expected torch.bool {tuple(weight.shape)}.")
    left = int(torch.count_nonzero(weight[~mask]))
    if left:
        raise CourseError(
            f"masks: {left} weights of {name} that it prunes are not zero; apply the masks first, and quantize so that 0 stays 0 "
            "(a k-means codebook may have no level there)."
        )
