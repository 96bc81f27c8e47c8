"""Lesson 17: outlier columns, a range without padding, nodes to leave in float, SmoothQuant, a scale for each token."""

import torch

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference
from course_lib.quantization.linear import quantize_tokens
from course_lib.quantization.outliers import outlier_columns, smoothed
from course_lib.quantization.scores import score_range
from course_lib.quantization.sensitivity import nodes_to_exclude

MASKED = torch.finfo(torch.float32).min


def _between(generator: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


# Outlier columns


def _column_cases(generator: torch.Generator) -> list[Case]:
    def ordinary(rows: int, columns: int) -> torch.Tensor:
        """Both signs, every column's largest magnitude close to 1."""
        x = _between(generator, -0.8, 0.8, rows, columns)
        x[0] = _between(generator, 0.9, 1.0, columns)
        return x

    one, two = ordinary(6, 9), ordinary(8, 7)
    one[2, 7], one[4, 3] = 30.0, -12.0
    two[5, 1], two[3, 6], two[1, 4] = -3.4, 5.0, 2.6
    return [
        Case("three columns, two tokens", (torch.tensor([[1.0, -20.0, 0.5], [2.0, 0.0, 1.0]]), 6.0)),
        Case("two outliers, each at one token", (one, 6.0)),
        Case("a factor of 2", (two, 2.0), part="factor"),
        Case("a factor of 4", (two, 4.0), part="factor"),
        Case("no outlier at all", (ordinary(5, 11), 6.0), part="edges"),
    ]


def _columns(x, factor, size=lambda x: x.abs().amax(0), middle=torch.median, ordered=True):
    sizes = size(x)
    found = (sizes > factor * middle(sizes)).nonzero().flatten()
    return found[sizes[found].argsort(descending=True)] if ordered else found


def _verify_columns(case: Case, output) -> str | None:
    if isinstance(output, (list, tuple)) and all(isinstance(i, int) for i in output):
        output = torch.tensor(output, dtype=torch.int64)
    return difference(output, outlier_columns(*case.args))


COLUMNS = Exercise(
    id="outlier_columns",
    title="find the outlier columns",
    points=2,
    difficulty=2,
    minutes=8,
    hints=(
        "Rows are tokens, columns are what a scale would like to be even. The size of a column is its largest magnitude over all tokens: a maximum over dimension 0.",
        "What is typical? The *median* of these sizes, which a few huge columns cannot move.",
        "`sizes.argsort(descending=True)` gives the columns, largest first; keep those whose size is above factor · median.",
    ),
    reference=outlier_columns,
    cases=_column_cases,
    verify=_verify_columns,
    misconceptions=(
        Misconception(
            "signed",
            lambda x, factor=6.0: _columns(x, factor, size=lambda x: x.amax(0)),
            lambda case, output: (
                f"The smallest entry is {float(case.args[0].min()):.3g}, in column {int(case.args[0].argmin()) % case.args[0].shape[1]}; your answer is "
                f"{describe(output)}. A scale has to hold large negative values as well."
            ),
        ),
        Misconception(
            "rows",
            lambda x, factor=6.0: _columns(x, factor, size=lambda x: x.abs().amax(1)),
            lambda case, output: (
                f"x has {case.args[0].shape[0]} rows (tokens) and {case.args[0].shape[1]} columns; {describe(output)} are numbers of rows."
            ),
        ),
        Misconception(
            "averaged",
            lambda x, factor=6.0: _columns(x, factor, size=lambda x: x.abs().mean(0)),
            lambda case, output: (
                "The size of a column is averaged over the tokens. An outlier at a single token disappears in an average, and not in the range."
            ),
        ),
        Misconception(
            "mean_for_typical",
            lambda x, factor=6.0: _columns(x, factor, middle=torch.mean),
            lambda case, output: (
                f"You find {len(output)} column(s). The mean of the sizes is pulled up by the very outliers that are to be found."
            ),
        ),
        Misconception(
            "median_of_entries",
            lambda x, factor=6.0: _columns(x, factor, middle=lambda sizes: x.abs().median()),
            lambda case, output: (
                f"You find {len(output)} column(s). The threshold comes from the median of all {case.args[0].numel()} entries; the typical *column* is the median "
                f"of {case.args[0].shape[1]} sizes."
            ),
        ),
        Misconception(
            "not_ordered",
            lambda x, factor=6.0: _columns(x, factor, ordered=False),
            lambda case, output: f"These are the right columns, {describe(output)}, in another order than the largest first.",
        ),
        Misconception(
            "absolute_threshold",
            lambda x, factor=6.0: _columns(x, factor, middle=lambda sizes: 1.3),
            lambda case, output: "The threshold is a fixed number. It has to move with the typical column.",
        ),
    ),
)


# The range of masked scores


def _score_cases(generator: torch.Generator) -> list[Case]:
    def scores(lengths: tuple[int, ...], low: float, high: float, heads: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
        """Real scores in between; those of padding queries beyond both ends; masked keys at the end of float32."""
        longest = max(lengths)
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        found = _between(generator, low, high, len(lengths), heads, longest, longest)
        padding = (mask == 0)[:, None, :, None].expand_as(found)
        found[padding] = _between(generator, low - 40, high + 40, int(padding.sum()))
        return found.masked_fill((mask == 0)[:, None, None, :], MASKED), mask

    return [
        Case("one sentence of two tokens and one of padding", scores((2,), -3, 5, 1)),
        Case("sentences of 4 and 2 tokens", scores((4, 2), -9, 7)),
        Case("sentences of 5, 1 and 3 tokens", scores((5, 1, 3), -20, 30)),
        Case("positive scores", scores((4, 3), 2, 9), part="one sign"),
        Case("negative scores", scores((3, 5), -9, -2), part="one sign"),
        Case("no padding", scores((3, 3), -4, 4), part="edges"),
    ]


def _score_range(scores, mask, queries=True, keys=True):
    real = torch.ones_like(scores, dtype=torch.bool)
    if queries:
        real &= mask.bool()[:, None, :, None]
    if keys:
        real &= mask.bool()[:, None, None, :]
    return tuple(scores[real].aminmax())


def _zeroed(scores, mask):
    both = mask[:, None, :, None] * mask[:, None, None, :]
    return tuple((scores * both).aminmax())


def _mean_of_ends(scores, mask):
    ends = [_score_range(s[None], m[None]) for s, m in zip(scores, mask, strict=True)]
    return torch.stack([low for low, _ in ends]).mean(), torch.stack([high for _, high in ends]).mean()


RANGE = Exercise(
    id="score_range",
    title="a range that does not see the padding",
    points=3,
    difficulty=3,
    minutes=10,
    hints=(
        "An entry is real when its query *and* its key are. Make a mask of pairs, (B, L, L), from `attention_mask`, (B, L).",
        "`mask[:, :, None] & mask[:, None, :]` is such a mask of pairs; with `[:, None]` after it, it goes over the heads.",
        "Take the real entries out by indexing with the mask, `.expand_as(scores)`, and then their `.min()` and `.max()`. Multiplying by the mask would leave zeros behind.",
    ),
    reference=score_range,
    cases=_score_cases,
    verify=lambda case, output: difference(output, score_range(*case.args)),
    misconceptions=(
        Misconception(
            "all_entries",
            lambda scores, mask: _score_range(scores, mask, queries=False, keys=False),
            lambda case, output: (
                f"The lower end is {float(output[0]):.3g}. In 255 steps over such a range, how long is one, and what becomes of a score of 5?"
            ),
        ),
        Misconception(
            "queries_only",
            lambda scores, mask: _score_range(scores, mask, keys=False),
            lambda case, output: (
                f"Rows of padding are left out, but the lower end is still {float(output[0]):.3g}: real queries look at padding keys too."
            ),
        ),
        Misconception(
            "keys_only",
            lambda scores, mask: _score_range(scores, mask, queries=False),
            lambda case, output: (
                f"What the mask added is gone; the ends {float(output[0]):.4g} and {float(output[1]):.4g} come from rows of padding, queries nobody reads."
            ),
        ),
        Misconception(
            "zeroed",
            _zeroed,
            lambda case, output: "One end is 0, and no real score is. Entries multiplied by 0 are still there, as zeros.",
        ),
        Misconception(
            "mean_of_sentences",
            _mean_of_ends,
            lambda case, output: (
                f"The ends are averages over {len(case.args[0])} sentences: scores of one of them lie outside. A range has to hold them all."
            ),
        ),
        Misconception(
            "ends_swapped",
            lambda scores, mask: _score_range(scores, mask)[::-1],
            lambda case, output: "The first end is the larger one: the smallest score comes first.",
        ),
    ),
)


# Which nodes to leave in float


def _exclusion_cases(generator: torch.Generator) -> list[Case]:
    def costs(*quarters: int) -> dict[str, float]:
        """Quarters add up without rounding; names in a random order."""
        names = torch.randperm(len(quarters), generator=generator).tolist()
        return {f"node {n}": quarters[n] / 4 for n in names}

    few = {"a": 0.25, "b": 7.5, "c": 0.5}
    return [
        Case("three nodes", (few, 1.0)),
        Case("seven nodes", (costs(1, 30, 3, 16, 2, 9, 4), 2.0)),
        Case("seven nodes, a small budget", (costs(2, 30, 3, 16, 5, 9, 7), 1.0)),
        Case("costs below 0", (costs(-8, 12, 5, -6, 3, 20), 1.5), part="chance"),
        Case("a sum exactly at the budget", (costs(1, 2, 3, 20), 1.5), part="edges"),
        Case("a budget above all costs", (costs(1, 3, 2), 5.0), part="edges"),
        Case("a budget of 0", (costs(4, 1, 3, -2), 0.0), part="edges"),
    ]


def _excluded(
    costs, budget, order=lambda costs: sorted(costs, key=lambda n: -costs[n]), count=lambda c: max(c, 0.0), strict=False
):
    names = order(costs)
    for k in range(len(names)):
        rest = sum(count(costs[n]) for n in names[k:])
        if rest < budget or (rest == budget and not strict):
            return names[:k]
    return names


def _until_the_excluded_reach(costs, budget):
    names, total = sorted(costs, key=lambda n: -costs[n]), 0.0
    for k, name in enumerate(names):
        if total > budget:
            return names[:k]
        total += costs[name]
    return names


def _while_the_excluded_fit(costs, budget):
    names, total = sorted(costs, key=lambda n: -costs[n]), 0.0
    for k, name in enumerate(names):
        total += costs[name]
        if total > budget:
            return names[:k]
    return names


EXCLUDE = Exercise(
    id="nodes_to_exclude",
    title="which nodes to leave in float, within a budget",
    points=3,
    difficulty=3,
    minutes=10,
    hints=(
        "Sort the names by cost, the most costly first: `sorted(costs, key=lambda name: -costs[name])`.",
        "With the first k of them in float, the cost is the sum of the *others*. Which is the smallest k for which that is within the budget?",
        "A cost below 0 is luck of the measurement. `max(0.0, cost)` keeps it from paying for a real cost.",
    ),
    reference=nodes_to_exclude,
    cases=_exclusion_cases,
    verify=lambda case, output: difference(output, nodes_to_exclude(*case.args)),
    misconceptions=(
        Misconception(
            "one_by_one",
            lambda costs, budget: [n for n in sorted(costs, key=lambda n: -costs[n]) if costs[n] > budget],
            lambda case, output: (
                f"Each node alone is compared with the budget of {case.args[1]:g}. The nodes you quantize, {len(case.args[0]) - len(output)} of them, "
                f"cost {sum(max(c, 0) for n, c in case.args[0].items() if n not in output):g} together."
            ),
        ),
        Misconception(
            "luck_counts",
            lambda costs, budget: _excluded(costs, budget, count=lambda c: c),
            lambda case, output: (
                f"Costs below 0, such as {min(case.args[0].values()):g}, pay for others here. Quantizing does not improve a model; that was chance."
            ),
        ),
        Misconception(
            "cheapest_first",
            lambda costs, budget: _excluded(costs, budget, order=lambda costs: sorted(costs, key=lambda n: costs[n])),
            lambda case, output: (
                f"The first node you leave in float, {output[0]!r}, costs {case.args[0][output[0]]:g}. Which one frees the most?"
            ),
        ),
        Misconception(
            "as_given",
            lambda costs, budget: _excluded(costs, budget, order=list),
            lambda case, output: "The nodes are taken in the order they came in, not by what they cost.",
        ),
        Misconception(
            "kept_ones",
            lambda costs, budget: [n for n in costs if n not in _excluded(costs, budget)],
            lambda case, output: f"These {len(output)} are the nodes to *quantize*. Asked for are those that stay in float.",
        ),
        Misconception(
            "not_at_the_budget",
            lambda costs, budget: _excluded(costs, budget, strict=True),
            lambda case, output: (
                f"You leave out {len(output)}. With one fewer, the cost is exactly the budget, {case.args[1]:g}: is that within it?"
            ),
        ),
        Misconception(
            "sum_of_the_excluded",
            _until_the_excluded_reach,
            lambda case, output: (
                "You add up the costs of the nodes that stay in float. They cost nothing there; the others do."
            ),
        ),
        Misconception(
            "the_excluded_fit_the_budget",
            _while_the_excluded_fit,
            lambda case, output: (
                f"You leave out {len(output)}, as many as have costs that fit the budget of {case.args[1]:g} themselves. The budget is for those that are quantized."
            ),
        ),
    ),
)


# SmoothQuant


def _smooth_cases(generator: torch.Generator) -> list[Case]:
    def case(rows: int, columns: int, alpha: float, label: str, part: str = "values", dead: int | None = None) -> Case:
        absmax = _between(generator, 0.5, 3.0, columns)
        absmax[1] = float(_between(generator, 20, 40, 1))
        weight = _between(generator, -0.4, 0.4, rows, columns)
        weight[0] = -_between(generator, 0.5, 0.9, columns)  # the largest magnitudes are negative
        if dead is not None:
            absmax[dead] = 0.0
        return Case(label, (absmax, weight, alpha), part=part)

    tiny = (torch.tensor([16.0, 1.0]), torch.tensor([[1.0, -4.0], [0.5, 2.0], [0.25, 0.5]]), 0.5)
    return [
        Case("two columns", tiny),
        case(3, 5, 0.5, "five columns"),
        case(4, 4, 0.5, "as many outputs as inputs"),
        case(3, 5, 0.75, "alpha = 0.75", "alpha"),
        case(3, 6, 0.2, "alpha = 0.2", "alpha"),
        case(2, 5, 0.5, "a column whose inputs are all 0", "edges", dead=3),
    ]


def _smooth(
    absmax,
    weight,
    alpha=0.5,
    scale=lambda x, w, a: x**a / w ** (1 - a),
    size=lambda w: w.abs().amax(0),
    move=torch.mul,
    dead=True,
):
    largest = size(weight)
    s = scale(absmax, largest, alpha)
    if dead:
        s = torch.where(absmax == 0, torch.ones_like(s), s)
    return s, move(weight, s)


def _verify_smooth(case: Case, output) -> str | None:
    expected = smoothed(*case.args)
    if isinstance(output, (tuple, list)) and len(output) == 2:
        for name, found, right in zip(("the scale", "the new weight"), output, expected, strict=True):
            if wrong := difference(found, right, rtol=1e-4):
                return f"{name}: {wrong}"
        return None
    return difference(output, expected, rtol=1e-4)


SMOOTH = Exercise(
    id="smoothed",
    title="move the difficulty into the weights",
    points=3,
    difficulty=3,
    minutes=12,
    hints=(
        "Column j of W meets input j, so the size of a weight column is a maximum over the *outputs*: `weight.abs().amax(0)`, shape (C,).",
        "s = sizes of the inputs to the power α, divided by the sizes of the weights to the power 1 − α. With α = 1 all inputs become equal, with α = 0 all weights.",
        "The input is going to be divided by s. What must happen to column j of W so that the product stays the same? And where all inputs of a column are 0, s = 1.",
    ),
    reference=smoothed,
    cases=_smooth_cases,
    verify=_verify_smooth,
    misconceptions=(
        Misconception(
            "weight_divided",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, alpha, move=torch.div),
            lambda case, output: (
                "The weight is divided by s, and so will the input be: the output comes out divided by s². Divide one, multiply the other."
            ),
        ),
        Misconception(
            "alpha_at_the_weights",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, alpha, scale=lambda x, w, a: x ** (1 - a) / w**a),
            lambda case, output: (
                f"With alpha = {case.args[2]:g} your scale is the one of {1 - case.args[2]:g}. α = 1 should move everything into the weights."
            ),
        ),
        Misconception(
            "always_half",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, 0.5),
            lambda case, output: f"With alpha = {case.args[2]:g} you return what belongs to 0.5.",
        ),
        Misconception(
            "upside_down",
            lambda absmax, weight, alpha=0.5: _smooth(
                absmax, weight, alpha, scale=lambda x, w, a: w ** (1 - a) / x.clamp(min=1e-30) ** a
            ),
            lambda case, output: (
                f"The column with the largest inputs, {float(case.args[0].max()):.3g}, gets the scale {float(output[0][case.args[0].argmax()]):.3g}: "
                "divided by that it grows."
            ),
        ),
        Misconception(
            "multiplied",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, alpha, scale=lambda x, w, a: x**a * w ** (1 - a)),
            lambda case, output: (
                "The two sizes are multiplied. A column that is large in both should be left about as it is; yours is divided the most."
            ),
        ),
        Misconception(
            "signed_weights",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, alpha, size=lambda w: w.amax(0)),
            lambda case, output: (
                "The size of a weight column is taken with its sign. The largest magnitude may be a negative weight."
            ),
        ),
        Misconception(
            "one_size_for_the_weight",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, alpha, size=lambda w: w.abs().max()),
            lambda case, output: (
                f"The largest weight of all, {float(case.args[1].abs().max()):.3g}, stands for every column. The formula asks for the largest of each."
            ),
        ),
        Misconception(
            "rows_of_the_weight",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, alpha, size=lambda w: w.abs().amax(1)),
            lambda case, output: (
                f"The weight is {tuple(case.args[1].shape)}, outputs by inputs, and you take the largest of each row. Which dimension do the inputs run along?"
            ),
        ),
        Misconception(
            "dead_columns",
            lambda absmax, weight, alpha=0.5: _smooth(absmax, weight, alpha, dead=False),
            lambda case, output: (
                f"A column whose inputs are all 0 gets the scale {float(output[0].min()):g}. Dividing by that gives NaN. There is nothing to balance there: s = 1."
            ),
        ),
    ),
)


