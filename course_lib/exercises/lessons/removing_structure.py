"""Lesson 04: units and what belongs to them, heads, masked = compacted, one decision of the greedy module tree."""

import torch
import torch.nn.functional as F

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference
from course_lib.pruning.written_out import masked_block, next_to_go, remove_attention_heads, remove_units


def _shapes(output) -> str:
    return " and ".join(str(tuple(t.shape)) for t in output)


def _differences(output, expected, names: tuple[str, ...]) -> str | None:
    """What is wrong with a tuple of tensors, the tensor named."""
    if not isinstance(output, (tuple, list)) or len(output) != len(expected):
        return difference(output, expected)
    found = ((name, difference(o, e)) for name, o, e in zip(names, output, expected, strict=True))
    return next((f"{name}: {wrong}" for name, wrong in found if wrong), None)


# Units: neurons and channels


def _unit_cases(generator: torch.Generator) -> list[Case]:
    def drawn(units: int, into: tuple[int, ...], out: int, columns: tuple[int, ...], count: int) -> tuple:
        """The tensors, and so many units to keep, which are neither the first ones nor the last ones only."""
        keep = torch.randperm(units - 2, generator=generator)[: count - 2] + 1
        keep = torch.cat([torch.tensor([0]), keep.sort().values, torch.tensor([units - 1])])
        weights = [torch.randn(*s, generator=generator) for s in ((units, *into), (units,), (out, *columns))]
        return *weights, keep

    return [
        Case("5 neurons, 3 to keep", drawn(5, (3,), 2, (5,), 3)),
        Case("a square second matrix", drawn(6, (6,), 6, (6,), 4)),
        Case("channels read by a convolution", drawn(6, (2, 3, 3), 4, (6, 3, 3), 3)),
        Case("as many channels in the next convolution", drawn(5, (2, 3, 3), 5, (5, 3, 3), 3)),
        Case("channels whose 2 × 2 maps were flattened", drawn(5, (3, 3, 3), 3, (5 * 4,), 3), part="flattened maps"),
        Case("channels whose 3 × 2 maps were flattened", drawn(4, (1, 3, 3), 2, (4 * 6,), 3), part="flattened maps"),
        Case("every unit to keep", (*drawn(4, (3,), 2, (4,), 2)[:3], torch.arange(4)), part="edges"),
        Case("one unit to keep", (*drawn(4, (3,), 2, (8,), 2)[:3], torch.tensor([2])), part="edges"),
    ]


def _columns(weight, reader, keep):
    size = reader.shape[1] // len(weight)
    return (keep[:, None] * size + torch.arange(size)).flatten()


def _zeroed_units(weight, bias, reader, keep):
    gone = torch.ones(len(weight), dtype=torch.bool)
    gone[keep] = False
    weight, bias = weight.clone(), bias.clone()
    weight[gone], bias[gone] = 0.0, 0.0
    return weight, bias, reader


def _interleaved(weight, bias, reader, keep):
    size = reader.shape[1] // len(weight)
    return weight[keep], bias[keep], reader[:, (keep + len(weight) * torch.arange(size)[:, None]).flatten()]


def _others(weight, bias, reader, keep):
    stay = torch.tensor([u for u in range(len(weight)) if u not in keep.tolist()], dtype=torch.int64)
    return weight[stay], bias[stay], reader[:, _columns(weight, reader, stay)]


def _rows_of_the_reader(weight, bias, reader, keep):
    return weight[keep], bias[keep], reader[keep]


