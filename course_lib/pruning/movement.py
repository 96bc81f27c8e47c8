"""Movement pruning: a weight that training moves away from zero matters, whatever its size.

The layer computes with ``W' = mask·W``, and the score S of a weight collects ``−W·∂L/∂W'`` step by step: positive where the loss
pulls the weight away from zero (Sanh et al. 2020, 2005.07683). The gradient passes straight through the mask to the scores, so
that a masked weight, which keeps its value, comes back when the loss asks for it; the weight itself gets the true gradient, 0
where it is masked.

On a fine-tuned encoder and a short budget it fails: after 125 steps F1 was 0 at every sparsity and on both corpora of the technique
table, where magnitude with the same training kept .84, .77 and .30; at 50 % it was still 0 after 750 steps. A model at its minimum
pulls about as many weights towards zero as away from it, whatever their size, so half of the large ones go too, and a
network that has come apart so far says "O" to everything. The paper starts from a pretrained model, trains for many epochs, and
lets an optimizer with a rate of its own move the scores.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from course_lib.errors import CourseError, expect
from course_lib.granularity import Granularity
from course_lib.plan import match
from course_lib.pruning.masks import Masks, global_masks, mask_by_sparsity
from course_lib.report import Report, Reporting

KINDS = (nn.Linear, nn.Embedding, nn.Conv2d)


def movement_scores(scores: torch.Tensor, w: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """One step of the accumulation: ``S − W·∂L/∂W'``.

    Args:
        scores: S so far, any shape; zeros at first.
        w: W, the weight before masking; ``gradient``: ∂L/∂W', of the masked weight. Same shapes.
    Returns:
        The new scores; higher means keep, negative means that the weight moves towards zero.

    >>> movement_scores(torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([-0.5, 2.0]))
    tensor([ 0.5000, -2.0000])
    """
    expect(scores.shape == w.shape == gradient.shape, "shapes", [tuple(t.shape) for t in (scores, w, gradient)], "one shape")
    return scores - w * gradient


def movement_of_steps(w: torch.Tensor, gradients: Sequence[torch.Tensor], lr: float) -> torch.Tensor:
    """The scores after some steps of SGD with nothing masked yet: ``S ← S − w·g``, then ``w ← w − lr·g``.

    Since ``−g = (w' − w)/lr``, S is the sum of ``w·(w' − w)/lr``, half of what ``w²`` has grown by, over ``lr``, but for the squares
    of the steps: ``lr·S = (w_T² − w_0²)/2 − Σ (w' − w)²/2``.

    Args:
        w: W at the start, any shape.
        gradients: one a step, the shape of ``w``.
        lr: learning rate.
    Returns:
        S, of the same shape.

    >>> movement_of_steps(torch.tensor([1.0, 1.0]), [torch.tensor([-1.0, 1.0])] * 2, lr=0.5)
    tensor([ 2.5000, -1.5000])
    """
    scores = torch.zeros_like(w)
    for gradient in gradients:
        scores = movement_scores(scores, w, gradient)
        w = w - lr * gradient
    return scores


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(w, mask)
        return w.masked_fill(~mask, 0)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        w, mask = ctx.saved_tensors
        return gradient.masked_fill(~mask, 0), gradient * w, None


def masked_weight(w: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``W' = mask·W``, with ``∂L/∂W = mask·∂L/∂W'`` and ``∂L/∂S = W·∂L/∂W'``, as if the mask were S (straight through).

    Args:
        w: W; ``scores``: S, whose values do not matter here; ``mask``: bool, True where a weight stays. Same shapes.
    Returns:
        W', of the same shape.
    """
    return _StraightThrough.apply(w, scores, mask)


class _Masking(nn.Module):
    """The parametrization of one weight. Scores are a buffer, so that no optimizer of the model's parameters moves them."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scores", torch.zeros_like(w, requires_grad=True), persistent=False)
        self.register_buffer("mask", torch.ones_like(w, dtype=torch.bool), persistent=False)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return masked_weight(w, self.scores, self.mask)


class Movement:
    """Movement pruning of a model while it trains.

    In each step: ``loss.backward()``, then :meth:`accumulate`, ``optimizer.step()``, and :meth:`prune` to the sparsity that a
    schedule gives (:mod:`course_lib.pruning.schedules`); at the end :meth:`finish`.

    Args:
        model: its linear, embedding and convolution weights are masked by parametrizations until :meth:`finish`; the parameters stay
            the same objects, so an optimizer made before goes on.
        plan: module name or pattern → granularity of what goes as a whole, mostly ``"weight"``.
    Raises:
        CourseError: a plan that matches nothing or a module twice, or a weight that has a parametrization.
    """

    def __init__(self, model: nn.Module, plan: Mapping[str, Granularity]) -> None:
        self.model, self.matches, self.count = model, match(model, plan, KINDS), Reporting(model)
        for name, (module, _) in self.matches.found.items():
            if not isinstance(module._parameters.get("weight"), nn.Parameter):
                raise CourseError(f"plan: the weight of {name} is computed from other parameters (a parametrization).")
        self.maskings = {}
        for name, (module, _) in self.matches.found.items():
            self.maskings[name] = _Masking(module.weight.detach())
            parametrize.register_parametrization(module, "weight", self.maskings[name])

    @property
    def scores(self) -> dict[str, torch.Tensor]:
        """Module name → S of each weight, of the weight's shape."""
        return {name: masking.scores.detach() for name, masking in self.maskings.items()}

    def accumulate(self) -> None:
        """Add this step's ``−W·∂L/∂W'`` to the scores; call it once the gradients are there and before the weights move.

        Raises:
            CourseError: no backward pass since the last call.
        """
        if all(masking.scores.grad is None for masking in self.maskings.values()):
            raise CourseError("Movement.accumulate: no gradients; expected loss.backward() of a loss of this model before it.")
        with torch.no_grad():
            for masking in self.maskings.values():
                if masking.scores.grad is not None:
                    masking.scores -= masking.scores.grad
                    masking.scores.grad = None

    def prune(self, sparsity: float, scope: str = "layer") -> None:
        """Mask the lowest scores; what was masked before and has risen above them comes back.

        Args:
            sparsity: fraction of the blocks to mask, 0 to 1.
            scope: ``"layer"``: in each module; ``"global"``: one threshold for all, which must have one granularity.
        """
        expect(scope in ("layer", "global"), "scope", scope, "'layer' or 'global'")
        grains = {name: granularity for name, (_, granularity) in self.matches.found.items()}
        if scope == "global":
            expect(len(set(grains.values())) == 1, "plan", grains, "one granularity for all, with scope='global'")
            masks = global_masks(self.scores, sparsity, next(iter(grains.values())))
        else:
            masks = {name: mask_by_sparsity(s, sparsity, grains[name]) for name, s in self.scores.items()}
        for name, mask in masks.items():
            self.maskings[name].mask.copy_(mask)

    def finish(self) -> tuple[Masks, Report]:
        """Make the masked weights the model's own, with real zeros, and take the parametrizations off.

        Returns:
            The masks, by parameter name, each of its weight's shape, and what was changed.
        """
        masks, changed = {}, []
        for name, (module, _) in self.matches.found.items():
            mask = self.maskings[name].mask
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            for other in [key for key in module._parameters if key != "weight"]:  # the weight was first and shall be again
                module._parameters[other] = module._parameters.pop(other)
            masks[f"{name}.weight"] = mask
            changed.append(f"{name}: {1 - float(mask.float().mean()):.1%} of {mask.numel():,} weights are zero (movement)")
        return Masks(masks), self.count.report(changed, self.matches.skipped)
