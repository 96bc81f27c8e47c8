"""Lesson 01: the soft threshold, a step of ISTA, the conditions of a minimum, a threshold for an exact sparsity."""

import math

import torch

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference
from course_lib.pruning.l1 import ista_step, lasso_violation, norm_ratio_threshold, soft_threshold, threshold_for_sparsity


def _signed(sizes: torch.Tensor) -> torch.Tensor:
    """The sizes with alternating signs, so that both are there."""
    return sizes * (1 - 2 * (torch.arange(sizes.numel()) % 2)).view(sizes.shape)


# The soft threshold


def _soft_cases(generator: torch.Generator) -> list[Case]:
    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    t = 0.5 + float(rand(1))
    near, far = _signed(t * (0.1 + 0.8 * rand(4))), _signed(t * (1.2 + rand(4)))
    return [
        Case("weights on both sides, far from zero", (far, t)),
        Case("weights near zero and far from it", (torch.cat([near, far]), t)),
        Case("a matrix", (_signed(2 * rand(3, 5)), t)),
        Case("a threshold of 0", (far, 0.0), part="edges"),
        Case("weights as large as the threshold", (torch.tensor([0.75, -0.75, 2.0]), 0.75), part="edges"),
        Case("nothing but weights near zero", (near, t), part="edges"),
        Case("a threshold of 0 and a weight of 0", (torch.tensor([0.0, 1.5, -0.25]), 0.0), part="edges"),
    ]


def _verify_soft(case: Case, output) -> str | None:
    w, t = case.args
    expected = soft_threshold(w, t)
    wrong = difference(output, expected)
    if not isinstance(output, torch.Tensor) or output.shape != w.shape or not output.is_floating_point():
        return wrong
    for before, after, due in zip(w.flatten().tolist(), output.flatten().tolist(), expected.flatten().tolist(), strict=True):
        if after != after:
            return f"the weight {before:.4g} came out as nan: something is divided by zero"
        if due == 0 and after != 0:
            return f"the weight {before:.4g} is within {t:.4g} of zero, and came out as {after:.4g}, not as an exact zero"
        if due * after < 0:
            return f"the weight {before:.4g} came out as {after:.4g}, on the other side of zero"
        if due != 0 and after == 0:
            return f"the weight {before:.4g} is further than {t:.4g} from zero, and came out as zero"
    return wrong


def _far(case: Case, output) -> str:
    """The weight furthest from zero, and what became of it."""
    i = int(case.args[0].abs().argmax())
    return f"{case.args[0].flatten()[i]:.4g} comes out as {output.flatten()[i]:.4g} at t = {case.args[1]:.4g}"


def _lowest(case: Case, output) -> str:
    """The most negative weight, and what became of it."""
    i = int(case.args[0].argmin())
    return f"{case.args[0].flatten()[i]:.4g} comes out as {output.flatten()[i]:.4g}"


