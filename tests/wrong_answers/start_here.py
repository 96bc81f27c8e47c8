"""Lesson 00: a fraction of zeros, and the size of a model."""

import torch

from wrong_answers import right, wrong


@wrong("sparsity", says="the density")
def fraction_that_survives(w: torch.Tensor) -> float:
    alive = torch.count_nonzero(w).item()
    return alive / w.numel()


@wrong("sparsity", says="looks like a count of zeros")
def number_of_zeros(w: torch.Tensor) -> int:
    zeros = 0
    for value in w.flatten():
        if value == 0:
            zeros += 1
    return zeros


@wrong("sparsity", says="a percentage")
def in_percent(w: torch.Tensor) -> float:
    return (w.numel() - torch.count_nonzero(w).item()) / w.numel() * 100


@wrong("sparsity", says="negative weights are counted along")
def whatever_is_not_positive(w: torch.Tensor) -> float:
    positive = (w > 0).sum().item()
    return 1 - positive / w.numel()


@wrong("sparsity", says="divided by the number of rows")
def zeros_per_row(w: torch.Tensor) -> float:
    return (w == 0).sum().item() / w.shape[0]  # right for a vector


@wrong("sparsity", says="With a vector without zeros")
def one_fraction_for_each_column(w: torch.Tensor) -> torch.Tensor:
    return (w == 0).float().mean(dim=0, keepdim=True)


@right("sparsity")
def by_counting_what_is_left(w: torch.Tensor) -> float:
    return 1 - torch.count_nonzero(w).item() / w.numel()


@right("sparsity")
def by_a_loop(w: torch.Tensor) -> float:
    values = w.flatten().tolist()
    return sum(v == 0 for v in values) / len(values)


@right("sparsity")
def as_a_tensor_in_double_precision(w: torch.Tensor) -> torch.Tensor:
    return w.eq(0).double().mean()


@right("sparsity")
def in_place(w: torch.Tensor) -> float:
    w[w != 0] = 1
    return 1 - w.sum().item() / w.numel()


@wrong("megabytes", says="mebibytes")
def of_1024_times_1024_bytes(parameters: int, bits: float) -> float:
    n_bytes = parameters * bits / 8
    return n_bytes / 1024 / 1024


@wrong("megabytes", says="mega*bits*")
def never_divided_by_eight(parameters: int, bits: float) -> float:
    return parameters / 1_000_000 * bits


@wrong("megabytes", says="share a byte")
def every_weight_in_whole_bytes(parameters: int, bits: float) -> float:
    bytes_each = int(bits / 8)
    return parameters * bytes_each * 1e-6


@wrong("megabytes", says="bytes, not yet megabytes")
def in_bytes(parameters: int, bits: float) -> float:
    return parameters * (bits / 8)


@wrong("megabytes", says="not the right number")
def always_32_bits(parameters: int, bits: float) -> float:
    return parameters * 4 / 1e6


@right("megabytes")
def bytes_first(parameters: int, bits: float) -> float:
    n_bytes = parameters * bits / 8
    return n_bytes / 10**6


@right("megabytes")
def as_a_double_tensor(parameters: int, bits: float) -> torch.Tensor:
    return torch.tensor(parameters, dtype=torch.float64) * bits / 8_000_000