UNITS = Exercise(
    id="remove_units",
    title="a unit and all that belongs to it",
    points=3,
    difficulty=2,
    minutes=10,
    hints=(
        "`weight[keep]` takes rows: tensors of any number of dimensions are cut along the first one so. And along the second?",
        "How many columns of `reader` belong to one unit? `reader.shape[1]` and `len(weight)` tell.",
        "Unit u has the columns u·P … u·P + P − 1. All of them at once: `keep[:, None] * P + torch.arange(P)`, flattened; for P = 1 "
        "this is `keep` itself.",
    ),
    reference=remove_units,
    cases=_unit_cases,
    verify=lambda case, output: _differences(output, remove_units(*case.args), ("the weight", "the bias", "the reader")),
    misconceptions=(
        Misconception(
            "zeroed_but_kept",
            _zeroed_units,
            lambda case, output: (
                f"{len(case.args[3])} of {len(case.args[0])} units should be left, and your weight is still {tuple(output[0].shape)}: the others are "
                "zero, but there. Zeros are multiplied like any other number."
            ),
        ),
        Misconception(
            "reader_untouched",
            lambda weight, bias, reader, keep: (weight[keep], bias[keep], reader),
            lambda case, output: (
                f"{len(output[0])} units are made now, and the reader still has {output[2].shape[1]} columns, for {len(case.args[0])} units: the two no "
                "longer fit."
            ),
        ),
        Misconception(
            "wrong_axis_of_the_reader",
            _rows_of_the_reader,
            lambda case, output: (
                f"The reader {tuple(case.args[2].shape)} became {tuple(output[2].shape)}: you take *rows* of it. Its rows are its own outputs; "
                "where does it read the units?"
            ),
        ),
        Misconception(
            "bias_untouched",
            lambda weight, bias, reader, keep: (weight[keep], bias, reader[:, _columns(weight, reader, keep)]),
            lambda case, output: f"{len(output[0])} rows, but {len(output[1])} biases: a removed unit's bias is still there.",
        ),
        Misconception(
            "one_column_each",
            lambda weight, bias, reader, keep: (weight[keep], bias[keep], reader[:, keep]),
            lambda case, output: (
                f"The reader has {case.args[2].shape[1]} columns for {len(case.args[0])} units, and yours keeps {output[2].shape[1]} for "
                f"{len(output[0])}. A flattened map gives each channel several columns in a row."
            ),
        ),
        Misconception(
            "interleaved",
            _interleaved,
            lambda case, output: (
                f"With {case.args[2].shape[1]} columns for {len(case.args[0])} units you take those of a unit {len(case.args[0])} apart. "
                "`flatten` writes a whole map before the next one begins: its columns are neighbours."
            ),
        ),
        Misconception(
            "removes_what_should_stay",
            _others,
            lambda case, output: (
                f"keep is {describe(case.args[3])}, and {len(output[0])} of {len(case.args[0])} units are left: these are the others. `keep` says who *stays*."
            ),
        ),
    ),
)


# Heads


def _head_cases(generator: torch.Generator) -> list[Case]:
    def drawn(heads: int, size: int, width: int, keep: list[int]) -> tuple:
        shapes = ((3, heads * size, width), (3, heads * size), (width, heads * size))
        return *(torch.randn(*s, generator=generator) for s in shapes), torch.tensor(keep), size

    one = int(torch.randint(1, 4, (1,), generator=generator))
    return [
        Case("3 heads of size 2, one to go", drawn(3, 2, 6, [0, 2])),
        Case("5 heads of size 3, one to keep", drawn(5, 3, 15, [one])),
        Case("4 heads of size 4, two to keep", drawn(4, 4, 16, [1, 3])),
        Case("as many heads as a head has rows", drawn(3, 3, 9, [0, 2])),
        Case("a model wider than its heads together", drawn(4, 2, 10, [1, 2]), part="edges"),
        Case("every head to keep", drawn(3, 2, 6, [0, 1, 2]), part="edges"),
        Case("heads of size 1", drawn(5, 1, 5, [0, 3, 4]), part="edges"),
    ]


def _rows(keep, size):
    return (keep[:, None] * size + torch.arange(size)).flatten()


def _zeroed_heads(qkv, biases, out, keep, size):
    gone = torch.ones(qkv.shape[1], dtype=torch.bool)
    gone[_rows(keep, size)] = False
    qkv, biases = qkv.clone(), biases.clone()
    qkv[:, gone], biases[:, gone] = 0.0, 0.0
    return qkv, biases, out


