"""How much each weight or unit matters: scores from weights, gradients and activations. Higher means keep.

A score per weight becomes one of a row or block by adding up (:func:`course_lib.pruning.masks.block_scores`). Where a score
needs gradients, ``losses`` is a lazy iterable, so that one batch's graph is in memory at a time.

On a fine-tuned encoder without recovery (F1 .86, one share for all layers, 128 sentences for the gradients), magnitude kept .79, .37 and
.07 at 50, 70 and 90 %. Gradients without the weight did worse (.36, .24, .07): a weight that training has settled has a small gradient
however much it carries. Taylor scores equalled magnitude at 50 % (.80) and lost at 70 % (.27): they are first-order, and 70 % is no small
step. The Fisher diagonal, second order, did best of the three there (.46), and what looks at the layer's inputs better still: Wanda .61,
SparseGPT .78.
"""

from collections.abc import Callable, Iterable, Mapping

import torch

from course_lib.errors import expect


def magnitude_scores(w: torch.Tensor, p: int = 1) -> torch.Tensor:
    """``|w|^p``: summed over a block, the p-th power of its Lp norm, so blocks rank by their norms.

    For single weights p changes nothing (Han et al. 2015, 1506.02626); for rows, p = 1 is the L1 norm of Li et al. 2016
    (1608.08710) and p = 2 the L2 norm.

    Args:
        w: floating point, any shape. 16-bit weights are raised to a power in fp32, whose squares do not underflow.
        p: 1 or 2.
    Returns:
        Scores of the shape of ``w``.

    >>> magnitude_scores(torch.tensor([[-3.0, 1.0]]), p=2)
    tensor([[9., 1.]])
    """
    expect(w.is_floating_point(), "w.dtype", w.dtype, "floating-point weights")
    expect(p in (1, 2), "p", p, "1 or 2")
    size = w.detach().abs()
    return size if p == 1 else (size if size.dtype == torch.float64 else size.float()).square()


