"""The bytes of all tensors that are alive, counted while a computation runs: now, and at most.

A dispatch mode sees the result of every operator, those of the backward pass included. What counts is the storage behind a
tensor, once, however many views it has; a finalizer takes it off when the last of them is gone. Memory that a kernel uses
inside is not seen, and neither is what the allocator keeps: this is what the computation holds, not what the process does.
"""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveBytes(TorchDispatchMode):
    """Counts inside ``with LiveBytes(…) as live:``.

    Args:
        held: tensors of any shape, parameters, modules or optimizers that exist already and count from the beginning.

    Attributes:
        now, peak: bytes.
        at_peak: dtype → bytes, when there were most.

    >>> with LiveBytes() as live:
    ...     x = torch.zeros(1000)
    ...     y = (x + 1).view(10, 100)
    ...     del x
    >>> live.now, live.peak, live.at_peak
    (4000, 8000, {'float32': 8000})
    """

    def __init__(self, *held: object) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._by_dtype: Counter = Counter()
        self._live: set[int] = set()
        for thing in held:
            self.hold(thing)

    def hold(self, thing: object) -> None:
        """Count what is alive already: a tensor of any shape, or all of a module, an optimizer, a list or a dict.

        Raises:
            ValueError: another thing.
        """
        if isinstance(thing, torch.Tensor):
            self._add(thing)
            if thing.grad is not None:
                self._add(thing.grad)
        elif isinstance(thing, torch.nn.Module):
            self.hold([*thing.parameters(), *thing.buffers()])
        elif isinstance(thing, torch.optim.Optimizer):
            self.hold([value for state in thing.state.values() for value in state.values() if isinstance(value, torch.Tensor)])
        elif isinstance(thing, list | tuple | dict):
            for part in thing.values() if isinstance(thing, dict) else thing:
                self.hold(part)
        else:
            raise ValueError(f"held = {thing!r}: expected tensors, modules, optimizers, or lists and dicts of them")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operator and count what it gives."""
        return tree_map_only(torch.Tensor, self._add, func(*args, **(kwargs or {})))

    def _add(self, x: torch.Tensor) -> torch.Tensor:
        storage, dtype = x.untyped_storage(), str(x.dtype).removeprefix("torch.")
        key, size = storage._cdata, storage.nbytes()
        if key not in self._live:
            self._live.add(key)
            weakref.finalize(storage, self._remove, key, dtype, size).atexit = False
            self.now += size
            self._by_dtype[dtype] += size
            if self.now > self.peak:
                self.peak, self.at_peak = self.now, dict(+self._by_dtype)
        return x

    def _remove(self, key: int, dtype: str, size: int) -> None:
        self._live.discard(key)
        self.now -= size
        self._by_dtype[dtype] -= size
