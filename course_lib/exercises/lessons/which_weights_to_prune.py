"""Lesson 02: from scores to masks, one threshold or many, first-order saliency, training with a mask."""

import torch

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference, kind
from course_lib.pruning.masked_training import first_order_saliency, masked_sgd
from course_lib.pruning.masks import global_masks, mask_by_sparsity


def _kept(mask: torch.Tensor) -> str:
    return f"{int(mask.sum())} of {mask.numel()}" if mask.dtype == torch.bool else describe(mask)


# From scores to a mask


def _mask_cases(generator: torch.Generator) -> list[Case]:
    scores = torch.rand(4, 6, generator=generator)
    distinct = torch.randperm(10, generator=generator).float()
    spread = scores * torch.tensor([[1.0], [10.0], [0.1], [3.0]])  # rows of very different size
    return [
        Case("ten different scores, half to go", (distinct, 0.5)),
        Case("a matrix", (scores, 0.25)),
        Case("a matrix whose rows differ in size", (spread, 0.5)),
        Case("negative scores", (distinct - 5, 0.3)),
        Case("a share that is no whole number of weights", (distinct, 0.36)),
        Case("nothing to prune", (distinct, 0.0), part="edges"),
        Case("everything to prune", (distinct, 1.0), part="edges"),
        Case("ten equal scores, half to go", (torch.ones(10), 0.5), part="ties", free=True),
        Case("many equal scores", (torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 3.0, 1.0]), 0.5), part="ties", free=True),
    ]


def _verify_mask(case: Case, output) -> str | None:
    scores, sparsity = case.args
    expected = mask_by_sparsity(scores, sparsity)
    if kind(output) != "bool tensor" or output.shape != scores.shape:
        return difference(output, expected)
    pruned, due = int((~output).sum()), round(sparsity * scores.numel())
    if pruned != due:
        return f"{pruned} of {scores.numel()} entries are False; a sparsity of {sparsity} prunes exactly {due}"
    lowest_kept = scores[output].min() if output.any() else torch.tensor(torch.inf)
    highest_gone = scores[~output].max() if pruned else torch.tensor(-torch.inf)
    if highest_gone > lowest_kept:
        return "a weight was pruned while one with a lower score stays"
    return None


def _by_threshold(scores, sparsity):
    k = round(sparsity * scores.numel())
    if k == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores > scores.flatten().kthvalue(k).values


def _inverted(scores, sparsity):
    return ~mask_by_sparsity(scores, sparsity)


def _by_quantile(scores, sparsity):
    return scores > torch.quantile(scores.flatten(), sparsity)


def _cut_off(scores, sparsity):
    return mask_by_sparsity(scores, int(sparsity * scores.numel()) / scores.numel())


def _per_row(scores, sparsity):
    if scores.dim() < 2:
        return mask_by_sparsity(scores, sparsity)
    return torch.stack([mask_by_sparsity(row, sparsity) for row in scores])


def _of_largest(scores, sparsity):
    return scores > sparsity * scores.max()


def _density(scores, sparsity):
    return mask_by_sparsity(scores, 1 - sparsity)


