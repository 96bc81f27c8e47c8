"""L1 in training: after each step of the optimizer, the proximal step of ``λ‖w‖₁`` in that step's own size.

An optimizer that moves weight j by ``η_j`` times its (averaged) gradient minimises L; with the soft threshold ``η_j·λ`` after it, a
weight rests where ``∂L/∂w_j = −λ·sign(w_j)``, or at exactly zero where ``|∂L/∂w_j| ≤ λ``: the minimum of ``L + λ‖w‖₁``, whichever
optimizer. The size of a step is

- SGD: ``η = lr``; with momentum μ and dampening d, a constant gradient moves a weight by ``lr·(1 − d)/(1 − μ)`` a step: that is η;
- Adam and AdamW: ``η_j = lr/(√v̂_j + ε)``, another for each weight: the threshold is the proximal step in the metric
  ``diag(1/η)``, ``argmin_u Σ (u_j − w_j)²/(2η_j) + λ|u_j|`` (Yun et al. 2020, 2007.07484). A weight whose gradient is always zero
  has a very large η and soon is zero: the loss does not need it.

Weight decay is left to the optimizer. Adding ``λ‖w‖₁`` to the loss instead (:func:`l1_penalty`) makes weights small, not zero.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from course_lib.errors import CourseError, expect
from course_lib.plan import match
from course_lib.pruning.l1 import soft_threshold
from course_lib.pruning.masks import sparsity

DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def penalised_parameters(model: nn.Module, plan: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """Which parameters an L1 penalty is for, and why the others are left out.

    Weights of linear and convolution layers, never biases or norms. An embedding only where the plan has its full name: rows of
    word pieces that the training text lacks get no gradient and would all become zero.

    Args:
        model: where to look; tied weights are left out, as one penalty would act on both modules.
        plan: module name or pattern → λ.
    Returns:
        Parameter name → λ above 0, and parameter name → reason, for all others.
    Raises:
        ValueError: an empty plan, or a λ that is negative or not finite.
        CourseError: a pattern that matches nothing, or a module that two patterns match.
    """
    expect(len(plan) > 0, "plan", dict(plan), "at least one module name or pattern")
    for pattern, lam in plan.items():
        expect(0 <= lam < float("inf"), f"plan[{pattern!r}]", lam, "a finite number of at least 0")
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    by_name = {name: lam for name, lam in plan.items() if name in embeddings}
    others = {pattern: lam for pattern, lam in plan.items() if pattern not in embeddings}
    lams, reasons = {}, {}
    for part, kinds in ((by_name, (nn.Embedding,)), (others, DENSE)):
        if part:
            matches = match(model, part, kinds)
            lams |= {name: lam for name, (_, lam) in matches.found.items()}
            reasons |= dict(line.split(": ", 1) for line in matches.skipped)
    included, excluded = {}, {}
    for name, _ in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if leaf == "weight" and lams.get(owner, 0) > 0:
            included[name] = lams[owner]
        else:
            excluded[name] = reasons.get(owner) or _reason(model.get_submodule(owner), leaf, owner in lams)
    return included, excluded


def _reason(module: nn.Module, leaf: str, matched: bool) -> str:
    if type(module).__name__.endswith(("Norm", "Norm1d", "Norm2d", "Norm3d")):
        return "a norm's gain or bias: at zero it would switch a channel off"
    if leaf == "bias":
        return "a bias: few bytes, and a shift of all outputs"
    if isinstance(module, nn.Embedding) and not matched:
        return "an embedding that the plan does not name: its unused rows would all become zero"
    return "λ is 0" if matched else "not in the plan"


def proximal_groups(model: nn.Module, plan: Mapping[str, float]) -> list[dict]:
    """Parameter groups for an optimizer, one per λ, with the key ``lam``; the group of λ = 0 is last.

    Args:
        model, plan: as in :func:`penalised_parameters`; parameters without a gradient are left out.
    Returns:
        ``[{"params": […], "lam": λ}, …]``; give weight decay and learning rates of a group by adding to it.
    """
    included, _ = penalised_parameters(model, plan)
    groups: dict[float, list[nn.Parameter]] = {lam: [] for lam in dict.fromkeys([*included.values(), 0.0])}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[included.get(name, 0.0)].append(parameter)
    return [{"params": parameters, "lam": float(lam)} for lam, parameters in groups.items() if parameters]


def proximal_steps(optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Let every step of ``optimizer`` be followed by the proximal step of its groups' ``lam``.

    A parameter that had no gradient in a step is left alone, and so is a group with λ = 0 or none: then the optimizer does, to the
    bit, what it did without.

    Args:
        optimizer: SGD, Adam or AdamW, its groups with ``lam`` as :func:`proximal_groups` makes them.
    Returns:
        A handle; ``remove()`` ends it.
    Raises:
        CourseError: another optimizer, whose step size is not known here; ``maximize``; or no group with a ``lam``.
    """
    if type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        raise CourseError(f"optimizer: a {type(optimizer).__name__}; expected SGD, Adam or AdamW, whose step size is known.")
    if any(group["maximize"] for group in optimizer.param_groups):
        raise CourseError("optimizer: maximize=True; expected one that minimises.")
    if not any("lam" in group for group in optimizer.param_groups):
        raise CourseError("optimizer: no group has a lam; expected groups made by proximal_groups.")

    def step(optimizer: torch.optim.Optimizer, *_) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if group.get("lam", 0.0) > 0 and parameter.grad is not None:
                        size = step_size(optimizer, group, parameter)
                        parameter.copy_(soft_threshold(parameter, size * group["lam"]))

    return optimizer.register_step_post_hook(step)