SOFT_THRESHOLD = Exercise(
    id="soft_threshold",
    title="the soft threshold",
    points=3,
    difficulty=2,
    minutes=8,
    hints=(
        "Three cases were derived above. Which of them does a weight belong to? Its size, `w.abs()`, tells; its sign does not.",
        "Work with sizes first: a size shrinks by t, and a size cannot be negative. `.clamp(min=0)` knows how to stop at zero.",
        "Then give each size its sign back: `w.sign()` is −1, 0 or 1.",
    ),
    reference=soft_threshold,
    cases=_soft_cases,
    verify=_verify_soft,
    misconceptions=(
        Misconception(
            "hard_threshold",
            lambda w, threshold: torch.where(w.abs() > threshold, w, torch.zeros_like(w)),
            lambda case, output: (
                f"{_far(case, output)}: it did not move. Small weights become zero and the others stay as they are, which is "
                "*hard* thresholding. Look at the first and the last of the three cases again: does a large weight stay?"
            ),
        ),
        Misconception(
            "sign_lost",
            lambda w, threshold: (w.abs() - threshold).clamp(min=0),
            lambda case, output: (
                f"{_lowest(case, output)}: nothing negative is left. The size is right; which side of zero was it on?"
            ),
        ),
        Misconception(
            "one_side",
            lambda w, threshold: (w - threshold).clamp(min=0),
            lambda case, output: (
                f"{_lowest(case, output)}, and so does every negative weight. −2 is as far from zero as 2 is: "
                "which way is it pushed?"
            ),
        ),
        Misconception(
            "through_zero",
            lambda w, threshold: w - threshold * w.sign(),
            lambda case, output: (
                f"You get {describe(output)} from {describe(case.args[0])} at t = {case.args[1]:.4g}. Weights nearer to zero than t "
                "jump over it to the other side. The corner is where they should get stuck."
            ),
        ),
        Misconception(
            "clipped",
            lambda w, threshold: w.clamp(-threshold, threshold),
            lambda case, output: (
                f"{_far(case, output)}: nothing is larger than t now, and the small weights are all alive. "
                "That is the part of each weight that should have been taken away."
            ),
        ),
        Misconception(
            "outward",
            lambda w, threshold: torch.where(w.abs() > threshold, w + threshold * w.sign(), torch.zeros_like(w)),
            lambda case, output: (
                f"{_far(case, output)}: it moved away from zero. The penalty pulls towards it, from both sides."
            ),
        ),
        Misconception(
            "twice",
            lambda w, threshold: w.sign() * (w.abs() - 2 * threshold).clamp(min=0),
            lambda case, output: f"{_far(case, output)}. How far does each weight move: by t, or by twice that?",
        ),
        Misconception(
            "l2_shrinkage",
            lambda w, threshold: w / (1 + threshold),
            lambda case, output: (
                f"{_far(case, output)}: all weights shrink by one factor, and none becomes zero. That is the step of an L2 penalty."
            ),
        ),
    ),
)


# A step of ISTA


def _ista_cases(generator: torch.Generator) -> list[Case]:
    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    step, lam = 0.1 + 0.3 * float(torch.rand(1, generator=generator)), 1.0 + float(torch.rand(1, generator=generator))
    w, gradient = _signed(0.5 + randn(8).abs()), randn(8)
    return [
        Case("eight weights", (w, gradient, step, lam)),
        Case("a matrix", (randn(3, 4), randn(3, 4), step, lam)),
        Case("weights that are zero already", (torch.zeros(6), 3 * _signed(randn(6).abs()), step, lam)),
        Case("λ = 0, no penalty", (w, gradient, step, 0.0), part="edges"),
        Case("a gradient of 0", (w, torch.zeros(8), step, lam), part="edges"),
        Case("a step of 1", (w, gradient, 1.0, lam), part="edges"),
    ]


def _verify_ista(case: Case, output) -> str | None:
    expected = ista_step(*case.args)
    wrong = difference(output, expected)
    if wrong or not isinstance(output, torch.Tensor):
        return wrong
    alive = (output != 0) & (expected == 0)
    return f"{int(alive.sum())} weights are tiny that should be zero exactly" if bool(alive.any()) else None


def _counts(case: Case, output) -> str:
    zeros, right = int((output == 0).sum()), int((ista_step(*case.args) == 0).sum())
    setting = f"With {case.label}, step {case.args[2]:.3g} and λ {case.args[3]:.3g}"
    if zeros == right:
        return f"{setting}, {_steepest(case, output)[0].lower()}{_steepest(case, output)[1:]}"
    return f"{setting}, {zeros} weights come out as zero; {right or 'none'} should"


def _steepest(case: Case, output) -> str:
    """The weight with the largest gradient, and where it went."""
    w, gradient = case.args[:2]
    i = int(gradient.abs().argmax())
    return f"A weight of {w.flatten()[i]:.3g} with a gradient of {gradient.flatten()[i]:.3g} goes to {output.flatten()[i]:.3g}"


