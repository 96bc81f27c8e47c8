"""Pipeline parallelism: each worker has a stage, micro-batches follow each other through them in the order of a schedule.

Sources: Huang et al. 2018, 1811.06965 (GPipe); Narayanan et al. 2021, 2104.04473 (1F1B).
"""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from course_lib.data.align import IGNORED
from course_lib.errors import expect
from course_lib.parallel.agree import fingerprints, require_equal
from course_lib.parallel.collectives import Traffic
from course_lib.parallel.norms import clip_gradients, require_no_gradients
from course_lib.parallel.schedule import FORWARD, Action, Schedule, start_ticks

HEADER = 8  # bytes before a message's numbers: the tick at which its sender was done


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over real tokens, a scalar; logits (B, L, T), labels int64 (B, L) with −100 elsewhere."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")


class Pipeline:
    """Runs one stage of a pipeline whose other stages run in the other processes of a group.

    Args:
        stage: this worker's part of the model, ``(x, attention_mask) -> x``: a :class:`course_lib.parallel.stage.Stage`.
        schedule: the same on every worker; its stages are the group's ranks in order.
        group: the workers; None: all.
        loss: of the last stage's output and the labels of a micro-batch, a *sum* over its tokens.
    Attributes:
        starts: of the last step: action → tick of its start. The ticks are counted by the run itself: each message carries
            its sender's clock, and an action starts when its worker is free and its message there.
        peak: of the last step: the most micro-batches whose activations this stage kept.
        traffic: messages and bytes sent so far.
    Raises:
        ValueError: another number of stages than of workers, schedules that differ from worker to worker, or one that cannot end.
    """

    def __init__(
        self,
        stage: nn.Module,
        schedule: Schedule,
        group: dist.ProcessGroup | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = token_loss,
    ) -> None:
        workers = dist.get_world_size(group)
        expect(schedule.stages == workers, "schedule.stages", schedule.stages, f"as many as there are workers, {workers}")
        require_equal("schedule", str(schedule), group)
        start_ticks(schedule)  # refuses one in which stages wait for each other for ever
        self.stage, self.schedule, self.group, self.loss = stage, schedule, group, loss
        self.rank, self.last = dist.get_rank(group), workers - 1
        self.traffic, self.starts, self.peak = Traffic(), {}, 0

    def step(self, ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, tokens: int | None = None) -> float:
        """Forward and backward passes of one batch, whose gradients are in ``.grad`` afterwards.

        Args:
            ids, attention_mask, labels: int64 (B, L), the whole batch, the same on every worker. It is cut into the schedule's
                micro-batches, whose sizes differ by at most one sentence.
            tokens: what the summed loss is divided by; None: the labels of the whole batch that are not −100, so that it
                does not matter how tokens fall into micro-batches.
        Returns:
            The loss of the batch, on every worker.
        Raises:
            ValueError: fewer sentences than micro-batches, tensors of different shapes or on different workers different
                ones, no token with a label, or gradients of an earlier step.
        """
        batch = {"ids": ids, "attention_mask": attention_mask, "labels": labels}
        require_equal("batch", fingerprints(batch), self.group)
        m = self.schedule.micro_batches
        expect(ids.shape == attention_mask.shape, "attention_mask", tuple(attention_mask.shape), f"the ids' {tuple(ids.shape)}")
        expect(len(labels) == len(ids), "labels", tuple(labels.shape), f"the ids' {len(ids)} sentences")
        expect(len(ids) >= m, "ids", tuple(ids.shape), f"at least {m} sentences, one a micro-batch")
        tokens = int((labels != IGNORED).sum()) if tokens is None else tokens
        expect(tokens > 0, "tokens", tokens, "at least one token with a label")
        require_no_gradients(self.stage)
        micro = list(zip(*(t.tensor_split(m) for t in batch.values()), strict=True))
        step = _Step(self, micro, tokens)
        step.run()
        self.starts, self.peak = step.starts, step.peak
        if self.stage.tied is not None:
            self._sum_tied(self.stage.tied)
        loss = torch.tensor(step.loss, dtype=torch.float64, device=ids.device)
        dist.broadcast(loss, group=self.group, group_src=self.last)
        return float(loss)

    def clip(self, max_norm: float) -> float:
        """:func:`course_lib.parallel.norms.clip_gradients` over the stages, tied embeddings counted by the first."""
        own = list(self.stage.parameters())
        counted = [p for p in own if not (p is self.stage.tied and self.rank == self.last)]
        return clip_gradients(own, counted, max_norm, self.group)

    def _sum_tied(self, tied: nn.Parameter) -> None:
        """First and last stage exchange the gradients of the matrix that both have, and add them."""
        other = self.last if self.rank == 0 else 0
        theirs = torch.empty_like(tied.grad)
        self.traffic.count(tied.grad)
        sent = dist.P2POp(dist.isend, tied.grad, group=self.group, group_peer=other)
        received = dist.P2POp(dist.irecv, theirs, group=self.group, group_peer=other)
        for work in dist.batch_isend_irecv([sent, received]):
            work.wait()
        tied.grad.add_(theirs)


