"""The memory account: exact parts by hand, and its peak against the live bytes of a training step that a dispatch mode counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.digits import digits_cnn, digits_mlp
from course_lib.models.digits_transformer import digits_transformer
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.precision.live_bytes import LiveBytes
from course_lib.precision.loss_scaler import LossScaler
from course_lib.precision.memory import Account, memory_account
from course_lib.precision.mixed import train_step

FULL, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def digits(make, count: int):
    """A network, its loss and a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(count, 1, 8, 8, generator=generator), torch.randint(10, (count,), generator=generator)
    model = make()
    return model, lambda: F.cross_entropy(model(x), y), [x, y]


def ner(name: str, count: int, length: int):
    """A token classifier on sentences of which the last is half as long."""
    generator = torch.Generator().manual_seed(0)
    model = load_token_classifier(find_encoder(name), ["O", "B-LOC", "I-LOC"]).train()
    ids, mask = torch.randint(5, 60, (count, length), generator=generator), torch.ones(count, length, dtype=torch.long)
    mask[-1, length // 2 :] = 0
    labels = torch.randint(3, (count, length), generator=generator).masked_fill(mask == 0, -100)

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1), labels.flatten())

    return model, loss, [ids, mask, labels]


def with_state(model: nn.Module, **options) -> torch.optim.AdamW:
    """An optimizer as the second step finds it, with its moments in place."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, **options)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


CASES = {
    "mlp 64": (lambda: digits(digits_mlp, 64), (FULL, BF16, FP16)),
    "mlp 1000": (lambda: digits(digits_mlp, 1000), (FULL, BF16, FP16)),
    "cnn 200": (lambda: digits(digits_cnn, 200), (FULL, BF16)),
    "digits transformer 200": (lambda: digits(digits_transformer, 200), (FULL, BF16, FP16)),
    "tiny encoder 16 × 64": (lambda: ner("tiny", 16, 64), (FULL, BF16, FP16)),
    "real encoder 1 × 12": (lambda: ner("minilm", 1, 12), (FULL, BF16)),
    "real encoder 8 × 96": (lambda: ner("minilm", 8, 96), (FULL, BF16)),
}


STEP_DECIDES = {"mlp 64", "real encoder 1 × 12"}  # few activations: what the optimizer allocates makes the peak


@pytest.mark.parametrize(
    ("case", "dtype", "fused"),
    [(case, dtype, True) for case, (_, dtypes) in CASES.items() for dtype in dtypes]
    + [(case, dtype, False) for case in sorted(STEP_DECIDES) for dtype in (FULL, BF16)],
    ids=str,
)
def test_the_peak_is_within_a_tenth_of_the_live_bytes_of_a_step(case, dtype, fused):
    model, loss, batch = CASES[case][0]()
    optimizer = with_state(model, fused=fused)
    account = memory_account(model, loss, batch, optimizer, dtype)
    with LiveBytes(model, optimizer, batch) as live:
        train_step((loss() for _ in range(1)), optimizer, dtype, LossScaler())
    assert 0.9 <= account.peak / live.peak <= 1.1


def test_the_parts_of_a_small_network_are_those_added_up_by_hand():
    model, loss, batch = digits(digits_mlp, 32)
    account = memory_account(model, loss, batch, with_state(model, fused=True))
    weights = 4 * (64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10)
    assert account.weights == account.gradients == {"float32": weights} and account.state == {"float32": 2 * weights}
    assert account.batch == {"float32": 32 * 64 * 4, "int64": 32 * 8}
    # after each ReLU, which the next product needs too, the log-probabilities, and one number that the loss divides by
    assert account.activations == {"float32": 4 * (32 * (128 + 64 + 10) + 1)}
    assert account.step_extra == 0 and account.forward_peak <= account.backward_peak
    assert {"part": "optimizer", "dtype": "float32", "bytes": 2 * weights} in account.rows()
    assert sum(row["bytes"] for row in account.rows() if row["part"] == "activations") == 4 * (32 * 202 + 1)


def test_the_peak_is_the_largest_of_forward_backward_and_step():
    sizes = [{"float32": n} for n in (10, 10, 20, 50, 1)]
    assert Account(*sizes, forward_peak=55, backward_peak=52, step_extra=5).peak == 31 + 55
    assert Account(*sizes, forward_peak=55, backward_peak=58, step_extra=5).peak == 31 + 58
    assert Account(*sizes, forward_peak=5, backward_peak=8, step_extra=5).peak == 31 + 10 + 5


def test_mixed_precision_halves_activations_and_adds_copies_of_the_weights():
    model, loss, batch = digits(digits_mlp, 1000)
    optimizer = with_state(model)
    mixed = memory_account(model, loss, batch, optimizer, BF16)
    copies = 64 * 128 + 128 * 64 + 64 * 10  # biases are added and not kept
    # the copy of the images is new: in fp32 the batch itself is kept. The first weight's copy is not: no gradient goes further down.
    assert mixed.activations == {"bfloat16": 2 * (1000 * (64 + 128 + 64) + copies - 64 * 128), "float32": 4 * (1000 * 10 + 1)}
    assert mixed.weights == memory_account(model, loss, batch, optimizer).weights, "the masters stay in fp32"


def test_the_state_is_that_of_the_optimizer():
    model, loss, batch = digits(digits_mlp, 4)
    weights = sum(p.nbytes for p in model.parameters())

    def state(optimizer) -> int:
        return sum(memory_account(model, loss, batch, optimizer).state.values())

    assert state(torch.optim.SGD(model.parameters())) == 0
    assert state(torch.optim.SGD(model.parameters(), momentum=0.9)) == weights
    assert state(torch.optim.Adam(model.parameters(), amsgrad=True)) == 3 * weights
    last = list(model[5].parameters())
    assert state(torch.optim.AdamW(last)) == 2 * sum(p.nbytes for p in last)


def test_a_weight_used_twice_counts_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    x = torch.randn(3, 8)
    account = memory_account(model, lambda: model(x).sum(), [x], torch.optim.AdamW(model.parameters()))
    assert account.weights == account.gradients == {"float32": 256} and account.state == {"float32": 512}


def test_the_account_changes_nothing():
    model, loss, batch = ner("tiny", 2, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    before, random = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    memory_account(model, loss, batch, optimizer, BF16)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), random) and optimizer.state_dict()["state"] == {}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_accounted_for_is_refused():
    model, loss, batch = digits(digits_mlp, 4)
    with pytest.raises(CourseError, match=r"optimizer = Adagrad: expected Adam, AdamW or SGD"):
        memory_account(model, loss, batch, torch.optim.Adagrad(model.parameters()))
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ValueError, match=r"loss = .*expected a loss computed with the model's parameters"):
        memory_account(model, lambda: torch.zeros(()), batch, optimizer)
    assert not any(m._forward_hooks for m in model.modules())