ISTA_STEP = Exercise(
    id="ista_step",
    title="a gradient step, then a soft threshold",
    points=3,
    difficulty=2,
    minutes=8,
    hints=(
        "The boxed formula has an inner and an outer part. What is the argument of S, and what is its threshold?",
        "Inside: an ordinary step of gradient descent. Around it: `soft_threshold`, which you have.",
        "The model was multiplied by the step η to complete the square. What did that make of the λ in front of the penalty?",
    ),
    reference=ista_step,
    cases=_ista_cases,
    verify=_verify_ista,
    misconceptions=(
        Misconception(
            "threshold_not_scaled",
            lambda w, gradient, step, lam: soft_threshold(w - step * gradient, lam),
            lambda case, output: (
                f"{_counts(case, output)}. The gradient is followed for a step of {case.args[2]:.3g} only, the penalty as if the step "
                "were 1. Both pull for the same length of time."
            ),
        ),
        Misconception(
            "threshold_first",
            lambda w, gradient, step, lam: soft_threshold(w, step * lam) - step * gradient,
            lambda case, output: (
                f"With {case.label} you get {describe(output)}. The threshold comes before the gradient step, which then "
                "moves the weights away from the zeros just made. Which of the two has the last word?"
            ),
        ),
        Misconception(
            "uphill",
            lambda w, gradient, step, lam: soft_threshold(w + step * gradient, step * lam),
            lambda case, output: f"{_steepest(case, output)}. The loss *rises* along its gradient.",
        ),
        Misconception(
            "gradient_not_scaled",
            lambda w, gradient, step, lam: soft_threshold(w - gradient, step * lam),
            lambda case, output: (
                f"{_steepest(case, output)}. The whole gradient is subtracted, though the step is {case.args[2]:.3g}."
            ),
        ),
        Misconception(
            "penalty_twice",
            lambda w, gradient, step, lam: soft_threshold(w - step * (gradient + lam * w.sign()), step * lam),
            lambda case, output: (
                f"From w = {describe(case.args[0])} you get {describe(output)}. The penalty is counted twice: once as λ·sign(w) in the gradient, once in the "
                "threshold. Its pull belongs to the threshold alone."
            ),
        ),
        Misconception(
            "threshold_divided",
            lambda w, gradient, step, lam: soft_threshold(w - step * gradient, lam / step),
            lambda case, output: (
                f"{_counts(case, output)}. Your threshold grows as the step gets smaller. A short step follows gradient *and* penalty for a short time."
            ),
        ),
        Misconception(
            "hard_step",
            lambda w, gradient, step, lam: (w - step * gradient) * ((w - step * gradient).abs() > step * lam),
            lambda case, output: (
                f"From w = {describe(case.args[0])} you get {describe(output)}: small weights are cut to zero, and large ones do not feel the penalty. "
                "That is a *hard* threshold."
            ),
        ),
        Misconception(
            "subgradient",
            lambda w, gradient, step, lam: w - step * (gradient + lam * w.sign()),
            lambda case, output: (
                f"{_counts(case, output)}. λ·sign(w) is added to the gradient: the slope of |w| as if it had no corner. "
                "Such a step crosses zero and does not stop there."
            ),
        ),
        Misconception(
            "no_penalty",
            lambda w, gradient, step, lam: w - step * gradient,
            lambda case, output: f"{_counts(case, output)}. This is plain gradient descent: λ has no effect on it.",
        ),
    ),
)


# The conditions of a minimum


def _violation_cases(generator: torch.Generator) -> list[Case]:
    lam = 0.5
    met = torch.tensor([1.5, -2.0, 0.0, 0.0, 0.0, 3.0])
    gradient = torch.tensor([-0.5, 0.5, 0.25, -0.5, 0.0, -0.5])  # all conditions met, one of them just so
    off = 0.1 + float(torch.rand(1, generator=generator))
    at_zero, elsewhere, low, flat = (gradient.clone() for _ in range(4))
    at_zero[3], elsewhere[1], low[0], flat[5] = -lam - off, lam + off, -lam - off, off / 3 - lam
    w = torch.randn(4, 5, generator=generator) * (torch.rand(4, 5, generator=generator) < 0.5)
    w[0, 0], w[0, 1] = 0.0, 1.0
    loose = torch.randn(4, 5, generator=generator)
    return [
        Case("a minimum", (gradient, met, lam)),
        Case("a zero whose gradient is too large", (at_zero, met, lam)),
        Case("a positive weight with too steep a gradient", (low, met, lam)),
        Case("a negative weight with too steep a gradient", (elsewhere, met, lam)),
        Case("a positive weight with too flat a gradient", (flat, met, lam)),
        Case("a matrix far from a minimum", (loose, w, lam), part="many"),
        Case("weights that are all zero", (2 * loose, torch.zeros(4, 5), lam), part="many"),
        Case("weights without a zero", (loose, loose.roll(1, 0), lam), part="many"),
        Case("λ = 0, no penalty", (loose, w, 0.0), part="many"),
        Case("weights that are all zero and rightly so", (lam * loose.tanh(), torch.zeros(4, 5), lam), part="many"),
        Case("a weight that is tiny and not zero", (torch.tensor([0.1, -0.25]), torch.tensor([1e-6, 2.0]), lam), part="many"),
        Case(
            "two weights pulled along by their penalty", (torch.tensor([0.5, -0.5]), torch.tensor([1.0, 2.0]), lam), part="many"
        ),
    ]


