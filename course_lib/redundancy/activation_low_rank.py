"""Activation-aware low rank: the factors that change a layer's *output* least, on the inputs that it really gets.

The nearest matrix is not the best layer: an error along a direction that the inputs never take costs nothing. With the
inputs' second moment ``H = XᵀX/n = S·Sᵀ`` (Cholesky) the output error of a change Δ of the weight is

    ‖X·Δᵀ‖² / n = tr(Δ·H·Δᵀ) = ‖Δ·S‖²

so the best Wᵣ is the cut-off SVD of ``W·S``, taken back by S⁻¹, and its error is the sum of the dropped σ²(W·S). Source:
SVD-LLM (Wang et al. 2024, 2403.07378), which whitens in full; ASVD (Yuan et al. 2023, 2312.05821) scales by a diagonal only.
"""

import torch

from course_lib.errors import expect
from course_lib.obs import checked_layer, damped
from course_lib.redundancy.low_rank import check_rank, singular_values

# Of the mean diagonal of H. With fewer tokens than inputs H has eigenvalues of 0, and products summed in float32 move them by up to 2⁻²⁴ of the
# largest, ‖X‖²/n = D mean diagonals: 1e-4 of a mean diagonal for D = 1536, below 0 as well as above.
DAMPING = 1e-3


def whitening(moment: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """The lower triangular S with ``S·Sᵀ = H + λI``, float64 (D, D); λ = damping · mean(diag H).

    Args:
        moment: H = XᵀX/n (D, D), of :class:`course_lib.calibration.Hessian`.
        damping: a fraction ≥ 0; makes H of too few tokens, or with dead or repeated inputs, positive definite.
    Raises:
        ValueError: H + λI is not positive definite.

    >>> whitening(torch.tensor([[4.0, 0.0], [0.0, 9.0]]), damping=0)
    tensor([[2., 0.],
            [0., 3.]], dtype=torch.float64)
    """
    factor, failed = torch.linalg.cholesky_ex(damped(moment, damping))
    expected = "a positive definite second moment; give more tokens or a higher damping"
    expect(int(failed) == 0, "moment", f"singular, rank < {len(moment)}", expected)
    return factor


def whitened_singular_values(weight: torch.Tensor, moment: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """σ(W·S) of W (R, D) with H (D, D), descending, float64 (min(R, D),): what each rank is worth to the layer's output."""
    checked_layer(weight, moment)
    return singular_values(weight.detach().double() @ whitening(moment, damping))


def activation_factors(
    weight: torch.Tensor, moment: torch.Tensor, rank: int, damping: float = DAMPING
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of a rank with the smallest output error: ``left = Uᵣ·√Σᵣ``, ``right = √Σᵣ·Vᵣᵀ·S⁻¹`` where ``W·S = U·Σ·Vᵀ``.

    Args:
        weight: W (R, D), floating point, finite.
        moment: H (D, D).
        rank: r, between 1 and min(R, D).
        damping: see :func:`whitening`. What is made smallest is ``‖X·Δᵀ‖²/n + λ·‖Δ‖²``, and that equals the dropped σ².
    Returns:
        left (R, r) and right (r, D), of the dtype of ``weight``.
    Raises:
        ValueError: other shapes, NaN or infinity, a rank that W cannot have, an H that is not positive definite.

    >>> w, h = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    >>> left, right = activation_factors(w, h, 1, damping=0)  # the larger weight meets the smaller input, and goes
    >>> (left @ right).round(decimals=3).abs()
    tensor([[1., 0.],
            [0., 0.]])
    """
    checked_layer(weight, moment)
    check_rank(rank, weight.shape)
    s = whitening(moment, damping)
    u, sigma, vt = torch.linalg.svd(weight.detach().double() @ s, full_matrices=False)
    root = sigma[:rank].sqrt()
    right = torch.linalg.solve_triangular(s, root[:, None] * vt[:rank], upper=False, left=False)  # Z with Z·S = √Σᵣ·Vᵣᵀ
    return (u[:, :rank] * root).to(weight.dtype), right.to(weight.dtype)
