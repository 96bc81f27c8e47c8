"""Lesson 04."""

import math

import torch
import torch.nn.functional as F

from wrong_answers import right, wrong

# remove_units


@wrong("remove_units", says="Zeros are multiplied like any other number")
def channel_zeroed_but_kept(weight, bias, reader, keep):
    mask = torch.zeros(len(bias))
    mask[keep] = 1.0
    return weight * mask.view(-1, *[1] * (weight.dim() - 1)), bias * mask, reader


@wrong("remove_units", says="the two no longer fit")
def forgets_who_reads(weight, bias, reader, keep):
    return weight.index_select(0, keep), bias.index_select(0, keep), reader


@wrong("remove_units", says="where does it read the units?")
def wrong_axis_of_the_next_matrix(weight, bias, reader, keep):
    return tuple(t[keep] for t in (weight, bias, reader))


@wrong("remove_units", says="a removed unit's bias is still there")
def bias_left_whole(weight, bias, reader, keep):
    size = reader.shape[1] // weight.shape[0]
    columns = torch.cat([torch.arange(k * size, (k + 1) * size) for k in keep.tolist()])
    return weight[keep], bias, reader[:, columns]


@wrong("remove_units", says="A flattened map gives each channel several columns")
def one_column_for_each_channel(weight, bias, reader, keep):
    return weight[keep], bias[keep], reader.index_select(1, keep)


