"""What removing a subtree costs, for :func:`course_lib.pruning.tree.prune_tree`: by trying it, or by gradients.

The gradients are those at gates of units (Michel et al. 2019, 1905.10650).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from course_lib.models.surgery import layer_names
from course_lib.pruning.tree import Costs, Node, without
from course_lib.pruning.unit_masks import encoder_groups
from course_lib.pruning.unit_scores import group_taylor_scores


def measured_costs(loss: Callable[[nn.Module], float]) -> Costs:
    """Costs by trying: the loss without a subtree minus the loss now; one evaluation for each candidate and one more."""

    def costs(model: nn.Module, nodes: Sequence[Node]) -> list[float]:
        now, changes = loss(model), []
        for node in nodes:
            with without(model, node):
                changes.append(loss(model) - now)
        return changes

    return costs


def first_order_costs(losses: Callable[[nn.Module], Iterable[torch.Tensor]], signed: bool = False) -> Costs:
    """Costs by gradient, for all candidates in one pass: the Taylor scores of the units that a subtree has left, added up.

    Far cheaper than trying, and blind to what units do together: a layer costs the sum of its units here, so it hardly ever goes
    as a whole. (The gradient at a layer's own gate is no help: on a fine-tuned encoder it was a hundredth of the real change.)
    There it took heads until whole blocks were empty, and without recovery did worse than the same share of every layer by the same
    scores: F1 .83 against .84 with a quarter of the layers' parameters gone, .68 against .79 with half.

    Args:
        losses: gives a lazy iterable of losses of the model, each a scalar, once per round.
        signed: add up the changes with their signs. That is the better guess for one removal and the worse for a search: it
            takes what happens to help these very sentences. With a tenth of a fine-tuned encoder's layers removed, F1 stayed at
            .86 by sizes and fell to .71 and .80 by signs.
    """

    def costs(model: nn.Module, nodes: Sequence[Node]) -> list[float]:
        found = group_taylor_scores(model, losses(model), encoder_groups(model))
        scores = found.signed if signed else found.absolute
        inside = {
            layer: sum(float(s.sum()) for name, s in scores.items() if name.startswith(f"{layer}."))
            for layer in layer_names(model)
        }
        return [inside[n.layer] if n.group is None else float(scores[n.group][list(n.units)].sum()) for n in nodes]

    return costs
