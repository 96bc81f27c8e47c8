"""Model soups: weights of models trained from the same start, averaged into one that costs what one of them costs."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from course_lib.errors import expect


def average(models: Sequence[nn.Module]) -> nn.Module:
    """A new model whose every floating-point weight and buffer is the mean over the models; others are the first one's.

    Averaging works where the models lie in one valley of the loss, as those do that were trained from the same weights with
    other seeds; models of different starts average to noise (Wortsman et al. 2022, 2203.05482).

    Args:
        models: with the same names and shapes; left alone.
    Raises:
        ValueError: no model, or other names or shapes than the first one's.
    """
    expect(len(models) > 0, "models", len(models), "at least one model")
    states = [m.state_dict() for m in models]
    for number, state in enumerate(states):
        odd = [k for k in {*states[0], *state} if k not in state or k not in states[0] or state[k].shape != states[0][k].shape]
        expect(not odd, f"models[{number}]", sorted(odd)[:3], "the names and shapes of the first model")
    mean = {
        name: torch.stack([s[name].double() for s in states]).mean(0).to(first.dtype) if first.is_floating_point() else first
        for name, first in states[0].items()
    }
    soup = copy.deepcopy(models[0])
    soup.load_state_dict(mean)
    return soup


def greedy_soup(models: Sequence[nn.Module], validate: Callable[[nn.Module], float]) -> tuple[nn.Module, list[dict]]:
    """Start from the best model and add each next one only if the average of all chosen does not fall on validation.

    Args:
        models: as of :func:`average`.
        validate: a model's validation score, higher is better.
    Returns:
        The soup, never worse on validation than the best model, and a log: per try ``members`` (numbers of the models, the
        newest last), ``validation_f1`` and whether it was ``kept``.
    Raises:
        ValueError: no model, or models that :func:`average` refuses.
    """
    expect(len(models) > 0, "models", len(models), "at least one model")
    scores = [validate(m) for m in models]
    order = sorted(range(len(models)), key=lambda i: -scores[i])
    chosen, best, soup = [order[0]], scores[order[0]], models[order[0]]
    log = [{"members": [order[0]], "validation_f1": best, "kept": True}]
    for number in order[1:]:
        candidate = average([models[i] for i in [*chosen, number]])
        score = validate(candidate)
        log.append({"members": [*chosen, number], "validation_f1": score, "kept": score >= best})
        if score >= best:
            chosen, best, soup = [*chosen, number], score, candidate
    return soup, log