def gradient_scores(weights: Mapping[str, torch.Tensor], losses: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """``Σ |∂L/∂w|`` over the losses: how strongly the loss feels a weight; 0 where it does not depend on it.

    It says nothing of what removing the weight does (that takes the weight's size: :func:`taylor_scores`), and is 0 at a minimum of a
    single full-batch loss; the sum is over batches for that reason. (Mozer and Smolensky 1988, "Skeletonization", for units.)

    Args:
        weights: name → parameter that needs a gradient.
        losses: a lazy iterable of scalars; each is differentiated and dropped before the next is asked for.
    Returns:
        Name → scores of the parameter's shape.
    Raises:
        ValueError: no weights, no loss, a loss that is no scalar or not finite, a parameter that needs no gradient.
    """
    return _accumulate(weights, losses, lambda w, g: g.abs())[0]


def taylor_scores(
    weights: Mapping[str, torch.Tensor], losses: Iterable[torch.Tensor], signed: bool = False
) -> dict[str, torch.Tensor]:
    """First-order change of the loss when a weight is set to zero: ``−w·∂L/∂w``, or its size.

    Molchanov et al. 2016 (1611.06440) and 2019 (1906.10771).

    Args:
        weights, losses: as in :func:`gradient_scores`.
        signed: False: ``Σ |w·∂L/∂w|`` over the losses, to rank with. True: ``Σ −w·∂L/∂w``, whose sum over a row or block is
            the first-order change of the summed loss when all of it goes; negative where removing should help.
    Returns:
        Name → scores of the parameter's shape.
    """
    if signed:
        return _accumulate(weights, losses, lambda w, g: -w * g)[0]
    return _accumulate(weights, losses, lambda w, g: (w * g).abs())[0]


def fisher_scores(weights: Mapping[str, torch.Tensor], losses: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Second-order change of the loss when a weight is set to zero at a minimum: ``½·w²·F``, ``F = mean of (∂L/∂w)²``.

    Optimal Brain Damage (LeCun et al. 1990) with the Fisher diagonal for the Hessian's (Theis et al. 2018, 1801.05787). The
    first-order term is left out: at a minimum it is 0; add ``taylor_scores(…, signed=True)`` elsewhere.

    Args:
        weights, losses: as in :func:`gradient_scores`. Each loss should be that of **one example**: squares of a batch's
            mean gradient are smaller, by the batch's size where examples are independent.
    Returns:
        Name → scores ≥ 0 of the parameter's shape, in the unit of the loss.
    """
    squares, count = _accumulate(weights, losses, lambda w, g: g.square())
    return {name: weights[name].detach().square() * squares[name] / (2 * count) for name in weights}


def _accumulate(
    weights: Mapping[str, torch.Tensor],
    losses: Iterable[torch.Tensor],
    term: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[dict[str, torch.Tensor], int]:
    """Sum of ``term(w, ∂L/∂w)`` over the losses, and how many there were; ``.grad`` is left alone."""
    expect(len(weights) > 0, "weights", dict(weights), "at least one parameter")
    for name, w in weights.items():
        expect(w.requires_grad, f"weights[{name!r}].requires_grad", False, "a parameter that needs a gradient")
    totals = {name: torch.zeros_like(w, requires_grad=False) for name, w in weights.items()}
    count = 0
    for loss in losses:
        expect(loss.dim() == 0 and bool(loss.isfinite()), f"losses[{count}]", loss, "a finite scalar")
        expect(loss.requires_grad, f"losses[{count}].requires_grad", False, "a loss computed with gradients switched on")
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for (name, w), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:  # None: the loss does not depend on it
                totals[name] += term(w.detach(), gradient)
        count += 1
    expect(count > 0, "losses", count, "at least one loss")
    return totals, count


def taylor_unit_scores(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """First-order estimate of how much the loss changes when a unit is removed, per unit.

    ``score_j = Σ_b |Σ_l a_bljs · ∂L/∂a_blj|``: setting ``a`` to zero changes the loss of a sentence by
    ``−Σ a·∂L/∂a`` to first order (Molchanov et al. 2017, 1611.06440).

    Args:
        activation: output of the units, (B, L, F); 0 at padding or its gradient is.
        gradient: derivative of the loss with respect to it, same shape.
    Returns:
        Non-negative scores (F,).

    >>> taylor_unit_scores(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 0.0]]]))
    tensor([3., 0.])
    """
    return (activation * gradient).sum(dim=1).abs().sum(dim=0)


def weight_unit_scores(into: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Data-free score of a hidden unit: ``‖row of the matrix into it‖₂ · ‖column of the matrix out of it‖₂``.

    Args:
        into: (F, D); ``out``: (D, F).
    Returns:
        Scores (F,): the Frobenius norm of the rank-one map that goes through each unit.
    """
    return into.norm(dim=1) * out.norm(dim=0)


def ffn_taylor_scores(model: torch.nn.Module, losses: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Accumulated :func:`taylor_unit_scores` of the feed-forward neurons of every layer.

    Args:
        model: a BERT-like token classifier (dropout is switched off while scoring).
        losses: a lazy iterable; each item is a scalar loss just computed with ``model``.
    Returns:
        Scores (F,) per layer, in order.
    Raises:
        ValueError: no loss, or one that was computed before it was asked for (as those of a list are).
    """
    from course_lib.pruning.structure import encoder_layers

    layers = encoder_layers(model)
    totals = [torch.zeros(layer.intermediate.dense.out_features) for layer in layers]
    kept: dict[int, torch.Tensor] = {}

    def keep(number):
        def hook(module, inputs, output):
            output.retain_grad()
            kept[number] = output

        return hook

    handles = [layer.intermediate.register_forward_hook(keep(n)) for n, layer in enumerate(layers)]
    training, count = model.training, 0
    model.eval()
    try:
        for loss in losses:
            expect(len(kept) == len(layers), "losses", loss, "a generator that computes each loss when asked for it")
            model.zero_grad()
            loss.backward()
            for n, activation in kept.items():
                totals[n] += taylor_unit_scores(activation.detach(), activation.grad)
            kept.clear()
            count += 1
        expect(count > 0, "losses", count, "at least one loss")
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad()
        model.train(training)
    return totals