class _Step:
    """One batch on its way through one stage."""

    def __init__(self, pipeline: Pipeline, micro: list[tuple[torch.Tensor, ...]], tokens: int) -> None:
        self.pipeline, self.micro, self.tokens = pipeline, micro, tokens
        self.schedule, self.rank = pipeline.schedule, pipeline.rank
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # micro-batch → (input, output) with its graph
        self.starts: dict[Action, int] = {}
        self.loss, self.peak = 0.0, 0
        self.under_way: list[tuple[dist.Work, torch.Tensor]] = []  # a message's buffer must live until it has arrived

    def run(self) -> None:
        """All actions of this stage, in order."""
        own, clock = self.schedule.actions[self.rank], 0
        message = self._exchange(None, None, own[0])
        for action, following in zip(own, (*own[1:], None), strict=True):
            x, arrived = (None, 0) if message is None else message
            self.starts[action] = max(clock, arrived)
            clock = self.starts[action] + 1
            result = self._forward(action, x) if action.kind == FORWARD else self._backward(action, x)
            target = self.schedule.target(self.rank, action)
            message = self._exchange(None if target is None else _pack(result, clock), target, following)
        for work, _ in self.under_way:
            work.wait()

    def _exchange(
        self, outgoing: torch.Tensor | None, target: int | None, following: Action | None
    ) -> tuple[torch.Tensor, int] | None:
        """Send a message and receive the one that the following action needs, together: two neighbours who both sent first
        and received afterwards could wait for each other for ever."""
        ops, incoming = [], None
        if outgoing is not None:
            self.pipeline.traffic.count(outgoing)
            ops.append(dist.P2POp(dist.isend, outgoing, group=self.pipeline.group, group_peer=target))
        source = None if following is None else self.schedule.source(self.rank, following)
        if source is not None:
            ids = self.micro[following.micro_batch][0]
            shape, dtype = (*ids.shape, self.pipeline.stage.hidden), next(self.pipeline.stage.parameters()).dtype  # (B, L, D)
            incoming = ids.new_empty(HEADER + math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
            ops.append(dist.P2POp(dist.irecv, incoming, group=self.pipeline.group, group_peer=source))
        works = dist.batch_isend_irecv(ops) if ops else []
        if outgoing is not None:
            self.under_way.append((works[0], outgoing))
        if source is None:
            return None
        works[-1].wait()
        return incoming[HEADER:].view(dtype).view(shape), int(incoming[:HEADER].view(torch.int64))

    def _forward(self, action: Action, x: torch.Tensor | None) -> torch.Tensor:
        """Compute a micro-batch and keep what its backward pass needs; returns what the next stage reads."""
        ids, mask, labels = self.micro[action.micro_batch]
        x = ids if x is None else x.requires_grad_()
        y = self.pipeline.stage(x, mask)
        if self.rank == self.pipeline.last:
            y = self.pipeline.loss(y, labels) / self.tokens
            self.loss += float(y.detach())
        self.kept[action.micro_batch] = x, y
        self.peak = max(self.peak, len(self.kept))
        return y.detach()

    def _backward(self, action: Action, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """Go back through the stage and forget the micro-batch; returns the gradient that the stage before reads."""
        x, y = self.kept.pop(action.micro_batch)
        if gradient is not None and not y.requires_grad:  # a first stage of which nothing is trained
            return None
        y.backward(gradient)
        return x.grad


def _pack(tensor: torch.Tensor, tick: int) -> torch.Tensor:
    """A message, uint8 (HEADER + bytes of the tensor,)."""
    header = torch.tensor([tick], device=tensor.device).view(torch.uint8)
    return torch.cat([header, tensor.contiguous().flatten().view(torch.uint8)])