MASK = Exercise(
    id="mask_by_sparsity",
    title="from scores to a mask",
    points=3,
    difficulty=2,
    minutes=10,
    hints=(
        "How many entries must be False? Compute that number first; it does not depend on the scores.",
        "`scores.flatten().argsort()` lists the positions from the lowest score to the highest.",
        "Start from a flat mask of ones, set the positions of the lowest k to False, and give it the shape of the scores.",
    ),
    reference=mask_by_sparsity,
    cases=_mask_cases,
    verify=_verify_mask,
    misconceptions=(
        Misconception(
            "inverted",
            _inverted,
            lambda case, output: (
                f"For the scores {describe(case.args[0])} the highest is marked False: this is the mask of what goes. "
                "Here True means that a weight stays."
            ),
        ),
        Misconception(
            "density",
            _density,
            lambda case, output: (
                f"Asked for a sparsity of {case.args[1]}, you keep {_kept(output)}: that is a density of {case.args[1]}."
            ),
        ),
        Misconception(
            "ties",
            _by_threshold,
            lambda case, output: (
                f"The scores {describe(case.args[0])} hold equal values at the threshold, and all of them share one fate: you keep "
                f"{_kept(output)} where a sparsity of {case.args[1]} was asked for. A rank tells equals apart, a threshold does not."
            ),
        ),
        Misconception(
            "cut_off",
            _cut_off,
            lambda case, output: (
                f"{case.args[1]} of {case.args[0].numel()} weights are {case.args[1] * case.args[0].numel():.4g}, and {int((~output).sum())} go: "
                "the number is cut off, not rounded."
            ),
        ),
        Misconception(
            "quantile",
            _by_quantile,
            lambda case, output: (
                f"At a sparsity of {case.args[1]} you keep {_kept(output)}. A score must be *above* the threshold to stay, so the lowest one goes even "
                "when nothing should. A quantile is a threshold too; count ranks instead."
            ),
        ),
        Misconception(
            "fraction_of_the_largest",
            _of_largest,
            lambda case, output: (
                f"You keep {_kept(output)} at sparsity {case.args[1]}: the threshold looks like a fraction of the largest score. "
                "A sparsity says how *many* go, not how small they are."
            ),
        ),
        Misconception(
            "per_row",
            _per_row,
            lambda case, output: (
                f"In a matrix of shape {tuple(case.args[0].shape)} every row loses the same number. The scores compete across the whole tensor."
            ),
        ),
    ),
)


# One threshold for many tensors


def _global_cases(generator: torch.Generator) -> list[Case]:
    a, b = torch.rand(3, 4, generator=generator) + 0.5, torch.rand(20, generator=generator) * 0.6
    ranks = torch.randperm(10, generator=generator).float()
    equal = torch.tensor([1.0, 1.0, 2.0, 0.5, 1.0, 1.0, 1.0, 3.0])
    return [
        Case("two tensors of different size and scale", ({"a": a, "b": b}, 0.5)),
        Case("one tensor far above the other", ({"big": ranks + 100, "small": ranks[:6]}, 0.375)),
        Case("three tensors", ({"x": ranks, "y": ranks[:5] + 0.5, "z": ranks[:4] * 3 + 0.25}, 0.6)),
        Case("nothing to prune", ({"a": a, "b": b}, 0.0), part="edges"),
        Case("one tensor alone", ({"w": ranks}, 0.3), part="edges"),
        Case("everything to prune", ({"a": a, "b": b}, 1.0), part="edges"),
        Case("equal scores in two tensors", ({"a": equal[:4], "b": equal[4:]}, 0.5), part="ties", free=True),
    ]


