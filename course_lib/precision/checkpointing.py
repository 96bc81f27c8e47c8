"""Activation checkpointing written out: keep a module's input instead of its activations, and compute these again when needed.

For n equal layers the memory of activations falls from n layers to n inputs and one layer; a step costs one more forward pass, a
third more. Dropout must draw the same numbers again, and functions run in the same precision, or the gradients would be
those of another network.

Source: Chen et al. 2016, 1604.06174.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.overrides import _get_current_function_mode_stack
from torch.utils._pytree import tree_leaves

from course_lib.errors import expect


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, count, *tensors):
        """``run`` of the first ``count`` tensors; the others are the parameters it uses, given so that they get gradients."""
        ctx.run, ctx.count, ctx.surroundings = run, count, _surroundings()
        ctx.save_for_backward(*tensors)
        output = run(*tensors[:count])  # autograd is off inside a Function: nothing is saved but the above
        expect(isinstance(output, torch.Tensor), "run", type(output).__name__, "a function that returns one tensor")
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        inputs, parameters = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in inputs]  # cut off from what is before the module
        with ctx.surroundings(), torch.enable_grad():
            output = ctx.run(*inputs)
        wanted = [x for x in (*inputs, *parameters) if x.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, gradient, allow_unused=True))
        return None, None, *(next(found) if x.requires_grad else None for x in (*inputs, *parameters))


def checkpoint(
    run: Callable[..., torch.Tensor], *inputs: torch.Tensor, parameters: Iterable[torch.Tensor] = ()
) -> torch.Tensor:
    """``run(*inputs)``, of which the backward pass keeps the inputs alone and computes the rest again.

    Args:
        run: gives one tensor, the same each time but for torch's random numbers, which are put back.
        inputs: tensors of any shape. What else ``run`` uses gets no gradient.
        parameters: those that ``run`` uses.
    Returns:
        What ``run`` gives; its gradients are those of ``run`` to the bit.
    Raises:
        ValueError: something else than one tensor comes out.

    >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
    >>> checkpoint(torch.exp, x).sum().backward()
    >>> x.grad
    tensor([1.0000, 2.7183])
    """
    return _Checkpoint.apply(run, len(inputs), *inputs, *parameters)


@contextlib.contextmanager
def checkpointed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block, each of the modules is checkpointed when it is called; the backward pass may come later.

    Its positional arguments are its inputs (tensors, or what needs no gradient); it returns one tensor.

    Args:
        modules: such as :func:`course_lib.models.surgery.encoder_layers` of a model. None may lie inside another.
    Raises:
        ValueError: a keyword argument that needs a gradient would not get one.
    """
    changed = [(module, module.forward) for module in modules]
    expect(len(changed) > 0, "modules", 0, "at least one module")
    for module, _ in changed:
        expect("forward" not in vars(module), "modules", type(module).__name__, "modules that are not checkpointed already")
    for module, forward in changed:
        module.forward = partial(_call, module, forward)
    try:
        yield
    finally:
        for module, _ in changed:
            del module.forward  # the instance's own; that of its class is there again


def _call(module: nn.Module, forward: Callable, *args: object, **kwargs: object) -> torch.Tensor:
    learnt = [x for x in tree_leaves(kwargs) if isinstance(x, torch.Tensor) and x.requires_grad]
    expect(not learnt, "kwargs", list(kwargs), "no keyword argument that needs a gradient: give it by position")
    tensors = [x for x in args if isinstance(x, torch.Tensor)]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        given = iter(inputs)
        return forward(*(next(given) if isinstance(x, torch.Tensor) else x for x in args), **kwargs)

    return checkpoint(run, *tensors, parameters=[p for p in module.parameters() if p.requires_grad])


def _surroundings() -> Callable[[], contextlib.AbstractContextManager]:
    """What makes a context in which torch is as now: its random numbers, autocast, and modes such as ``Precision``."""
    random, modes = torch.get_rng_state(), _get_current_function_mode_stack()
    cast = torch.autocast("cpu", torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu"))

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.set_rng_state(random)
            for context in (cast, *modes):
                stack.enter_context(context)
            yield

    return again
