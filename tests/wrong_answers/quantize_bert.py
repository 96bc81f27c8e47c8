"""Lesson 17: outlier columns, a range without padding, nodes to exclude, a scale for each token, SmoothQuant."""

import torch

from wrong_answers import right, wrong

# outlier_columns


@wrong("outlier_columns", says="A scale has to hold large negative values as well")
def forgets_negative_values(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    largest = x.max(dim=0).values
    order = torch.argsort(largest, descending=True)
    return order[largest[order] > factor * largest.median()]


@wrong("outlier_columns", says="are numbers of rows")
def looks_along_the_wrong_axis(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    largest = x.abs().max(dim=1).values
    order = torch.argsort(largest, descending=True)
    return order[largest[order] > factor * largest.median()]


@wrong("outlier_columns", says="An outlier at a single token disappears in an average")
def averages_over_tokens(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    typical = x.abs().mean(dim=0)
    order = torch.argsort(typical, descending=True)
    return order[typical[order] > factor * typical.median()]


@wrong("outlier_columns", says="pulled up by the very outliers")
def compares_with_the_mean(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    largest = x.abs().amax(dim=0)
    limit = factor * largest.sum() / len(largest)
    return torch.tensor([j for j in largest.argsort(descending=True).tolist() if largest[j] > limit], dtype=torch.long)


@wrong("outlier_columns", says="the typical *column* is the median")
def compares_with_the_typical_entry(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    size, order = x.abs().max(0).values.sort(descending=True)
    return order[size > factor * x.abs().flatten().median()]


@wrong("outlier_columns", says="in another order than the largest first")
def leaves_them_in_column_order(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    largest = x.abs().amax(dim=0)
    return torch.where(largest > factor * largest.median())[0]


@wrong("outlier_columns", says="it returned a bool tensor")
def returns_a_mask(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    largest = x.abs().amax(dim=0)
    return largest > factor * largest.median()


@right("outlier_columns")
def as_a_list(x: torch.Tensor, factor: float = 6.0) -> list[int]:
    sizes = [max(abs(v) for v in column) for column in x.T.tolist()]
    middle = sorted(sizes)[(len(sizes) - 1) // 2]
    return sorted((j for j, size in enumerate(sizes) if size > factor * middle), key=lambda j: -sizes[j])


@right("outlier_columns")
def by_a_sort_in_double(x: torch.Tensor, factor: float = 6.0) -> torch.Tensor:
    sizes, columns = torch.maximum(x.max(0).values, -x.min(0).values).double().sort(descending=True)
    return columns[sizes > factor * sizes.median()].int()


# score_range


@wrong("score_range", says="what becomes of a score of 5?")
def over_everything(scores, attention_mask):
    return scores.min(), scores.max()


@wrong("score_range", says="real queries look at padding keys too")
def without_padding_rows(scores, attention_mask):
    rows = scores.transpose(1, 2)[attention_mask.bool()]  # (tokens, H, L)
    return rows.min(), rows.max()


@wrong("score_range", says="queries nobody reads")
def below_a_huge_number_is_masked(scores, attention_mask):
    seen = scores[scores > -1e30]
    return seen.min(), seen.max()


@wrong("score_range", says="Entries multiplied by 0 are still there")
def multiplies_by_the_mask(scores, attention_mask):
    m = attention_mask.to(scores.dtype)
    kept = scores * torch.einsum("bq,bk->bqk", m, m).unsqueeze(1)
    return kept.min(), kept.max()


@wrong("score_range", says="A range has to hold them all")
def averages_the_sentences(scores, attention_mask):
    lows, highs = [], []
    for s, n in zip(scores, attention_mask.sum(1).tolist(), strict=True):
        lows.append(s[:, :n, :n].min())
        highs.append(s[:, :n, :n].max())
    return sum(lows) / len(lows), sum(highs) / len(highs)


@wrong("score_range", says="the smallest score comes first")
def largest_first(scores, attention_mask):
    m = attention_mask.bool()
    real = scores.permute(0, 2, 3, 1)[m.unsqueeze(2) & m.unsqueeze(1)]
    return real.max(), real.min()


@wrong("score_range", says="it returned a float tensor; expected a tuple")
def the_width_alone(scores, attention_mask):
    m = attention_mask.bool()
    real = scores.permute(0, 2, 3, 1)[m.unsqueeze(2) & m.unsqueeze(1)]
    return torch.stack([real.min(), real.max()])


@right("score_range")
def sentence_by_sentence(scores, attention_mask):
    low, high = float("inf"), -float("inf")
    for s, mask in zip(scores, attention_mask.bool(), strict=True):
        s = s[:, mask][:, :, mask]
        low, high = min(low, float(s.min())), max(high, float(s.max()))
    return low, high


@right("score_range")
def filled_with_infinities(scores, attention_mask):
    real = (attention_mask[:, None, :, None] * attention_mask[:, None, None, :]) == 1
    return scores.double().masked_fill(~real, torch.inf).min(), scores.double().masked_fill(~real, -torch.inf).max()


# nodes_to_exclude


@wrong("nodes_to_exclude", says="Each node alone is compared with the budget")
def each_on_its_own(costs, budget):
    names = [name for name, cost in costs.items() if cost > budget]
    return sorted(names, key=costs.get, reverse=True)


@wrong("nodes_to_exclude", says="Quantizing does not improve a model")
def lets_luck_pay(costs, budget):
    names = sorted(costs, key=costs.get, reverse=True)
    excluded = []
    while sum(costs[n] for n in names) > budget:
        excluded.append(names.pop(0))
    return excluded


@wrong("nodes_to_exclude", says="Which one frees the most?")
def starts_with_the_cheapest(costs, budget):
    names, excluded = sorted(costs, key=costs.get), []
    while sum(max(costs[n], 0) for n in names) > budget:
        excluded.append(names.pop(0))
    return excluded


@wrong("nodes_to_exclude", says="not by what they cost")
def takes_them_as_they_come(costs, budget):
    names, excluded = list(costs), []
    while sum(max(costs[n], 0) for n in names) > budget:
        excluded.append(names.pop(0))
    return excluded


@wrong("nodes_to_exclude", says="Asked for are those that stay in float")
def returns_the_quantized_ones(costs, budget):
    names = sorted(costs, key=costs.get, reverse=True)
    left = list(names)
    while sum(max(costs[n], 0) for n in left) > budget:
        left.pop(0)
    return [n for n in costs if n in left]


@wrong("nodes_to_exclude", says="is that within it?")
def wants_to_be_below_the_budget(costs, budget):
    names, excluded = sorted(costs, key=costs.get, reverse=True), []
    while names and sum(max(costs[n], 0) for n in names) >= budget:
        excluded.append(names.pop(0))
    return excluded


@wrong("nodes_to_exclude", says="They cost nothing there; the others do")
def spends_the_budget_on_the_excluded(costs, budget):
    excluded, spent = [], 0.0
    for name in sorted(costs, key=costs.get, reverse=True):
        if spent > budget:
            break
        excluded.append(name)
        spent += costs[name]
    return excluded


@wrong("nodes_to_exclude", says="The budget is for those that are quantized")
def excludes_what_the_budget_allows(costs, budget):
    left, out = budget, []
    for name, cost in sorted(costs.items(), key=lambda pair: pair[1], reverse=True):
        if cost > left:
            break
        out.append(name)
        left -= cost
    return out


@wrong("nodes_to_exclude", says="it returned an int")
def counts_only(costs, budget):
    values = sorted((max(c, 0) for c in costs.values()), reverse=True)
    return next(k for k in range(len(values) + 1) if sum(values[k:]) <= budget)


@right("nodes_to_exclude")
def from_the_cheap_end(costs, budget):
    names, total = sorted(costs, key=costs.get, reverse=True), 0.0
    for k in range(len(names), 0, -1):
        total += max(costs[names[k - 1]], 0.0)
        if total > budget:
            return tuple(names[:k])
    return ()


@right("nodes_to_exclude")
def taking_away(costs, budget):
    left = {name: max(cost, 0) for name, cost in costs.items()}
    excluded = []
    while sum(left.values()) > budget:
        worst = max(left, key=left.get)
        excluded.append(worst)
        del left[worst]
    return excluded


# smoothed


@wrong("smoothed", says="the output comes out divided by s²")
def divides_both(absmax, weight, alpha=0.5):
    s = absmax**alpha / weight.abs().amax(0) ** (1 - alpha)
    s[absmax == 0] = 1.0
    return s, weight / s


@wrong("smoothed", says="α = 1 should move everything into the weights")
def gives_alpha_to_the_weights(absmax, weight, alpha=0.5):
    s = absmax ** (1 - alpha) / weight.abs().amax(0) ** alpha
    s[absmax == 0] = 1.0
    return s, weight * s


@wrong("smoothed", says="you return what belongs to 0.5")
def the_root_always(absmax, weight, alpha=0.5):
    s = (absmax / weight.abs().amax(0)).sqrt()
    s = s.masked_fill(absmax == 0, 1.0)
    return s, weight * s


@wrong("smoothed", says="divided by that it grows")
def the_inverse(absmax, weight, alpha=0.5):
    s = weight.abs().amax(0) ** (1 - alpha) / absmax.clamp(min=1e-30) ** alpha
    s[absmax == 0] = 1.0
    return s, weight * s


@wrong("smoothed", says="The two sizes are multiplied")
def multiplies_the_sizes(absmax, weight, alpha=0.5):
    s = absmax.pow(alpha) * weight.abs().max(0).values.pow(1 - alpha)
    s[absmax == 0] = 1.0
    return s, weight * s


@wrong("smoothed", says="The largest magnitude may be a negative weight")
def forgets_the_sign_of_weights(absmax, weight, alpha=0.5):
    s = absmax.pow(alpha) / weight.max(0).values.pow(1 - alpha)
    s[absmax == 0] = 1.0
    return s, weight * s


@wrong("smoothed", says="stands for every column")
def one_number_for_the_weight(absmax, weight, alpha=0.5):
    s = absmax**alpha / float(weight.abs().max()) ** (1 - alpha)
    s[absmax == 0] = 1
    return s, s * weight


@wrong("smoothed", says="Which dimension do the inputs run along?")
def the_largest_of_each_output(absmax, weight, alpha=0.5):
    s = absmax.pow(alpha) / weight.abs().max(1).values.pow(1 - alpha)
    return s.masked_fill(absmax == 0, 1.0), weight * s


@wrong("smoothed", says="There is nothing to balance there")
def divides_by_zero_later(absmax, weight, alpha=0.5):
    s = absmax.pow(alpha) / weight.abs().amax(0).pow(1 - alpha)
    return s, weight * s


@wrong("smoothed", says="the new weight: its shape is")
def turns_the_weight_round(absmax, weight, alpha=0.5):
    s = absmax.pow(alpha) / weight.abs().amax(0).pow(1 - alpha)
    s = s.masked_fill(absmax == 0, 1.0)
    return s, (weight * s).T


@right("smoothed")
def by_logarithms_in_double(absmax, weight, alpha=0.5):
    x, w = absmax.double(), weight.double().abs().amax(0)
    s = torch.exp(alpha * x.log() - (1 - alpha) * w.log())
    s[x == 0] = 1.0
    return [s, weight.double() @ torch.diag(s)]


@right("smoothed")
def column_by_column(absmax, weight, alpha=0.5):
    s = torch.ones_like(absmax)
    for j in range(len(s)):
        if absmax[j] > 0:
            s[j] = absmax[j] ** alpha / weight[:, j].abs().max() ** (1 - alpha)
        weight[:, j] *= s[j]
    return s, weight


# quantize_tokens


@wrong("quantize_tokens", says="a static range in disguise")
def one_scale_for_all(x):
    scale = torch.full((len(x), 1), float(x.abs().max()) / 127)
    return torch.round(x / scale).to(torch.int8), scale


@wrong("quantize_tokens", says="one for each column")
def by_columns(x):
    scale = x.abs().max(0, keepdim=True).values / 127
    return torch.round(x / scale).to(torch.int8), scale


@wrong("quantize_tokens", says="it would run along the columns")
def loses_the_dimension(x):
    scale = x.abs().amax(1) / 127
    scale[scale == 0] = 1
    return torch.round(x / scale[:, None]).to(torch.int8), scale


@wrong("quantize_tokens", says="a large negative one lies beyond the codes")
def forgets_the_sign(x):
    scale = x.max(1, keepdim=True).values / 127
    scale[scale == 0] = 1
    return torch.round(x / scale).clamp(-128, 127).to(torch.int8), scale


@wrong("quantize_tokens", says="Codes on one side of zero go up to how much?")
def divides_by_all_codes(x):
    scale = x.abs().amax(1, keepdim=True) / 255
    scale[scale == 0] = 1
    return torch.round(x / scale).clamp(-128, 127).to(torch.int8), scale


@wrong("quantize_tokens", says="An int8 does not have it")
def one_code_too_many(x):
    scale = x.abs().amax(1, keepdim=True) / 128
    scale[scale == 0] = 1
    return torch.round(x / scale).clamp(-128, 127).to(torch.int8), scale


@wrong("quantize_tokens", says="its code has the other sign")
def lets_128_go_round(x):
    scale = x.abs().max(1, keepdim=True).values / 128
    scale[scale == 0] = 1
    codes = (x / scale).round()
    return torch.where(codes > 127, codes - 256, codes).to(torch.int8), scale


@wrong("quantize_tokens", says="cut off towards zero instead of rounded")
def casts_without_rounding(x):
    scale = x.abs().amax(1, keepdim=True) / 127
    scale[scale == 0] = 1
    return (x / scale).to(torch.int8), scale


@wrong("quantize_tokens", says="has the scale 0 here")
def forgets_the_token_of_zeros(x):
    scale = x.abs().amax(1, keepdim=True) / 127
    return torch.round(x / scale).to(torch.int8), scale


@wrong("quantize_tokens", says="has the scale 1e-08 here")
def keeps_the_scale_off_zero(x):
    scale = (x.abs().max(1, keepdim=True).values / 127).clamp(min=1e-8)
    return (x / scale).round().to(torch.int8), scale


@wrong("quantize_tokens", says="the codes: it returned a float tensor")
def codes_as_floats(x):
    scale = x.abs().amax(1, keepdim=True) / 127
    scale[scale == 0] = 1
    return torch.round(x / scale), scale


@right("quantize_tokens")
def row_by_row(x):
    codes, scales = [], []
    for row in x:
        scale = max(float(row.abs().max()), 0.0) / 127 or 1.0
        codes.append(torch.round(row / scale).long())
        scales.append([scale])
    return torch.stack(codes), torch.tensor(scales)


@right("quantize_tokens")
def in_double_by_the_larger_end(x):
    largest = torch.maximum(x.max(1, keepdim=True).values, -x.min(1, keepdim=True).values).double()
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return torch.floor(x / scale + 0.5).to(torch.int16), scale
