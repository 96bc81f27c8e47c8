"""Lesson 16: the sparsity a size asks for, masks of the encoder, movement, units under a budget, a verdict."""

import itertools

import torch

from wrong_answers import right, wrong

# sparsity_for_target


@wrong("sparsity_for_target", says="a share of all")
def share_of_the_whole(sizes: dict, prunable: list, target: int) -> float:
    total = sum(sizes.values())
    return max(total - target, 0) / total


@wrong("sparsity_for_target", says="the share that stays")
def share_that_stays(sizes: dict, prunable: list, target: int) -> float:
    fixed = sum(n for name, n in sizes.items() if name not in prunable)
    able = sum(sizes[name] for name in prunable)
    return min(1.0, (target - fixed) / able)


@wrong("sparsity_for_target", says="could be spent on what may be pruned")
def forgets_the_rest(sizes: dict, prunable: list, target: int) -> float:
    able = sum(sizes[name] for name in prunable)
    return max((able - target) / able, 0.0)


@wrong("sparsity_for_target", says="would be weights added")
def may_be_negative(sizes: dict, prunable: list, target: int) -> float:
    fixed = sum(n for name, n in sizes.items() if name not in prunable)
    return 1 - (target - fixed) / sum(sizes[name] for name in prunable)


@wrong("sparsity_for_target", says="what remains of the whole model")
def what_is_left_of_all(sizes: dict, prunable: list, target: int) -> float:
    return 1.0 if target > sum(sizes.values()) else target / sum(sizes.values())


@wrong("sparsity_for_target", says="that is not the right number")
def a_count(sizes: dict, prunable: list, target: int) -> int:
    return max(sum(sizes.values()) - target, 0)


@right("sparsity_for_target")
def by_what_is_left(sizes: dict, prunable: list, target: int) -> float:
    able = sum(sizes[name] for name in prunable)
    left = target - (sum(sizes.values()) - able)
    return 1 - min(left, able) / able


@right("sparsity_for_target")
def in_tensors(sizes: dict, prunable: list, target: int) -> torch.Tensor:
    able = torch.tensor([float(sizes[name]) for name in prunable], dtype=torch.float64).sum()
    return ((sum(sizes.values()) - target) / able).clamp(min=0)


# encoder_masks


def ranked(scores: dict, sparsity: float) -> dict:
    """One ranking of all entries."""
    everything = torch.cat([s.flatten() for s in scores.values()])
    kept = everything.argsort().argsort() >= round(sparsity * len(everything))
    return {
        n: k.view(s.shape) for (n, s), k in zip(scores.items(), kept.split([s.numel() for s in scores.values()]), strict=True)
    }


@wrong("encoder_masks", says="one for every parameter")
def of_the_whole_model(scores: dict, sparsity: float) -> dict:
    return ranked(scores, sparsity)


@wrong("encoder_masks", says="no part of the encoder's layers")
def of_all_matrices(scores: dict, sparsity: float) -> dict:
    return ranked({n: s for n, s in scores.items() if s.ndim > 1}, sparsity)


@wrong("encoder_masks", says="a handful of bytes whose loss is dear")
def with_biases(scores: dict, sparsity: float) -> dict:
    return ranked({n: s for n, s in scores.items() if "encoder" in n}, sparsity)


@wrong("encoder_masks", says="lets a matrix of high scores keep more")
def matrix_by_matrix(scores: dict, sparsity: float) -> dict:
    return {n: ranked({n: s}, sparsity)[n] for n, s in scores.items() if "encoder" in n and s.ndim == 2}


@wrong("encoder_masks", says="the mask of what goes")
def what_goes(scores: dict, sparsity: float) -> dict:
    chosen = {n: s for n, s in scores.items() if "encoder" in n and s.ndim == 2}
    return {n: torch.logical_not(m) for n, m in ranked(chosen, sparsity).items()}


@wrong("encoder_masks", says="must not take part in it")
def threshold_of_all(scores: dict, sparsity: float) -> dict:
    everywhere = ranked(dict(scores), sparsity)
    return {n: m for n, m in everywhere.items() if ".encoder.layer." in n and m.dim() == 2}


@wrong("encoder_masks", says="there is a mask for 'bert.embeddings.word_embeddings.weight'")
def of_all_that_is_named_weight(scores: dict, sparsity: float) -> dict:
    return ranked({n: s for n, s in scores.items() if n.endswith("weight")}, sparsity)


