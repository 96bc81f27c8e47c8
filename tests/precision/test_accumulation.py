"""Gradient accumulation: the gradient of the whole batch, and what the mean of means gives instead."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.data.align import IGNORED
from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.precision.accumulation import loss_shares, micro_batches, real_tokens, token_loss_sum
from course_lib.precision.live_bytes import LiveBytes
from course_lib.precision.mixed import train_step


def batch(lengths: list[int], longest: int = 12, seed: int = 0) -> list[torch.Tensor]:
    """Ids, mask and labels (B, L); so many pieces of each row are real, and every third of them has a label."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (len(lengths), longest), generator=generator)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    labels = torch.randint(3, ids.shape, generator=generator).masked_fill(
        (mask == 0) | (torch.arange(longest) % 3 > 0), IGNORED
    )
    return [ids, mask, labels]


@pytest.fixture(scope="module")
def model():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).double().eval()


def summed(model, part) -> torch.Tensor:
    """In the model's own fp64, not in fp32 as :func:`token_loss_sum`: sums in another order differ by 1e-16 then."""
    ids, mask, labels = part
    logits = model(input_ids=ids, attention_mask=mask).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def gradients(model, losses) -> torch.Tensor:
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def tokens(part) -> int:
    return real_tokens(part[2])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(1, 7))
def test_the_shares_of_any_split_add_up_to_the_batchs_loss(lengths, size):
    logits = torch.randn(len(lengths), 12, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    labels = batch(lengths)[2]
    parts = micro_batches([logits, labels], size)
    shares = list(loss_shares(parts, lambda part: token_loss_sum(*part), lambda part: real_tokens(part[1])))
    whole = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    # at most 28 terms, each rounded and added to a sum of at most the whole: 2 · 28 roundings of 2⁻²⁴
    assert sum(map(float, shares)) == pytest.approx(float(whole), rel=2 * 28 * 2**-24)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_accumulated_gradients_are_those_of_the_large_batch(model, size):
    """In float64 sums over at most 5 × 12 tokens in another order, through 2 layers: some hundred roundings of 2⁻⁵³ on numbers of the
    size of the gradient's norm, so 1e-13 of it."""
    data = batch([12, 3, 7, 1, 10])
    whole = gradients(model, [summed(model, data) / real_tokens(data[2])])
    parts = micro_batches(data, size)
    ours = gradients(model, loss_shares(parts, lambda part: summed(model, part), tokens))
    assert float((ours - whole).norm() / whole.norm()) < 1e-13


def test_the_mean_of_the_means_of_parts_is_another_gradient(model):
    """Parts of 5 and 2 labels: the mean of means weighs a token of the second 2.5 times as much as one of the first."""
    data = batch([12, 3, 3, 3])
    parts = micro_batches(data, 2)
    assert [tokens(part) for part in parts] == [5, 2]
    whole = gradients(model, [summed(model, data) / 7])
    wrong = gradients(model, [summed(model, part) / tokens(part) / 2 for part in parts])
    assert float((wrong - whole).norm() / whole.norm()) > 0.1
    even = micro_batches(batch([3, 3, 3, 3]), 2)
    right = gradients(model, loss_shares(even, lambda part: summed(model, part), tokens))
    same = gradients(model, [summed(model, part) / tokens(part) / 2 for part in even])
    assert float((right - same).norm() / right.norm()) < 1e-13, "with equally many tokens it makes no difference"


def test_a_step_over_parts_holds_the_activations_of_one_part():
    model = load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = batch([48] * 16, longest=48)
    peaks = []
    for size in (16, 2):
        parts = micro_batches(data, size)
        losses = loss_shares(parts, lambda p: token_loss_sum(model(input_ids=p[0], attention_mask=p[1]).logits, p[2]), tokens)
        with LiveBytes(model, data) as live:
            fixed = live.now
            train_step(losses, optimizer)
        peaks.append(live.peak - fixed - sum(p.nbytes for p in model.parameters()))
    assert peaks[1] < peaks[0] / 8 * 1.5, "an eighth, and what does not depend on the batch"


def test_a_part_without_real_tokens_adds_nothing(model):
    data = batch([12, 0, 0])
    whole = gradients(model, [summed(model, [x[:1] for x in data]) / 4])
    data[1][1:, 0] = 1  # attention needs something to look at
    ours = gradients(model, loss_shares(micro_batches(data, 1), lambda part: summed(model, part), tokens))
    assert float((ours - whole).norm() / whole.norm()) < 1e-13


def test_bad_input_names_the_argument():
    with pytest.raises(ValueError, match=r"parts = 0: expected at least one real token in the batch"):
        loss_shares(micro_batches(batch([0, 0]), 1), lambda part: torch.zeros(()), tokens)
    with pytest.raises(ValueError, match=r"size = 0"):
        micro_batches(batch([3]), 0)
    with pytest.raises(ValueError, match=r"batch = \[2, 3\]: expected tensors of equally many rows"):
        micro_batches([torch.zeros(2), torch.zeros(3)], 1)
