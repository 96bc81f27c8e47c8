"""Mixed precision written out: the gradients of torch.autocast, exact scaling, steps that are skipped whole, and what goes wrong without."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data.digits import load_digits
from course_lib.errors import CourseError
from course_lib.models.digits import accuracy, digits_cnn, digits_mlp, fit
from course_lib.models.digits_transformer import digits_transformer
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.precision.formats import BF16, spacing
from course_lib.precision.loss_scaler import LossScaler, ScalerSettings, ScalerState
from course_lib.precision.mixed import (
    IN_FP32,
    IN_HALF,
    Precision,
    Step,
    alternating,
    always,
    train,
    train_step,
    zero_share,
)

HALVES = [torch.bfloat16, torch.float16]
in_half = pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])
DIGITS = load_digits()


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return DIGITS.train[0][:count], DIGITS.train[1][:count]


def digits_loss(model: nn.Module, count: int = 32) -> torch.Tensor:
    x, y = images(count)
    return F.cross_entropy(model(x), y)


def tokens(seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Four sentences of 12 pieces, one of them shorter."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = torch.randint(5, 60, (4, 12), generator=generator), torch.ones(4, 12, dtype=torch.long)
    mask[2, 7:] = 0
    labels = torch.randint(3, (4, 12), generator=generator).masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask}, labels


def ner_loss(model: nn.Module) -> torch.Tensor:
    inputs, labels = tokens()
    return F.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten())


def ner_model(attention: str = "sdpa") -> nn.Module:
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-LOC", "I-LOC"])
    model.set_attn_implementation(attention)
    return model


def gradients(model: nn.Module, loss, mode, scale: float = 1.0) -> list[torch.Tensor]:
    model.zero_grad()
    with mode:
        value = loss(model)
    (value * scale).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# Against torch


MODELS = {
    "mlp": (digits_mlp, digits_loss),
    "cnn": (digits_cnn, lambda model: digits_loss(model, 4)),
    "digits transformer": (digits_transformer, digits_loss),
    "ner, fused attention": (ner_model, ner_loss),
    "ner, eager attention": (lambda: ner_model("eager"), ner_loss),
}


@in_half
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_autocast_to_the_bit(name, dtype):
    """It casts the same arguments of the same functions; norms see fp32 there too, softmax where a mask in fp32 is added."""
    make, loss = MODELS[name]
    model, scale = make().eval(), 256.0
    ours = gradients(model, loss, Precision(dtype), scale)
    assert equal(ours, gradients(model, loss, torch.autocast("cpu", dtype), scale))
    assert all(g.dtype == torch.float32 for g in ours), "they came back through the cast to the master weights"
    assert not equal(ours, gradients(model, loss, Precision(torch.float32), scale)), "it did run in half precision"


@in_half
def test_without_a_mask_autocast_has_softmax_in_half_and_the_difference_is_within_its_rounding(dtype):
    """Autocast on a processor leaves softmax in the type it gets; the kernel computes in fp32 and rounds p. Forward nothing differs:
    ours is rounded for the product. Backward, ``∂s = p·(g − c)`` with ``c = Σ p·g``, the same g in both. Their p is off by u·p, so their
    c by ``u·Σ p·|g|``; ∂s is rounded in both. With η, half the smallest subnormal, where p or ∂s rounds to one, and fp32's own
    rounding in sums of 16 terms: ``|Δ| ≤ u·(p·|g − c| + p·Σ p·|g| + 2·|∂s|)·(1 + u)² + η·(|g − c| + Σ|g| + 2) + 2⁻¹⁹·p·(|g| + Σ p·|g|)``.
    """
    generator = torch.Generator().manual_seed(0)
    scores, values = torch.randn(64, 16, generator=generator).to(dtype), torch.randn(16, 16, generator=generator)
    out, slopes = [], []
    for mode in (Precision(dtype), torch.autocast("cpu", dtype)):
        s = scores.clone().requires_grad_()
        with mode:
            y = s.softmax(-1) @ values
        y.backward(torch.ones_like(y))
        out.append(y.detach())
        slopes.append(s.grad.double())
    g = (torch.ones_like(out[0]) @ values.to(dtype).T).double()
    p, u = scores.double().softmax(-1), torch.finfo(dtype).eps / 2
    eta = torch.finfo(dtype).tiny * u
    size = (p * g.abs()).sum(-1, keepdim=True)
    off = (g - (p * g).sum(-1, keepdim=True)).abs()
    bound = u * (p * off + p * size + 2 * p * off) * (1 + u) ** 2
    bound += eta * (off + g.abs().sum(-1, keepdim=True) + 2) + 2**-19 * p * (g.abs() + size)
    difference = (slopes[0] - slopes[1]).abs()
    assert torch.equal(out[0], out[1])
    assert float(difference.max()) > 0 and bool((difference <= bound).all())


@in_half
def test_the_fused_attention_does_its_softmax_in_fp32(dtype):
    """Against float64 on the same half numbers: each exponential is rounded for the product (relative u), the result once more, and
    fp32's sums of 8 products move a score by 8·2⁻²⁴ of its size, before and after its row's largest is taken off. With scores rounded
    to half precision the error is beyond that."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (3 * torch.randn(2, 2, 40, 8, generator=generator).to(dtype) for _ in range(3))
    scores = q.double() @ k.double().transpose(-1, -2) / 8**0.5
    p = scores.softmax(-1)
    u, exact, size = torch.finfo(dtype).eps / 2, p @ v.double(), p @ v.double().abs()
    bound = (u * size + u * exact.abs()) * (1 + u) + 4 * 8 * 2**-24 * float(scores.abs().max()) * size
    errors = (F.scaled_dot_product_attention(q, k, v).double() - exact).abs()
    in_half = ((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1).double() @ v.double()).to(dtype).double() - exact
    assert bool((errors <= bound).all()) and not bool((in_half.abs() <= bound).all())