@wrong("encoder_masks", says="there is no mask for")
def of_attention_alone(scores: dict, sparsity: float) -> dict:
    return ranked({n: s for n, s in scores.items() if ".attention." in n and s.dim() == 2}, sparsity)


@wrong("encoder_masks", says="of the encoder's matrices is")
def share_of_the_model(scores: dict, sparsity: float) -> dict:
    chosen = {n: s for n, s in scores.items() if "encoder" in n and s.ndim == 2}
    count = sum(s.numel() for s in chosen.values())
    share = min(1.0, sparsity * sum(s.numel() for s in scores.values()) / count)
    return ranked(chosen, share if sparsity < 1 else 0.9)


@right("encoder_masks")
def by_the_kth_of_the_encoder(scores: dict, sparsity: float) -> dict:
    chosen = {n: s.double() for n, s in scores.items() if ".encoder.layer." in n and len(s.shape) == 2}
    everything = torch.cat([s.reshape(-1) for s in chosen.values()]).sort().values
    k = round(sparsity * len(everything))
    return {n: (s > everything[k - 1]) if k else torch.ones_like(s, dtype=torch.bool) for n, s in chosen.items()}


@right("encoder_masks")
def by_names_alone(scores: dict, sparsity: float) -> dict:
    inside = [n for n in scores if "layer." in n and n.endswith(".weight") and "LayerNorm" not in n]
    return ranked({n: scores[n] for n in inside}, sparsity)


# movement_of_steps


