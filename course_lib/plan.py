"""Plans: which modules of a model a transform is for. A pattern that matches nothing is an error, never a silent no-op."""

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from course_lib.errors import CourseError, expect


@dataclass
class Matches:
    """The modules of a plan.

    Attributes:
        found: module name → (module, the configuration its pattern gives), in the model's order.
        skipped: a line for each module that a pattern names but that must be left alone, with the reason.
    """

    found: dict[str, tuple[nn.Module, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def match(model: nn.Module, plan: Mapping[str, Any], kinds: tuple[type[nn.Module], ...] = (nn.Linear,)) -> Matches:
    """Find the modules a plan is for.

    Args:
        model: where to look.
        plan: module name, or pattern with ``*`` and ``?`` as in file names → configuration. ``*`` also matches dots.
        kinds: the classes the transform can handle. A subclass counts when it computes as its parent does (it has no
            ``forward`` of its own); otherwise it is skipped, and the report says so.
    Returns:
        The matches. A module whose weight another module holds too (tied weights) is skipped: changing one would change,
        or untie, the other.
    Raises:
        CourseError: an empty plan, a pattern that matches no module of these kinds (the message names close ones), one
            that matches only modules that must be skipped, or a module that two patterns match.
    """
    expect(len(plan) > 0, "plan", dict(plan), "at least one module name or pattern")
    modules = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    tied = _tied(model)
    owner: dict[str, str] = {}
    matches, reasons = Matches(), {}
    for pattern in plan:
        names = [name for name in modules if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise CourseError(_nothing(model, pattern, kinds, modules))
        for name in names:
            if name in owner:
                raise CourseError(
                    f"plan: {name} is matched by {owner[name]!r} and by {pattern!r}; expected one pattern for it."
                )
            owner[name] = pattern
            reason = _own_forward(modules[name], kinds) or tied.get(name)
            if reason:
                reasons[name] = reason
    for pattern in plan:
        names = [name for name, by in owner.items() if by == pattern]
        if all(name in reasons for name in names):
            why = "; ".join(f"{name}: {reasons[name]}" for name in names[:3])
            raise CourseError(f"plan: {pattern!r} matches only modules that must be left alone ({why}).")
    matches.skipped = [f"{name}: {reasons[name]}" for name in modules if name in reasons]
    matches.found = {name: (m, plan[owner[name]]) for name, m in modules.items() if name in owner and name not in reasons}
    return matches


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where the module ``name`` is."""
    expect(bool(name), "name", name, "the name of a module inside the model")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _own_forward(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str | None:
    kind = next(k for k in kinds if isinstance(module, k))
    if type(module).forward is not kind.forward:
        return f"{type(module).__name__} is a {kind.__name__} with a forward of its own"
    return None


def _tied(model: nn.Module) -> dict[str, str]:
    """Module name → with whom it shares its weight."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            holders.setdefault(weight.data_ptr() or id(weight), []).append(name)
    return {
        name: f"its weight is tied to {', '.join(n for n in names if n != name)}"
        for names in holders.values()
        if len(names) > 1
        for name in names
    }


def _nothing(model: nn.Module, pattern: str, kinds: tuple[type[nn.Module], ...], modules: Mapping[str, nn.Module]) -> str:
    wanted = " or ".join(k.__name__ for k in kinds)
    others = [name for name, _ in model.named_modules() if fnmatch.fnmatchcase(name, pattern)]
    if others:
        kind = type(model.get_submodule(others[0])).__name__
        return f"plan: {pattern!r} matches no {wanted}; what it matches is a {kind} ({others[0]}). Nothing was changed."
    close = difflib.get_close_matches(pattern, modules, n=2, cutoff=0.3) or list(modules)[:2]
    return f"plan: {pattern!r} matches nothing in {type(model).__name__}; expected a name like {' or '.join(close)}. Nothing was changed."
