"""Statistics out of a model: of all layers as they are, or layer by layer while a method changes them on the way."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from course_lib.calibration import Batch, Statistic, checked_batches
from course_lib.errors import expect
from course_lib.plan import Matches, match
from course_lib.pruning.structure import encoder_layers

Gather = Callable[[int], Statistic]
Solve = Callable[[str, Statistic], None]


def linear_layers(model: nn.Module, plan: Mapping[str, Any], kind: type) -> Matches:
    """The linear layers of a plan, after a look at its configurations.

    Args:
        model: where to look.
        plan: module name or pattern → a ``kind``.
        kind: class of the configurations.
    Raises:
        CourseError: as :func:`course_lib.plan.match`.
        ValueError: a configuration of another kind.
    """
    for pattern, config in plan.items():
        expect(isinstance(config, kind), f"plan[{pattern!r}]", config, f"a {kind.__name__}")
    return match(model, plan)


def collect(
    model: nn.Module, modules: Mapping[str, nn.Module], batches: Iterable[Batch], gather: Gather
) -> dict[str, Statistic]:
    """Statistics of the inputs of some layers of a model as it is, in one pass over the calibration set.

    Args:
        model: called as ``model(**batch)``, without dropout.
        modules: linear layers of it by name.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
        gather: makes the empty statistic for a number of features, such as the class ``Hessian``.
    Returns:
        A statistic per name. All are in memory at once: those of O(D²) are better taken by :func:`layer_by_layer`.
    Raises:
        ValueError: a calibration set that is empty or of the wrong type, or inputs that are not finite.
    """
    batches, statistics = checked_batches(batches), {name: gather(m.in_features) for name, m in modules.items()}
    with evaluating(model), inputs_of(modules) as inputs:
        for batch in batches:
            model(**batch)
            _add(statistics, inputs, batch)
    return statistics


def layer_by_layer(
    model: nn.Module, modules: Mapping[str, nn.Module], batches: Iterable[Batch], gather: Gather, solve: Solve
) -> None:
    """Go through an encoder and let a method change each layer, knowing what the layers already changed put out.

    For each Transformer layer in turn: its linear layers' statistics are gathered on the outputs of the layers before it;
    ``solve`` changes them; the calibration set then passes through the changed layer. At any time there are the statistics
    of one Transformer layer and one hidden state per token (as in the code of SparseGPT and GPTQ, 2301.00774, 2210.17323).
    Modules outside the layers (a classifier) come last, together, on the outputs of the changed encoder.

    Args:
        model: a BERT-like model, called as ``model(**batch)``, without dropout.
        modules: the linear layers to visit, by name.
        batches: the calibration set, tensors (B, L), see :func:`course_lib.calibration.calibration_batches`.
        gather: makes the empty statistic for a number of features, such as the class ``Hessian``.
        solve: called with a name and its statistic; changes the module, or puts another in its place.
    Raises:
        CourseError: a model that is not built like BERT.
        ValueError: a calibration set that is empty or of the wrong type, or inputs that are not finite.
    """
    batches, layers = checked_batches(batches), encoder_layers(model)
    stack = next(name for name, module in model.named_modules() if module is layers)
    inside = [{n: m for n, m in modules.items() if n.startswith(f"{stack}.{i}.")} for i in range(len(layers))]
    outside = {n: m for n, m in modules.items() if not n.startswith(f"{stack}.")}
    last = max((i for i, chosen in enumerate(inside) if chosen), default=-1)
    with evaluating(model):
        states = [_layer_input(model, layers[0], batch) for batch in batches] if last >= 0 else []
        for layer, chosen in zip(layers[: last + 1], inside, strict=False):
            if chosen:
                statistics = {name: gather(m.in_features) for name, m in chosen.items()}
                with inputs_of(chosen) as inputs:
                    for batch, (hidden, rest, named) in zip(batches, states, strict=True):
                        layer(hidden, *rest, **named)
                        _add(statistics, inputs, batch)
                while statistics:  # a solved layer's statistics are let go at once
                    name = next(iter(statistics))
                    solve(name, statistics.pop(name))
            if layer is not layers[last]:
                for i, (hidden, rest, named) in enumerate(states):  # one batch at a time: never two states of all tokens
                    states[i] = (_hidden(layer(hidden, *rest, **named)), rest, named)
    for name, statistic in (collect(model, outside, batches, gather) if outside else {}).items():
        with torch.no_grad():
            solve(name, statistic)


def real_rows(x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The rows of a layer's input that belong to real tokens.

    Args:
        x: (B, L, D), or (B, D) for a layer that reads one position of each sentence (a pooler): then every row is real.
        attention_mask: (B, L), 0 at padding.
    Returns:
        (tokens, D)
    Raises:
        ValueError: an input of another shape.

    >>> real_rows(torch.arange(6).view(1, 3, 2), torch.tensor([[1, 1, 0]]))
    tensor([[0, 1],
            [2, 3]])
    """
    if x.dim() == 2 and len(x) == len(attention_mask):
        return x
    expect(x.shape[:-1] == attention_mask.shape, "x", tuple(x.shape), f"a row for each of {tuple(attention_mask.shape)} tokens")
    return x[attention_mask.bool()]


@contextlib.contextmanager
def inputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """While this lasts, the dictionary it gives holds the latest input of each module that was called, (…, D)."""
    inputs: dict[str, torch.Tensor] = {}

    def hook(name: str):
        return lambda module, arguments: inputs.__setitem__(name, arguments[0])

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients while this lasts; the modules' own modes come back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in model.modules():  # a module put in meanwhile gets the model's mode
            module.training = modes.get(module, modes[model])


def _add(statistics: Mapping[str, Statistic], inputs: dict[str, torch.Tensor], batch: Batch) -> None:
    for name, x in inputs.items():
        statistics[name].add(real_rows(x, batch["attention_mask"]))
    inputs.clear()


class _Reached(Exception):
    """The first layer was reached: the rest of the model need not run."""


def _layer_input(model: nn.Module, layer: nn.Module, batch: Batch) -> tuple[torch.Tensor, tuple, dict]:
    """What the model gives its first Transformer layer: hidden states (B, L, D), and the other arguments, mask included."""
    caught = []

    def catch(module, arguments, named):
        caught.append((arguments[0], arguments[1:], named))
        raise _Reached

    handle = layer.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with contextlib.suppress(_Reached):
            model(**batch)
    finally:
        handle.remove()
    return caught[0]


def _hidden(output: torch.Tensor | tuple) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
