"""How far a model's answers have moved, finer than F1 can tell, and which nodes to leave in float for it.

F1 of a hundred sentences moves in steps of half a point and both ways; the divergence of the tags' probabilities moves with every
logit (one layer at a time: Wu et al. 2020, 2004.09602). The divergences of single nodes add up to the right size: their sum was
all of the divergence of 115 nodes together on one fine-tuned encoder, and two thirds of it on another.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from course_lib.calibration import Batch, checked_batches
from course_lib.errors import expect
from course_lib.layerwise import evaluating


class Divergence:
    """Mean divergence ``KL(p‖q)`` over real pieces, of a model's tags (q) from those of a reference (p), in nats.

    Args:
        reference: called as ``model(**batch)``, gives ``.logits`` (B, L, T); its answers are kept, not the model.
        batches: sentences to ask, tensors (B, L); **of validation**, since choices are made by it.
    """

    def __init__(self, reference: nn.Module, batches: Iterable[Batch]) -> None:
        self.batches = checked_batches(batches)
        self.expected = self._answers(reference)

    def __call__(self, model: nn.Module) -> float:
        """0 for a model that answers as the reference does; never below."""
        answers = self._answers(model)
        return max(0.0, float((self.expected.exp() * (self.expected - answers)).sum(-1).mean()))  # rounding may leave −1e−17

    def _answers(self, model: nn.Module) -> torch.Tensor:
        """Log-probabilities of the real pieces, float64 (pieces, T)."""
        with evaluating(model):
            logits = [model(**batch).logits[batch["attention_mask"].bool()] for batch in self.batches]
        return torch.cat(logits).double().log_softmax(-1)


def nodes_to_exclude(costs: Mapping[str, float], budget: float) -> list[str]:
    """The fewest nodes to leave in float so that the costs of all others, added up, are within a budget.

    Args:
        costs: what quantizing each node alone costs. A cost below 0 is a chance of the measurement and counts as 0.
        budget: at least 0.
    Returns:
        Names, the most costly first (equal ones in the order given); empty where the sum is within the budget already.
    Raises:
        ValueError: a budget below 0.

    >>> nodes_to_exclude({"a": 0.01, "b": 0.30, "c": 0.02}, budget=0.03)
    ['b']
    """
    expect(budget >= 0, "budget", budget, "a cost of at least 0")
    order = sorted(costs, key=lambda name: -costs[name])
    left = [max(0.0, costs[name]) for name in order]
    count = 0
    while sum(left[count:]) > budget:
        count += 1
    return order[:count]