# A scale for each token


def _token_cases(generator: torch.Generator) -> list[Case]:
    def rows(steps: int, columns: int, sign: int = 1) -> torch.Tensor:
        """Rows of very different size, each a whole number of steps and at most 0.4 of one more: never near a tie."""
        codes = torch.randint(-120, 121, (steps, columns), generator=generator).float()
        x = codes + _between(generator, -0.4, 0.4, steps, columns)
        x[:, 1] = 127.0 * sign
        return x * torch.logspace(-2, 0, steps)[:, None]

    blank = rows(3, 4)
    blank[1] = 0.0
    return [
        Case("two tokens", (torch.tensor([[254.0, -3.4], [0.5, 1.0]]),)),
        Case("tokens of very different size", (rows(4, 6),)),
        Case("as many columns as tokens", (rows(5, 5),)),
        Case("the largest is negative", (rows(3, 6, -1),), part="signs"),
        Case("a token of zeros", (blank,), part="edges"),
    ]


def _tokens(x, size=lambda x: x.abs().amax(1, keepdim=True), top=127, rounding=torch.round, guard=True):
    scale = size(x) / top
    if guard:
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return rounding(x / scale).clamp(-128, 127).to(torch.int8), scale


def _wrapped(x):
    """Over 128, and the code 128 goes round to -128."""
    scale = x.abs().amax(1, keepdim=True) / 128
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.round(x / scale).to(torch.int16).to(torch.int8), scale


