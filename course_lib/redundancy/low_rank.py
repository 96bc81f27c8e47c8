"""Low rank: a matrix (R, D) as the product of a tall one (R, r) and a wide one (r, D), which are smaller when r is small.

The singular value decomposition ``W = Σᵢ σᵢ·uᵢ·vᵢᵀ`` cut off after r terms is the nearest matrix of rank r, and what it
misses is known before it is cut: ``‖W − Wᵣ‖² = Σ_{i>r} σᵢ²`` (Eckart and Young 1936). The factors have ``r·(R + D)`` numbers
instead of ``R·D``: a square matrix must lose half of its rank before anything is saved.
"""

from collections.abc import Sequence

import torch

from course_lib.errors import expect


def singular_values(weight: torch.Tensor) -> torch.Tensor:
    """σ of a matrix (R, D), descending, float64 (min(R, D),).

    Raises:
        ValueError: no matrix, integers, NaN or infinity.

    >>> singular_values(torch.tensor([[0.0, 3.0], [4.0, 0.0]]))
    tensor([4., 3.], dtype=torch.float64)
    """
    return torch.linalg.svdvals(checked(weight).double())


def svd_factors(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest matrix of a rank, as two factors: ``left = Uᵣ·√Σᵣ`` and ``right = √Σᵣ·Vᵣᵀ``.

    The square root of each singular value goes to either side, so that both factors have numbers of like size, which matters to
    whoever trains or quantizes them.

    Args:
        weight: W (R, D), floating point, finite.
        rank: r, between 1 and min(R, D).
    Returns:
        left (R, r) and right (r, D), of the dtype of ``weight``; ``left @ right`` is Wᵣ.
    Raises:
        ValueError: no matrix, or a rank that it cannot have.

    >>> left, right = svd_factors(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1)
    >>> left @ right
    tensor([[3., 0.],
            [0., 0.]])
    """
    check_rank(rank, weight.shape)
    u, sigma, vt = torch.linalg.svd(checked(weight).double(), full_matrices=False)
    root = sigma[:rank].sqrt()
    return (u[:, :rank] * root).to(weight.dtype), (root[:, None] * vt[:rank]).to(weight.dtype)


def dropped_energy(sigma: torch.Tensor) -> torch.Tensor:
    """``Σ_{i>r} σᵢ²`` for r = 0, 1, …, n: the squared error at every rank, float64 (n + 1,), for σ (n,) descending.

    >>> dropped_energy(torch.tensor([2.0, 1.0]))
    tensor([5., 1., 0.], dtype=torch.float64)
    """
    squares = checked_spectrum(sigma).square()
    return torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])  # small ones first: nothing is lost


def rank_for_energy(sigma: torch.Tensor, share: float) -> int:
    """The smallest rank that keeps at least ``share`` of the energy ``Σ σᵢ²``; at least 1.

    Args:
        sigma: (n,), descending.
        share: above 0, at most 1.

    >>> rank_for_energy(torch.tensor([3.0, 1.0, 0.0]), 0.9), rank_for_energy(torch.tensor([3.0, 1.0, 0.0]), 1.0)
    (1, 2)
    """
    expect(0 < share <= 1, "share", share, "a share of the energy, above 0 and at most 1")
    left = dropped_energy(sigma)
    # 1 − share is not the number it is written as (1 − 0.9 = 0.09999…98): a few units in the last place are allowed for.
    enough = left <= left[0] * ((1 - share) + 4 * 2**-53 * (share < 1))
    return max(1, int(enough.nonzero()[0]))


def rank_for_bytes(shape: Sequence[int], budget: float, value_bytes: int = 4) -> int:
    """The largest rank whose factors fit: ``r·(R + D)·value_bytes ≤ budget``, at most min(R, D).

    Raises:
        ValueError: not even rank 1 fits.

    >>> rank_for_bytes((384, 1536), budget=384 * 1536 * 4 / 2)
    153
    """
    one = factor_size(shape, 1) * value_bytes
    expect(budget >= one, "budget", budget, f"at least {one} bytes, which rank 1 of {tuple(shape)} takes")
    return min(int(budget // one), *shape)


def factor_size(shape: Sequence[int], rank: int) -> int:
    """Numbers in the two factors of a matrix (R, D), and multiply-adds per token: ``r·(R + D)``.

    >>> factor_size((384, 1536), 100)
    192000
    """
    check_rank(rank, shape)
    return rank * sum(shape)


def largest_saving_rank(shape: Sequence[int]) -> int:
    """The largest rank whose factors are smaller than the matrix, ``r < R·D / (R + D)``; 0 where no rank is.

    >>> largest_saving_rank((384, 384)), largest_saving_rank((384, 1536)), largest_saving_rank((9, 384))
    (191, 307, 8)
    """
    rows, columns = shape
    return (rows * columns - 1) // (rows + columns)


def check_rank(rank: int, shape: Sequence[int]) -> None:
    """Refuse a rank that a matrix of this shape cannot have.

    Raises:
        ValueError: it is no whole number between 1 and min(R, D).
    """
    whole = isinstance(rank, int) and not isinstance(rank, bool)
    expect(whole and 1 <= rank <= min(shape), "rank", rank, f"a whole number between 1 and {min(shape)}, as {tuple(shape)} has")


def checked(weight: torch.Tensor) -> torch.Tensor:
    """A matrix (R, D) without its gradient, after it was found to be floating point and finite.

    Raises:
        ValueError: it is not.
    """
    good = weight.dim() == 2 and weight.numel() > 0 and weight.is_floating_point()
    expect(good, "weight", (tuple(weight.shape), weight.dtype), "a floating-point matrix (R, D)")
    expect(bool(torch.isfinite(weight).all()), "weight", "NaN or infinity", "finite numbers")
    return weight.detach()


def checked_spectrum(sigma: torch.Tensor) -> torch.Tensor:
    """σ (n,) in float64, after it was found to be at least 0, finite and descending.

    Raises:
        ValueError: it is not.
    """
    good = sigma.dim() == 1 and len(sigma) > 0 and bool(torch.isfinite(sigma).all()) and bool((sigma >= 0).all())
    expect(good and bool((sigma.diff() <= 0).all()), "sigma", sigma[:8].tolist(), "singular values, descending, at least 0")
    return sigma.double()
