"""Lesson 02: scores to masks, one ranking for many tensors, first-order saliency, training with a mask."""

import torch

from wrong_answers import right, wrong

# mask_by_sparsity


@wrong("mask_by_sparsity", says="this is the mask of what goes")
def marks_what_goes(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[torch.argsort(scores.flatten())[: round(scores.numel() * sparsity)]] = True
    return mask.reshape(scores.shape)


@wrong("mask_by_sparsity", says="all of them share one fate")
def strictly_above_the_kth(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    k = round(scores.numel() * sparsity)
    if k == 0:
        return torch.full(scores.shape, True)
    threshold = scores.flatten().sort().values[k - 1]
    return scores > threshold


@wrong("mask_by_sparsity", says="a fraction of the largest score")
def share_of_the_maximum(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    threshold = scores.max() * sparsity
    return torch.where(scores > threshold, True, False)


@wrong("mask_by_sparsity", says="every row loses the same number")
def row_by_row(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    k = round(scores.shape[-1] * sparsity)
    order = scores.argsort(dim=-1)
    mask = torch.ones(scores.shape, dtype=torch.bool)
    return mask.scatter(-1, order[..., :k], False)


@wrong("mask_by_sparsity", says="that is a density of")
def keeps_the_share(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    keep = round(scores.numel() * sparsity)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort(descending=True)[:keep]] = True
    return mask.view_as(scores)


@wrong("mask_by_sparsity", says="it returned a float tensor")
def ones_and_zeros(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    mask = torch.ones(scores.numel())
    mask[scores.flatten().argsort()[: round(scores.numel() * sparsity)]] = 0.0
    return mask.view_as(scores)


@wrong("mask_by_sparsity", says="its shape is")
def never_unflattened(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort()[: round(scores.numel() * sparsity)]] = False
    return mask


@wrong("mask_by_sparsity", says="cut off, not rounded")
def whole_part_only(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    rank = scores.flatten().argsort().argsort()
    return (rank >= int(scores.numel() * sparsity)).view(scores.shape)


@wrong("mask_by_sparsity", says="A quantile is a threshold too")
def above_the_quantile(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    return scores > scores.quantile(sparsity)


@right("mask_by_sparsity")
def by_topk(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    keep = scores.numel() - round(sparsity * scores.numel())
    mask = torch.zeros_like(scores, dtype=torch.bool).flatten()
    mask[scores.flatten().topk(keep).indices] = True
    return mask.view_as(scores)


@right("mask_by_sparsity")
def by_double_argsort(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    rank = scores.double().flatten().argsort().argsort()
    return (rank >= round(sparsity * scores.numel())).reshape(scores.shape)


# global_masks


@wrong("global_masks", says="Every tensor loses the same share")
def each_for_itself(scores: dict, sparsity: float) -> dict:
    masks = {}
    for name, s in scores.items():
        rank = s.flatten().argsort().argsort().view(s.shape)
        masks[name] = rank >= round(sparsity * s.numel())
    return masks


@wrong("global_masks", says="an average of the tensors' own thresholds")
def average_of_the_thresholds(scores: dict, sparsity: float) -> dict:
    if sparsity == 0:
        return {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    if sparsity == 1:
        return {name: torch.zeros_like(s, dtype=torch.bool) for name, s in scores.items()}
    each = [s.flatten().sort().values[max(0, round(sparsity * s.numel()) - 1)] for s in scores.values()]
    mean = torch.stack(each).mean()
    return {name: s > mean for name, s in scores.items()}


@wrong("global_masks", says="divided by the norm of their tensor")
def scaled_before_ranking(scores: dict, sparsity: float) -> dict:
    scaled = {name: s / s.square().sum().sqrt() for name, s in scores.items()}
    everything = torch.cat([s.reshape(-1) for s in scaled.values()])
    kept = everything.argsort().argsort() >= round(sparsity * len(everything))
    sizes = [s.numel() for s in scores.values()]
    return {n: k.reshape(scores[n].shape) for n, k in zip(scores, kept.split(sizes), strict=True)}


@wrong("global_masks", says="its keys are")
def as_if_for_one(scores: dict, sparsity: float) -> dict:
    everything = torch.cat([s.reshape(-1) for s in scores.values()])
    return {"all": everything.argsort().argsort() >= round(sparsity * len(everything))}


@wrong("global_masks", says="prunes exactly")
def rounds_for_each_tensor(scores: dict, sparsity: float) -> dict:
    everything = torch.cat([s.reshape(-1) for s in scores.values()]).sort().values
    threshold = everything[int(sparsity * len(everything)) - 2] if sparsity > 0 else -1.0
    return {name: s > threshold for name, s in scores.items()}


@wrong("global_masks", says="equal scores at the threshold all go together")
def by_the_kth_of_all(scores: dict, sparsity: float) -> dict:
    everything = torch.cat([s.reshape(-1) for s in scores.values()])
    k = round(sparsity * len(everything))
    if k == 0:
        return {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    threshold = everything.sort().values[k - 1]
    return {name: s > threshold for name, s in scores.items()}


@right("global_masks")
def by_the_largest_of_all(scores: dict, sparsity: float) -> dict:
    everything = torch.cat([s.reshape(-1) for s in scores.values()])
    kept = torch.zeros(len(everything), dtype=torch.bool)
    kept[everything.topk(len(everything) - round(sparsity * len(everything))).indices] = True
    pieces = kept.split([s.numel() for s in scores.values()])
    return {name: piece.reshape(s.shape) for (name, s), piece in zip(scores.items(), pieces, strict=True)}


@right("global_masks")
def by_walking_along(scores: dict, sparsity: float) -> dict:
    everything = torch.cat([s.double().flatten() for s in scores.values()])
    mask = torch.ones(len(everything), dtype=torch.bool)
    for position in everything.argsort()[: round(sparsity * len(everything))]:
        mask[position] = False
    out, start = {}, 0
    for name, s in scores.items():
        out[name] = mask[start : start + s.numel()].reshape(s.shape)
        start += s.numel()
    return out


# first_order_saliency


@wrong("first_order_saliency", says="batches that pull in opposite directions cancel")
def size_of_the_sum(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    total = gradients.sum(dim=0)
    return (w * total).abs()


@wrong("first_order_saliency", says="whatever w is")
def size_of_the_gradient(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return gradients.abs().sum(dim=0)


@wrong("first_order_saliency", says="Some of your scores are negative")
def with_its_sign(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return sum(w * g for g in gradients)


@wrong("first_order_saliency", says="a mean over the batches")
def averaged(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return w.abs() * gradients.abs().mean(0)


@wrong("first_order_saliency", says="You get one number")
def summed_over_everything(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return torch.sum(torch.abs(w * gradients))


@wrong("first_order_saliency", says="second-order score")
def optimal_brain_damage(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return w.pow(2) * gradients.pow(2).mean(dim=0) / 2


@right("first_order_saliency")
def batch_by_batch(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(w)
    for g in gradients:
        total += torch.abs(w * g)
    return total


@right("first_order_saliency")
def factored_in_double(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    return w.double().abs() * gradients.double().abs().sum(0)


@right("first_order_saliency")
def in_place_on_the_gradients(w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    gradients.mul_(w).abs_()
    return gradients.sum(0)


# masked_sgd


@wrong("masked_sgd", says="An optimizer knows nothing of a mask")
def forgets_the_mask(w, mask, gradients, lr, momentum=0.9):
    v = torch.zeros(w.shape)
    for g in gradients:
        v = v * momentum + g
        w = w - v * lr
    return w


@wrong("masked_sgd", says="the step itself moves them off zero again")
def masks_before_each_step(w, mask, gradients, lr, momentum=0.9):
    v = torch.zeros(w.shape)
    for g in gradients:
        w = torch.where(mask, w, torch.zeros(()))
        v = v * momentum + g
        w = w - v * lr
    return w


@wrong("masked_sgd", says="masking gradients keeps a weight where it is")
def masks_the_gradient(w, mask, gradients, lr, momentum=0.9):
    v = torch.zeros(w.shape)
    for g in gradients:
        v = v * momentum + torch.where(mask, g, torch.zeros(()))
        w = w - v * lr
    return w


@wrong("masked_sgd", says="SGD without momentum")
def plain_sgd(w, mask, gradients, lr, momentum=0.9):
    for g in gradients:
        w = (w - lr * g) * mask
    return w


@wrong("masked_sgd", says="an average of gradients")
def averages_the_gradients(w, mask, gradients, lr, momentum=0.9):
    v = torch.zeros(w.shape)
    for g in gradients:
        v.lerp_(g, 1 - momentum)
        w = torch.where(mask, w - lr * v, 0.0)
    return w


@wrong("masked_sgd", says="With one step")
def zeroes_what_should_stay(w, mask, gradients, lr, momentum=0.9):
    v = torch.zeros(w.shape)
    for g in gradients:
        v = v * momentum + g
        w = (w - v * lr) * ~mask
    return w


@right("masked_sgd")
def masks_the_velocity_too(w, mask, gradients, lr, momentum=0.9):
    v, w = torch.zeros_like(w), w * mask
    for g in gradients:
        v = (momentum * v + g) * mask
        w = w - lr * v
    return w


@right("masked_sgd")
def in_place_and_filled(w, mask, gradients, lr, momentum=0.9):
    v = torch.zeros_like(w)
    for g in gradients:
        v.mul_(momentum).add_(g)
        w.sub_(lr * v).masked_fill_(~mask, 0.0)
    return w


@right("masked_sgd")
def masked_once_at_the_end(w, mask, gradients, lr, momentum=0.9):
    """For a fixed sequence of gradients it makes no difference when a dead weight is put to zero, as long as it is at the end."""
    v = torch.zeros(w.shape, dtype=torch.float64)
    for g in gradients:
        v = momentum * v + g
        w = w - lr * v
    return w * mask
