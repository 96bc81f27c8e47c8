"""Temperature and label smoothing, which is distillation from a teacher that knows nothing."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from course_lib.distillation.losses import token_kd_loss
from course_lib.distillation.soft_labels import smoothed_label_loss, soft_label_entropy

MASK = torch.tensor([[True, True, False], [True, False, False]])


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(2, 3, 5, generator=generator), torch.randint(0, 5, (2, 3), generator=generator)


@given(st.floats(0, 0.9), st.integers(0, 99))
def test_smoothing_is_pytorchs(smoothing, seed):
    logits, labels = drawn(seed)
    due = F.cross_entropy(logits[MASK], labels[MASK], label_smoothing=smoothing)
    # sums of 3·5 float32 terms of size below 20, in two orders
    assert smoothed_label_loss(logits, labels, MASK, smoothing).item() == pytest.approx(due.item(), abs=30 * 2**-24 * 20)


def test_smoothing_is_distillation_from_a_teacher_that_knows_nothing():
    """``(1−ε)·cross-entropy + ε·KL(uniform ‖ q) + ε·log K``, the last a constant."""
    logits, labels = drawn()
    hard, knows_nothing = smoothed_label_loss(logits, labels, MASK, 0.0), token_kd_loss(logits, torch.zeros_like(logits), MASK)
    due = 0.7 * hard + 0.3 * (knows_nothing + math.log(5))
    assert smoothed_label_loss(logits, labels, MASK, 0.3).item() == pytest.approx(due.item(), rel=1e-6)


def test_a_higher_temperature_says_more_of_the_wrong_labels_up_to_all_alike():
    logits, _ = drawn()
    entropies = [soft_label_entropy(logits, MASK, t).item() for t in (0.5, 1, 2, 4, 1e4)]
    assert entropies == sorted(entropies) and entropies[-1] == pytest.approx(math.log(5), rel=1e-6)
    assert soft_label_entropy(1000 * logits, MASK).item() < 1e-3, "who is certain says no more than the label"


def test_what_is_masked_cannot_change_either():
    logits, labels = drawn()
    other, others = logits.clone(), labels.clone()
    other[~MASK], others[~MASK] = 99.0, -100
    assert torch.equal(smoothed_label_loss(other, others, MASK, 0.1), smoothed_label_loss(logits, labels, MASK, 0.1))
    assert torch.equal(soft_label_entropy(other, MASK), soft_label_entropy(logits, MASK))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, y: smoothed_label_loss(x, y, MASK, 1.0), "smoothing = 1.0"),
        (lambda x, y: smoothed_label_loss(x, y[:, :2], MASK, 0.1), "labels"),
        (lambda x, y: smoothed_label_loss(x, y, MASK & False, 0.1), "no True"),
        (lambda x, y: soft_label_entropy(x, MASK, 0), "temperature = 0"),
        (lambda x, y: soft_label_entropy(x, MASK[:1]), "mask"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*drawn())
