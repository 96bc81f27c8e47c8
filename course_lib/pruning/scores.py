"""How much each unit matters: scores from activations, gradients and weights."""

from collections.abc import Iterable

import torch

from course_lib.errors import expect


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
