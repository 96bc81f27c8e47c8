"""Mixed-precision training written out: products in half precision, weights and whatever is delicate in fp32.

Three things make it work (Micikevicius et al. 2017, 1710.03740):

1. The weights stay in fp32, the *master* weights. Each product casts them to half precision, so that their gradients come back
   through the cast in fp32; a step too small for the spacing of half precision is not lost.
2. What adds up or exponentiates many numbers (norms, softmax, losses) is computed in fp32.
3. In fp16, the loss is scaled (:mod:`course_lib.precision.loss_scaler`). bf16 has the range of fp32 and needs no scale.

Which function runs in which precision is a table, as in ``torch.autocast``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from course_lib.errors import CourseError, expect
from course_lib.precision.loss_scaler import LossScaler, clipped_step, is_finite
from course_lib.tracking import Tracker

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Products, whose cost grows with two widths, as functions and as methods. The attention kernel does its softmax in fp32 inside.
IN_HALF = {
    F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, torch.conv_tbc,
    F.scaled_dot_product_attention, torch.matmul, torch.mm, torch.bmm, torch.mv, torch.addmm, torch.addbmm, torch.baddbmm,
    torch.einsum, torch.tensordot, torch.inner, torch.linalg.matmul, torch.linalg.multi_dot, torch.linalg.vecdot,
    torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.Tensor.mm, torch.Tensor.bmm, torch.Tensor.mv,
    torch.Tensor.addmm, torch.Tensor.addbmm, torch.Tensor.baddbmm, torch.Tensor.inner,
    F.prelu, torch.Tensor.prelu,  # its weights must be of the type of what it is given, which is mostly a product
}  # fmt: skip
# Sums of many terms, exponentials and logarithms.
IN_FP32 = {
    F.layer_norm, F.rms_norm, F.batch_norm, F.group_norm, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax,
    torch.Tensor.softmax, torch.Tensor.log_softmax, torch.logsumexp, torch.Tensor.logsumexp, torch.exp, torch.Tensor.exp,
    torch.log, torch.Tensor.log, torch.prod, torch.Tensor.prod, F.cross_entropy, F.nll_loss, F.kl_div, F.mse_loss, F.l1_loss,
    F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits,
}  # fmt: skip


class Precision(TorchFunctionMode):
    """Inside ``with Precision(dtype):`` torch functions of two tables cast their floating-point arguments first.

    Functions of neither table run in the type of what they are given, and so does one that is told where to put its result
    (``out=``), as under autocast: a cast copy would get it. With ``torch.float32`` nothing is cast.

    >>> with Precision(torch.bfloat16):
    ...     y = F.linear(torch.ones(2, 3), torch.ones(4, 3))
    ...     y.dtype, y.softmax(-1).dtype
    (torch.bfloat16, torch.float32)
    """

    def __init__(self, dtype: torch.dtype) -> None:
        expect(dtype in DTYPES, "dtype", dtype, "torch.float32, torch.bfloat16 or torch.float16")
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call ``func`` with its arguments cast as the tables say."""
        kwargs = kwargs or {}
        if self.dtype == torch.float32:
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward:  # its products are out of this mode's sight
            raise CourseError(
                "nn.MultiheadAttention is one function to torch: expected attention made of linear layers and products."
            )
        to = self.dtype if func in IN_HALF else torch.float32 if func in IN_FP32 else None
        if to is not None and kwargs.get("out") is None:
            args, kwargs = tree_map(lambda x: _cast(x, to), (args, kwargs))
        return func(*args, **kwargs)


def _cast(x: object, dtype: torch.dtype) -> object:
    """Floating-point tensors of any shape in another type (fp64, which is not for training, is left alone); else ``x``."""
    castable = isinstance(x, torch.Tensor) and x.dtype in DTYPES
    return x.to(dtype) if castable else x


@dataclass(frozen=True)
class Step:
    """What a training step did.

    Attributes:
        loss: of the batch, not scaled.
        dtype: of the products: "float32", "bfloat16" or "float16".
        scale: that of the loss in this step; 1 where there is no scaler.
        taken: False where an overflow made it skip.
    """

    loss: float
    dtype: str
    scale: float
    taken: bool


