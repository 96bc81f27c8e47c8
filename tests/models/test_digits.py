"""The small networks: reproducible, trainable in seconds, and the data they read."""

import pytest
import torch

from course_lib.data.digits import load_digits
from course_lib.models.digits import accuracy, batches, digits_cnn, digits_mlp, fit, losses, mean_loss


@pytest.fixture(scope="module")
def digits():
    return load_digits(seed=0)


def test_the_parts_share_no_image_and_hold_all_of_them(digits):
    sizes = [len(y) for _, y in (digits.train, digits.validation, digits.test)]
    assert sizes == [1000, 400, 397]
    images = torch.cat([x for x, _ in (digits.train, digits.validation, digits.test)]).flatten(1)
    assert len(images.unique(dim=0)) == 1797
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)


def test_the_split_is_the_seeds(digits):
    assert torch.equal(load_digits(seed=0).validation[0], digits.validation[0])
    assert not torch.equal(load_digits(seed=1).validation[0], digits.validation[0])
    few = load_digits(seed=0, train=50)
    assert torch.equal(few.train[0], digits.train[0][:50]) and torch.equal(few.test[0], digits.test[0])
    with pytest.raises(ValueError, match="train = 5: expected 10 to 1 000"):
        load_digits(train=5)


@pytest.mark.parametrize("make", [digits_mlp, digits_cnn])
def test_a_seed_gives_a_network_and_leaves_the_global_one_alone(make):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    a, b, other = make(seed=3), make(seed=3), make(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(other.parameters()))
    assert a(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_an_epoch_sees_each_image_once(digits):
    y = digits.train[1]
    seen = torch.cat([b for _, b in batches((torch.arange(len(y)), y), 64, seed=0)])
    positions = torch.cat([a for a, _ in batches((torch.arange(len(y)), y), 64, seed=0)])
    assert sorted(positions.tolist()) == list(range(len(y))) and torch.equal(seen, y[positions])


def test_it_learns_and_two_runs_end_alike(digits):
    runs = [fit(digits_mlp(seed=0), digits.train, epochs=6, seed=0) for _ in range(2)]
    assert accuracy(runs[0], digits.validation) > 0.85
    assert all(torch.equal(p, q) for p, q in zip(runs[0].parameters(), runs[1].parameters(), strict=True))


def test_losses_average_to_the_mean_loss(digits):
    network = digits_cnn(seed=0)
    each = torch.stack(list(losses(network, digits.train, size=100)))
    assert float(each.detach().mean()) == pytest.approx(
        mean_loss(network, digits.train), rel=1e-5
    )  # ten sums of a hundred in fp32


def test_after_step_is_called_after_each_step(digits):
    calls = []
    fit(digits_mlp(seed=0), digits.train, epochs=2, after_step=lambda: calls.append(1))
    assert len(calls) == 2 * 16
