"""A model with less redundancy as a folder that loads back: factors as factors, shared tensors once.

``config.json`` says under ``course_reduced`` what was done to the architecture: the rank of each factored layer, which paths
were merged, and for each shared parameter whose it is. ``model.safetensors`` has every tensor once. No pickle: loading a
stranger's folder runs no code. (A loader that does not know of ``course_reduced`` finds tensors missing, and says so, rather
than a model that is quietly another.)
"""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from course_lib.artifacts import new_folder
from course_lib.errors import CourseError
from course_lib.models.gates import require_no_gates
from course_lib.models.surgery import from_config
from course_lib.models.zoo import CONFIG, TOKENIZER, WEIGHTS, complete, hugging_face
from course_lib.plan import replace_module
from course_lib.redundancy.joined_modules import FoldedEmbeddings, JoinedSelfAttention
from course_lib.redundancy.low_rank_layers import LowRankLinear

KINDS = {  # how a model's class name ends → what makes its like from a config
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "Model": "AutoModel",
}


def shared_names(model: nn.Module) -> dict[str, str]:
    """Each parameter that is another one's storage → the name under which that one is stored.

    >>> tied = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    >>> tied["b"].weight = tied["a"].weight
    >>> shared_names(tied)
    {'b.weight': 'a.weight'}
    """
    owner: dict[int, str] = {}
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in owner:
            names[name] = owner[id(parameter)]
        owner.setdefault(id(parameter), name)
    return names


def share(model: nn.Module, names: Mapping[str, str]) -> None:
    """Make each parameter on the left the very one on the right, as :func:`shared_names` tells them.

    Raises:
        ValueError: parameters of different shapes.
        AttributeError: a name that the model does not have.
    """
    for alias, name in names.items():
        mine, other = model.get_parameter(alias), model.get_parameter(name)
        if mine.shape != other.shape:
            raise ValueError(f"{alias} {tuple(mine.shape)} cannot share {name} {tuple(other.shape)}: the shapes differ")
    for alias, name in names.items():
        parent, _, attribute = alias.rpartition(".")
        setattr(model.get_submodule(parent), attribute, model.get_parameter(name))


def stored_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What ``model.safetensors`` holds: each tensor of the state dict, of any shape, once."""
    shared = shared_names(model)
    return {name: t.detach().contiguous() for name, t in model.state_dict().items() if name not in shared}


def save_reduced(model: nn.Module, tokenizer: Tokenizer, folder: Path | str) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``tokenizer.json``; whole or not at all.

    Args:
        model: a token or sequence classifier or bare encoder of transformers, factored, shared, or as it was.
        tokenizer: the model's own.
        folder: a new one, or one to replace.
    Raises:
        CourseError: a model of another kind, units of it are masked, or a folder that cannot be written.
    """
    from safetensors.torch import save_file

    require_no_gates(model, "save_reduced")
    config = copy.deepcopy(model.config)
    config.course_reduced = _described(model)
    with new_folder(folder) as temporary:
        config.save_pretrained(temporary)
        save_file(stored_tensors(model), temporary / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(str(temporary / TOKENIZER), pretty=False)


def load_reduced(folder: Path | str) -> nn.Module:
    """The model of a folder that :func:`save_reduced` wrote, in evaluation mode; what was shared is shared again.

    Raises:
        CourseError: files missing, damaged or not belonging together, or a folder of another kind.
    """
    from safetensors.torch import load_file

    folder = complete(Path(folder))
    config = hugging_face().AutoConfig.from_pretrained(folder, trust_remote_code=False)
    described = getattr(config, "course_reduced", None)
    if not isinstance(described, dict):
        raise CourseError(f"{folder}: {CONFIG} has no course_reduced; expected a folder that save_reduced wrote.")
    try:
        with torch.random.fork_rng(devices=[]):  # the weights it draws are all replaced
            model = from_config(getattr(hugging_face(), KINDS[described["kind"]]), config)
        del model.config.course_reduced  # it tells of the file; the model is what it is
        _rebuild(model, described)
        tensors = load_file(folder / WEIGHTS)
        shared = {alias: tensors[name] for alias, name in described["shared"].items()}
        model.load_state_dict(tensors | shared)
        share(model, described["shared"])
    except Exception as error:  # json, safetensors and torch each raise their own
        raise CourseError(
            f"Cannot load {folder}: {type(error).__name__}: {str(error).rstrip('. ')}. The files are damaged or belong to different "
            "models; save it again."
        ) from error
    return model.eval()


def export_reduced(model: nn.Module, target: Path | str) -> None:
    """Export a token classifier to fp32 ONNX as the tracer leaves it; whole or not at all.

    Inputs ``input_ids`` and ``attention_mask``, int64 (batch, length); output ``logits``, float32 (batch, length, tags). What is shared in
    the model is stored once in the file too.

    Args:
        model: float32; it is left as it was.
        target: the ``.onnx`` file to write.
    """
    import warnings

    from course_lib.artifacts import write_bytes

    model, sample, axes = copy.deepcopy(model).eval(), torch.ones(2, 8, dtype=torch.long), {0: "batch", 1: "length"}
    model.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but it is the one whose graph other tools fuse
        path = Path(scratch) / "model.onnx"
        torch.onnx.export(
            _Logits(model), (sample, sample), str(path), dynamo=False, opset_version=17, input_names=["input_ids", "attention_mask"],
            output_names=["logits"], dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": axes},
        )  # fmt: skip
        write_bytes(target, path.read_bytes())


class _Logits(nn.Module):
    """The model as a module of two tensors in, one tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def _described(model: nn.Module) -> dict:
    name = type(model).__name__
    kind = next((ending for ending in KINDS if name.endswith(ending)), None)
    if kind is None or not hasattr(model, "config"):
        raise CourseError(f"{name}: expected a token or sequence classifier or a bare encoder of transformers.")
    modules = dict(model.named_modules())
    return {
        "kind": kind,
        "token_types": {name: m.token_type for name, m in modules.items() if isinstance(m, FoldedEmbeddings)},
        "joined": {name: m.scaled for name, m in modules.items() if isinstance(m, JoinedSelfAttention)},
        "low_rank": {name: m.rank for name, m in modules.items() if isinstance(m, LowRankLinear)},
        "without_bias": [name for name, m in modules.items() if isinstance(m, nn.Linear) and m.bias is None],
        "shared": shared_names(model),
    }


def _rebuild(model: nn.Module, described: dict) -> None:
    """Give a model that was just made the modules that the description tells of."""
    for name, token_type in described["token_types"].items():
        replace_module(model, name, FoldedEmbeddings(model.get_submodule(name), token_type))
    for name, scaled in described["joined"].items():
        replace_module(model, name, JoinedSelfAttention(model.get_submodule(name), scaled))
    for name, rank in described["low_rank"].items():
        linear = model.get_submodule(name)
        replace_module(model, name, LowRankLinear(linear.in_features, linear.out_features, rank, linear.bias is not None))
    for name in described["without_bias"]:
        model.get_submodule(name).bias = None