def _verify_tokens(case: Case, output) -> str | None:
    expected = quantize_tokens(*case.args)
    if isinstance(output, (tuple, list)) and len(output) == 2:
        for name, found, right in zip(("the codes", "the scale"), output, expected, strict=True):
            if wrong := difference(found, right, rtol=1e-4):
                return f"{name}: {wrong}"
        return None
    return difference(output, expected)


TOKENS = Exercise(
    id="quantize_tokens",
    title="a scale for each token",
    points=2,
    difficulty=2,
    minutes=8,
    hints=(
        "A token is a row. Its scale is its own largest magnitude over 127: `x.abs().amax(1, keepdim=True)` keeps the shape (M, 1), which divides row by row.",
        "Codes: divide by the scale, `torch.round`, then `.to(torch.int8)`; the cast alone cuts off.",
        "A row of zeros has the scale 0, and 0/0 is no number. Give it the scale 1.",
    ),
    reference=quantize_tokens,
    cases=_token_cases,
    verify=_verify_tokens,
    misconceptions=(
        Misconception(
            "one_scale",
            lambda x: _tokens(x, size=lambda x: x.abs().max().expand(len(x), 1)),
            lambda case, output: (
                f"All {len(case.args[0])} tokens get the scale {float(output[1].flatten()[0]):.3g}, that of the largest: a static range in disguise."
            ),
        ),
        Misconception(
            "columns",
            lambda x: _tokens(x, size=lambda x: x.abs().amax(0, keepdim=True)),
            lambda case, output: (
                f"Your scale has the shape {tuple(output[1].shape)}: one for each column. x is {tuple(case.args[0].shape)}, a row for each token."
            ),
        ),
        Misconception(
            "flat_scale",
            lambda x: (lambda codes, scale: (codes, scale.flatten()))(*_tokens(x)),
            lambda case, output: (
                f"The codes are right. The scale has the shape {tuple(output[1].shape)}; multiplied with {tuple(case.args[0].shape)} it would run along the columns."
            ),
        ),
        Misconception(
            "signed",
            lambda x: _tokens(x, size=lambda x: x.amax(1, keepdim=True)),
            lambda case, output: (
                "The largest value of a token is taken with its sign; a large negative one lies beyond the codes then."
            ),
        ),
        Misconception(
            "all_codes",
            lambda x: _tokens(x, top=255),
            lambda case, output: "You divide by 255. Codes on one side of zero go up to how much?",
        ),
        Misconception(
            "one_more",
            lambda x: _tokens(x, top=128),
            lambda case, output: (
                "You divide by 128, and the largest value of a token would need the code 128. An int8 does not have it."
            ),
        ),
        Misconception(
            "one_more_wrapped",
            _wrapped,
            lambda case, output: (
                "You divide by 128: the largest value of a token becomes 128, which an int8 cannot hold. As it stands here its code has the other sign."
            ),
        ),
        Misconception(
            "cut_off",
            lambda x: _tokens(x, rounding=torch.trunc),
            lambda case, output: "The codes are cut off towards zero instead of rounded.",
        ),
        Misconception(
            "zeros",
            lambda x: _tokens(x, guard=False),
            lambda case, output: (
                f"A token of zeros has the scale {float(output[1].min()):g} here. Asked for is 1, so that nobody divides by nothing."
            ),
        ),
    ),
)


