"""Two small networks for the digits, and training them: small enough to look at every weight."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

Pair = tuple[torch.Tensor, torch.Tensor]


def digits_mlp(seed: int = 0, hidden: tuple[int, ...] = (128, 64)) -> nn.Sequential:
    """64 → 128 → 64 → 10 with ReLU, weights drawn by ``seed``; takes images (B, 1, 8, 8)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths, layers = (64, *hidden), [nn.Flatten()]
        for into, out in zip(widths, hidden, strict=False):
            layers += [nn.Linear(into, out), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def digits_cnn(seed: int = 0, channels: tuple[int, int] = (16, 32)) -> nn.Sequential:
    """Two 3×3 convolutions with ReLU, a 2×2 maximum and one linear layer; takes images (B, 1, 8, 8)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        a, b = channels
        return nn.Sequential(
            nn.Conv2d(1, a, 3, padding=1), nn.ReLU(),
            nn.Conv2d(a, b, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(b * 16, 10),
        )  # fmt: skip


def batches(data: Pair, size: int, seed: int) -> Iterator[Pair]:
    """The images and labels in shuffled batches, each image once."""
    x, y = data
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    for part in order.split(size):
        yield x[part], y[part]


def losses(model: nn.Module, data: Pair, size: int = 100) -> Iterator[torch.Tensor]:
    """The mean cross-entropy of each batch, computed when asked for, as the scores of :mod:`course_lib.pruning.scores` want it."""
    x, y = data
    for a, b in zip(x.split(size), y.split(size), strict=True):
        yield F.cross_entropy(model(a), b)


def fit(
    model: nn.Module, data: Pair, epochs: int, lr: float = 3e-3, seed: int = 0, after_step: Callable[[], object] | None = None
) -> nn.Module:
    """Train in place with AdamW, batches of 64; returns the model.

    Args:
        model: a network for the digits.
        data: images and labels.
        epochs: passes over them.
        lr: learning rate, falling along a half cosine to 0.
        seed: of the order of the batches.
        after_step: called after each step of the optimizer, for instance to set pruned weights back to zero.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(data[1]) // 64))
    for epoch in range(epochs):
        for x, y in batches(data, 64, 1000 * seed + epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            if after_step:
                after_step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Pair) -> float:
    """The fraction of images whose most likely label is the right one."""
    x, y = data
    return float((model(x).argmax(dim=1) == y).float().mean())


@torch.no_grad()
def mean_loss(model: nn.Module, data: Pair) -> float:
    """Mean cross-entropy, in nats per image."""
    x, y = data
    return float(F.cross_entropy(model(x), y))