def step_size(optimizer: torch.optim.Optimizer, group: Mapping, parameter: nn.Parameter) -> float | torch.Tensor:
    """By how much the optimizer's last step moved a weight per unit of its (averaged) gradient: η.

    Args:
        optimizer: SGD, Adam or AdamW, after a step.
        group: the parameter's group.
        parameter: of that group.
    Returns:
        ``lr·(1 − dampening)/(1 − momentum)`` for SGD; ``lr/(√v̂ + ε)`` of the parameter's shape for Adam and AdamW.
    """
    if isinstance(optimizer, torch.optim.SGD):
        return float(group["lr"]) * (1 - group["dampening"]) / (1 - group["momentum"])
    state = optimizer.state[parameter]
    squares = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    return float(group["lr"]) / ((squares / correction).sqrt() + group["eps"])


def l1_penalty(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """``Σ |w|`` over tensors of any shape, a scalar to be added to a loss.

    Its gradient is sign(w), which steps over zero instead of stopping there.

    >>> l1_penalty([torch.tensor([1.0, -2.0]), torch.tensor([3.0])])
    tensor(6.)
    """
    return torch.stack([p.abs().sum() for p in parameters]).sum()


def l1_path(optimizer: torch.optim.Optimizer, factors: Iterable[float], train: Callable[[], float]) -> list[dict]:
    """Train at a list of penalties, each from the weights and the optimizer's state of the one before (warm starts).

    Args:
        optimizer: with :func:`proximal_steps`.
        factors: what every group's ``lam`` is multiplied by in turn; ascending, from dense to sparse. The groups' own λ come back
            at the end.
        train: trains for as long as one wants at each and returns what to note, such as the validation F1.
    Returns:
        Per factor ``{"factor", "sparsity", "result"}``; sparsity is that of the penalised parameters.
    """
    own = [group.get("lam", 0.0) for group in optimizer.param_groups]
    penalised = [p for group, lam in zip(optimizer.param_groups, own, strict=True) if lam > 0 for p in group["params"]]
    expect(len(penalised) > 0, "optimizer", own, "a group whose lam is above 0")
    rows = []
    try:
        for factor in factors:
            expect(0 <= factor < float("inf"), "factors", factor, "finite numbers of at least 0")
            for group, lam in zip(optimizer.param_groups, own, strict=True):
                group["lam"] = factor * lam
            result = train()
            zeros = sum(sparsity(p) * p.numel() for p in penalised)
            rows.append({"factor": factor, "sparsity": zeros / sum(p.numel() for p in penalised), "result": result})
    finally:
        for group, lam in zip(optimizer.param_groups, own, strict=True):
            group["lam"] = lam
    return rows
