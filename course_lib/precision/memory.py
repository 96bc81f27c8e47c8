"""What training holds in memory, added up from the model and a batch: weights, gradients, optimizer state, activations.

The first three follow from the parameters. Activations are what the forward pass keeps for the backward pass: autograd hands each
tensor it saves to a hook, which notes its storage once. The most that is alive at once is found module by module:

- forward, what is saved so far, and inputs and outputs at hand that are not (in mixed precision their half copies are saved instead);
- backward, what is saved up to the module, the gradients of its input and output, and the gradients of weights made so far;
- in the optimizer's step, all gradients and what it allocates to work with.

Mixed precision does not halve all of this: weights, gradients and state stay in fp32, and copies of the weights in half precision are
kept beside the activations. On an encoder of 22 M parameters, 344 MiB with AdamW, a step with 16 sentences held 392 MiB at most
in fp32 and 379 in bf16; with one short sentence bf16 saved nothing at all.

Source: Rajbhandari et al. 2019, 1910.02054, section 3 (16 bytes a parameter with Adam in mixed precision, and activations).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from course_lib.errors import CourseError, expect
from course_lib.precision.mixed import Precision


@dataclass(frozen=True)
class Account:
    """Bytes of one training step; what has a type is a dict dtype → bytes.

    Attributes:
        weights: parameters and buffers, each once.
        gradients: of the parameters that learn, all together.
        state: of the optimizer.
        activations: all that is kept for the backward pass, copies of weights in half precision included.
        batch: inputs and labels.
        forward_peak: activations and what else is at hand, where they are most together.
        backward_peak: activations not yet freed and gradients already made, where they are most together.
        step_extra: what the optimizer's step allocates while it works.
    """

    weights: dict[str, int]
    gradients: dict[str, int]
    state: dict[str, int]
    activations: dict[str, int]
    batch: dict[str, int]
    forward_peak: int
    backward_peak: int
    step_extra: int

    @property
    def peak(self) -> int:
        """The most that is alive at once."""
        always = sum(self.weights.values()) + sum(self.state.values()) + sum(self.batch.values())
        return always + max(self.forward_peak, self.backward_peak, sum(self.gradients.values()) + self.step_extra)

    def rows(self) -> list[dict]:
        """``{"part", "dtype", "bytes"}`` for each part and type, for tables and plots."""
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.state, "activations": self.activations}
        return [{"part": part, "dtype": dtype, "bytes": size} for part, sizes in parts.items() for dtype, size in sizes.items()]


def memory_account(
    model: nn.Module,
    loss: Callable[[], torch.Tensor],
    batch: Iterable[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype = torch.float32,
) -> Account:
    """The account of a step of :func:`course_lib.precision.mixed.train_step`; runs the forward pass once, and changes nothing.

    Of checkpointed layers it has the inputs alone: the peak lacks the activations of the one layer that is computed again.

    Args:
        model: in the mode it is trained in; dropout draws from torch's random numbers, which are put back.
        loss: computes the loss, a scalar, of the batch.
        batch: the tensors that ``loss`` reads, any shapes. A view counts with all of its storage.
        optimizer: Adam, AdamW or SGD over the model's parameters; its state is that of the second step on.
        dtype: of the products.
    Raises:
        CourseError: another optimizer.
        ValueError: a loss that does not depend on the model's parameters.
    """
    batch = list(batch)
    state, extra = _optimizer_bytes(optimizer)
    learnt = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    held = [*model.parameters(), *model.buffers(), *batch]
    seen = _Forward(held)
    seen.run(model, loss, dtype)
    return Account(
        weights=_sizes([*model.parameters(), *model.buffers()]),
        gradients=_sizes(learnt),
        state=state,
        activations=_sizes(seen.saved.values()),
        batch=_sizes(batch),
        forward_peak=max(stop.saved + stop.unsaved for stop in seen.stops),
        backward_peak=_backward_peak(seen.stops, learnt),
        step_extra=extra,
    )


@dataclass(frozen=True)
class _Stop:
    """Bytes when a module is through: saved so far, at hand and not saved, of its input's and output's gradients; its parameters."""

    saved: int
    unsaved: int
    working: int
    parameters: list[torch.Tensor]


class _Forward:
    """Watches a forward pass: what autograd saves, and a stop after each module that has no parts or parameters of its own."""

    def __init__(self, held: Iterable[torch.Tensor]) -> None:
        self.held = {_storage(x) for x in held}
        self.saved: dict[int, torch.Tensor] = {}  # by storage; kept alive, so that no address is used twice
        self.open: list[list[torch.Tensor]] = []  # inputs of the modules that are running: their callers hold them
        self.stops: list[_Stop] = []

    def run(self, model: nn.Module, loss: Callable[[], torch.Tensor], dtype: torch.dtype) -> None:
        """Compute the loss under watch."""
        handles = [m.register_forward_pre_hook(self.before, with_kwargs=True) for m in model.modules()]
        handles += [m.register_forward_hook(self.after, with_kwargs=True) for m in model.modules()]
        hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda x: x)
        try:
            with torch.random.fork_rng(devices=[]), hooks, Precision(dtype):
                value = loss()
        finally:
            for handle in handles:
                handle.remove()
        expect(value.requires_grad and len(self.stops) > 0, "loss", value, "a loss computed with the model's parameters")

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """Note a tensor that is saved."""
        if _storage(x) not in self.held:
            self.saved.setdefault(_storage(x), x.detach())
        return x

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A module begins."""
        self.open.append(_tensors((args, kwargs)))

    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        """A module is through."""
        own, at_hand = list(module.parameters(recurse=False)), _tensors((self.open, output))
        if own or not list(module.children()):
            unsaved = {_storage(x): x for x in at_hand if _storage(x) not in self.held | self.saved.keys()}
            working = [x for x in _tensors((args, kwargs, output)) if x.requires_grad]
            self.stops.append(_Stop(_bytes(self.saved.values()), _bytes(unsaved.values()), sum(x.nbytes for x in working), own))
        self.open.pop()


def _backward_peak(stops: list[_Stop], learnt: set) -> int:
    """The most of what a stop has saved, its working memory, and the gradients of its weights and of all after it."""
    gradients, peak = 0, 0
    for stop in reversed(stops):
        made = learnt.intersection(stop.parameters)
        gradients += _bytes(made)
        learnt = learnt - made  # a weight used twice has one gradient
        peak = max(peak, stop.saved + stop.working + gradients)
    return peak


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> tuple[dict[str, int], int]:
    """State by type, and what a step allocates: Adam's root of the second moment, twice, unless one kernel does all of it."""
    state: Counter = Counter()
    extra = 0
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
            moments, temporaries = 2 + group["amsgrad"], 0 if group["fused"] else 2
        elif isinstance(optimizer, torch.optim.SGD):
            moments, temporaries = int(group["momentum"] > 0), 0
        else:
            raise CourseError(f"optimizer = {type(optimizer).__name__}: expected Adam, AdamW or SGD, whose state is known.")
        for p in group["params"]:
            state[_name(p)] += moments * p.nbytes
            extra = max(extra, temporaries * p.nbytes)
    return dict(+state), extra


def _sizes(tensors: Iterable[torch.Tensor]) -> dict[str, int]:
    """Bytes by type, each storage once."""
    sizes: Counter = Counter()
    for x in {_storage(x): x for x in tensors}.values():
        sizes[_name(x)] += x.untyped_storage().nbytes()
    return dict(sizes)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of storages that all differ."""
    return sum(x.untyped_storage().nbytes() for x in tensors)


def _tensors(tree: object) -> list[torch.Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


def _name(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
