"""Channels of convolutions: the coupled groups of a chain conv → BatchNorm → activation → … → conv or linear, written out."""

from collections.abc import Sequence

from torch import nn

from course_lib.errors import CourseError
from course_lib.models.groups import CoupledGroup, Part, check_groups

MAKERS = (nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CHANNELWISE = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Flatten),
)  # none of them mixes channels


def channel_groups(model: nn.Module, chain: Sequence[str] | None = None) -> list[CoupledGroup]:
    """The channels of each convolution that another convolution or a linear layer reads: ``….channels``.

    Channel i is filter i with its bias, entry i of the BatchNorm after it, and in what reads it one input channel, or, after
    a flatten, the ``H·W`` columns of the map that came from it (Li et al. 2016, 1608.08710). The output channels of the last
    convolution belong to no group when nothing reads them.

    Args:
        model: its modules run one after another.
        chain: names of the modules in the order they run in; None takes those of an ``nn.Sequential`` (nested ones too). A
            chain given must be the model's real order, with nothing that branches off it: shortcuts are not seen.
    Returns:
        The groups, in that order.
    Raises:
        CourseError: no chain given for another kind of model, a name that is not there, a module that is not known to leave
            channels apart, a grouped convolution, no convolution at all, or sizes that do not follow from each other.
    """
    names = _sequence(model) if chain is None else list(chain)
    modules = dict(model.named_modules())
    groups: list[CoupledGroup] = []
    name, units, parts = "", 0, ()  # of the convolution whose reader is looked for
    for step in names:
        if step not in modules:
            raise CourseError(
                f"chain: {step!r} is no module of {type(model).__name__}; expected names like {', '.join(names[:2])}."
            )
        module = modules[step]
        if names.count(step) > 1 and isinstance(module, (*MAKERS, *NORMS, nn.Linear)):
            raise CourseError(f"{step}: runs twice in the chain; what one use could lose the other may need.")
        if isinstance(module, (*MAKERS, nn.Linear)):
            if getattr(module, "groups", 1) != 1:
                raise CourseError(f"{step}: a convolution of {module.groups} groups; expected one that reads all channels.")
            if parts:
                read = module.in_features if isinstance(module, nn.Linear) else module.in_channels
                groups.append(CoupledGroup(f"{name}.channels", units, (*parts, Part(step, "columns", max(1, read // units)))))
            convolves = isinstance(module, MAKERS)
            name, units = step, module.out_channels if convolves else 0
            parts = (Part(step, "rows"),) if convolves else ()
        elif isinstance(module, NORMS):
            parts = (*parts, Part(step, "rows")) if parts else ()
        elif not isinstance(module, CHANNELWISE):
            raise CourseError(
                f"{step}: {type(module).__name__} may mix channels; expected convolutions, BatchNorm and what keeps them apart."
            )
    if not groups:
        raise CourseError(
            f"{type(model).__name__}: no convolution here is read by another layer; there is no channel to prune."
        )
    check_groups(model, groups)
    return groups


def _sequence(model: nn.Module) -> list[str]:
    if not isinstance(model, nn.Sequential):
        raise CourseError(
            f"{type(model).__name__} is no nn.Sequential; expected the chain of its modules by name, in running order."
        )
    names: list[str] = []
    for name, child in model.named_children():
        names += [f"{name}.{inner}" for inner in _sequence(child)] if isinstance(child, nn.Sequential) else [name]
    return names
