"""The anatomy of BERT-like encoders: their layers, heads and neurons, in numbers that may differ from layer to layer.

Hugging Face's config has one number of heads and one ``intermediate_size`` for all layers. A model cut down unevenly says in
``config.course_shapes`` what it has: ``{"heads": [12, 7, …], "ffn": [1536, 0, …]}``, one number per layer, and is put
together from that before its weights are loaded. A block without units still adds its output bias.
"""

from pathlib import Path

import torch
from torch import nn

from course_lib.errors import CourseError, expect
from course_lib.models.groups import CoupledGroup, Part, check_groups, keep_units


class NoHeads(nn.Module):
    """Self-attention without a head: nothing per token, so that the output projection gives its bias alone."""

    num_attention_heads = all_head_size = 0

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, None]:
        """(B, L, D) → (B, L, 0)."""
        return hidden_states.new_zeros(*hidden_states.shape[:-1], 0), None


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of Transformer layers of a BERT-like model.

    Raises:
        CourseError: a model that is not built like BERT.
    """
    layers = getattr(getattr(getattr(model, "base_model", None), "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers) or not hasattr(layers[0], "intermediate"):
        raise CourseError(
            f"{type(model).__name__}: expected a BERT-like encoder (base_model.encoder.layer[i].intermediate.dense)."
        )
    return layers


def layer_names(model: nn.Module) -> list[str]:
    """Names of the layers in the model, such as ``bert.encoder.layer.0``."""
    layers = encoder_layers(model)
    stack = next(name for name, module in model.named_modules() if module is layers)
    return [f"{stack}.{i}" for i in range(len(layers))]


def head_size(model: nn.Module) -> int:
    """Entries of a query, key or value vector; removing heads leaves it as it is."""
    return model.config.hidden_size // model.config.num_attention_heads


def head_groups(model: nn.Module) -> list[CoupledGroup]:
    """The attention heads of each layer that has any: ``….heads``.

    Raises:
        CourseError: a model not built like BERT, or modules that cannot be cut.
    """
    groups = []
    for name, layer, heads in zip(layer_names(model), encoder_layers(model), layer_shapes(model)["heads"], strict=True):
        if not hasattr(layer.attention.self, "query") and heads:
            raise CourseError(f"{name}.attention.self: expected the linear layers query, key and value.")
        made = [Part(f"{name}.attention.self.{part}", "rows", head_size(model)) for part in ("query", "key", "value")]
        read = Part(f"{name}.attention.output.dense", "columns", head_size(model))
        groups += [CoupledGroup(f"{name}.heads", heads, (*made, read))] * (heads > 0)
    check_groups(model, groups)
    return groups


def neuron_groups(model: nn.Module) -> list[CoupledGroup]:
    """The feed-forward neurons of each layer that has any: ``….neurons``.

    Raises:
        CourseError: a model not built like BERT, or modules that cannot be cut.
    """
    groups = []
    for name, neurons in zip(layer_names(model), layer_shapes(model)["ffn"], strict=True):
        parts = (Part(f"{name}.intermediate.dense", "rows"), Part(f"{name}.output.dense", "columns"))
        groups += [CoupledGroup(f"{name}.neurons", neurons, parts)] * (neurons > 0)
    check_groups(model, groups)
    return groups


def cut_units(model: nn.Module, group: CoupledGroup, keep: torch.Tensor) -> None:
    """:func:`course_lib.models.groups.keep_units`, and the attention module is told how many heads it has left."""
    keep_units(model, group, keep)
    name, _, kind = group.name.rpartition(".")
    if kind == "heads":
        attention = model.get_submodule(name).attention
        if len(keep) == 0:
            attention.self = NoHeads()
        else:
            attention.self.num_attention_heads = len(keep)
            attention.self.all_head_size = len(keep) * group.reader.width


def layer_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Heads and feed-forward neurons of each layer: ``{"heads": [12, …], "ffn": [1536, …]}``."""
    layers = encoder_layers(model)
    return {
        "heads": [layer.attention.self.num_attention_heads for layer in layers],
        "ffn": [layer.intermediate.dense.out_features for layer in layers],
    }


def record_shapes(model: nn.Module) -> None:
    """Write into the config what the model has: as plain numbers where all layers are alike, else as ``course_shapes``."""
    shapes, config = layer_shapes(model), model.config
    config.num_hidden_layers = len(shapes["ffn"])
    config.intermediate_size = max(shapes["ffn"]) or config.intermediate_size
    plain = {"heads": [config.num_attention_heads], "ffn": [config.intermediate_size]}
    if all(set(shapes[kind]) == set(plain[kind]) for kind in plain):
        if hasattr(config, "course_shapes"):
            del config.course_shapes
    else:
        config.course_shapes = shapes


def from_config(kind, config) -> nn.Module:
    """A model with random weights and the layers its config says, of different sizes too.

    Args:
        kind: a class of transformers with ``from_config``, such as ``AutoModel``.
        config: of transformers; ``course_shapes`` in it is checked.
    """
    model = kind.from_config(config, trust_remote_code=False)
    if hasattr(config, "course_shapes"):
        _cut_to(model, config.course_shapes)
    return model


def load_uneven(kind, weights: Path, config) -> tuple[nn.Module, dict]:
    """Weights for layers of different sizes, which transformers' own ``from_pretrained`` cannot make.

    Args:
        kind, config: as for :func:`from_config`.
        weights: a safetensors file of such a model, of its bare encoder, or of one with another head.
    Returns:
        The model, and as ``from_pretrained`` gives them ``missing_keys`` and ``mismatched_keys`` (key, shape, shape due).
    """
    from safetensors.torch import load_file

    model, stored = from_config(kind, config), load_file(weights)
    prefix = f"{model.base_model_prefix}."
    if model.base_model is model:  # from the folder of an encoder with a head
        stored = {key.removeprefix(prefix): tensor for key, tensor in stored.items()}
    elif not any(key.startswith(prefix) for key in stored):  # from that of a bare encoder
        stored = {prefix + key: tensor for key, tensor in stored.items()}
    due = model.state_dict()
    mismatched = {(k, t.shape, due[k].shape) for k, t in stored.items() if k in due and t.shape != due[k].shape}
    model.load_state_dict({k: t for k, t in stored.items() if k in due and t.shape == due[k].shape}, strict=False)
    return model, {"missing_keys": due.keys() - stored.keys(), "mismatched_keys": mismatched}


def _cut_to(model: nn.Module, shapes: object) -> None:
    """Cut a model that was just made down to these numbers of heads and neurons; its weights are yet to be loaded."""
    expect(isinstance(shapes, dict) and set(shapes) == {"heads", "ffn"}, "course_shapes", shapes, "heads and ffn, a list each")
    groups = {"heads": head_groups(model), "ffn": neuron_groups(model)}
    for kind, counts in shapes.items():
        right = isinstance(counts, list) and len(counts) == len(groups[kind])
        right = right and all(type(n) is int and 0 <= n <= g.units for n, g in zip(counts, groups[kind], strict=True))
        most = groups[kind][0].units
        expect(right, f"course_shapes.{kind}", counts, f"{len(groups[kind])} numbers between 0 and {most}")
    for kind, counts in shapes.items():
        for group, count in zip(groups[kind], counts, strict=True):
            cut_units(model, group, torch.arange(count))
