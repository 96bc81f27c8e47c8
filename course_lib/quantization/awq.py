"""AWQ: weights that meet large inputs are given finer steps, by scaling their column up before rounding and the input down.

Lin et al. 2023, 2306.00978. The scale of column j is ``(mean|X_j|)^α``; α is searched for on the calibration inputs. α = 0 is
plain rounding to nearest and is among those tried, so on these inputs AWQ is never worse. As the division of the input is
not exact when folded into BERT's LayerNorm (:mod:`course_lib.quantization.smooth`), it is a step of its own.
"""

import torch

from course_lib.errors import expect
from course_lib.quantization.affine import choose_affine, fake_quantize
from course_lib.quantization.scheme import Scheme
from course_lib.quantization.smooth import scaled_columns


def awq_scale(absmean: torch.Tensor, exponent: float) -> torch.Tensor:
    """``s_j = a_j^α / √(max_k a_k^α · min_k a_k^α)`` with ``a_j = mean|X_j|`` (Lin et al. 2023, 2306.00978; its code).

    Args:
        absmean: (D,), at least 0, not all 0. A dead column (0) counts as the smallest of the others.
        exponent: α, 0 to 1.
    Returns:
        s (D,), float32, above 0; largest · smallest = 1.

    >>> awq_scale(torch.tensor([16.0, 1.0, 0.0]), 0.5)
    tensor([2.0000, 0.5000, 0.5000])
    """
    expect(0 <= exponent <= 1, "exponent", exponent, "a number between 0 and 1")
    live = absmean > 0
    good = bool(torch.isfinite(absmean).all()) and bool((absmean >= 0).all()) and bool(live.any())
    expect(good, "absmean", absmean[:8].tolist(), "finite numbers of at least 0, not all 0")
    scale = absmean.double().clamp(min=float(absmean[live].min())).pow(exponent)
    return (scale / (scale.max() * scale.min()).sqrt()).float()


def awq(weight: torch.Tensor, inputs: torch.Tensor, scheme: Scheme, steps: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the exponent whose scale makes the rounded layer's output error smallest.

    ``min_α ‖X·(Ŵ_α − W)ᵀ‖²/n`` where ``Ŵ_α = dequantize(quantize(W·diag(s)))·diag(s)⁻¹``, s = :func:`awq_scale` of α
    (Lin et al. 2023, 2306.00978, equations 4 and 5).

    Args:
        weight: W, (R, D), floating point.
        inputs: a sample of the layer's inputs, (n, D), finite, not all 0.
        scheme: bits, granularity and symmetry of the codes.
        steps: exponents tried are 0, 1/steps, …, 1; among equals the smallest is taken.
    Returns:
        The input scale s, float32 (D,), and the squared output error of each exponent tried, averaged over tokens and summed over
        outputs, float64 (steps + 1,).
    Raises:
        ValueError: shapes, NaN or infinity, or a scheme that is not a uniform grid.
    """
    expect_uniform(scheme)
    expect(steps >= 1, "steps", steps, "at least 1")
    expect(weight.dim() == 2 and weight.is_floating_point(), "weight", (tuple(weight.shape), weight.dtype), "floats (R, D)")
    fits = inputs.dim() == 2 and len(inputs) > 0 and inputs.shape[1] == weight.shape[1]
    expect(fits, "inputs", tuple(inputs.shape), f"rows of {weight.shape[1]} numbers")
    expect(bool(torch.isfinite(inputs).all()), "inputs", "NaN or infinity", "finite numbers")
    absmean = inputs.abs().mean(0, dtype=torch.float64)
    scales = [awq_scale(absmean, step / steps) for step in range(steps + 1)]
    errors = []
    for scale in scales:
        change = on_grid(scaled_columns(weight, scale), scheme) / scale - weight
        errors.append(float((inputs.to(change.dtype) @ change.T).square().sum(dtype=torch.float64)) / len(inputs))
    return scales[min(range(len(errors)), key=errors.__getitem__)], torch.tensor(errors, dtype=torch.float64)


def expect_uniform(scheme: Scheme) -> None:
    """Refuse a scheme whose weights are not on a uniform grid.

    Raises:
        ValueError: a codebook.
    """
    expect(scheme.codebook is None, "scheme", str(scheme), "a uniform grid, without a codebook")


def on_grid(weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """A weight (out, in) rounded to nearest by a scheme, still in floats of that shape."""
    scale, zero_point = choose_affine(weight, scheme.bits, scheme.symmetric, scheme.granularity)
    return fake_quantize(weight, scale, zero_point, scheme.bits, scheme.symmetric)