def _heads_apart(qkv, biases, out, keep, size):
    rows = (keep + qkv.shape[1] // size * torch.arange(size)[:, None]).flatten()
    return qkv[:, rows], biases[:, rows], out[:, rows]


HEADS = Exercise(
    id="remove_attention_heads",
    title="attention heads",
    points=4,
    difficulty=3,
    minutes=12,
    hints=(
        "Which rows of the query's weight make head 2, if heads have size 4? The same ones in key and value.",
        "The rows of all heads in `keep`: `keep[:, None] * size + torch.arange(size)`, flattened.",
        "What reads a head is the output projection: which of its axes has H·size entries? `qkv[:, rows]`, and so on.",
    ),
    reference=remove_attention_heads,
    cases=_head_cases,
    verify=lambda case, output: _differences(
        output, remove_attention_heads(*case.args), ("query, key and value", "their biases", "the output projection")
    ),
    misconceptions=(
        Misconception(
            "zeroed_but_kept",
            _zeroed_heads,
            lambda case, output: (
                f"Query, key and value are still {tuple(output[0].shape)}: the heads are silent, but computed. {len(case.args[3])} heads of size "
                f"{case.args[4]} should be left."
            ),
        ),
        Misconception(
            "output_untouched",
            lambda qkv, biases, out, keep, size: (qkv[:, _rows(keep, size)], biases[:, _rows(keep, size)], out),
            lambda case, output: (
                f"The heads that are left put out {output[0].shape[1]} numbers for a token, and the output projection still wants {output[2].shape[1]}."
            ),
        ),
        Misconception(
            "wrong_axis_of_the_output",
            lambda qkv, biases, out, keep, size: (
                qkv[:, _rows(keep, size)],
                biases[:, _rows(keep, size)],
                out[_rows(keep, size)],
            ),
            lambda case, output: (
                f"The output projection {tuple(case.args[2].shape)} became {tuple(output[2].shape)}: its *rows* went. They are the model's own "
                "dimensions; the heads come in at the columns."
            ),
        ),
        Misconception(
            "one_row_each",
            lambda qkv, biases, out, keep, size: (qkv[:, keep], biases[:, keep], out[:, keep]),
            lambda case, output: (
                f"{len(case.args[3])} heads of size {case.args[4]} should be left, and query has {output[0].shape[1]} rows: a head is not one row."
            ),
        ),
        Misconception(
            "heads_apart",
            _heads_apart,
            lambda case, output: (
                f"The number of rows is right, but they are {case.args[0].shape[1] // case.args[4]} apart, taken from all heads. The rows of a head are neighbours."
            ),
        ),
        Misconception(
            "biases_untouched",
            lambda qkv, biases, out, keep, size: (qkv[:, _rows(keep, size)], biases, out[:, _rows(keep, size)]),
            lambda case, output: (
                f"Query, key and value have {output[0].shape[1]} rows and {output[1].shape[1]} biases each. What would be added to what?"
            ),
        ),
    ),
)


# Masked = compacted


def _masked_cases(generator: torch.Generator) -> list[Case]:
    def drawn(n: int, width: int, neurons: int, mask: list[int]) -> tuple:
        shapes = (n, width), (neurons, width), (neurons,), (width, neurons), (width,)
        return *(torch.randn(*s, generator=generator) for s in shapes), torch.tensor(mask).bool()

    return [
        Case("4 neurons, one hidden", drawn(2, 3, 4, [1, 1, 0, 1])),
        Case("6 neurons, three hidden", drawn(3, 4, 6, [0, 1, 0, 1, 1, 0])),
        Case("as many neurons as tokens and dimensions", drawn(4, 4, 4, [1, 0, 1, 0])),
        Case("no neuron hidden", drawn(2, 3, 4, [1, 1, 1, 1]), part="edges"),
        Case("every neuron hidden", drawn(2, 3, 4, [0, 0, 0, 0]), part="edges"),
    ]


def _block(x, w1, b1, w2, b2, before=None, after=None):
    hidden = x @ w1.T + b1
    hidden = F.gelu(hidden if before is None else before(hidden))
    return (hidden if after is None else after(hidden)) @ w2.T + b2


MASKED = Exercise(
    id="masked_block",
    title="hidden as if removed",
    points=3,
    difficulty=2,
    minutes=8,
    hints=(
        "Write the block without the mask first: `F.gelu(x @ w1.T + b1) @ w2.T + b2`.",
        "A removed neuron adds nothing to any output. At which place of the line must its number be 0?",
        "Where the second matrix reads it. A zero there takes its weights and its bias along; `b2` belongs to no neuron.",
    ),
    reference=masked_block,
    cases=_masked_cases,
    verify=lambda case, output: difference(output, masked_block(*case.args), rtol=1e-4, atol=1e-5),
    misconceptions=(
        Misconception(
            "bias_stays",
            lambda x, w1, b1, w2, b2, mask: _block(x, w1 * mask[:, None], b1, w2, b2),
            lambda case, output: (
                f"Something is left of the hidden neurons, the same for every token: the rows of w1 are zero, but their biases "
                f"{describe(case.args[2][~case.args[5]])} go on through the GELU to the second matrix."
            ),
        ),
        Misconception(
            "mask_forgotten",
            lambda x, w1, b1, w2, b2, mask: _block(x, w1, b1, w2, b2),
            lambda case, output: f"The output does not depend on the mask: all {len(case.args[5])} neurons are still at work.",
        ),
        Misconception(
            "inverted",
            lambda x, w1, b1, w2, b2, mask: _block(x, w1, b1, w2, b2, after=lambda h: h * ~mask),
            lambda case, output: "The neurons that should stay are hidden, and the others speak. True means that a neuron stays.",
        ),
        Misconception(
            "output_bias_lost",
            lambda x, w1, b1, w2, b2, mask: _block(x, w1, b1, w2, torch.zeros_like(b2), after=lambda h: h * mask),
            lambda case, output: "The hidden neurons are silent, but b2 is gone as well. It belongs to the outputs, not to a neuron.",
        ),
        Misconception(
            "rescaled",
            lambda x, w1, b1, w2, b2, mask: _block(x, w1, b1, w2, b2, after=lambda h: h * mask * (mask.numel() / max(1, int(mask.sum())))),
            lambda case, output: (
                f"The neurons that stay are {case.args[5].numel()}/{int(case.args[5].sum())} times as loud as before, as dropout makes them in training. "
                "Removing a neuron leaves the others as they are."
            ),
        ),
    ),
)  # fmt: skip


# One decision of the greedy tree


def _tree_cases(generator: torch.Generator) -> list[Case]:
    def tree(layers: int, last: float = 0.0) -> tuple[dict, dict]:
        costs, parameters = {}, {}
        for layer in range(layers):
            heads, neurons, rest = (int(n) for n in torch.randint(20, 200, (3,), generator=generator))
            parameters |= {
                f"layer.{layer}.heads": heads,
                f"layer.{layer}.neurons": 3 * neurons,
                f"layer.{layer}.rest": rest // 10 + 1,
            }
            a, b, c = (1.0 + 9.0 * torch.rand(3, generator=generator)).tolist()
            costs |= {f"layer.{layer}": 2 * (a + b + c), f"layer.{layer}.heads": a, f"layer.{layer}.neurons": b}
        return costs, parameters

    two, three, many = tree(2), tree(3), tree(12)
    named = {"layer.1": 50.0, "layer.1.heads": 45.0, "layer.1.neurons": 45.0, "layer.10": 60.0, "layer.10.heads": 90.0}
    inside = {"layer.1.heads": 20, "layer.1.neurons": 20, "layer.10.heads": 100, "layer.11.heads": 400}
    return [
        Case("two layers", (*two, [])),
        Case("three layers", (*three, [])),
        Case("a cheapest node that is small", ({"a": 5.0, "b": 1.0}, {"a": 100, "b": 4}, [])),
        Case("a largest node that is dear", ({"a": 90.0, "b": 1.0}, {"a": 300, "b": 50}, [])),
        Case("a block that is gone already", (*three, ["layer.0.neurons"]), part="later rounds"),
        Case(
            "a layer of which one block is left",
            ({"a": 8.0, "a.heads": 7.0, "a.neurons": 6.0, "b": 9.0}, {"a.heads": 10, "a.neurons": 90, "b": 60}, ["a.neurons"]),
            part="later rounds",
        ),
        Case("something gone whose cost is 0", ({"a": 0.0, "b": 3.0, "c": 2.0}, {"a": 10, "b": 10, "c": 4}, ["a"]), part="later rounds"),
        Case("twelve layers", (*many, []), part="names"),
        Case("layer.1 and layer.10", (named, inside, []), part="names"),
        Case("two nodes of the same price", ({"a": 3.0, "b": 1.0, "c": 2.0}, {"a": 8, "b": 4, "c": 8}, []), part="equals"),
        Case("a removal that helps", ({"a": -0.5, "b": 0.0, "c": 1.0}, {"a": 40, "b": 10, "c": 1000}, []), part="helps"),
    ]  # fmt: skip


def _freed(costs, parameters, gone, end="."):
    return {
        node: sum(n for leaf, n in parameters.items() if leaf not in gone and (leaf + end).startswith(node + end))
        for node in costs
    }


def _decide(costs, parameters, gone, price, end="."):
    """The node with something left and the lowest price, which is made of its cost and of what it frees."""
    freed = _freed(costs, parameters, gone, end)
    return min((n for n in costs if freed[n]), key=lambda n: price(costs[n], freed[n]))


def _counts_the_gone(costs, parameters, gone):
    all_of_it, left = _freed(costs, parameters, []), _freed(costs, parameters, gone)
    return min((n for n in costs if left[n]), key=lambda n: costs[n] / all_of_it[n])


def _knows_no_gone(costs, parameters, gone):
    freed = _freed(costs, parameters, [])
    return min((n for n in costs if freed[n]), key=lambda n: costs[n] / freed[n])


def _leaves_only(costs, parameters, gone):
    left = {n: parameters[n] for n in costs if n in parameters and n not in gone}
    return min(left, key=lambda n: costs[n] / left[n])


def _last_of_equals(costs, parameters, gone):
    freed = _freed(costs, parameters, gone)
    return min((n for n in reversed(costs) if freed[n]), key=lambda n: costs[n] / freed[n])


def _most_per_cost(costs, parameters, gone):
    freed = _freed(costs, parameters, gone)
    return max((n for n in costs if freed[n]), key=lambda n: freed[n] / costs[n] if costs[n] else float("inf"))


def _offers_the_gone(costs, parameters, gone):
    freed = _freed(costs, parameters, gone)
    return min(costs, key=lambda n: costs[n] / max(freed[n], 1))


TREE = Exercise(
    id="next_to_go",
    title="one greedy decision",
    points=4,
    difficulty=3,
    minutes=12,
    hints=(
        "For one node: add up the parameters of the leaves inside it that are not gone. A leaf is inside `layer.1` if it is that, or "
        "begins with `layer.1.`, with the dot.",
        "`(leaf + '.').startswith(node + '.')` says both at once.",
        "Leave out nodes that free nothing; of the others take `min(…, key=lambda node: costs[node] / freed[node])`.",
    ),
    reference=next_to_go,
    cases=_tree_cases,
    verify=lambda case, output: difference(output, next_to_go(*case.args)),
    misconceptions=(
        Misconception(
            "lowest_cost",
            lambda costs, parameters, gone: _decide(costs, parameters, gone, lambda cost, freed: cost),
            lambda case, output: (
                f"You take {output!r} because it costs least, {case.args[0][output]:.4g}. It frees only {_freed(*case.args)[output]} parameters: "
                "what does one of them cost there, and elsewhere?"
            ),
        ),
        Misconception(
            "largest",
            lambda costs, parameters, gone: _decide(costs, parameters, gone, lambda cost, freed: -freed),
            lambda case, output: f"You take {output!r} because it frees most. Its cost of {case.args[0][output]:.4g} does not count at all.",
        ),
        Misconception(
            "dearest_parameter",
            lambda costs, parameters, gone: _decide(costs, parameters, gone, lambda cost, freed: -cost / freed),
            lambda case, output: f"{output!r} has the *highest* cost for each parameter.",
        ),
        Misconception(
            "counts_what_is_gone",
            _counts_the_gone,
            lambda case, output: (
                f"With {case.args[2]} gone, {output!r} frees {_freed(*case.args)[output]} parameters, not {_freed(*case.args[:2], [])[output]}: what is gone "
                "cannot be freed again."
            ),
        ),
        Misconception(
            "offers_what_is_gone",
            _offers_the_gone,
            lambda case, output: f"You choose {output!r}, of which nothing is left: {case.args[2]} went before. It would be chosen for ever.",
        ),
        Misconception(
            "knows_no_gone",
            _knows_no_gone,
            lambda case, output: f"You choose {output!r} as if nothing were gone; {case.args[2]} went before. What is left to free?",
        ),
        Misconception(
            "leaves_only",
            _leaves_only,
            lambda case, output: (
                f"You choose {output!r}: only nodes that are leaves themselves are weighed. What does a node free that has leaves inside?"
            ),
        ),
        Misconception(
            "last_of_equals",
            _last_of_equals,
            lambda case, output: f"You choose {output!r}, and another one before it in `costs` has the same price. The first one is asked for.",
        ),
        Misconception(
            "name_without_dot",
            lambda costs, parameters, gone: _decide(costs, parameters, gone, lambda cost, freed: cost / freed, end=""),
            lambda case, output: (
                f"You choose {output!r}, and count leaves of other layers to it: the name 'layer.10.heads' begins with 'layer.1' too."
            ),
        ),
        Misconception(
            "parameters_per_cost",
            _most_per_cost,
            lambda case, output: (
                f"You choose {output!r} by parameters / cost. Costs of {describe(list(case.args[0].values()))}: what happens to that ratio when a cost is 0 "
                "or negative, because a removal helps?"
            ),
        ),
    ),
)  # fmt: skip


EXERCISES = (UNITS, HEADS, MASKED, TREE)

QUESTIONS = (
    Question(
        "what_a_neuron_takes_along",
        "A feed-forward block maps 384 numbers to 1536 neurons and back to 384. One neuron is removed. How many parameters are saved?",
        number=769.0,
        tolerance=0.0,
        explanation="A row of the first matrix (384), its bias (1) and a column of the second (384): 769. The output's bias stays.",
        slips=(
            (768.0, "A row and a column. Does nothing else belong to a neuron?"),
            (770.0, "One too many: the biases of the outputs belong to no neuron."),
            (384.0, "One of the two matrices. What reads this neuron?"),
        ),
    ),
    Question(
        "a_head_with_zero_queries",
        "Someone sets only the query rows of a head, and their biases, to zero. What does this head do now?",
        (
            Choice(
                "It puts out zero",
                "All its scores become 0, and the softmax of equal scores is not zero but 1/L for each of L tokens.",
            ),
            Choice(
                "It puts out the mean of all values",
                "Scores of 0 give every token the weight 1/L: the head looks at everything alike. It is hidden only if what comes *out* of it is zero.",
                right=True,
            ),
            Choice("It divides by zero", "A softmax divides by the sum of exponentials, here L: never zero."),
        ),
    ),
    Question(
        "why_not_twice_as_fast",
        "Half of all heads and neurons of an encoder are removed. Why is the whole not twice as fast?",
        (
            Choice(
                "The removed units are still computed",
                "Not after compacting: the matrices are smaller. That is the fault of the masked model.",
            ),
            Choice(
                "The processor slows down for small matrices only",
                "Small ones are used less well, true, but matrices of this size are not small; and what is no matrix product does not shrink at all.",
            ),
            Choice(
                "Parts of the work do not shrink with the units",
                "Embeddings, LayerNorms, residual sums and the start of each operation stay. Removing a layer takes its share of them along.",
                right=True,
            ),
        ),
    ),
)
