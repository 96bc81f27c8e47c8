"""Lesson 16: what a size asks of the encoder, its masks, movement, units under a budget, a verdict."""

import torch

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference, kind
from course_lib.measure.verdict import verdict
from course_lib.pruning.budgets import encoder_masks, sparsity_for_target, units_within
from course_lib.pruning.masks import global_masks, mask_by_sparsity
from course_lib.pruning.movement import movement_of_steps

# The sparsity that a size asks for


def _target_cases(generator: torch.Generator) -> list[Case]:
    words, layers, head = (int(n) for n in torch.randint(1000, 9000, (3,), generator=generator))
    sizes = {"words": words, "layer 0": layers, "layer 1": 2 * layers, "classifier": head}
    able = ["layer 0", "layer 1"]
    target = words + head + layers + layers // 4
    return [
        Case("half of what may be pruned goes", ({"words": 60, "layers": 40}, ["layers"], 80)),
        Case("two layers that may be pruned", (sizes, able, target)),
        Case("everything may be pruned", (sizes, list(sizes), target)),
        Case("all of it must go", (sizes, able, words + head), part="edges"),
        Case("nothing need go", (sizes, able, words + head + 3 * layers), part="edges"),
        Case("a model that is smaller than that already", ({"words": 60, "layers": 40}, ["layers"], 120), part="edges"),
    ]


def _of_everything(sizes, prunable, target):
    return max(0.0, 1 - target / sum(sizes.values()))


def _density_of_able(sizes, prunable, target):
    return 1 - sparsity_for_target(sizes, prunable, target)


def _as_if_alone(sizes, prunable, target):
    return max(0.0, 1 - target / sum(sizes[n] for n in prunable))


def _share_of_all_that_stays(sizes, prunable, target):
    return min(1.0, target / sum(sizes.values()))


def _below_zero(sizes, prunable, target):
    return (sum(sizes.values()) - target) / sum(sizes[n] for n in prunable)


TARGET = Exercise(
    id="sparsity_for_target",
    title="the sparsity that a size asks for",
    points=2,
    difficulty=1,
    minutes=6,
    hints=(
        "How many parameters must go in all? That number does not depend on which may be pruned.",
        "They all come out of the prunable ones: divide by how many of these there are.",
        "What should the answer be when the model is smaller than the target before you begin?",
    ),
    reference=sparsity_for_target,
    cases=_target_cases,
    verify=lambda case, output: difference(output, float(sparsity_for_target(*case.args))),
    misconceptions=(
        Misconception(
            "of_everything",
            _of_everything,
            lambda case, output: (
                f"You get {describe(output)}, a share of all {sum(case.args[0].values()):,} parameters. "
                f"Only {sum(case.args[0][n] for n in case.args[1]):,} of them may be pruned, and they must make up for the others."
            ),
        ),
        Misconception(
            "density",
            _density_of_able,
            lambda case, output: f"You get {describe(output)}: the share that stays. A sparsity is the share that goes.",
        ),
        Misconception(
            "share_of_all_that_stays",
            _share_of_all_that_stays,
            lambda case, output: (
                f"You get {describe(output)}: the target over all {sum(case.args[0].values()):,} parameters. That is what remains of the whole model; "
                "asked for is what goes, of the prunable part."
            ),
        ),
        Misconception(
            "as_if_alone",
            _as_if_alone,
            lambda case, output: (
                f"You get {describe(output)}, as if the whole target of {case.args[2]:,} could be spent on what may be pruned. "
                "What may not be pruned takes its part of it first."
            ),
        ),
        Misconception(
            "below_zero",
            _below_zero,
            lambda case, output: (
                f"You get {describe(output)} for a model of {sum(case.args[0].values()):,} parameters and a target of {case.args[2]:,}. "
                "A sparsity below 0 would be weights added."
            ),
        ),
    ),
)


# Masks for the matrices of the encoder