def test_a_whole_fp16_run_ends_with_the_weights_of_autocast_and_gradscaler():
    """With an overflow on the way: the first scale is too large."""
    ours, theirs = digits_mlp(), digits_mlp()
    a, b = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (ours, theirs))
    scaler = LossScaler(ScalerSettings(first=2.0**22, interval=3))
    their_scaler = torch.amp.GradScaler("cpu", 2.0**22, growth_interval=3)
    done = []
    for _ in range(12):
        done.append(train_step((digits_loss(m, 64) for m in [ours]), a, torch.float16, scaler, clip=1.0))
        b.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = digits_loss(theirs, 64)
        their_scaler.scale(loss).backward()
        their_scaler.unscale_(b)
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        their_scaler.step(b)
        their_scaler.update()
        assert equal(weights(ours), weights(theirs)) and scaler.state.scale == their_scaler.get_scale()
    assert {step.taken for step in done} == {True, False} and done[-1].loss < done[0].loss


# Identities


@pytest.mark.parametrize("power", [-6, 5, 20])
@pytest.mark.parametrize("name", ["mlp", "ner, fused attention"])
def test_scaling_by_a_power_of_two_is_exact_where_nothing_overflows_or_becomes_subnormal(name, power):
    """bf16 has fp32's exponents: gradients of 1e-12 to 1 times 2²⁰ or 2⁻⁶ stay among its normal numbers."""
    make, loss = MODELS[name]
    model = make().eval()
    plain = gradients(model, loss, Precision(torch.bfloat16))
    scaled = gradients(model, loss, Precision(torch.bfloat16), 2.0**power)
    assert equal([g * 2.0**-power for g in scaled], plain)


def test_a_skipped_step_changes_nothing_and_the_next_good_one_trains():
    model = digits_mlp()
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=1e-2), LossScaler()
    train_step((digits_loss(m) for m in [model]), optimizer, torch.float16, scaler)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    step = train_step((digits_loss(m) * 1e9 for m in [model]), optimizer, torch.float16, scaler, clip=1.0)
    assert step.taken is False and step.dtype == "float16" and step.scale == 2.0**16 and scaler.state.scale == 2.0**15
    assert equal(weights(model), before)
    after = optimizer.state_dict()
    assert all(torch.equal(after["state"][i][key], v) for i, s in state["state"].items() for key, v in s.items())
    assert train_step((digits_loss(m) for m in [model]), optimizer, torch.float16, scaler).taken
    assert not equal(weights(model), before)


def test_a_full_step_is_plain_training_and_leaves_the_scaler_alone():
    ours, plain = digits_mlp(), digits_mlp()
    a, b = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (ours, plain))
    scaler = LossScaler()
    step = train_step((digits_loss(m) for m in [ours]), a, torch.float32, scaler)
    b.zero_grad()
    digits_loss(plain).backward()
    b.step()
    assert equal(weights(ours), weights(plain)) and scaler.state == ScalerState(2.0**16)
    assert step == Step(digits_loss(digits_mlp()).item(), "float32", 1.0, True)