def _verify_global(case: Case, output) -> str | None:
    scores, sparsity = case.args
    blank = {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    if not isinstance(output, dict) or set(output) != set(scores):
        return difference(output, blank)
    odd = [name for name in scores if kind(output[name]) != "bool tensor" or output[name].shape != scores[name].shape]
    if odd:
        return f"entry {odd[0]!r}: {difference(output[odd[0]], blank[odd[0]])}"
    total = sum(s.numel() for s in scores.values())
    pruned, due = sum(int((~m).sum()) for m in output.values()), round(sparsity * total)
    if pruned != due:
        return f"{pruned} of {total} entries are False in all; a sparsity of {sparsity} prunes exactly {due}"
    kept = torch.cat([s[output[n]] for n, s in scores.items()])
    gone = torch.cat([s[~output[n]] for n, s in scores.items()])
    if len(kept) and len(gone) and gone.max() > kept.min():
        return "a weight of one tensor was pruned while one with a lower score stays in another"
    return None


def _each_alone(scores, sparsity):
    return {name: mask_by_sparsity(s, sparsity) for name, s in scores.items()}


def _normalised(scores, sparsity):
    return global_masks({name: s / s.norm() for name, s in scores.items()}, sparsity)


def _mean_threshold(scores, sparsity):
    if sparsity in (0.0, 1.0):
        return global_masks(scores, sparsity)
    thresholds = [s.flatten().kthvalue(max(1, round(sparsity * s.numel()))).values for s in scores.values()]
    return {name: s > sum(thresholds) / len(thresholds) for name, s in scores.items()}


def _common_threshold(scores, sparsity):
    everything = torch.cat([s.flatten() for s in scores.values()])
    k = round(sparsity * len(everything))
    threshold = everything.kthvalue(k).values if k else -torch.inf
    return {name: s > threshold for name, s in scores.items()}


GLOBAL = Exercise(
    id="global_masks",
    title="one threshold for all layers",
    points=3,
    difficulty=3,
    minutes=12,
    hints=(
        "Put all scores into one long vector (`torch.cat` of the flattened tensors): then it is the exercise before.",
        "You can call `mask_by_sparsity` on the long vector, and cut its mask into pieces afterwards.",
        "`long_mask.split([s.numel() for s in scores.values()])` gives the pieces in order; each needs its shape back.",
    ),
    reference=global_masks,
    cases=_global_cases,
    verify=_verify_global,
    misconceptions=(
        Misconception(
            "each_alone",
            _each_alone,
            lambda case, output: (
                "Every tensor loses the same share: "
                + ", ".join(f"{n} keeps {_kept(m)}" for n, m in output.items())
                + ". With one threshold for all, a tensor of high scores keeps more than one of low scores."
            ),
        ),
        Misconception(
            "ties",
            _common_threshold,
            lambda case, output: (
                f"With the scores {describe(list(case.args[0].values()))} you keep {sum(int(m.sum()) for m in output.values())} of "
                f"{sum(m.numel() for m in output.values())} at sparsity {case.args[1]}: equal scores at the threshold all go together. "
                "The exercise before tells them apart."
            ),
        ),
        Misconception(
            "mean_threshold",
            _mean_threshold,
            lambda case, output: (
                f"In all you keep {sum(int(m.sum()) for m in output.values())} of {sum(m.numel() for m in output.values())} at sparsity "
                f"{case.args[1]}: this is what an average of the tensors' own thresholds does. It is the rank in the union that counts."
            ),
        ),
        Misconception(
            "normalised",
            _normalised,
            lambda case, output: (
                "The scores seem to be divided by the norm of their tensor before they compete. That is a method of its own; "
                "here they compete as they are."
            ),
        ),
    ),
)


# First-order saliency


def _taylor_cases(generator: torch.Generator) -> list[Case]:
    w, g = torch.randn(3, 4, generator=generator), torch.randn(5, 3, 4, generator=generator)
    return [
        Case("two weights, two batches", (torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 0.0], [-1.0, 3.0]]))),
        Case("a matrix, five batches", (w, g)),
        Case("a single batch", (w, g[:1]), part="edges"),
        Case("a weight of zero and a gradient of zero", (torch.tensor([0.0, 3.0]), torch.tensor([[5.0, 0.0]])), part="edges"),
    ]


def _fisher(w, gradients):
    return 0.5 * w**2 * (gradients**2).mean(0)