def _named(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Scores of a small model with everything a BERT has; all different, and the second layer's are smaller."""
    shapes = {
        "bert.embeddings.word_embeddings.weight": (12, 4),
        "bert.embeddings.LayerNorm.weight": (4,),
        "bert.encoder.layer.0.attention.self.query.weight": (4, 4),
        "bert.encoder.layer.0.attention.self.query.bias": (4,),
        "bert.encoder.layer.0.output.LayerNorm.weight": (4,),
        "bert.encoder.layer.1.intermediate.dense.weight": (6, 4),
        "bert.encoder.layer.1.intermediate.dense.bias": (6,),
        "classifier.weight": (3, 4),
        "classifier.bias": (3,),
    }
    total = sum(torch.Size(s).numel() for s in shapes.values())
    values = (torch.randperm(total, generator=generator) + 1.0).split([torch.Size(s).numel() for s in shapes.values()])
    scores = {name: v.view(s) for (name, s), v in zip(shapes.items(), values, strict=True)}
    return {name: 0.37 * s + 0.005 if ".layer.1." in name else s for name, s in scores.items()}  # never a whole number


def _encoder_cases(generator: torch.Generator) -> list[Case]:
    scores = _named(generator)
    one = {n: s for n, s in scores.items() if ".layer.1." not in n}
    return [
        Case("half of a small BERT", (scores, 0.5)),
        Case("three quarters", (_named(generator), 0.75)),
        Case("an encoder of one layer, a quarter", (one, 0.25)),
        Case("nothing to prune", (scores, 0.0), part="edges"),
        Case("every matrix of the encoder", (scores, 1.0), part="edges"),
    ]


def _able(scores: dict, matrices: bool = True) -> dict:
    return {n: s for n, s in scores.items() if ".encoder.layer." in n and (s.dim() == 2 or not matrices)}


def _verify_encoder(case: Case, output) -> str | None:
    scores, sparsity = case.args
    expected = encoder_masks(scores, sparsity)
    if not isinstance(output, dict):
        return difference(output, expected)
    if more := [n for n in output if n not in expected]:
        return f"there is a mask for {more[0]!r}, which is no matrix of the encoder's layers"
    if fewer := [n for n in expected if n not in output]:
        return f"there is no mask for {fewer[0]!r}"
    for name, mask in output.items():
        if kind(mask) != "bool tensor" or mask.shape != scores[name].shape:
            return f"entry {name!r}: {difference(mask, expected[name])}"
    gone, due = sum(int((~m).sum()) for m in output.values()), sum(int((~m).sum()) for m in expected.values())
    if gone != due:
        return f"{gone} entries are False; a sparsity of {sparsity} of the encoder's matrices is {due}"
    return difference(output, expected)


def _everything(scores, sparsity):
    return global_masks(scores, sparsity)


def _all_matrices(scores, sparsity):
    return global_masks({n: s for n, s in scores.items() if s.dim() == 2}, sparsity)


def _biases_too(scores, sparsity):
    return global_masks(_able(scores, matrices=False), sparsity)


def _each_matrix(scores, sparsity):
    return {n: mask_by_sparsity(s, sparsity) for n, s in _able(scores).items()}


def _ranked_with_all(scores, sparsity):
    """The right masks, with a threshold from the ranking of all parameters."""
    return {n: m for n, m in global_masks(scores, sparsity).items() if n in _able(scores)}


def _inverted_masks(scores, sparsity):
    return {n: ~m for n, m in encoder_masks(scores, sparsity).items()}


MASKS = Exercise(
    id="encoder_masks",
    title="masks for the encoder's matrices",
    points=3,
    difficulty=3,
    minutes=12,
    hints=(
        "Two steps: which names take part, then one ranking among all their entries.",
        "A matrix of a layer has `.encoder.layer.` in its name and two dimensions; LayerNorm and biases have one.",
        "`global_masks(chosen, sparsity)` of lesson 02 (`course_lib.pruning.masks`) does the ranking; give it what you chose and nothing else.",
    ),
    reference=encoder_masks,
    cases=_encoder_cases,
    verify=_verify_encoder,
    misconceptions=(
        Misconception(
            "everything",
            _everything,
            lambda case, output: (
                f"You made {len(output)} masks, one for every parameter: biases, gains of LayerNorm, the embedding and the classifier too. "
                "A gain of zero switches a dimension off for good."
            ),
        ),
        Misconception(
            "all_matrices",
            _all_matrices,
            lambda case, output: (
                "Among your masks are those of "
                + " and ".join(n for n in output if ".encoder.layer." not in n)
                + ": they have two dimensions as well, but they are no part of the encoder's layers."
            ),
        ),
        Misconception(
            "biases_too",
            _biases_too,
            lambda case, output: (
                "Among your masks are those of "
                + ", ".join(n for n, m in output.items() if m.dim() == 1)
                + ": biases and gains, a handful of bytes whose loss is dear. Only matrices take part."
            ),
        ),
        Misconception(
            "ranked_with_all",
            _ranked_with_all,
            lambda case, output: (
                f"You made masks for the right names, and {sum(int((~m).sum()) for m in output.values())} entries of them are False: the ranking was made over "
                "all parameters. Those that get no mask must not take part in it."
            ),
        ),
        Misconception(
            "each_matrix",
            _each_matrix,
            lambda case, output: (
                "Every matrix loses the same share: "
                + ", ".join(f"{int(m.sum())} of {m.numel()} stay" for m in output.values())
                + ". One threshold for all lets a matrix of high scores keep more."
            ),
        ),
        Misconception(
            "inverted",
            _inverted_masks,
            lambda case, output: (
                "The highest scores are marked False: this is the mask of what goes. True means that a weight stays."
            ),
        ),
    ),
)


# Movement


def _movement_cases(generator: torch.Generator) -> list[Case]:
    w, steps = torch.randn(3, 4, generator=generator), list(torch.randn(5, 3, 4, generator=generator).unbind())
    return [
        Case("two weights, two steps", (torch.tensor([1.0, 1.0]), [torch.tensor([-1.0, 1.0])] * 2, 0.5)),
        Case("a matrix, five steps", (w, steps, 0.1)),
        Case("a weight that crosses zero", (torch.tensor([0.5, -0.5]), [torch.tensor([2.0, -2.0])] * 3, 0.2)),
        Case("a single step", (w, steps[:1], 0.1), part="edges"),
        Case("no step yet", (w, [], 0.1), part="edges"),
    ]


def _movement_with(w, gradients, lr, sign=-1.0, still=False, late=False, size=False, growth=False, factor=1.0):
    """The accumulation with one of the usual slips."""
    scores, start = torch.zeros_like(w), w
    for g in gradients:
        after = w if still else w - lr * g
        product = sign * (after if late else w) * g
        scores = scores + factor * (product.abs() if size else product)
        w = after
    return w.abs() - start.abs() if growth else scores


MOVEMENT = Exercise(
    id="movement_of_steps",
    title="the movement scores of some steps",
    points=3,
    difficulty=3,
    minutes=10,
    hints=(
        "One score for each weight, zero at first; a loop over the gradients.",
        "In each step there are two lines: add to the score, then move the weight. In which order does the formula want them?",
        "For w = 1 and a gradient of −1 the step makes w larger. The score must go up.",
    ),
    reference=movement_of_steps,
    cases=_movement_cases,
    verify=lambda case, output: difference(output, movement_of_steps(*case.args), rtol=1e-4, atol=1e-6),
    misconceptions=(
        Misconception(
            "wrong_sign",
            lambda w, g, lr: _movement_with(w, g, lr, sign=1.0),
            lambda case, output: (
                f"With w = {describe(case.args[0])} you get {describe(output)}: a weight that moves away from zero scores low. "
                "Check the sign with w = 1 and a gradient of −1."
            ),
        ),
        Misconception(
            "weights_stand_still",
            lambda w, g, lr: _movement_with(w, g, lr, still=True),
            lambda case, output: (
                f"After {len(case.args[1])} steps you get {describe(output)}, as if w had its first value in every step. Training moves it."
            ),
        ),
        Misconception(
            "moved_first",
            lambda w, g, lr: _movement_with(w, g, lr, late=True),
            lambda case, output: (
                f"You get {describe(output)}: the weight is moved before its score is taken. The gradient belongs to the weight before the step."
            ),
        ),
        Misconception(
            "size",
            lambda w, g, lr: _movement_with(w, g, lr, size=True),
            lambda case, output: (
                f"None of your scores is below zero ({describe(output)}). Sizes make this a Taylor score; movement keeps the direction."
            ),
        ),
        Misconception(
            "times_the_rate",
            lambda w, g, lr: _movement_with(w, g, lr, factor=lr),
            lambda case, output: (
                f"You get {describe(output)}: each product is multiplied with the rate of {case.args[2]:g} as well. The rate moves the weight; S has none."
            ),
        ),
        Misconception(
            "growth",
            lambda w, g, lr: _movement_with(w, g, lr, growth=True),
            lambda case, output: (
                f"You get {describe(output)}: by how much |w| has grown. The score adds up −w·g, which is related to that and not equal."
            ),
        ),
    ),
)


# Units under a budget


def _unit_cases(generator: torch.Generator) -> list[Case]:
    scores = {"heads": torch.rand(4, generator=generator) * 40 + 5, "neurons": torch.rand(10, generator=generator) * 3}
    costs = {"heads": 20, "neurons": 2}
    more = {f"layer {i}": torch.rand(6, generator=generator) + i for i in range(3)}
    example = {"heads": torch.tensor([9.0, 30.0]), "neurons": torch.tensor([1.0, 4.0, 2.0])}
    level = {"heads": torch.tensor([30.0, 50.0, 10.0]), "neurons": torch.tensor([4.0, 6.0, 0.2, 0.5])}
    return [
        Case("two heads, three neurons", (example, {"heads": 10, "neurons": 2}, 12)),
        Case("heads and neurons", (scores, costs, 45)),
        Case("a head with a high score that is cheap for its size", (level, {"heads": 100, "neurons": 1}, 250)),
        Case("a budget between two units", (scores, costs, 31)),
        Case("three groups of one cost", (more, dict.fromkeys(more, 7), 60)),
        Case("nothing to remove", (scores, costs, 0), part="edges"),
        Case("every unit", (scores, costs, 100), part="edges"),
    ]


def _gone(case: Case, output) -> int:
    return sum(int((~m).sum()) * case.args[1][n] for n, m in output.items())


def _verify_units(case: Case, output) -> str | None:
    scores, _, budget = case.args
    expected = units_within(*case.args)
    if not isinstance(output, dict) or set(output) != set(expected):
        return difference(output, expected)
    for name, mask in output.items():
        if kind(mask) != "bool tensor" or mask.shape != scores[name].shape:
            return f"entry {name!r}: {difference(mask, expected[name])}"
    if _gone(case, output) < budget:
        return f"{_gone(case, output)} parameters are gone; the budget is {budget}"
    return difference(output, expected)


def _greedy(
    scores,
    costs,
    budget,
    rank=lambda score, cost: score / cost,
    count=False,
    short=False,
    skip=False,
    over=False,
    inverted=False,
):
    """The choice with one of the usual slips."""
    rows = [(n, i, float(v)) for n, s in scores.items() for i, v in enumerate(s)]
    rows.sort(key=lambda r: rank(r[2], costs[r[0]]))
    masks, gone = {n: torch.ones(len(s), dtype=torch.bool) for n, s in scores.items()}, 0
    for name, i, _ in rows:
        cost = 1 if count else costs[name]
        if skip and gone + cost > budget:
            continue
        if (gone > budget if over else gone >= budget) or (short and gone + cost > budget):
            break
        masks[name][i], gone = False, gone + cost
    return {n: ~m for n, m in masks.items()} if inverted else masks


def _same_share(scores, costs, budget):
    share = budget / sum(len(s) * costs[n] for n, s in scores.items())
    return {n: mask_by_sparsity(s, share) for n, s in scores.items()}


UNITS = Exercise(
    id="units_within",
    title="units under a budget of parameters",
    points=4,
    difficulty=4,
    minutes=15,
    hints=(
        "Write down for each unit: its group, its number, its score divided by its cost. Sort that list.",
        "Walk along the sorted list and mark units False while the parameters removed so far are below the budget.",
        "The unit that crosses the budget goes too: at least so many parameters must be gone.",
    ),
    reference=units_within,
    cases=_unit_cases,
    verify=_verify_units,
    misconceptions=(
        Misconception(
            "score_alone",
            lambda scores, costs, budget: _greedy(scores, costs, budget, rank=lambda score, cost: score),
            lambda case, output: (
                "You take the lowest scores first, whatever a unit saves. With costs of "
                + " and ".join(f"{c} ({n})" for n, c in case.args[1].items())
                + " a head that matters as much as ten neurons may save as much as fifty."
            ),
        ),
        Misconception(
            "stops_short",
            lambda scores, costs, budget: _greedy(scores, costs, budget, short=True),
            lambda case, output: (
                f"{_gone(case, output)} parameters are gone and the budget is {case.args[2]}: the unit that crosses it stays. At least the budget must go."
            ),
        ),
        Misconception(
            "skips_what_does_not_fit",
            lambda scores, costs, budget: _greedy(scores, costs, budget, skip=True),
            lambda case, output: (
                f"{_gone(case, output)} parameters are gone and the budget is {case.args[2]}: units that would cross it are passed over for smaller ones. "
                "At least the budget must go."
            ),
        ),
        Misconception(
            "one_more",
            lambda scores, costs, budget: _greedy(scores, costs, budget, over=True),
            lambda case, output: (
                f"{_gone(case, output)} parameters are gone. With one unit fewer it would be {case.args[2]} exactly, and that is enough."
            ),
        ),
        Misconception(
            "highest_first",
            lambda scores, costs, budget: _greedy(scores, costs, budget, rank=lambda score, cost: -score / cost),
            lambda case, output: "You take out the units with the *highest* score for each parameter. High means keep.",
        ),
        Misconception(
            "counts_units",
            lambda scores, costs, budget: _greedy(scores, costs, budget, count=True),
            lambda case, output: (
                f"{sum(int((~m).sum()) for m in output.values())} units are gone for a budget of {case.args[2]} *parameters*: "
                "each unit seems to count as one."
            ),
        ),
        Misconception(
            "inverted",
            lambda scores, costs, budget: _greedy(scores, costs, budget, inverted=True),
            lambda case, output: "What you marked False should stay, and the reverse. True means that a unit stays.",
        ),
        Misconception(
            "same_share",
            _same_share,
            lambda case, output: (
                "Every group loses the same share of its units. Here all units of all groups compete for the budget."
            ),
        ),
    ),
)


# A verdict


def _verdict_cases(generator: torch.Generator) -> list[Case]:
    d = [round(float(x), 3) for x in torch.rand(3, generator=generator) * 0.004]
    return [
        Case("a small loss, measured well", ([-0.004 - d[0], -0.008 - d[0], 0.001], 0.02)),
        Case("a large loss", ([-0.2 - d[1], -0.22 - d[1], -0.18], 0.02)),
        Case("a small loss, measured badly", ([-0.01 - d[2], -0.05, 0.03], 0.02)),
        Case("worse beyond doubt, by less than is allowed", ([-0.01, -0.015, -0.005 - d[0]], 0.02)),
        Case("an interval without zero that goes over the limit", ([-0.018, -0.03, -0.006 - d[1]], 0.02)),
        Case("a loss above the limit, the interval not", ([-0.024, -0.04, -0.008], 0.02)),
        Case("better than the original", ([0.02, 0.01, 0.03], 0.0), part="edges"),
        Case("the interval ends at the limit", ([-0.01, -0.02, 0.0], 0.02), part="edges"),
    ]


def _words(case: Case, output) -> str | None:
    if output not in ("holds", "refuted", "open"):
        return f"{describe(output)} is none of 'holds', 'refuted', 'open'"
    return None if output == verdict(*case.args) else f"{output!r} is not what the interval says"


VERDICT = Exercise(
    id="verdict",
    title="a verdict from an interval",
    points=2,
    difficulty=2,
    minutes=6,
    hints=(
        "Draw the number line: the limit is at −allowed. Where does the interval lie: right of it, left of it, or across?",
        "The value in the middle does not decide; the two ends do.",
    ),
    reference=verdict,
    cases=_verdict_cases,
    verify=_words,
    misconceptions=(
        Misconception(
            "point_alone",
            lambda d, allowed: "holds" if d[0] >= -allowed else "refuted",
            lambda case, output: (
                f"For {describe(case.args[0])} and {case.args[1]} allowed you say {output!r}: that goes by the measured value alone. "
                "What if other sentences had been drawn?"
            ),
        ),
        Misconception(
            "zero_inside",
            lambda d, allowed: "holds" if d[1] <= 0 <= d[2] or d[0] > 0 else "refuted",
            lambda case, output: (
                f"For {describe(case.args[0])} you say {output!r}: this asks whether zero is inside. An interval can hold zero and a large loss "
                "as well, and miss zero by a loss nobody minds."
            ),
        ),
        Misconception(
            "zero_or_refuted",
            lambda d, allowed: "holds" if d[1] <= 0 <= d[2] else "refuted",
            lambda case, output: (
                f"For {describe(case.args[0])} and {case.args[1]} allowed you say {output!r}: only zero in the interval counts, and a model that is better "
                "is refuted too. The limit is not at zero."
            ),
        ),
        Misconception(
            "loss_counted_upwards",
            lambda d, allowed: "holds" if d[2] <= allowed else "refuted" if d[1] > allowed else "open",
            lambda case, output: (
                f"For {describe(case.args[0])} and {case.args[1]} allowed you say {output!r}, as if a positive difference were a loss. It is pruned minus "
                "whole: a loss lies below zero."
            ),
        ),
        Misconception(
            "best_end",
            lambda d, allowed: "holds" if d[2] >= -allowed else "refuted",
            lambda case, output: (
                f"For {describe(case.args[0])} you say {output!r}: the best end of the interval is given the last word. "
                "A claim must stand at the worst end too."
            ),
        ),
        Misconception(
            "worst_end",
            lambda d, allowed: "holds" if d[1] >= -allowed else "refuted",
            lambda case, output: (
                f"For {describe(case.args[0])} and {case.args[1]} allowed you say {output!r}. The interval lies across the limit: it shows neither."
            ),
        ),
    ),
)

EXERCISES = (TARGET, MASKS, MOVEMENT, UNITS, VERDICT)

QUESTIONS = (
    Question(
        id="smallest_by_encoder",
        text="A model has 12 million parameters in its embeddings and 11 million in its encoder. Only the encoder is pruned, to 90 % zeros, which are "
        "not stored. About how much smaller is the whole model?",
        choices=(
            Choice("90 %", "That is the encoder alone. The embeddings are still there, whole."),
            Choice("43 %", "Right: 9.9 of 23 million go. What is not pruned sets the floor.", right=True),
            Choice("10 %", "That is what stays of the encoder, taken for what goes of the model."),
        ),
    ),
    Question(
        id="masked_or_removed",
        text="Two models have the same number of weights that are not zero. One was made by masking single weights, one by removing heads and neurons. "
        "Which is faster in an ordinary PyTorch on a CPU?",
        choices=(
            Choice(
                "the masked one",
                "Its matrices have the shapes of before; a dense kernel multiplies by zero as fast as by anything.",
            ),
            Choice("the one with units removed", "Right: its matrices are smaller, so there is less to multiply.", right=True),
            Choice("both the same", "The number of nonzeros is the same, but not the number of multiplications done."),
        ),
    ),
    Question(
        id="fair_baseline",
        text="A pruned model after a short training has F1 0.83; the teacher has 0.87, and the teacher after the same short training has 0.83. "
        "What did pruning cost?",
        choices=(
            Choice("four points", "This counts the cost of the short training as a cost of pruning."),
            Choice(
                "about nothing beside what the training itself costs",
                "Right: at an equal training the two are level. The remedy is a better training, not a gentler mask.",
                right=True,
            ),
            Choice("it cannot be said", "It can: the teacher was given the same training, which is the baseline one needs."),
        ),
    ),
)
