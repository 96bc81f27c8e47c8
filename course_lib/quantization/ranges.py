"""Choosing a range of values from a histogram: by a share, by squared error, by lost information.

Each takes counts of values and gives ``(low, high)`` for :func:`course_lib.quantization.affine.choose_from_range`.
"""

import torch

from course_lib.errors import expect
from course_lib.quantization.affine import choose_from_range, code_range, dequantize, quantize

Ends = tuple[torch.Tensor, torch.Tensor]


def percentile_range(
    counts: torch.Tensor, edges: torch.Tensor, ends: Ends, percentile: float = 99.99, symmetric: bool = False
) -> Ends:
    """The range that holds a share of the values: as many are cut off below as above, or symmetric by size.

    Inside a bin the values are taken as evenly spread, so each end is within a bin's width of the sample's own quantile.
    Source: Wu et al. 2020, 2004.09602.

    Args:
        counts: int64 (bins,); ``edges``: float64 (bins + 1,), ascending, symmetric about 0 if ``symmetric``.
        ends: smallest and largest value; the range stays inside.
        percentile: per cent of the values to keep, in (0, 100]; 100 keeps all.
        symmetric: cut by size: the range is [−t, t], but for ``ends``.
    Returns:
        ``low`` and ``high``, float32 scalars.
    Raises:
        ValueError: another percentile, or counts that are all 0.
    """
    expect(0 < percentile <= 100, "percentile", percentile, "a number above 0 and at most 100")
    _expect_counts(counts)
    if symmetric:
        sizes, tops = _fold(counts, edges)
        top = _quantile(sizes, tops, percentile / 100)
        return _inside(-top, top, ends)
    cut = (1 - percentile / 100) / 2
    return _inside(_quantile(counts, edges, cut), _quantile(counts, edges, 1 - cut), ends)


def mse_range(values: torch.Tensor, counts: torch.Tensor, bits: int = 8, symmetric: bool = True, steps: int = 100) -> Ends:
    """The range whose codes have the least squared error, of a grid of ranges that shrink to 0.

    ``min over (low, high) of Σ count · (v − v̂)²``; clipping errs at the few large values, a wide range at all others
    (Nagel et al. 2021, 2106.08295).

    Args:
        values: float32 (n,), such as the middles of a histogram's bins; ``counts``: (n,), how often each occurs.
        bits, symmetric: of the codes.
        steps: symmetric ranges tried are ``max|v| · i/steps`` for i = 1 … steps; asymmetric ones all pairs of
            ``min(v, 0) · i/s`` and ``max(v, 0) · i/s``, i = 1 … s, with s² about 10 · steps.
    Returns:
        ``low`` and ``high``, float32 scalars; the widest range, that of min-max, is one of those tried.
    Raises:
        ValueError: other bits, counts that are all 0, or steps below 1.

    >>> mse_range(torch.tensor([-0.5, 0.5, 9.0]), torch.tensor([500, 500, 1]), bits=2)
    (tensor(-0.5400), tensor(0.5400))
    """
    expect(values.shape == counts.shape and values.dim() == 1, "values", tuple(values.shape), "one value for each count")
    expect(isinstance(steps, int) and steps >= 1, "steps", steps, "a number of ranges, at least 1")
    _expect_counts(counts)
    low, high = values.min().clamp(max=0), values.max().clamp(min=0)
    if symmetric:
        top = torch.maximum(-low, high) * torch.arange(1, steps + 1) / steps
        lows, highs = -top, top
    else:
        side = max(1, round((10 * steps) ** 0.5))
        shares = torch.arange(1, side + 1) / side
        lows, highs = (t.reshape(-1) for t in torch.meshgrid(low * shares, high * shares, indexing="ij"))
    errors = [
        squared_error(values, counts, a, b, bits, symmetric)
        for a, b in zip(lows.split(16), highs.split(16), strict=True)  # 16 ranges at a time: little memory
    ]
    best = torch.cat(errors).argmin()
    return lows[best], highs[best]


def squared_error(
    values: torch.Tensor, counts: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int = 8, symmetric: bool = True
) -> torch.Tensor:
    """``Σ count · (v − v̂)²`` of values quantized with each of some ranges.

    Args:
        values, counts: (n,); ``low``, ``high``: (ranges,).
    Returns:
        float64 (ranges,).
    """
    scale, zero_point = (t.view(-1, 1) for t in choose_from_range(low, high, bits, symmetric))
    rows = values.expand(len(low), -1)  # (ranges, n)
    block = (1, len(values))
    restored = dequantize(quantize(rows, scale, zero_point, bits, symmetric, block), scale, zero_point, block)
    return (restored.double() - rows).square_() @ counts.double()


