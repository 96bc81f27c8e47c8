"""AdamW whose state is spread over the workers: each keeps the moments of its share of the weights, 1/p of the memory.

The first stage of ZeRO. All parameters are seen as one flat vector, cut in ``p`` shares. A step: each worker updates its share with
its moments, then an all-gather brings every share to all. Gradients must be the same on all workers already
(:class:`course_lib.parallel.data_parallel.DataParallel`).

Source: Rajbhandari et al., ZeRO: memory optimizations toward training trillion parameter models, 2020, 1910.02054.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import nn

from course_lib.errors import expect
from course_lib.parallel.collectives import Group, Traffic, all_gather_chunks, chunk_bounds

MOMENTS = ("first", "second")


class ShardedAdamW:
    """AdamW (Loshchilov & Hutter 2017, 1711.05101), the state of one share of the parameters on each worker.

    Args:
        parameters: of any shapes, of one dtype and device, the same on all workers; a tied one counts once.
        lr, betas, eps, weight_decay: as of ``torch.optim.AdamW``.
        group: the workers; None: all.
    Attributes:
        first, second: the moments of this worker's share, (share,).
        steps: how often each parameter was updated.
        traffic: what this worker has sent.
    Raises:
        ValueError: no parameters, or of different dtypes.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        group: Group = None,
    ) -> None:
        self.parameters = list(dict.fromkeys(parameters))
        dtypes = {p.dtype for p in self.parameters}
        expect(len(dtypes) == 1, "parameters", sorted(map(str, dtypes)), "at least one, all of the same dtype")
        self.lr, self.betas, self.eps, self.weight_decay, self.group = lr, betas, eps, weight_decay, group
        self.size = sum(p.numel() for p in self.parameters)
        self.bounds = chunk_bounds(self.size, dist.get_world_size(group))
        start, end = self.bounds[dist.get_rank(group)]
        self.first, self.second = (self.parameters[0].new_zeros(end - start) for _ in MOMENTS)
        self.steps, self.traffic = [0] * len(self.parameters), Traffic()

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters by their gradients. One without a gradient on this worker keeps its value and its moments."""
        self.steps = [n + (p.grad is not None) for n, p in zip(self.steps, self.parameters, strict=True)]
        for number, inside, here in self._share():
            p = self.parameters[number]
            if p.grad is not None:
                piece = p.view(-1)[inside], p.grad.reshape(-1)[inside], self.first[here], self.second[here]
                self._update(*piece, self.steps[number])
        self._gather()

    def _share(self) -> Iterator[tuple[int, slice, slice]]:
        """The pieces of parameters in this worker's share: the parameter's number, where in it, where in the share."""
        (start, end), offset = self.bounds[dist.get_rank(self.group)], 0
        for number, p in enumerate(self.parameters):
            low, high = max(start, offset), min(end, offset + p.numel())
            if low < high:
                yield number, slice(low - offset, high - offset), slice(low - start, high - start)
            offset += p.numel()

    def _update(self, w: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, step: int) -> None:
        """``w ← w − lr·(m̂ / (√v̂ + ε) + λ·w)``, in place, of a piece; m̂ and v̂ are the moments without their bias to zero."""
        b1, b2 = self.betas
        m.lerp_(g, 1 - b1)
        v.mul_(b2).addcmul_(g, g, value=1 - b2)
        m_hat, v_hat = m / (1 - b1**step), v / (1 - b2**step)
        w.mul_(1 - self.lr * self.weight_decay).sub_(self.lr * m_hat / (v_hat.sqrt() + self.eps))

    def _gather(self) -> None:
        flat = torch.cat([p.detach().flatten() for p in self.parameters])
        all_gather_chunks([flat[start:end] for start, end in self.bounds], self.group, self.traffic)
        for p, new in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            p.copy_(new.view_as(p))

    def zero_grad(self) -> None:
        """Take all gradients away."""
        for p in self.parameters:
            p.grad = None

    @property
    def state_bytes(self) -> int:
        """Bytes of moments that this worker keeps."""
        return sum(t.numel() * t.element_size() for t in (self.first, self.second))