TAYLOR = Exercise(
    id="first_order_saliency",
    title="what a weight's removal does to the loss",
    points=2,
    difficulty=2,
    minutes=8,
    hints=(
        "For one batch it is the product of each weight with its gradient, and its size.",
        "`w * gradients` multiplies each batch's gradient by the same w: the shapes (…) and (batches, …) broadcast.",
        "Think of two batches with gradients +1 and −1. Should their saliencies cancel?",
    ),
    reference=first_order_saliency,
    cases=_taylor_cases,
    verify=lambda case, output: difference(output, first_order_saliency(*case.args), rtol=1e-4, atol=1e-6),
    misconceptions=(
        Misconception(
            "cancelling",
            lambda w, g: (w * g).sum(0).abs(),
            lambda case, output: (
                f"With w = {describe(case.args[0])} and gradients {describe(case.args[1])} you get {describe(output)}: "
                "batches that pull in opposite directions cancel. Take the size before you add."
            ),
        ),
        Misconception(
            "gradient_only",
            lambda w, g: g.abs().sum(0),
            lambda case, output: (
                f"You get {describe(output)}, whatever w is: this says how strongly the loss feels a weight, not what removing it does. "
                "A weight that is zero already can go for free."
            ),
        ),
        Misconception(
            "signed",
            lambda w, g: (w * g).sum(0),
            lambda case, output: (
                f"Some of your scores are negative ({describe(output)}). A weight whose removal would change the loss "
                "strongly downwards matters as well."
            ),
        ),
        Misconception(
            "mean",
            lambda w, g: (w * g).abs().mean(0),
            lambda case, output: f"You get {describe(output)}: a mean over the batches. The promise is their sum.",
        ),
        Misconception(
            "fisher",
            _fisher,
            lambda case, output: (
                "This is the second-order score (weights and gradients squared). The first-order one comes first."
            ),
        ),
        Misconception(
            "one_number",
            lambda w, g: (w * g).abs().sum(),
            lambda case, output: (
                f"You get one number, {describe(output)}; each weight of shape {tuple(case.args[0].shape)} wants its own."
            ),
        ),
    ),
)


# Training with a mask


def _training_cases(generator: torch.Generator) -> list[Case]:
    w, steps = torch.randn(6, generator=generator), list(torch.randn(4, 6, generator=generator).unbind())
    mask = torch.tensor([True, False, True, True, False, True])
    silent = [steps[0], torch.zeros(6), torch.zeros(6)]
    return [
        Case("one step", (torch.ones(2), torch.tensor([True, False]), [torch.ones(2)], 0.5, 0.9)),
        Case("four steps", (w * mask, mask, steps, 0.1, 0.9)),
        Case("gradients that fall silent while momentum rolls on", (w * mask, mask, silent, 0.1, 0.9)),
        Case("weights that were not yet pruned", (w, mask, steps, 0.1, 0.9), part="start"),
        Case("no momentum", (w * mask, mask, steps, 0.1, 0.0), part="edges"),
        Case("a mask that keeps all", (w, torch.ones(6, dtype=torch.bool), steps, 0.1, 0.9), part="edges"),
    ]


def _verify_training(case: Case, output) -> str | None:
    w, mask = case.args[:2]
    if isinstance(output, torch.Tensor) and output.shape == w.shape and bool((output[~mask] != 0).any()):
        moved = int((output[~mask] != 0).sum())
        return f"{moved} of {int((~mask).sum())} pruned weights are not zero after the last step"
    return difference(output, masked_sgd(*case.args), rtol=1e-4, atol=1e-6)


def _sgd(w, mask, gradients, lr, momentum, before=False, gradient_mask=False, at_end=False, restart=False, average=False):
    """The step with one of the usual slips."""
    v = torch.zeros_like(w)
    for g in gradients:
        w = w * mask if before else w
        g = (1 - momentum) * g if average else g
        v = (0 if restart else momentum * v) + (g * mask if gradient_mask else g)
        w = w - lr * v
    return w * mask if at_end else w


def _masked_with_no_momentum(w, mask, gradients, lr, momentum=0.9):
    return _sgd(w, mask, gradients, lr, momentum, at_end=True, restart=True)