def entropy_range(counts: torch.Tensor, edges: torch.Tensor, ends: Ends, bits: int = 8) -> Ends:
    """The symmetric range [−t, t] that keeps the distribution of sizes ``|v|`` best (Migacz 2017, TensorRT's calibration).

    For a threshold of i bins, P are the first i counts, the last with all larger values added. Q is what L = 2^(b−1) code
    sizes tell of them: the bins in L groups of even length, each group's count spread evenly over the bins of P that are
    not empty. The threshold with the least ``KL(P ‖ Q) = Σ P log(P / Q)``, both made to sum to 1, is chosen. With
    S_g and z_g the count and the non-empty bins of group g, ``Σ P log Q = Σ_g P_g · log(S_g / z_g)``: prefix sums give it
    for all thresholds at once.

    Args:
        counts: int64 (bins,), an even number; ``edges``: float64 (bins + 1,), ascending, symmetric about 0.
        ends: smallest and largest value; the range stays inside.
        bits: of the codes; more than 2^(b−1) bins on each side.
    Returns:
        ``low`` and ``high``, float32 scalars.
    Raises:
        ValueError: other bits, too few bins, or counts that are all 0.
    """
    groups = code_range(bits, True)[1] + 1
    _expect_counts(counts)
    sizes, tops = _fold(counts, edges)
    expect(len(sizes) >= groups, "counts", len(counts), f"at least {2 * groups} bins for {bits} bits")
    divergence = _divergences(sizes.double(), groups)
    top = tops[groups + int(divergence.argmin())]
    return _inside(-top, top, ends)


def _divergences(sizes: torch.Tensor, groups: int) -> torch.Tensor:
    """KL(P ‖ Q) for thresholds of ``groups``, groups + 1, … bins; Inf where Q is 0 and P is not."""
    total = sizes.sum()
    count = _prefix(sizes)  # (bins + 1,)
    filled = _prefix((sizes > 0).double())
    own = _prefix(torch.special.xlogy(sizes, sizes))
    kept = torch.arange(groups, len(sizes) + 1)  # thresholds, in bins
    outside = total - count[kept]
    last = sizes[kept - 1]
    p_log_p = own[kept] - torch.special.xlogy(last, last) + torch.special.xlogy(last + outside, last + outside)
    cuts = kept[:, None] * torch.arange(groups + 1) // groups  # (thresholds, L + 1): where each group begins
    mass = count[cuts].diff(dim=1)  # (thresholds, L)
    spread = filled[cuts].diff(dim=1)
    spread[:, -1] += ((last == 0) & (outside > 0)).double()  # the last bin is empty but for what was cut off
    p_mass = mass.clone()
    p_mass[:, -1] += outside
    p_log_q = torch.special.xlogy(p_mass, mass / spread.clamp(min=1)).sum(dim=1)
    divergence = (p_log_p - p_log_q) / total + torch.log(count[kept] / total)
    return divergence.where(count[kept] > 0, torch.inf)  # Q of no value at all


def _prefix(x: torch.Tensor) -> torch.Tensor:
    """0 and the running sums."""
    return torch.cat([x.new_zeros(1), x.cumsum(0)])


def _fold(counts: torch.Tensor, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts of sizes |v| (bins / 2,) and their edges from 0 up."""
    half = len(counts) // 2
    return counts[half:] + counts[:half].flip(0), edges[half:]


def _quantile(counts: torch.Tensor, edges: torch.Tensor, share: float) -> torch.Tensor:
    """Where the running count reaches a share of the total, linear inside the bin."""
    running = counts.cumsum(0).double()
    wanted = share * running[-1]
    place = torch.searchsorted(running, wanted).clamp(max=len(counts) - 1)
    inside = (wanted - running[place] + counts[place]) / counts[place].clamp(min=1)
    return edges[place] + inside * (edges[place + 1] - edges[place])


def _inside(low: torch.Tensor, high: torch.Tensor, ends: Ends) -> Ends:
    """Never wider than the values themselves."""
    return low.float().clamp(*ends), high.float().clamp(*ends)


def _expect_counts(counts: torch.Tensor) -> None:
    expect(bool((counts >= 0).all()) and int(counts.sum()) > 0, "counts", int(counts.sum()), "counts ≥ 0 of at least one value")
