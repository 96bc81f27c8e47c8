"""Lesson 21: chains that one operator can replace, batches by length, a ratio of timings, a benchmark put right."""

import itertools
import statistics
from collections import defaultdict

import torch

from course_lib.deploy.buckets import batches_by_length, computed_pieces
from course_lib.deploy.fair import fair_times, speedup
from course_lib.deploy.graphs import find_chains
from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference

# Chains that one operator could replace

GELU = ["Div", "Erf", "Add", "Mul", "Mul"]


def _gelu(x: str, prefix: str) -> list[tuple]:
    """x · (1 + erf(x / √2)) · ½, as an exporter writes it."""
    a, b, c, d, e = (f"{prefix}{letter}" for letter in "abcde")
    return [
        ("Div", (x, "root"), a),
        ("Erf", (a,), b),
        ("Add", (b, "one"), c),
        ("Mul", (x, c), d),
        ("Mul", (d, "half"), e),
    ]


def _chain_cases(generator: torch.Generator) -> list[Case]:
    def mixed(*branches: list[tuple]) -> list[tuple]:
        """Branches interleaved, each in its own order."""
        left, nodes = [list(branch) for branch in branches], []
        while any(left):
            alive = [branch for branch in left if branch]
            nodes.append(alive[int(torch.randint(len(alive), (), generator=generator))].pop(0))
        return nodes

    def dense(x: str, y: str) -> tuple:
        return ("MatMul", (x, f"w_{y}"), y)

    pair = [("Add", ("x", "r"), "s"), ("LayerNormalization", ("s", "g", "b"), "y")]
    one = [dense("x", "h"), *_gelu("h", "p"), dense("pe", "y")]
    two = [
        dense("x", "h"),
        ("Relu", ("x",), "u"),
        *mixed(_gelu("h", "p"), _gelu("u", "q")),
        ("Add", ("pe", "qe"), "y"),
    ]
    apart = [
        dense("x", "h"),
        *mixed(_gelu("h", "p"), [("Relu", ("x",), "u"), ("Tanh", ("u",), "v")]),
        ("Add", ("pe", "v"), "y"),
    ]
    between = [pair[0], ("Sigmoid", ("x",), "z"), pair[1], ("Mul", ("y", "z"), "out")]
    read_twice = [dense("x", "h"), *_gelu("h", "p"), ("Mul", ("pb", "pe"), "y")]
    same_op_twice = [("Div", ("x", "t"), "a"), ("Erf", ("a",), "b"), ("Erf", ("a",), "c"), ("Sub", ("b", "c"), "y")]
    given_out = [("Add", ("x", "r"), "s"), ("LayerNormalization", ("s", "g", "b"), "y"), *_gelu("y", "p")]
    return [
        Case("a sum and its normalization", (pair, ["Add", "LayerNormalization"], {"y"})),
        Case("a GELU between two products", (one, GELU, {"y"})),
        Case("two GELUs, their operators in turn", (two, GELU, {"y"})),
        Case("other work in between", (apart, GELU, {"y"})),
        Case("a neighbour in the list that is not in the chain", (between, ["Add", "LayerNormalization"], {"out"})),
        Case("no such chain", (pair, ["Add", "Relu"], {"y"})),
        Case("a result in the middle that something else reads", (read_twice, GELU, {"y"}), part="read elsewhere"),
        Case("one result, two readers of the right kind", (same_op_twice, ["Div", "Erf"], {"y"}), part="read elsewhere"),
        Case(
            "a result in the middle that the graph gives out",
            (given_out, ["Add", "LayerNormalization"], {"s", "pe"}),
            part="given out",
        ),
        Case("a last result that the graph gives out", (given_out[2:], GELU, {"pe"}), part="given out"),
    ]


def _chains(nodes, pattern, outputs, alone=True, stay=True, only_first=False, last_too=False):
    """Chains with some of the conditions left out."""
    readers = defaultdict(list)
    for position, (_, inputs, _) in enumerate(nodes):
        for name in set(inputs):
            readers[name].append(position)
    found = []
    for start, (op, _, _) in enumerate(nodes):
        chain = [start] if op == pattern[0] else []
        for wanted in pattern[1:]:
            output = chain and nodes[chain[-1]][2]
            after = [p for p in readers[output] if nodes[p][0] == wanted] if chain else []
            if not after or (alone and len(readers[output]) != 1) or (stay and output in outputs):
                chain = []
                break
            chain.append(after[0])
        if chain and not (last_too and nodes[chain[-1]][2] in outputs):
            found.append(chain)
    return found[:1] if only_first else found