EXERCISES = (COLUMNS, EXCLUDE, TOKENS, SMOOTH, RANGE)

QUESTIONS = (
    Question(
        "codes_left",
        "Nearly all values of a node lie between −4 and 4, but one column of one token reaches 251. With 8 bits, a zero point and a min-max range "
        "from −4 to 251: how many different codes do the values between −4 and 4 get?",
        number=9.0,
        tolerance=0.0,
        slips=((8, "So many steps are between −4 and 4. How many levels do they lie between, both ends counted?"),),
        explanation="255 steps over 255 make a step of 1: the levels −4, −3, … 4, nine of them. That is about 3 bits, and the node still calls itself int8.",
    ),
    Question(
        "scan_of_noise",
        "A scan quantizes one node at a time and measures F1 on 100 sentences. Half of the nodes *improve* F1. What do you do?",
        (
            Choice(
                "Quantize exactly the nodes that improve it",
                "You would choose by chance: with another hundred sentences other nodes improve it.",
            ),
            Choice(
                "Scan with a finer measure, such as the divergence of the logits, and confirm the final choice by F1 on validation",
                "A few answers that flip by chance move F1 by more than one node does. The divergence uses every piece of every sentence; F1 stays the judge of the "
                "one choice in the end.",
                right=True,
            ),
            Choice(
                "Conclude that no node is sensitive",
                "F1 of 100 sentences cannot say so: several small losses add up when all are quantized.",
            ),
            Choice(
                "Scan on the test sentences, there are more",
                "More sentences help, but then the test has been used for a choice, and its F1 is no longer a test.",
            ),
        ),
    ),
    Question(
        "smooth_both_large",
        "A column has inputs up to 100 and weights up to 100; in all others both go up to 1. What does SmoothQuant with α = ½ do to the range of the inputs?",
        (
            Choice(
                "It shrinks from 100 to 10",
                "That would be so if the weights of this column went up to 1: then s = √(100 / 1) = 10.",
            ),
            Choice("It shrinks from 100 to 1", "Only α = 1 makes all input columns equal, whatever the weights."),
            Choice(
                "Nothing: it stays 100",
                "s = √100 / √100 = 1. At ½ the method balances inputs *against weights*; a column that is large on both sides is balanced already. α has to be chosen, on validation.",
                right=True,
            ),
        ),
    ),
)