@wrong("remove_units", says="its columns are neighbours")
def columns_of_a_map_apart(weight, bias, reader, keep):
    units = len(weight)
    columns = [p * units + k for p in range(reader.shape[1] // units) for k in keep.tolist()]
    return weight[keep], bias[keep], reader[:, columns]


@wrong("remove_units", says="`keep` says who *stays*")
def takes_keep_for_what_goes(weight, bias, reader, keep):
    stay = torch.ones(len(weight), dtype=torch.bool)
    stay[keep] = False
    return weight[stay], bias[stay], reader[:, stay.repeat_interleave(reader.shape[1] // len(weight))]


@wrong("remove_units", says="the reader: ")
def columns_in_a_square_matrix_transposed(weight, bias, reader, keep):
    size = reader.shape[1] // len(weight)
    columns = (keep[:, None] * size + torch.arange(size)).flatten()
    cut = reader[:, columns]
    return weight[keep], bias[keep], cut.transpose(0, 1)


@wrong("remove_units", says="it returned 2 items; expected 3")
def returns_two(weight, bias, reader, keep):
    return weight[keep], reader[:, keep]


@right("remove_units")
def through_a_view_of_blocks(weight, bias, reader, keep):
    blocks = reader.unflatten(1, (len(weight), -1))  # (out, U, P, …)
    return weight[keep], bias[keep], blocks[:, keep].flatten(1, 2)


@right("remove_units")
def by_a_mask_in_double(weight, bias, reader, keep):
    stay = torch.zeros(len(weight), dtype=torch.bool)
    stay[keep] = True
    return [
        weight.double()[stay],
        bias.double()[stay],
        reader.double()[:, stay.repeat_interleave(reader.shape[1] // len(weight))],
    ]


# remove_attention_heads


@wrong("remove_attention_heads", says="the heads are silent, but computed")
def silences_the_heads(qkv, biases, out, keep, size):
    mask = torch.zeros(qkv.shape[1] // size)
    mask[keep] = 1.0
    rows = mask.repeat_interleave(size)
    return qkv * rows[None, :, None], biases * rows, out


@wrong("remove_attention_heads", says="the output projection still wants")
def heads_removed_without_shrinking_the_output_projection(qkv, biases, out, keep, size):
    rows = torch.cat([torch.arange(h * size, h * size + size) for h in keep.tolist()])
    return qkv[:, rows], biases[:, rows], out


@wrong("remove_attention_heads", says="the heads come in at the columns")
def rows_of_the_output_projection(qkv, biases, out, keep, size):
    rows = torch.cat([torch.arange(h * size, h * size + size) for h in keep.tolist()])
    return qkv[:, rows], biases[:, rows], out[rows, :]


@wrong("remove_attention_heads", says="a head is not one row")
def one_row_for_each_head(qkv, biases, out, keep, size):
    return qkv.index_select(1, keep), biases.index_select(1, keep), out.index_select(1, keep)


@wrong("remove_attention_heads", says="The rows of a head are neighbours")
def every_hth_row(qkv, biases, out, keep, size):
    heads = qkv.shape[1] // size
    rows = [i * heads + h for i in range(size) for h in keep.tolist()]
    return qkv[:, rows], biases[:, rows], out[:, rows]


@wrong("remove_attention_heads", says="What would be added to what?")
def biases_left_whole(qkv, biases, out, keep, size):
    rows = torch.cat([torch.arange(h * size, h * size + size) for h in keep.tolist()])
    return qkv[:, rows], biases, out[:, rows]


@wrong("remove_attention_heads", says="it raised IndexError")
def first_axis_of_the_stack(qkv, biases, out, keep, size):
    rows = (keep[:, None] * size + torch.arange(size)).flatten() + 3
    return qkv[rows], biases[rows], out[:, rows]


@right("remove_attention_heads")
def through_a_view_of_heads(qkv, biases, out, keep, size):
    parts, rows, width = qkv.shape
    by_head = qkv.view(parts, rows // size, size, width)[:, keep]
    return (
        by_head.reshape(parts, -1, width),
        biases.view(parts, -1, size)[:, keep].reshape(parts, -1),
        out.view(len(out), -1, size)[:, :, :][:, keep].reshape(len(out), -1),
    )


@right("remove_attention_heads")
def by_slices_in_double(qkv, biases, out, keep, size):
    pieces = [slice(h * size, (h + 1) * size) for h in keep.tolist()]
    return [
        torch.cat([qkv[:, p] for p in pieces], dim=1).double(),
        torch.cat([biases[:, p] for p in pieces], dim=1).double(),
        torch.cat([out[:, p] for p in pieces], dim=1).double(),
    ]


# masked_block


@wrong("masked_block", says="go on through the GELU to the second matrix")
def bias_of_a_removed_unit_forgotten(x, w1, b1, w2, b2, mask):
    w1 = w1.clone()
    w1[~mask] = 0.0
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


@wrong("masked_block", says="still at work")
def never_uses_the_mask(x, w1, b1, w2, b2, mask):
    hidden = F.gelu(F.linear(x, w1, b1))
    hidden.masked_fill(~mask, 0.0)  # returns a new tensor, which nobody takes
    return F.linear(hidden, w2, b2)


@wrong("masked_block", says="True means that a neuron stays")
def hides_those_that_stay(x, w1, b1, w2, b2, mask):
    hidden = F.gelu(F.linear(x, w1, b1)).masked_fill(mask, 0.0)
    return F.linear(hidden, w2, b2)


@wrong("masked_block", says="It belongs to the outputs")
def without_the_output_bias(x, w1, b1, w2, b2, mask):
    return (F.gelu(F.linear(x, w1, b1)) * mask) @ w2.T


@wrong("masked_block", says="as dropout makes them in training")
def like_dropout(x, w1, b1, w2, b2, mask):
    hidden = F.gelu(F.linear(x, w1, b1)) * mask
    if mask.any():
        hidden = hidden / mask.float().mean()
    return F.linear(hidden, w2, b2)


@wrong("masked_block", says="values are not right")
def masks_the_outputs_of_the_block(x, w1, b1, w2, b2, mask):
    y = F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)
    return y * mask[: y.shape[1]] if len(mask) >= y.shape[1] else y


@right("masked_block")
def computes_the_small_block(x, w1, b1, w2, b2, mask):
    return F.linear(F.gelu(F.linear(x, w1[mask], b1[mask])), w2[:, mask], b2)


@right("masked_block")
def zeroes_columns_in_place_in_double(x, w1, b1, w2, b2, mask):
    w2[:, ~mask] = 0.0
    x, w1, b1, w2, b2 = (t.double() for t in (x, w1, b1, w2, b2))
    hidden = x @ w1.T + b1
    return 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))) @ w2.T + b2


@right("masked_block")
def zeroes_rows_and_biases(x, w1, b1, w2, b2, mask):
    """GELU(0) is 0, so that this is right here; it would not be for a sigmoid."""
    return F.gelu(x @ (w1 * mask[:, None]).T + b1 * mask) @ w2.T + b2


# next_to_go


def free(node, parameters, gone):
    return sum(p for leaf, p in parameters.items() if leaf not in gone and (leaf == node or leaf.startswith(node + ".")))


@wrong("next_to_go", says="what does one of them cost there, and elsewhere?")
def cheapest_whatever_it_frees(costs, parameters, gone):
    left = [node for node in costs if free(node, parameters, gone) > 0]
    return sorted(left, key=costs.get)[0]


@wrong("next_to_go", says="does not count at all")
def largest_whatever_it_costs(costs, parameters, gone):
    return max(costs, key=lambda node: free(node, parameters, gone))


@wrong("next_to_go", says="the *highest* cost for each parameter")
def worst_instead_of_best(costs, parameters, gone):
    left = [node for node in costs if free(node, parameters, gone) > 0]
    return max(left, key=lambda node: costs[node] / free(node, parameters, gone))


@wrong("next_to_go", says="cannot be freed again")
def counts_parameters_that_are_gone(costs, parameters, gone):
    left = [node for node in costs if free(node, parameters, gone) > 0]
    return min(left, key=lambda node: costs[node] / free(node, parameters, []))


@wrong("next_to_go", says="It would be chosen for ever")
def chooses_what_is_gone(costs, parameters, gone):
    return min(costs, key=lambda node: costs[node] / (free(node, parameters, gone) or 1))


@wrong("next_to_go", says="begins with 'layer.1' too")
def by_the_beginning_of_the_name(costs, parameters, gone):
    ratios = {}
    for node, cost in costs.items():
        inside = sum(n for leaf, n in parameters.items() if leaf.startswith(node) and leaf not in gone)
        if inside:
            ratios[node] = cost / inside
    return min(ratios, key=ratios.get)


@wrong("next_to_go", says="when a cost is 0 or negative")
def most_parameters_for_the_money(costs, parameters, gone):
    def worth(node):
        return free(node, parameters, gone) / costs[node] if costs[node] != 0 else math.inf

    return max((node for node in costs if free(node, parameters, gone)), key=worth)


@wrong("next_to_go", says="as if nothing were gone")
def forgets_the_rounds_before(costs: dict, parameters: dict, gone: list) -> str:
    prices = {}
    for node in costs:
        size = sum(n for leaf, n in parameters.items() if leaf == node or leaf.startswith(f"{node}."))
        if size > 0:
            prices[node] = costs[node] / size
    return min(prices, key=prices.get)


@wrong("next_to_go", says="only nodes that are leaves themselves")
def looks_names_up(costs: dict, parameters: dict, gone: list) -> str:
    prices = {node: cost / parameters[node] for node, cost in costs.items() if node in parameters and node not in gone}
    return sorted(prices, key=prices.get)[0]


@wrong("next_to_go", says="The first one is asked for")
def replaces_an_equal_one(costs: dict, parameters: dict, gone: list) -> str:
    best, lowest = "", float("inf")
    for node, cost in costs.items():
        size = sum(n for leaf, n in parameters.items() if leaf not in gone and f"{leaf}.".startswith(f"{node}."))
        if size and cost / size <= lowest:
            best, lowest = node, cost / size
    return best


@wrong("next_to_go", says="it returned a tuple; expected a str")
def returns_the_ratio_too(costs, parameters, gone):
    left = [node for node in costs if free(node, parameters, gone) > 0]
    return min((costs[node] / free(node, parameters, gone), node) for node in left)


@right("next_to_go")
def in_a_loop(costs, parameters, gone):
    best, lowest = None, math.inf
    for node, cost in costs.items():
        freed = free(node, parameters, gone)
        if freed and cost / freed < lowest:
            best, lowest = node, cost / freed
    return best


@right("next_to_go")
def by_sorting_and_split_names(costs, parameters, gone):
    def inside(leaf, node):
        return leaf.split(".")[: node.count(".") + 1] == node.split(".")

    freed = {node: sum(parameters[leaf] for leaf in set(parameters) - set(gone) if inside(leaf, node)) for node in costs}
    return sorted((node for node in costs if freed[node]), key=lambda node: costs[node] / freed[node])[0]
