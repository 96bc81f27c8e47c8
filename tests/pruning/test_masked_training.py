"""Training with a mask against PyTorch's own SGD, and first-order saliency against the loss it estimates."""

import pytest
import torch

from course_lib.pruning.masked_training import first_order_saliency, masked_sgd
from course_lib.pruning.scores import taylor_scores


def steps(seed: int = 0, count: int = 5, shape: tuple[int, ...] = (3, 4)):
    generator = torch.Generator().manual_seed(seed)
    w, mask = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) < 0.6
    return w, mask, list(torch.randn(count, *shape, generator=generator).unbind())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_torch_sgd_with_the_mask_applied_after_each_step(momentum):
    w, mask, gradients = steps()
    p = torch.nn.Parameter(w.clone())
    optimizer = torch.optim.SGD([p], lr=0.1, momentum=momentum)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        with torch.no_grad():
            p.mul_(mask)
    # Both round once a multiplication and once an addition: a few units in the last place of numbers below 8.
    torch.testing.assert_close(masked_sgd(w, mask, gradients, 0.1, momentum), p.detach(), rtol=0, atol=8 * 2**-22)


def test_pruned_weights_are_zero_and_a_full_mask_changes_nothing():
    w, mask, gradients = steps(1)
    assert bool((masked_sgd(w, mask, gradients, 0.1)[~mask] == 0).all())
    full = torch.ones_like(mask)
    assert torch.equal(masked_sgd(w, full, gradients, 0.1)[mask], masked_sgd(w, mask, gradients, 0.1)[mask])
    assert torch.equal(masked_sgd(w, full, [], 0.1), w)


def test_the_weights_given_are_left_as_they_are():
    w, mask, gradients = steps(2)
    before = w.clone()
    masked_sgd(w, mask, gradients, 0.1)
    assert torch.equal(w, before)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mask": torch.ones(3, 4)}, "mask = .*expected bool"),
        ({"mask": torch.ones(4, 3, dtype=torch.bool)}, r"expected bool, \(3, 4\)"),
        ({"momentum": 1.0}, "momentum = 1.0: expected a number from 0 to below 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    w, mask, gradients = steps()
    with pytest.raises(ValueError, match=message):
        masked_sgd(**{"w": w, "mask": mask, "gradients": gradients, "lr": 0.1, **change})


def test_saliency_is_what_taylor_scores_add_up_from_losses():
    generator = torch.Generator().manual_seed(0)
    w, data = torch.randn(4, requires_grad=True), torch.randn(6, 5, 4, generator=generator)
    gradients = torch.stack([torch.autograd.grad((x @ w).square().mean(), w)[0] for x in data])
    losses = ((x @ w).square().mean() for x in data)
    assert torch.equal(first_order_saliency(w.detach(), gradients), taylor_scores({"w": w}, losses)["w"])


def test_for_a_linear_loss_it_is_the_change_exactly():
    w, slope = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([3.0, 0.5, 7.0])
    changes = torch.stack([(slope * torch.where(torch.arange(3) == i, 0.0, w)).sum() - (slope * w).sum() for i in range(3)])
    assert torch.equal(first_order_saliency(w, slope[None]), changes.abs())


def test_gradients_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"gradients = \(2, 4\): expected \(batches, 3\)"):
        first_order_saliency(torch.ones(3), torch.ones(2, 4))
