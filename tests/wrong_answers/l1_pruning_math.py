"""Lesson 01: soft threshold, ISTA step, conditions of the lasso, threshold for a sparsity."""

import math

import numpy as np
import torch

from wrong_answers import right, wrong

# soft_threshold


@wrong("soft_threshold", says="*hard* thresholding")
def keeps_large_weights_as_they_are(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return w * (w.abs() > threshold)


@wrong("soft_threshold", says="nothing negative is left")
def forgets_the_sign(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return torch.relu(w.abs() - threshold)


@wrong("soft_threshold", says="which way is it pushed")
def pushes_everything_down(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return torch.maximum(w - threshold, torch.zeros_like(w))


@wrong("soft_threshold", says="jump over it")
def never_stops_at_zero(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return torch.sign(w) * (w.abs() - threshold)


@wrong("soft_threshold", says="the small weights are all alive")
def clips(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return torch.clip(w, min=-threshold, max=threshold)


@wrong("soft_threshold", says="the step of an L2 penalty")
def shrinks_by_a_factor(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return w * (1 / (1 + threshold))


@wrong("soft_threshold", says="not as an exact zero")
def leaves_a_little(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return w.sign() * (w.abs() - threshold).clamp(min=1e-7)


@wrong("soft_threshold", says="expected (3,)")
def drops_the_zeros(w: torch.Tensor, threshold: float) -> torch.Tensor:
    kept = w[w.abs() > threshold]
    return kept - threshold * kept.sign() if len(kept) else kept


@right("soft_threshold")
def what_the_clamp_leaves(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return w - w.clamp(-threshold, threshold)


@right("soft_threshold")
def by_two_clamps(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return (w - threshold).clamp(min=0) + (w + threshold).clamp(max=0)


@right("soft_threshold")
def by_cases(w: torch.Tensor, threshold: float) -> torch.Tensor:
    zero = torch.zeros_like(w)
    return torch.where(w > threshold, w - threshold, torch.where(w < -threshold, w + threshold, zero))


@right("soft_threshold")
def in_place_and_in_float64(w: torch.Tensor, threshold: float) -> torch.Tensor:
    w = w.double()
    sign = w.sign()
    w.abs_().sub_(threshold).clamp_(min=0).mul_(sign)
    return w


@right("soft_threshold")
def weight_by_weight(w: torch.Tensor, threshold: float) -> torch.Tensor:
    out = [math.copysign(max(abs(v) - threshold, 0.0), v) for v in w.flatten().tolist()]
    return torch.tensor(out).reshape(w.shape)


# ista_step


def _soft(w: torch.Tensor, t: float) -> torch.Tensor:
    return w.sign() * (w.abs() - t).clamp(min=0)


@wrong("ista_step", says="as if the step were 1")
def threshold_of_lambda(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    return _soft(w - step * gradient, lam)


@wrong("ista_step", says="the last word")
def penalty_before_gradient(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    w = _soft(w, step * lam)
    return w - step * gradient


@wrong("ista_step", says="*rises* along its gradient")
def up_the_hill(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    return _soft(w + step * gradient, lam * step)


@wrong("ista_step", says="The whole gradient is subtracted")
def a_gradient_without_a_step(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    return _soft(w - gradient, lam * step)


@wrong("ista_step", says="as if it had no corner")
def sign_in_the_gradient(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    total = gradient + lam * torch.sign(w)
    return w - step * total


@wrong("ista_step", says="plain gradient descent")
def forgets_lambda(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    return w.sub(gradient, alpha=step)


@wrong("ista_step", says="With eight weights")
def threshold_of_the_gradient(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    return w - step * _soft(gradient, lam)


@right("ista_step")
def in_place(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    w -= step * gradient
    w -= w.clamp(-step * lam, step * lam)
    return w


@right("ista_step")
def by_softshrink(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    return torch.nn.functional.softshrink(w - step * gradient, step * lam)


@right("ista_step")
def in_double_precision(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    return _soft(w.double() - step * gradient.double(), step * lam)


# lasso_violation


def _at_zero(gradient, lam):
    return torch.relu(gradient.abs() - lam)


@wrong("lasso_violation", says="asks its gradient to be 0")
def one_formula_for_all(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    return (gradient + lam * torch.sign(w)).abs().max().item()


@wrong("lasso_violation", says="zeros are not looked at")
def survivors_only(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    alive = w != 0
    if not alive.any():
        return 0.0
    return (gradient[alive] + lam * w[alive].sign()).abs().max().item()


@wrong("lasso_violation", says="only zeros are looked at")
def the_zeros_only(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    excess = _at_zero(gradient, lam)[w == 0]
    return excess.max().item() if excess.numel() else 0.0


@wrong("lasso_violation", says="one slope, not a range")
def a_band_everywhere(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    return max(0.0, gradient.abs().max().item() - lam)


@wrong("lasso_violation", says="the two slopes cancel")
def gradient_along_the_sign(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    off = (gradient - lam * w.sign()).abs()
    off[w == 0] = _at_zero(gradient, lam)[w == 0]
    return off.max().item()


@wrong("lasso_violation", says="missed in both directions")
def signed_misses(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    off = gradient + lam * w.sign()
    off[w == 0] = _at_zero(gradient, lam)[w == 0]
    return off.max().item()


@wrong("lasso_violation", says="a mean")
def on_average(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    off = torch.where(w == 0, _at_zero(gradient, lam), (gradient + lam * w.sign()).abs())
    return (off.sum() / off.numel()).item()


@wrong("lasso_violation", says="the misses added up")
def in_total(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    return sum(
        max(abs(g) - lam, 0.0) if v == 0 else abs(g + math.copysign(lam, v))
        for g, v in zip(gradient.flatten().tolist(), w.flatten().tolist(), strict=True)
    )


@wrong("lasso_violation", says="expected a single float")
def a_value_for_each_weight(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> torch.Tensor:
    return torch.where(w == 0, _at_zero(gradient, lam), (gradient + lam * w.sign()).abs())


@right("lasso_violation")
def by_a_loop(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    worst = 0.0
    for g, v in zip(gradient.flatten().tolist(), w.flatten().tolist(), strict=True):
        miss = max(abs(g) - lam, 0.0) if v == 0 else abs(g + math.copysign(lam, v))
        worst = max(worst, miss)
    return worst


@right("lasso_violation")
def distance_to_the_nearest_slope(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> torch.Tensor:
    low = torch.where(w > 0, lam, -lam)  # slopes the penalty offers: λ, −λ, or all between
    high = torch.where(w < 0, -lam, lam)
    return (-gradient.double() - torch.clamp(-gradient.double(), low, high)).abs().max()


@right("lasso_violation")
def zeros_in_place(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    gradient += lam * w.sign()
    gradient[w == 0] = (gradient[w == 0].abs() - lam).clamp(min=0)
    return gradient.abs().max().item()


# threshold_for_sparsity


@wrong("threshold_for_sparsity", says="sorted by value or by size")
def sorted_with_their_signs(w: torch.Tensor, sparsity: float) -> float:
    k = round(sparsity * w.numel())
    return torch.kthvalue(w.flatten(), k).values.item() if k > 0 else 0.0


@wrong("threshold_for_sparsity", says="A norm grows with")
def from_the_norm(w: torch.Tensor, sparsity: float) -> float:
    return torch.norm(w).item() * sparsity


@wrong("threshold_for_sparsity", says="of the largest weight's size")
def share_of_the_maximum(w: torch.Tensor, sparsity: float) -> float:
    return sparsity * w.abs().max().item()


@wrong("threshold_for_sparsity", says="not the one that stays")
def keeps_so_many(w: torch.Tensor, sparsity: float) -> float:
    k = w.numel() - round(sparsity * w.numel())
    return w.abs().flatten().kthvalue(k).values.item() if k else 0.0


@wrong("threshold_for_sparsity", says="Where does Python start to count")
def index_k(w: torch.Tensor, sparsity: float) -> float:
    sizes = sorted(w.abs().flatten().tolist())
    return sizes[min(round(sparsity * len(sizes)), len(sizes) - 1)]


@wrong("threshold_for_sparsity", says="a number between two weights")
def by_quantile(w: torch.Tensor, sparsity: float) -> float:
    return float(np.quantile(w.abs().numpy(), sparsity))


@wrong("threshold_for_sparsity", says="cuts off what is behind the point")
def cut_off(w: torch.Tensor, sparsity: float) -> float:
    k = math.floor(sparsity * w.numel())
    return w.abs().flatten().sort().values[k - 1].item() if k else 0.0


@wrong("threshold_for_sparsity", says="where none was to go")
def the_smallest_for_none(w: torch.Tensor, sparsity: float) -> float:
    k = max(1, round(sparsity * w.numel()))
    return w.abs().flatten().sort().values[k - 1].item()


@right("threshold_for_sparsity")
def by_sorting(w: torch.Tensor, sparsity: float) -> float:
    k = round(sparsity * w.numel())
    return float(w.abs().flatten().sort().values[k - 1]) if k else 0.0


@right("threshold_for_sparsity")
def by_kthvalue_in_double(w: torch.Tensor, sparsity: float) -> torch.Tensor:
    k = round(sparsity * w.numel())
    return torch.kthvalue(w.double().abs().flatten(), k).values if k else torch.zeros(())


@right("threshold_for_sparsity")
def by_topk(w: torch.Tensor, sparsity: float) -> float:
    k = round(sparsity * w.numel())
    return w.flatten().abs_().topk(k, largest=False).values.max().item() if k else 0.0


@wrong("soft_threshold", says="it moved away from zero")
def grows_instead(w: torch.Tensor, threshold: float) -> torch.Tensor:
    grown = w.abs() + threshold
    return torch.where(w.abs() <= threshold, torch.zeros_like(w), grown.copysign(w))


@wrong("soft_threshold", says="or by twice that")
def two_steps(w: torch.Tensor, threshold: float) -> torch.Tensor:
    once = w - w.clamp(-threshold, threshold)
    return once - once.clamp(-threshold, threshold)


@wrong("soft_threshold", says="came out as nan")
def by_the_ratio(w: torch.Tensor, threshold: float) -> torch.Tensor:
    return w * (1 - threshold / w.abs()).clamp(min=0)  # 0/0


@wrong("ista_step", says="counted twice")
def penalty_in_both(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    moved = w - step * gradient - step * lam * torch.sign(w)
    return moved - moved.clamp(-step * lam, step * lam)


@wrong("ista_step", says="Your threshold grows as the step gets smaller")
def lam_over_step(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    moved, t = w - step * gradient, lam / step
    return moved - moved.clamp(-t, t)


@wrong("ista_step", says="do not feel the penalty")
def cuts_after_the_step(w: torch.Tensor, gradient: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    moved = w - step * gradient
    return torch.where(moved.abs() <= step * lam, torch.zeros_like(moved), moved)


@wrong("lasso_violation", says="which one stops a positive weight")
def sizes_only(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    excess = gradient.abs() - lam
    return torch.where(w == 0, excess.clamp(min=0), excess.abs()).max().item()


@wrong("lasso_violation", says="a weak one too")
def edge_of_the_band(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    zero = w == 0
    return max(
        (gradient[zero].abs() - lam).abs().max().item() if zero.any() else 0.0,
        (gradient[~zero] + lam * w[~zero].sign()).abs().max().item() if (~zero).any() else 0.0,
    )


@wrong("lasso_violation", says="By less than nothing")
def no_clamp(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    return float(torch.where(w == 0, gradient.abs() - lam, (gradient + lam * w.sign()).abs()).max())


@wrong("lasso_violation", says="gave 0.25")
def nearly_zero_is_zero(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> float:
    zero = w.abs() < 1e-3
    return float(torch.where(zero, (gradient.abs() - lam).clamp(min=0), (gradient + lam * w.sign()).abs()).max())


@wrong("threshold_for_sparsity", says="Python counts that from the end")
def index_minus_one(w: torch.Tensor, sparsity: float) -> float:
    order = torch.sort(w.abs().reshape(-1)).values
    return order[round(sparsity * len(order)) - 1].item()


@wrong("threshold_for_sparsity", says="are rounded up")
def rounds_up(w: torch.Tensor, sparsity: float) -> float:
    k = -int(-sparsity * w.numel() // 1)
    return float(w.abs().flatten().sort().values[k - 1]) if k else 0.0