def _neighbours(nodes, pattern, outputs):
    """Operators that stand next to each other in the list, whoever reads whom."""
    ops = [op for op, _, _ in nodes]
    size = len(pattern)
    return [list(range(i, i + size)) for i in range(len(ops) - size + 1) if ops[i : i + size] == list(pattern)]


def _verify_chains(case: Case, output) -> str | None:
    if isinstance(output, (list, tuple)) and any(isinstance(chain, (int, str)) for chain in output):
        return "it returned one flat list; expected a list of positions for each chain"
    return difference(output, find_chains(*case.args))


CHAINS = Exercise(
    id="find_chains",
    title="chains that one operator can replace",
    points=4,
    difficulty=4,
    minutes=15,
    hints=(
        "First find out, for each name, at which positions it is read: a dictionary from names to lists of positions.",
        "From every node with the first operator walk on: its output must have exactly one reader, and that reader the next "
        "operator of the pattern. Give up as soon as one of the two is not so.",
        "The outputs of the whole graph have a reader outside the list. Only the output of the *last* node of a chain may be one.",
    ),
    reference=find_chains,
    cases=_chain_cases,
    verify=_verify_chains,
    misconceptions=(
        Misconception(
            "read_elsewhere",
            lambda nodes, pattern, outputs=(): _chains(nodes, pattern, outputs, alone=False),
            lambda case, output: (
                f"With {case.label} you still take the chain {describe(output[0])}. When it has become one operator, what is "
                "between its first and last node is never written down: who else needs it?"
            ),
        ),
        Misconception(
            "given_out",
            lambda nodes, pattern, outputs=(): _chains(nodes, pattern, outputs, stay=False),
            lambda case, output: (
                f"The graph gives out {', '.join(sorted(case.args[2]))}, and your chain {describe(output[0])} would swallow one of them."
            ),
        ),
        Misconception(
            "neither",
            lambda nodes, pattern, outputs=(): _chains(nodes, pattern, outputs, alone=False, stay=False),
            lambda case, output: (
                "You follow the operators and never ask who else wants what is in between: another operator, or whoever called the graph."
            ),
        ),
        Misconception(
            "last_one_given_out",
            lambda nodes, pattern, outputs=(): _chains(nodes, pattern, outputs, last_too=True),
            lambda case, output: (
                f"With {case.label} a chain is missing. What its last node computes is still there after fusing, under the same name."
            ),
        ),
        Misconception(
            "neighbours",
            lambda nodes, pattern, outputs=(): _neighbours(nodes, pattern, outputs),
            lambda case, output: (
                f"With {case.label} you get {describe(output)}: operators that stand next to each other in the list. A chain is made by "
                "who reads whose output; other work may stand in between."
            ),
        ),
        Misconception(
            "only_the_first",
            lambda nodes, pattern, outputs=(): _chains(nodes, pattern, outputs, only_first=True),
            lambda case, output: f"With {case.label} you stop after the first chain.",
        ),
    ),
)


# Batches by length


def _batch_cases(generator: torch.Generator) -> list[Case]:
    def lengths(count: int) -> list[int]:
        """No two alike, so that there is one order by length; equal ones have a case of their own."""
        return (torch.randperm(60, generator=generator)[:count] + 3).tolist()

    return [
        Case("four sentences in twos", ([3, 9, 4, 8], 2)),
        Case("sentences of equal length", ([7, 4, 9, 7, 4, 7], 2)),
        Case("sentences that fill their batches", (lengths(12), 4)),
        Case("one sentence at a time", (lengths(4), 1)),
        Case("more room than sentences", (lengths(3), 8), part="not full"),
        Case("sentences that do not fill the last batch", (lengths(11), 4), part="not full"),
        Case("many sentences", (lengths(50), 8), part="not full"),
    ]


