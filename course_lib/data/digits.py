"""The 8×8 digits that scikit-learn ships: a data set on which a network trains in seconds."""

from dataclasses import dataclass

import torch

from course_lib.errors import expect


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8) in [0, 1] and labels (N,) 0–9 of three parts that share no image."""

    train: tuple[torch.Tensor, torch.Tensor]
    validation: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]


def load_digits(seed: int = 0, train: int | None = None) -> Digits:
    """The 1 797 handwritten digits of Alpaydin and Kaynak (1998), shuffled by ``seed``: 1 000 train, 400 validation, 397 test.

    Args:
        seed: of the shuffle.
        train: keep only so many training images, for a quick run.
    """
    from sklearn.datasets import load_digits as load

    expect(train is None or 10 <= train <= 1000, "train", train, "10 to 1 000 images, or None for all")
    images, labels = load(return_X_y=True)
    x = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    y = torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    parts = order[:1000][:train], order[1000:1400], order[1400:]
    return Digits(*((x[part], y[part]) for part in parts))