MASKED_SGD = Exercise(
    id="masked_sgd",
    title="pruned weights stay zero while training",
    points=3,
    difficulty=3,
    minutes=12,
    hints=(
        "Write plain SGD with momentum first: one line for v, one for w.",
        "Which of the two lines can move a pruned weight? Where must the mask stand so that after *every* step it is zero?",
    ),
    reference=masked_sgd,
    cases=_training_cases,
    verify=_verify_training,
    misconceptions=(
        Misconception(
            "no_mask",
            lambda w, mask, g, lr, momentum=0.9: _sgd(w, mask, g, lr, momentum),
            lambda case, output: (
                f"The pruned weights come out as {describe(output[~case.args[1]])}: after the first step they are alive again. "
                "An optimizer knows nothing of a mask."
            ),
        ),
        Misconception(
            "mask_before_the_step",
            lambda w, mask, g, lr, momentum=0.9: _sgd(w, mask, g, lr, momentum, before=True),
            lambda case, output: (
                f"The pruned weights come out as {describe(output[~case.args[1]])}: the mask is applied before the step, and the step itself "
                "moves them off zero again."
            ),
        ),
        Misconception(
            "mask_on_the_gradient",
            lambda w, mask, g, lr, momentum=0.9: _sgd(w, mask, g, lr, momentum, gradient_mask=True),
            lambda case, output: (
                f"Pruned weights that start at {describe(case.args[0][~case.args[1]])} end at {describe(output[~case.args[1]])}: masking "
                "gradients keeps a weight where it is, and that is not zero unless it was. With Adam or weight decay not even that."
            ),
        ),
        Misconception(
            "no_momentum",
            _masked_with_no_momentum,
            lambda case, output: "The velocity starts anew at every step: this is SGD without momentum.",
        ),
        Misconception(
            "average_of_gradients",
            lambda w, mask, g, lr, momentum=0.9: _sgd(w, mask, g, lr, momentum, at_end=True, average=True),
            lambda case, output: (
                f"With a momentum of {case.args[4]} the first step is only {1 - case.args[4]:.2g} times as long as it should be: your velocity is an "
                "average of gradients, as Adam keeps one. That of SGD adds them up."
            ),
        ),
    ),
)

EXERCISES = (MASK, GLOBAL, TAYLOR, MASKED_SGD)

QUESTIONS = (
    Question(
        "same_share_everywhere",
        "At the same total sparsity, when is one global threshold *worse* than the same share in every layer?",
        (
            Choice(
                "When the weights of some layers are small only because of how the layer is scaled",
                "A layer whose inputs are large does with small weights what another does with large ones. Magnitude cannot see that, and "
                "a global threshold then empties the layer.",
                right=True,
            ),
            Choice(
                "When layers differ in their number of weights",
                "The count alone does no harm: a threshold looks at sizes of weights.",
            ),
            Choice(
                "Never: it has the smaller total of removed magnitudes",
                "It has that, by construction. But the loss does not add magnitudes up.",
            ),
        ),
    ),
    Question(
        "gradient_alone",
        "A network is trained until the gradient of the full training loss is exactly zero. What does the gradient of that loss say about its weights?",
        (
            Choice(
                "The weights with the smallest gradient can go", "All gradients are zero: by this score every weight can go."
            ),
            Choice("The weights with the largest gradient can go", "There is no largest: they are all zero."),
            Choice(
                "Nothing: it is zero for the weights that matter and for those that do not",
                "At a minimum the first order is silent. What removing a weight does is then in the second order; in practice scores live on "
                "the gradients of single batches, which are not zero.",
                right=True,
            ),
        ),
    ),
    Question(
        "kept_by_mask",
        "A layer of 1 000 weights is pruned to a sparsity of 0.9 and trained on without a mask, with Adam. About how many weights are zero after one step?",
        number=0.0,
        tolerance=20.0,
        explanation="About none: Adam's first step moves every weight with a gradient, however small, by nearly the learning rate. (What has no "
        "gradient at all stays: the lesson counts some.)",
        slips=(
            (900.0, "So many were zero before the step. Does Adam know which weights were pruned?"),
            (100.0, "So many were left before the step. Of the others, which ones does Adam leave alone?"),
        ),
    ),
)