def _cut(order: list, size: int) -> list[list[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def _sorted(lengths) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def _verify_batches(case: Case, output) -> str | None:
    lengths, size = case.args
    if not isinstance(output, (list, tuple)) or not all(isinstance(batch, (list, tuple)) for batch in output):
        return difference(output, [[0]]) or "expected a list of positions for each batch"
    seen = [int(i) for batch in output for i in batch]
    count = len(lengths)
    if sorted(seen) == sorted(lengths):
        return f"its first batch, {describe(output[0])}, holds lengths; expected are positions in the list"
    if strange := sorted(set(seen) - set(range(count))):
        return f"there is no sentence at position {strange[0]}; positions run from 0 to {count - 1}"
    if lost := sorted(set(range(count)) - set(seen)):
        return f"{len(lost)} of the {count} sentences are in no batch; the first is that at position {lost[0]}"
    if len(seen) > count:
        return f"some sentences are in more than one batch: {len(seen)} places for {count} sentences"
    if any(len(batch) > size for batch in output):
        return f"a batch holds {max(map(len, output))} sentences; the limit is {size}"
    if not all(map(len, output)):
        return "a batch is empty"
    if len(output) > -(-count // size):
        return f"it makes {len(output)} batches where fewer would do"
    ascending = computed_pieces(lengths, _cut(_sorted(lengths)[::-1], size))
    most = max(ascending, computed_pieces(lengths, batches_by_length(lengths, size)))
    pieces = computed_pieces(lengths, output)
    if pieces > most:
        return f"padding makes {pieces} pieces of {sum(lengths)}; fewer are possible with as many batches"
    return None


BATCHES = Exercise(
    id="batches_by_length",
    title="batches with little padding",
    points=3,
    difficulty=2,
    minutes=8,
    hints=(
        "A batch costs its longest sentence, times its size. Which sentences should be together?",
        "`sorted(range(n), key=lambda i: lengths[i])` gives positions, not lengths, in the order of the lengths.",
        "Cut that list into pieces of `size`; a slice that reaches beyond the end is simply shorter.",
    ),
    reference=batches_by_length,
    cases=_batch_cases,
    verify=_verify_batches,
    misconceptions=(
        Misconception(
            "as_they_come",
            lambda lengths, size: _cut(list(range(len(lengths))), size),
            lambda case, output: (
                f"The batches are filled in the order of the list: lengths {describe([case.args[0][i] for i in output[0]])} share the first "
                "one, and all of them are padded to the longest."
            ),
        ),
        Misconception(
            "lengths",
            lambda lengths, size: _cut(sorted(lengths, reverse=True), size),
            lambda case, output: (
                f"Your first batch is {describe(output[0])}: these are lengths. Afterwards nobody knows which sentence is which; return positions."
            ),
        ),
        Misconception(
            "first_of_equals",
            lambda lengths, size: _cut([lengths.index(n) for n in sorted(lengths, reverse=True)], size),
            lambda case, output: (
                f"Of the lengths {describe(case.args[0])} some are equal, and you look for a length to find its position: that finds the first one every time. "
                "Sort the positions themselves."
            ),
        ),
        Misconception(
            "rest_dropped",
            lambda lengths, size: [b for b in _cut(_sorted(lengths), size) if len(b) == size],
            lambda case, output: (
                f"{len(case.args[0]) - sum(map(len, output))} of {len(case.args[0])} sentences are in no batch: those that do not fill one. "
                "They want their tags too."
            ),
        ),
        Misconception(
            "dealt_out",
            lambda lengths, size: [_sorted(lengths)[i :: -(-len(lengths) // size)] for i in range(-(-len(lengths) // size))],
            lambda case, output: (
                "You sort and then deal out like cards, so that every batch gets long and short sentences: all are padded to the long ones."
            ),
        ),
    ),
)


# How many times as fast


def _speed_cases(generator: torch.Generator) -> list[Case]:
    def times(count: int, ms: float) -> list[float]:
        return [ms * (1 + 0.3 * float(torch.rand((), generator=generator))) for _ in range(count)]

    def rounds(count: int, warm: float = 9.0) -> tuple[list[float], list[float]]:
        slow, fast = times(count, 8.0), times(count, 3.0)
        for i in range(2):  # the warm-up rounds
            slow[i] *= warm
        return slow, fast

    slow, fast = rounds(9)
    drift = [3.0 if i > 4 else 1.0 for i in range(9)]  # a neighbour takes the processor away from the fifth round on
    hiccup, quick = rounds(7)
    hiccup[4] *= 40
    long, short = rounds(10)
    return [
        Case("three rounds, none to warm up", ([8.0, 9.0, 12.0], [4.0, 3.0, 5.0], 0)),
        Case("rounds that end slower than they began", ([a * d for a, d in zip(slow, drift, strict=True)],
                                                       [b * d for b, d in zip(fast, drift, strict=True)], 2)),
        Case("one call that took forever", (hiccup, quick, 2), part="robust"),
        Case("warm-up rounds that took long", (*rounds(5, warm=30.0), 2), part="warm-up"),
        Case("an even number of rounds", (long, short, 2), part="even"),
    ]  # fmt: skip


def _ratios(slow, fast, warm_up):
    return [a / b for a, b in zip(slow[warm_up:], fast[warm_up:], strict=True)]


SPEED = Exercise(
    id="speedup",
    title="how many times as fast",
    points=2,
    difficulty=2,
    minutes=6,
    hints=(
        "Round by round: what was the ratio of the two times of that same round?",
        "Throw the first `warm_up` rounds away, make a list of ratios, and take the value in the middle: `statistics.median`.",
    ),
    reference=speedup,
    cases=_speed_cases,
    verify=lambda case, output: difference(output, speedup(*case.args), rtol=1e-6),
    misconceptions=(
        Misconception(
            "warm_up_counted",
            lambda slow, fast, warm_up: statistics.median(_ratios(slow, fast, 0)),
            lambda case, output: (
                f"You get {describe(output)} from all {len(case.args[0])} rounds; the first {case.args[2]} were only there to warm up."
            ),
        ),
        Misconception(
            "upside_down",
            lambda slow, fast, warm_up: statistics.median(_ratios(fast, slow, warm_up)),
            lambda case, output: f"You get {describe(output)}: below 1, as if the second were the slower one.",
        ),
        Misconception(
            "ratio_of_means",
            lambda slow, fast, warm_up: sum(slow[warm_up:]) / sum(fast[warm_up:]),
            lambda case, output: (
                f"You divide one mean (or sum) by the other and get {describe(output)}. A single call during which the machine did "
                "something else moves a mean."
            ),
        ),
        Misconception(
            "mean_of_ratios",
            lambda slow, fast, warm_up: statistics.mean(_ratios(slow, fast, warm_up)),
            lambda case, output: (
                f"You take the mean of the ratios, {describe(output)}: one outlier among them is enough to move it."
            ),
        ),
        Misconception(
            "ratio_of_medians",
            lambda slow, fast, warm_up: statistics.median(slow[warm_up:]) / statistics.median(fast[warm_up:]),
            lambda case, output: (
                f"You divide one median by the other: {describe(output)}. The two medians may come from different rounds, one of a "
                "quiet machine and one of a busy one. What was the ratio *within* each round?"
            ),
        ),
        Misconception(
            "best_of_each",
            lambda slow, fast, warm_up: min(slow[warm_up:]) / min(fast[warm_up:]),
            lambda case, output: (
                f"You compare the best time of each, {describe(output)}: two lucky moments, and perhaps not the same luck."
            ),
        ),
        Misconception(
            "lower_middle",
            lambda slow, fast, warm_up: statistics.median_low(_ratios(slow, fast, warm_up)),
            lambda case, output: (
                f"With {len(case.args[0]) - case.args[2]} rounds there are two values in the middle, and you take one of them "
                "(`torch.median` does so); the median is half way between."
            ),
        ),
    ),
)


# A benchmark put right


def _record_cases(generator: torch.Generator) -> list[Case]:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def call(contender, sentences, ms, threads=1, warm_up=False, tokenizing=0.0) -> dict:
        return {
            "contender": contender, "sentences": tuple(sentences), "threads": threads, "warm_up": warm_up,
            "ms": ms + tokenizing, "tokenizing_ms": tokenizing,
        }  # fmt: skip

    def singles(contender, ms: float, count: int = 5, first: int = 0, **how) -> list[dict]:
        return [call(contender, [first + i], uniform(ms, 1.5 * ms), **how) for i in range(count)]

    def batches(contender, ms: float, count: int = 3, first: int = 0, **how) -> list[dict]:
        return [call(contender, range(first + 8 * i, first + 8 * i + 8), uniform(ms, 1.5 * ms), **how) for i in range(count)]

    a, b = "teacher", "student"
    plain = [*singles(a, 8.0), *singles(b, 2.0)]
    slow = [*singles(a, 8.0), call(a, [5], 90.0), *singles(b, 2.0, count=6)]  # a mean would see the outlier
    warm = [
        call(a, [0], 900.0, warm_up=True),
        call(a, [1], 500.0, warm_up=True),
        *singles(a, 8.0, count=4),
        *singles(b, 2.0, count=4),
    ]
    in_batches = [*batches(a, 40.0), *batches(b, 9.0)]
    lengths = [*singles(a, 9.0), *singles(a, 30.0, first=70), *singles(b, 2.0), *singles(b, 0.3, first=40)]
    threads = [*singles(a, 8.0), *singles(a, 30.0, threads=4), *singles(b, 2.0), *singles(b, 0.9, threads=2)]
    pieces = [*singles(a, 8.0, tokenizing=3.0), *singles(b, 2.0)]
    warmed = [*plain, call(b, [9], 3.0, warm_up=True), *[call(a, [9], 60.0) for _ in range(7)]]
    c = "vendor's"
    three = [*plain, *singles(c, 1.0), *singles(a, 30.0, count=7, first=20), *singles(b, 9.0, count=7, first=20)]
    both = [
        *singles(a, 8.0),
        *batches(a, 30.0, count=2),
        *singles(b, 2.0),
        *batches(b, 9.0, count=2),
        *batches(b, 2.0, first=50),
    ]
    return [
        Case("two contenders on the same sentences", (plain,)),
        Case("one call that took long", (slow,)),
        Case("calls to warm up", (warm,), part="warm-up"),
        Case("batches of eight sentences", (in_batches,), part="per sentence"),
        Case("single sentences and batches", (both,), part="per sentence"),
        Case("sentences that only one of them read", (lengths,), part="settings"),
        Case("numbers of threads that only one of them had", (threads,), part="settings"),
        Case("sentences that one of them only warmed up with", (warmed,), part="settings"),
        Case("three contenders, and sentences that two of them read", (three,), part="settings"),
        Case("tokenizing timed along in one of them", (pieces,), part="tokenizing"),
    ]


def _times(
    records,
    warm=False,
    tokenized=False,
    per_call=False,
    middle=statistics.median,
    same=("sentences", "threads"),
    met=False,
    two=False,
):
    """A benchmark's figures with some of the corrections left out."""
    kept = [r for r in records if warm or not r["warm_up"]]
    key = lambda r: tuple(tuple(r[k]) if k == "sentences" else r[k] for k in same)  # noqa: E731
    settings: dict = {}
    for r in records if met else kept:
        settings.setdefault(r["contender"], set()).add(key(r))
    common = set.intersection(*settings.values())
    if two:
        common = set().union(*(a & b for a, b in itertools.combinations(settings.values(), 2)))
    times: dict = {}
    for r in kept:
        if key(r) in common:
            ms = r["ms"] - (0.0 if tokenized else r["tokenizing_ms"])
            times.setdefault(r["contender"], []).append(ms / (1 if per_call else len(r["sentences"])))
    return {name: middle(own) for name, own in times.items()}


FAIR = Exercise(
    id="fair_times",
    title="a benchmark put right",
    points=4,
    difficulty=3,
    minutes=15,
    hints=(
        "First drop the warm-up calls. Then find, for each contender, the set of settings `(sentences, threads)` that it was called with.",
        "`set.intersection(*sets)` is what all of them have in common. Only calls with such a setting count.",
        "Of each call that is left: its time without tokenizing, divided by how many sentences it read; then the median for each contender.",
    ),
    reference=fair_times,
    cases=_record_cases,
    verify=lambda case, output: difference(output, fair_times(*case.args), rtol=1e-6),
    misconceptions=(
        Misconception(
            "warm_ups",
            lambda records: _times(records, warm=True),
            lambda case, output: "Calls that were made to warm up are counted: they load, allocate and compile, once.",
        ),
        Misconception(
            "per_call",
            lambda records: _times(records, per_call=True),
            lambda case, output: (
                f"With {case.label} you give milliseconds of a *call*; one call reads up to {max(len(r['sentences']) for r in case.args[0])} sentences."
            ),
        ),
        Misconception(
            "tokenizing",
            lambda records: _times(records, tokenized=True),
            lambda case, output: "One contender's times hold the tokenizing and the other's do not. Take it off everywhere.",
        ),
        Misconception(
            "any_setting",
            lambda records: _times(records, same=()),
            lambda case, output: (
                f"With {case.label} all calls count, whoever made them. A contender may have got easier sentences or more threads than the other."
            ),
        ),
        Misconception(
            "any_threads",
            lambda records: _times(records, same=("sentences",)),
            lambda case, output: "You compare the same sentences, but not with the same number of threads.",
        ),
        Misconception(
            "any_sentences",
            lambda records: _times(records, same=("threads",)),
            lambda case, output: (
                "You compare the same number of threads, but not the same sentences: short ones are quick in every program."
            ),
        ),
        Misconception(
            "met_while_warming_up",
            lambda records: _times(records, met=True),
            lambda case, output: (
                "A setting counts for you although one contender met it in a warm-up call only: of that contender there is no time to compare with."
            ),
        ),
        Misconception(
            "two_are_enough",
            lambda records: _times(records, two=True),
            lambda case, output: (
                f"There are {len({r['contender'] for r in case.args[0]})} contenders, and a setting counts for you when two of them had it. The third was never asked."
            ),
        ),
        Misconception(
            "mean",
            lambda records: _times(records, middle=statistics.mean),
            lambda case, output: (
                "These are means. One call during which the machine was busy elsewhere is enough to move them."
            ),
        ),
        Misconception(
            "best",
            lambda records: _times(records, middle=min),
            lambda case, output: "You take the best call of each contender: a lucky moment, not what a user will wait for.",
        ),
    ),
)


EXERCISES = (CHAINS, BATCHES, SPEED, FAIR)

QUESTIONS = (
    Question(
        "sorted_outputs",
        "A colleague sorts the sentences by length to save padding. The service is faster, and F1 has fallen from .85 to almost 0. What happened?",
        (
            Choice(
                "Padding was part of what the model had learnt",
                "A mask hides padding; with or without it the logits of the real pieces agree up to rounding.",
            ),
            Choice(
                "The predictions came back in the order of the batches and were compared with labels in the old order",
                "Every sentence got another one's tags. Keep positions, and put each prediction back to where its sentence came from.",
                right=True,
            ),
            Choice(
                "Short sentences are harder",
                "They may be a little harder or easier, but they were there before too; the set of sentences is the same.",
            ),
        ),
    ),
    Question(
        "padded_share",
        "A batch holds sentences of 10, 12, 14 and 64 pieces, padded to the longest. What per cent of the pieces computed are padding?",
        number=60.9,
        tolerance=0.6,
        slips=(
            (39.1, "That is the share of real pieces. How many per cent are the others?"),
            (156, "So many pieces are padding. How many per cent of all pieces computed?"),
        ),
        explanation="4 · 64 = 256 pieces are computed, 100 of them are real: 156 / 256 = 61 %.",
    ),
    Question(
        "more_threads",
        "An int8 model answers in 1 ms on 2 threads. In production 8 copies of it serve requests on 8 cores, and each was given 8 threads. What is likely?",
        (
            Choice(
                "Each answer comes 4 times as fast",
                "There are 8 cores for 64 threads. And a sentence of 20 pieces does not hold work for 8 threads.",
            ),
            Choice(
                "Nothing changes: the system hands out the cores",
                "It does, but the threads of one call wait for each other, and some of them spin while they wait: they hold cores that others need.",
            ),
            Choice(
                "Answers are slower, and much more uneven, than with 1 thread for each copy",
                "8 copies with 1 thread fill 8 cores. With 64 threads a call often waits for a thread that is not running at all.",
                right=True,
            ),
        ),
    ),
)