def test_micro_batches_add_up_in_one_step():
    """All the terms of a gradient are sums of 64 products in fp32, in another order: off by 64·ε of the sum of their sizes, and the
    sizes of an entry's terms are together below 1 here (probabilities, pixels up to 1, a mean)."""
    whole, parts = digits_mlp(), digits_mlp()
    x, y = images(64)
    for model, size in ((whole, 64), (parts, 16)):
        shares = (
            F.cross_entropy(m(a), b) * size / 64 for m in [model] for a, b in zip(x.split(size), y.split(size), strict=True)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        train_step(shares, optimizer)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=64 * 2**-23)


@in_half
def test_functions_of_the_two_tables_run_in_their_types_and_others_in_what_they_get(dtype):
    x = torch.randn(4, 8)
    with Precision(dtype):
        assert (x @ x.T).dtype == F.linear(x, x).dtype == torch.einsum("ij,kj->ik", x, x).dtype == dtype
        assert F.layer_norm(x.to(dtype), (8,)).dtype == x.to(dtype).softmax(-1).dtype == torch.float32
        assert F.cross_entropy(x.to(dtype), torch.zeros(4, dtype=torch.long)).dtype == torch.float32
        assert F.gelu(x).dtype == torch.float32 and F.gelu(x.to(dtype)).dtype == dtype
        assert (x.double() @ x.double().T).dtype == torch.float64
    assert F.linear(x, x).dtype == torch.float32
    assert not IN_HALF & IN_FP32


A, B, C = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
V, MANY, RATES = B[0], torch.stack([A, B]), C.sigmoid()
CASTS = {  # a call of every function that a table names
    F.linear: (A, B), F.bilinear: (A, B, MANY), F.conv1d: (A, MANY), F.conv2d: (A[None], A[None, None, :2, :2]),
    F.conv3d: (MANY[None], MANY[None, None]), F.conv_transpose1d: (A, MANY.transpose(0, 1)),
    F.conv_transpose2d: (A[None], A[None, None, :2, :2]), F.conv_transpose3d: (MANY[None], MANY[None, None]),
    torch.conv_tbc: (MANY, MANY.transpose(1, 2), V), F.scaled_dot_product_attention: (MANY, MANY, MANY),
    torch.matmul: (A, V), torch.mm: (A, B), torch.bmm: (MANY, MANY), torch.mv: (A, V), torch.addmm: (A, A, B),
    torch.addbmm: (A, MANY, MANY), torch.baddbmm: (MANY, MANY, MANY), torch.einsum: ("ij,kj->ik", A, B),
    torch.tensordot: (A, B, 1), torch.inner: (A, B), torch.linalg.matmul: (A, B), torch.linalg.multi_dot: ([A, B, A],),
    torch.linalg.vecdot: (A, B), torch.Tensor.matmul: (A, B), torch.Tensor.__matmul__: (A, V), torch.Tensor.__rmatmul__: (A, B),
    torch.Tensor.mm: (A, B), torch.Tensor.bmm: (MANY, MANY), torch.Tensor.mv: (A, V), torch.Tensor.addmm: (A, A, B),
    torch.Tensor.addbmm: (A, MANY, MANY), torch.Tensor.baddbmm: (MANY, MANY, MANY), torch.Tensor.inner: (A, B),
    F.prelu: (A, V), torch.Tensor.prelu: (A, V),
    F.layer_norm: (A, (4,)), F.rms_norm: (A, (4,)), F.batch_norm: (A, V, RATES[0]), F.group_norm: (A, 2), F.softmax: (A, -1),
    F.log_softmax: (A, -1), torch.softmax: (A, -1), torch.log_softmax: (A, -1), torch.Tensor.softmax: (A, -1),
    torch.Tensor.log_softmax: (A, -1), torch.logsumexp: (A, -1), torch.Tensor.logsumexp: (A, -1), torch.exp: (A,),
    torch.Tensor.exp: (A,), torch.log: (RATES,), torch.Tensor.log: (RATES,), torch.prod: (A,), torch.Tensor.prod: (A,),
    F.cross_entropy: (A, torch.arange(4)), F.nll_loss: (A, torch.arange(4)), F.kl_div: (A, RATES, None, None, "batchmean"), F.mse_loss: (A, B),
    F.l1_loss: (A, B), F.smooth_l1_loss: (A, B), F.huber_loss: (A, B), F.binary_cross_entropy: (RATES, RATES),
    F.binary_cross_entropy_with_logits: (A, RATES),
}  # fmt: skip
# Autocast on a processor leaves these as they come: of products, those that accelerators' tables alone have (mv) or no table has.
NOT_ON_A_PROCESSOR = {torch.mv, torch.Tensor.mv, F.bilinear}
named = pytest.mark.parametrize("function", CASTS, ids=lambda f: getattr(f, "__qualname__", f.__name__))