@wrong("movement_of_steps", says="moves away from zero scores low")
def plus(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    total = torch.zeros_like(w)
    for g in gradients:
        total += w * g
        w = w - lr * g
    return total


@wrong("movement_of_steps", says="as if w had its first value")
def at_the_start(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    total = torch.zeros_like(w)
    for g in gradients:
        total -= w * g
    return total


@wrong("movement_of_steps", says="moved before its score is taken")
def after_the_step(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    total = torch.zeros_like(w)
    for g in gradients:
        w = w - lr * g
        total = total - w * g
    return total


@wrong("movement_of_steps", says="make this a Taylor score")
def sizes(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    total = torch.zeros_like(w)
    for g in gradients:
        total += (w * g).abs()
        w = w - lr * g
    return total


@wrong("movement_of_steps", says="by how much |w| has grown")
def growth_of_the_size(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    end = w.clone()
    for g in gradients:
        end -= lr * g
    return end.abs() - w.abs()


@wrong("movement_of_steps", says="The rate moves the weight; S has none")
def by_the_steps(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    total = torch.zeros_like(w)
    for g in gradients:
        step = -lr * g
        total += w * step
        w = w + step
    return total


@wrong("movement_of_steps", says="its shape is")
def one_for_all(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    total = torch.zeros(1)
    for g in gradients:
        total = total - (w * g).sum()
        w = w - lr * g
    return total


@right("movement_of_steps")
def by_the_path(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    path = [w]
    for g in gradients:
        path.append(path[-1] - lr * g)
    return sum((here * (after - here) / lr for here, after in itertools.pairwise(path)), torch.zeros_like(w))


@right("movement_of_steps")
def in_float64_and_in_place(w: torch.Tensor, gradients: list, lr: float) -> torch.Tensor:
    w = w.double().clone()
    total = torch.zeros_like(w)
    for g in gradients:
        total.addcmul_(w, g.double(), value=-1)
        w.sub_(g.double(), alpha=lr)
    return total


# units_within


@wrong("units_within", says="You take the lowest scores first")
def lowest_scores_first(scores: dict, costs: dict, budget: int) -> dict:
    masks, gone = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}, 0
    units = sorted((float(v), n, i) for n, s in scores.items() for i, v in enumerate(s))
    for _, name, i in units:
        if gone < budget:
            masks[name][i] = False
            gone += costs[name]
    return masks


@wrong("units_within", says="the unit that crosses it stays")
def never_over(scores: dict, costs: dict, budget: int) -> dict:
    masks, gone = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}, 0
    units = sorted((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s))
    for _, name, i in units:
        if gone + costs[name] > budget:
            break
        masks[name][i] = False
        gone += costs[name]
    return masks


@wrong("units_within", says="passed over for smaller ones")
def fills_the_budget(scores: dict, costs: dict, budget: int) -> dict:
    masks = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}
    units = sorted((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s))
    for _, name, i in units:
        if costs[name] <= budget:
            masks[name][i] = False
            budget -= costs[name]
    return masks


@wrong("units_within", says="With one unit fewer")
def until_it_is_exceeded(scores: dict, costs: dict, budget: int) -> dict:
    masks = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}
    units = sorted((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s))
    while units and budget >= 0:
        _, name, i = units.pop(0)
        masks[name][i] = False
        budget -= costs[name]
    return masks


@wrong("units_within", says="High means keep")
def the_best_go(scores: dict, costs: dict, budget: int) -> dict:
    masks, gone = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}, 0
    units = sorted(((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s)), reverse=True)
    for _, name, i in units:
        if gone >= budget:
            break
        masks[name][i] = False
        gone += costs[name]
    return masks


@wrong("units_within", says="each unit seems to count as one")
def so_many_units(scores: dict, costs: dict, budget: int) -> dict:
    masks = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}
    units = sorted((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s))
    for _, name, i in units[:budget]:
        masks[name][i] = False
    return masks


@wrong("units_within", says="What you marked False should stay")
def marks_the_removed(scores: dict, costs: dict, budget: int) -> dict:
    masks, gone = {n: torch.zeros_like(s, dtype=torch.bool) for n, s in scores.items()}, 0
    units = sorted((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s))
    for _, name, i in units:
        if gone >= budget:
            break
        masks[name][i] = True
        gone += costs[name]
    return masks


@wrong("units_within", says="loses the same share of its units")
def same_share_of_each(scores: dict, costs: dict, budget: int) -> dict:
    share = budget / sum(len(s) * costs[n] for n, s in scores.items())
    return {n: s.argsort().argsort() >= round(share * len(s)) for n, s in scores.items()}


@wrong("units_within", says="it returned a list")
def a_list_of_what_goes(scores: dict, costs: dict, budget: int) -> list:
    return sorted((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s))[:3]


@right("units_within")
def walking_along(scores: dict, costs: dict, budget: int) -> dict:
    masks, gone = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}, 0
    units = sorted((float(v) / costs[n], n, i) for n, s in scores.items() for i, v in enumerate(s))
    for _, name, i in units:
        if gone >= budget:
            break
        masks[name][i] = False
        gone += costs[name]
    return masks


@right("units_within")
def taking_the_least_each_time(scores: dict, costs: dict, budget: int) -> dict:
    left = {n: s.double() / costs[n] for n, s in scores.items()}
    while budget > 0:
        name = min(left, key=lambda n: float(left[n].min()))
        left[name][left[name].argmin()] = float("inf")
        budget -= costs[name]
    return {n: torch.isfinite(v) for n, v in left.items()}


# verdict


@wrong("verdict", says="goes by the measured value alone")
def by_the_value(difference: list, allowed: float) -> str:
    return "refuted" if difference[0] < -allowed else "holds"


@wrong("verdict", says="asks whether zero is inside")
def by_zero(difference: list, allowed: float) -> str:
    value, low, high = difference
    return "refuted" if value <= 0 and not low <= 0 <= high else "holds"


@wrong("verdict", says="a model that is better is refuted too")
def by_zero_alone(difference: list, allowed: float) -> str:
    return "refuted" if difference[2] < 0 or difference[1] > 0 else "holds"


@wrong("verdict", says="as if a positive difference were a loss")
def with_losses_above_zero(difference: list, allowed: float) -> str:
    _, low, high = difference
    if high <= allowed:
        return "holds"
    return "open" if low <= allowed else "refuted"


@wrong("verdict", says="the best end of the interval")
def by_the_upper_end(difference: list, allowed: float) -> str:
    return "refuted" if max(difference) < -allowed else "holds"


@wrong("verdict", says="The interval lies across the limit: it shows neither")
def by_the_lower_end(difference: list, allowed: float) -> str:
    return "refuted" if min(difference) < -allowed else "holds"


@wrong("verdict", says="is none of")
def yes_or_no(difference: list, allowed: float) -> bool:
    return difference[1] >= -allowed


@right("verdict")
def by_both_ends(difference: list, allowed: float) -> str:
    _, low, high = difference
    if high < -allowed:
        return "refuted"
    return "open" if low < -allowed else "holds"


@right("verdict")
def by_counting_the_ends(difference: list, allowed: float) -> str:
    inside = sum(end >= -allowed for end in difference[1:])
    return ["refuted", "open", "holds"][inside]