def train_step(
    losses: Iterable[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype = torch.float32,
    scaler: LossScaler | None = None,
    clip: float | None = None,
) -> Step:
    """One step of training: forward in mixed precision, backward of the scaled loss, and a step of the master weights.

    Args:
        losses: a lazy iterable of scalars that add up to the batch's loss: one, or one for each micro-batch
            (:func:`course_lib.precision.accumulation.loss_shares`). Each is computed when asked for and differentiated at once.
        optimizer: over fp32 weights.
        dtype: of the products.
        scaler: scales the loss and skips steps that overflow; for float16 there must be one. Not used in float32 steps.
        clip: the largest norm of the gradient; None leaves it as it is.
    Raises:
        CourseError: a loss or gradient that is not finite where no scaler can help.
        ValueError: weights that are not fp32, float16 without a scaler, no loss, or a loss that is no scalar.
    """
    _check(optimizer, dtype, scaler)
    scaler = scaler if dtype != torch.float32 else None
    scale = scaler.state.scale if scaler else 1.0
    optimizer.zero_grad()
    total, count = 0.0, 0
    for loss in _in_precision(losses, dtype):
        expect(loss.dim() == 0, "losses", tuple(loss.shape), "scalars")
        (scaler.scaled(loss) if scaler else loss).backward()
        total, count = total + float(loss.detach()), count + 1
    expect(count > 0, "losses", count, "at least one loss")
    if scaler:
        return Step(total, _name(dtype), scale, scaler.step(optimizer, clip))
    if not _finite(optimizer):
        raise CourseError(
            f"The loss is {total} and a gradient is infinite or NaN in a {_name(dtype)} step: expected finite numbers. "
            "Look at the data, or lower the learning rate."
        )
    clipped_step(optimizer, clip)
    return Step(total, _name(dtype), scale, True)


def train(
    batches: Iterable,
    losses: Callable[[object], Iterable[torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], torch.dtype],
    scaler: LossScaler | None = None,
    clip: float | None = None,
    rate: Callable[[int], float] | None = None,
    tracker: Tracker | None = None,
    run: str = "mixed",
) -> list[Step]:
    """Train over batches, each step in the precision that the schedule says.

    Args:
        batches: of all epochs, in order.
        losses: batch → what :func:`train_step` takes.
        optimizer, scaler, clip: as there.
        schedule: number of the step, from 0 → dtype; see :func:`always` and :func:`alternating`.
        rate: number of the step → learning rate; None leaves the optimizer's.
        tracker, run: where losses and loss scales are written as TensorBoard event files, and as which run; None: nowhere.
    Returns:
        What each step did.
    """
    done = []
    for number, batch in enumerate(batches):
        if rate:
            for group in optimizer.param_groups:
                group["lr"] = rate(number)
        done.append(train_step(losses(batch), optimizer, schedule(number), scaler, clip))
        if tracker:
            tracker.mixed_step(run, number + 1, done[-1])
    return done


def always(dtype: torch.dtype) -> Callable[[int], torch.dtype]:
    """The schedule of one precision."""
    return lambda step: dtype


def alternating(dtype: torch.dtype, mixed: int = 3, full: int = 1) -> Callable[[int], torch.dtype]:
    """The schedule that does ``mixed`` steps in mixed precision, then ``full`` in fp32, and again.

    >>> schedule = alternating(torch.bfloat16, mixed=2, full=1)
    >>> [str(schedule(step)) for step in range(4)]
    ['torch.bfloat16', 'torch.bfloat16', 'torch.float32', 'torch.bfloat16']
    """
    expect(mixed >= 1, "mixed", mixed, "at least 1 step")
    expect(full >= 1, "full", full, "at least 1 step")
    return lambda step: dtype if step % (mixed + full) < mixed else torch.float32


def zero_share(gradients: Iterable[torch.Tensor]) -> float:
    """The fraction of entries of gradients, of any shapes, that are exactly 0: in fp16 without a scale, what underflowed is among them."""
    gradients = list(gradients)
    expect(len(gradients) > 0, "gradients", 0, "at least one gradient")
    return sum(int((g == 0).sum()) for g in gradients) / sum(g.numel() for g in gradients)


def _in_precision(losses: Iterable[torch.Tensor], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Each loss as it is computed inside the mode; what is done with it (the backward pass) happens outside."""
    pending = iter(losses)
    while True:
        with Precision(dtype):
            loss = next(pending, None)
        if loss is None:
            return
        yield loss


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _check(optimizer: torch.optim.Optimizer, dtype: torch.dtype, scaler: LossScaler | None) -> None:
    for weight in _parameters(optimizer):
        expect(weight.dtype == torch.float32, "optimizer", weight.dtype, "master weights in float32")
    expect(dtype != torch.float16 or scaler is not None, "scaler", scaler, "a LossScaler: float16 gradients underflow without")


def _finite(optimizer: torch.optim.Optimizer) -> bool:
    return all(is_finite(p.grad) for p in _parameters(optimizer) if p.grad is not None)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