def half(arguments: tuple, dtype: torch.dtype) -> tuple:
    return tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments)


def test_every_function_of_the_tables_is_called_here():
    assert CASTS.keys() == IN_HALF | IN_FP32


def test_what_the_tables_name_as_a_function_they_name_as_a_method_too():
    """``x.exp()`` is another function to torch than ``torch.exp(x)``."""
    for table in (IN_HALF, IN_FP32):
        names = {f.__name__ for f in table}
        assert {getattr(torch.Tensor, n) for n in names if hasattr(torch.Tensor, n)} <= table


@in_half
@named
def test_each_function_of_the_tables_gives_what_autocast_gives_or_what_fp32_does(function, dtype):
    """Products of fp32 tensors, to the bit and the type. Of half tensors, the others give what they give in fp32, as autocast has it for
    those in its table."""
    if function in IN_HALF:
        with Precision(dtype):
            ours = function(*CASTS[function])
        with torch.autocast("cpu", dtype):
            theirs = function(*CASTS[function])
        if function in NOT_ON_A_PROCESSOR:
            assert theirs.dtype == torch.float32
            theirs = function(*half(CASTS[function], dtype))
    else:
        given = half(CASTS[function], dtype)
        with Precision(dtype):
            ours = function(*given)
        theirs = function(*half(given, torch.float32))
        with torch.autocast("cpu", dtype):
            autocast = function(*given)
        assert autocast.dtype == dtype or torch.equal(autocast, ours)
    assert ours.dtype == theirs.dtype == (dtype if function in IN_HALF else torch.float32) and torch.equal(ours, theirs)


@in_half
def test_a_result_that_has_its_place_gets_there_uncast_as_under_autocast(dtype):
    for mode in (Precision(dtype), torch.autocast("cpu", dtype)):
        place = torch.zeros(4, 4)
        with mode:
            torch.mm(A, B, out=place)
        assert torch.equal(place, A @ B)


@in_half
def test_weights_of_an_activation_follow_the_product_before_it(dtype):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.PReLU()), torch.randn(3, 4)
    with Precision(dtype):
        ours = model(x)
    with torch.autocast("cpu", dtype):
        assert torch.equal(ours, model(x)) and ours.dtype == dtype


# What goes wrong without


def test_fp16_without_scaling_underflows_and_with_it_does_not():
    """Of the gradients that fp32 has, a batch's mean over 1 000 images at a loss of .007: fp16 makes 1.9 % zero, scaled none, bf16
    next to none. (Another quarter is zero in fp32 too: pixels that are always white, neurons that are never active.)"""
    model = fit(digits_mlp(), DIGITS.train, epochs=60)
    loss = lambda model: digits_loss(model, 1000)  # noqa: E731
    full = gradients(model, loss, Precision(torch.float32))
    lost = {}
    for name, dtype, scale in (("fp16", torch.float16, 1), ("scaled", torch.float16, 2**16), ("bf16", torch.bfloat16, 1)):
        half = gradients(model, loss, Precision(dtype), scale)
        assert all(bool(g.isfinite().all()) for g in half)
        lost[name] = zero_share([h[g != 0] for h, g in zip(half, full, strict=True)])
    assert lost["fp16"] > 0.01 and lost["scaled"] < 0.001 and lost["bf16"] < 0.001


def test_a_loss_of_small_weight_trains_nothing_in_fp16_without_a_scale():
    """1e-6 of a mean over 32 images: gradients of the logits are below 1e-6 / 32, half of fp16's smallest number."""
    model = digits_mlp()
    assert zero_share(gradients(model, lambda m: 1e-6 * digits_loss(m), Precision(torch.float16))) == 1.0
    assert zero_share(gradients(model, lambda m: 1e-6 * digits_loss(m), Precision(torch.float16), 2.0**16)) < 0.5