def _misses(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much each condition is missed, if all weights were zero and if none was."""
    return (gradient.abs() - lam).clamp(min=0), (gradient + lam * w.sign()).abs()


def _each(gradient: torch.Tensor, w: torch.Tensor, lam: float) -> torch.Tensor:
    at_zero, elsewhere = _misses(gradient, w, lam)
    return torch.where(w == 0, at_zero, elsewhere)


def _largest(x: torch.Tensor) -> float:
    return float(x.max()) if x.numel() else 0.0


def _wrong_sign(gradient, w, lam):
    return float(torch.where(w == 0, _misses(gradient, w, lam)[0], (gradient - lam * w.sign()).abs()).max())


def _not_absolute(gradient, w, lam):
    return float(torch.where(w == 0, _misses(gradient, w, lam)[0], gradient + lam * w.sign()).max())


LASSO_VIOLATION = Exercise(
    id="lasso_violation",
    title="is this the minimum?",
    points=4,
    difficulty=3,
    minutes=12,
    hints=(
        "Two conditions, and `w == 0` says which of them counts for a weight. Work out both for all weights; "
        "`torch.where(w == 0, a, b)` then picks.",
        "At a zero: by how much does `gradient.abs()` exceed λ, if it does? `.clamp(min=0)` again.",
        "Elsewhere the gradient should be −λ·sign(w). How far is it from that? And of all these distances, the largest one.",
    ),
    reference=lasso_violation,
    cases=_violation_cases,
    verify=lambda case, output: difference(output, lasso_violation(*case.args)),
    misconceptions=(
        Misconception(
            "zeros_like_the_others",
            lambda gradient, w, lam: _largest(_misses(gradient, w, lam)[1]),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}. For a weight of zero, sign(w) is 0, so this asks its gradient to be 0. "
                "A corner holds a weight against more than that: against how much?"
            ),
        ),
        Misconception(
            "sign_blind",
            lambda gradient, w, lam: _largest(torch.where(w == 0, _misses(gradient, w, lam)[0], (gradient.abs() - lam).abs())),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: for a weight that is not zero only the size of its gradient is compared with λ. "
                "A gradient of +λ and one of −λ are not the same: which one stops a positive weight?"
            ),
        ),
        Misconception(
            "band_without_inside",
            lambda gradient, w, lam: _largest(torch.where(w == 0, (gradient.abs() - lam).abs(), _misses(gradient, w, lam)[1])),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: a zero whose gradient is well inside of ±λ is counted as wrong. "
                "The corner holds against any pull up to λ, a weak one too."
            ),
        ),
        Misconception(
            "negative_misses",
            lambda gradient, w, lam: float(torch.where(w == 0, gradient.abs() - lam, _misses(gradient, w, lam)[1]).max()),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}. By less than nothing a condition cannot be missed: "
                "where it is met, the miss is 0."
            ),
        ),
        Misconception(
            "zeros_ignored",
            lambda gradient, w, lam: _largest(_misses(gradient, w, lam)[1][w != 0]),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: zeros are not looked at. A zero can be wrong too, "
                "when the loss pulls harder at it than the corner holds."
            ),
        ),
        Misconception(
            "only_zeros",
            lambda gradient, w, lam: _largest(_misses(gradient, w, lam)[0][w == 0]),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: only zeros are looked at. "
                "For the other weights there is an equation to be met."
            ),
        ),
        Misconception(
            "band_for_all",
            lambda gradient, w, lam: _largest(_misses(gradient, w, lam)[0]),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}. A gradient anywhere between −λ and λ counts as good, even where the "
                "weight is not zero. Away from the corner the penalty has one slope, not a range of them."
            ),
        ),
        Misconception(
            "wrong_sign",
            _wrong_sign,
            lambda case, output: (
                f"With {case.label} you get {describe(output)}. At a minimum the two slopes cancel: "
                "which sign does the gradient have at a positive weight?"
            ),
        ),
        Misconception(
            "not_absolute",
            _not_absolute,
            lambda case, output: (
                f"With {case.label} you get {describe(output)}. A condition can be missed in both directions, and a miss "
                "below counts as much as one above."
            ),
        ),
        Misconception(
            "mean",
            lambda gradient, w, lam: float(_each(gradient, w, lam).mean()),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: a mean. One weight that is far off would vanish among a thousand good "
                "ones; the worst one decides."
            ),
        ),
        Misconception(
            "sum",
            lambda gradient, w, lam: float(_each(gradient, w, lam).sum()),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: the misses added up. That grows with the number of weights; "
                "asked is the worst one."
            ),
        ),
    ),
)


# A threshold for an exact sparsity


def _threshold_cases(generator: torch.Generator) -> list[Case]:
    sizes = 0.1 + torch.randperm(40, generator=generator).float() + 0.5 * torch.rand(40, generator=generator)
    w = _signed(sizes)
    skewed = torch.where(torch.arange(40) % 4 == 0, sizes, -sizes)  # three in four are negative
    return [
        Case("ten weights", (w[:10], 0.3)),
        Case("a matrix", (w.view(8, 5), 0.75)),
        Case("mostly negative weights", (skewed, 0.5)),
        Case("a count that does not come out even", (w[:7], 0.4)),
        Case("a count that is rounded down", (w[:6], 0.4)),
        Case("nothing to prune", (w, 0.0), part="edges"),
        Case("everything to prune", (w, 1.0), part="edges"),
        Case("equal sizes", (torch.tensor([2.0, -1.0, 1.0, 1.0, -3.0, 0.5, 1.0, 4.0]), 0.25), part="edges"),
    ]


def _at_or_below(case: Case, output) -> str:
    w, sparsity = case.args
    count, due = int((w.abs() <= float(output)).sum()), round(sparsity * w.numel())
    return f"{count} of {w.numel()} weights are at or below it in size, and a sparsity of {sparsity} asks for {due}"


def _verify_threshold(case: Case, output) -> str | None:
    wrong = difference(output, threshold_for_sparsity(*case.args))
    single = isinstance(output, (int, float)) or (isinstance(output, torch.Tensor) and output.dim() == 0)
    if wrong is None or not single or output != output:
        return wrong
    if int((case.args[0].abs() <= float(output)).sum()) == int(
        (case.args[0].abs() <= threshold_for_sparsity(*case.args)).sum()
    ):
        return "as many weights are at or below it as should be, but it is not the number that the docstring asks for"
    return _at_or_below(case, output)


def _kth(sizes: torch.Tensor, k: int) -> float:
    """The k-th smallest, counted from 1; 0 for none."""
    return float(sizes.flatten().sort().values[min(k, sizes.numel()) - 1]) if k else 0.0


THRESHOLD_FOR_SPARSITY = Exercise(
    id="threshold_for_sparsity",
    title="a threshold for an exact sparsity",
    points=3,
    difficulty=2,
    minutes=8,
    hints=(
        "How many weights have to go? That is a whole number k, and with it the question is: how large is the k-th smallest?",
        "Smallest in size, whatever the sign, and whatever the shape: `w.abs().flatten()`. Then sort, or `torch.kthvalue`.",
        "Mind where counting starts: the k-th smallest of a sorted tensor is at index k − 1, and for k = 0 there is none.",
    ),
    reference=threshold_for_sparsity,
    cases=_threshold_cases,
    verify=_verify_threshold,
    misconceptions=(
        Misconception(
            "signed",
            lambda w, sparsity: _kth(w, round(sparsity * w.numel())),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: {_at_or_below(case, output)}. "
                "Are the weights sorted by value or by size? −5 is the smallest value and a large weight."
            ),
        ),
        Misconception(
            "norm_times_ratio",
            norm_ratio_threshold,
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: the norm of all weights times {case.args[1]}. A norm grows with "
                "the number of weights: with every weight there four times, it doubles, and no weight is any larger."
            ),
        ),
        Misconception(
            "fraction_of_the_largest",
            lambda w, sparsity: float(w.abs().max()) * sparsity,
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: {case.args[1]} of the largest weight's size. "
                "How many weights lie below that is up to chance; asked is a count."
            ),
        ),
        Misconception(
            "rounded_up",
            lambda w, sparsity: _kth(w.abs(), math.ceil(sparsity * w.numel() - 1e-9)),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: {case.args[1] * case.args[0].numel():.1f} weights are rounded up. "
                "The nearest whole number is asked for, as Python's `round` gives it."
            ),
        ),
        Misconception(
            "last_for_none",
            lambda w, sparsity: float(w.abs().flatten().sort().values[round(sparsity * w.numel()) - 1]),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}, the largest of all: for k = 0 the index is −1, and Python counts that "
                "from the end. When none is to go, which threshold lets all stay?"
            ),
        ),
        Misconception(
            "density",
            lambda w, sparsity: _kth(w.abs(), round((1 - sparsity) * w.numel())),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: {_at_or_below(case, output)}. "
                "Sparsity is the fraction that goes, not the one that stays."
            ),
        ),
        Misconception(
            "one_at_least",
            lambda w, sparsity: _kth(w.abs(), max(1, round(sparsity * w.numel()))),
            lambda case, output: (
                f"With a sparsity of 0 you get {describe(output)}, the size of a weight that is there. "
                "Everything at or below the threshold goes, so this prunes one weight where none was to go."
            ),
        ),
        Misconception(
            "one_too_far",
            lambda w, sparsity: _kth(w.abs(), round(sparsity * w.numel()) + 1),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: {_at_or_below(case, output)}. "
                "Where does Python start to count, at 0 or at 1?"
            ),
        ),
        Misconception(
            "interpolated",
            lambda w, sparsity: float(w.abs().quantile(sparsity)),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}, a number between two weights, as `torch.quantile` interpolates it. "
                "Asked is the size of one particular weight."
            ),
        ),
        Misconception(
            "rounded_down",
            lambda w, sparsity: _kth(w.abs(), int(sparsity * w.numel())),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}. {case.args[1]} of {case.args[0].numel()} weights is not a whole number, "
                "and `int` cuts off what is behind the point. Which count is nearest?"
            ),
        ),
    ),
)

EXERCISES = (SOFT_THRESHOLD, ISTA_STEP, LASSO_VIOLATION, THRESHOLD_FOR_SPARSITY)

QUESTIONS = (
    Question(
        "gradient_at_a_zero",
        "At the minimum of L(w) + λ‖w‖₁ one weight is exactly zero. What do you know about the slope of L along that weight?",
        (
            Choice(
                "It is 0",
                "It would be if L alone had its minimum there. The corner holds a weight even while L still pulls at it.",
            ),
            Choice(
                "It is between −λ and λ",
                "The corner offers every slope from −λ to λ to balance the one of L: any pull in that range is held.",
                right=True,
            ),
            Choice(
                "It is exactly −λ or λ",
                "That is so where the weight is *not* zero. At the edge of the band a weight is just about to leave zero.",
            ),
        ),
    ),
    Question(
        "norm_of_a_million",
        "A matrix has 1 000 × 1 000 weights of standard deviation σ and mean 0. The rule norm × ratio is used with ratio 0.5. "
        "How many σ is its threshold?",
        number=500.0,
        tolerance=5.0,
        explanation="The norm is √(10⁶·σ²) = 1 000 σ, and half of it 500 σ. No weight of such a matrix is anywhere near that large.",
        slips=(
            (0.5, "That is the ratio. A norm adds up: how large is it for a million weights of size σ?"),
            (1000.0, "That is the norm. The rule takes a part of it."),
            (500_000.0, "The squares add up to a million σ². A norm is the root of that."),
        ),
    ),
    Question(
        "survivors_are_biased",
        "A network was trained with an L1 penalty to 80 % zeros. Before it is shipped, the survivors are usually trained a little further "
        "*without* the penalty, the zeros held. Why?",
        (
            Choice(
                "To make more zeros",
                "Without the penalty nothing pulls towards zero any more. The zeros made so far are held by a mask.",
            ),
            Choice(
                "Because the zeros would come back otherwise",
                "Nothing moves weights that are not trained. They come back in training when nobody holds them, which is lesson 02.",
            ),
            Choice(
                "Because the penalty holds every survivor too close to zero",
                "At the minimum the loss still has the slope ∓λ along each survivor: it would fall further if the weight grew.",
                right=True,
            ),
        ),
    ),
)