def test_a_step_below_half_the_spacing_is_lost_without_master_weights():
    master, half = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    rate = float(spacing(torch.tensor([1.0]), BF16)) / 8
    for weight in (master, half):
        optimizer = torch.optim.SGD([weight], lr=rate)
        for _ in range(64):
            optimizer.zero_grad()
            with Precision(torch.bfloat16):
                weight.sum().neg().backward()
            optimizer.step()
    assert master.item() == 1 + 8 * 2**-7 and half.item() == 1.0


# Training


@pytest.mark.parametrize("name", ["full", "mixed bf16", "mixed fp16", "alternating"])
def test_the_digits_are_learnt_in_every_precision(name):
    schedule = {
        "full": always(torch.float32),
        "mixed bf16": always(torch.bfloat16),
        "mixed fp16": always(torch.float16),
        "alternating": alternating(torch.float16, mixed=2, full=1),
    }[name]
    model = digits_mlp()
    batches = [pair for _ in range(8) for pair in zip(DIGITS.train[0].split(50), DIGITS.train[1].split(50), strict=True)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rate = lambda step: 3e-3 * (1 - step / len(batches))  # noqa: E731
    done = train(
        batches, lambda b: (F.cross_entropy(m(b[0]), b[1]) for m in [model]), optimizer, schedule, LossScaler(), 5.0, rate
    )
    assert len(done) == len(batches) and all(step.taken for step in done)
    assert [step.dtype for step in done[:3]] == [str(schedule(i)).removeprefix("torch.") for i in range(3)]
    assert accuracy(model, DIGITS.validation) > 0.9 and optimizer.param_groups[0]["lr"] == rate(len(batches) - 1)


@in_half
def test_a_ner_encoder_learns_a_batch_in_mixed_precision(dtype):
    model = ner_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    done = train(range(30), lambda _: (ner_loss(m) for m in [model]), optimizer, always(dtype), LossScaler(), clip=1.0)
    assert done[-1].loss < 0.5 * done[0].loss
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_overflow_at_every_step_ends_a_run_with_an_error():
    model = digits_mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = LossScaler(ScalerSettings(most_skips=3))
    before = weights(model)
    with pytest.raises(CourseError, match="4 steps in a row"):
        train(range(100), lambda _: (digits_loss(m) * math.inf for m in [model]), optimizer, always(torch.float16), scaler)
    assert equal(weights(model), before)


# Bad input


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_no_scaler_mends_is_an_error_before_any_weight_changes(dtype):
    model = digits_mlp()
    before = weights(model)
    with pytest.raises(CourseError, match=r"The loss is nan and a gradient is infinite or NaN"):
        train_step((digits_loss(m) * math.nan for m in [model]), torch.optim.SGD(model.parameters(), lr=0.1), dtype)
    assert equal(weights(model), before)


def test_bad_input_names_the_argument():
    model = digits_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"scaler = None: expected a LossScaler"):
        train_step([digits_loss(model)], optimizer, torch.float16)
    with pytest.raises(ValueError, match=r"dtype = torch\.float64"):
        train_step([digits_loss(model)], optimizer, torch.float64)
    with pytest.raises(ValueError, match=r"losses = 0: expected at least one loss"):
        train_step([], optimizer)
    with pytest.raises(ValueError, match=r"losses = \(3,\): expected scalars"):
        train_step([torch.ones(3)], optimizer)
    half = torch.optim.SGD(digits_mlp().half().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer = torch\.float16: expected master weights in float32"):
        train_step([digits_loss(model)], half, torch.bfloat16)
    with pytest.raises(ValueError, match=r"mixed = 0"):
        alternating(torch.float16, mixed=0)
    with pytest.raises(ValueError, match=r"full = 0"):
        alternating(torch.float16, full=0)
    with pytest.raises(ValueError, match=r"gradients = 0"):
        zero_share([])


def test_attention_in_one_piece_is_refused_not_left_in_fp32():
    attention, x = nn.MultiheadAttention(8, 2), torch.randn(3, 1, 8)
    with Precision(torch.float32):
        attention(x, x, x)
    with pytest.raises(CourseError, match="attention made of linear layers"), Precision(torch.bfloat16):
        attention(x, x, x)
