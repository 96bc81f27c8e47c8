"""Plain values, tensors and containers: copying, comparing and describing them for a reader."""

import math
from typing import Any

import torch

KINDS = {torch.bool: "bool"}


def copied(value: Any) -> Any:
    """A copy in which nothing is shared with the original; tensors keep their strides."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone(memory_format=torch.preserve_format).requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(v) for v in value)
    return value


def kind(value: Any) -> str:
    """The name of a value's kind; all floats are one kind, and so are all integers.

    >>> kind(torch.ones(2)), kind(1), kind(True), kind([1])
    ('float tensor', 'int', 'bool', 'list')
    """
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bool:
            return "bool tensor"
        return ("float" if value.is_floating_point() else "complex" if value.is_complex() else "int") + " tensor"
    return "tuple" if isinstance(value, tuple) else type(value).__name__


def same(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> bool:
    """Equal in kind, shape and, within ``|a − b| ≤ atol + rtol·|b|``, in value; equal infinities and NaNs are equal."""
    return difference(a, b, rtol, atol) is None


def difference(value: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> str | None:
    """What is wrong with a value, in words that do not give the expected one away; None when nothing is.

    Args:
        value: what a learner's function returned.
        expected: what it should be close to.
        rtol, atol: tolerances; for tensors and floats.
    """
    if value is None and expected is not None:
        return "it returned None. Does every path through the function end in `return`?"
    if _number(value) and _number(expected):
        return None if _close(float(value), float(expected), rtol, atol) else f"{_short(value)} is not the right number"
    if kind(value) != kind(expected):
        return f"it returned {article(kind(value))}; expected {article(kind(expected))}"
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(value, expected, rtol, atol)
    if isinstance(expected, (list, tuple)):
        if len(value) != len(expected):
            return f"it returned {len(value)} items; expected {len(expected)}"
        pairs = ((f"item {i}", v, e) for i, (v, e) in enumerate(zip(value, expected, strict=True)))
    elif isinstance(expected, dict):
        if set(value) != set(expected):
            return f"its keys are {sorted(map(str, value))}; expected {sorted(map(str, expected))}"
        pairs = ((f"entry {k!r}", value[k], e) for k, e in expected.items())
    else:
        return None if value == expected else f"{_short(value)} is not the right value"
    return next((f"{where}: {found}" for where, v, e in pairs if (found := difference(v, e, rtol, atol))), None)


def _tensor_difference(value: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> str | None:
    if value.shape != expected.shape:
        return f"its shape is {tuple(value.shape)}; expected {tuple(expected.shape)}"
    if expected.dtype == torch.bool or not expected.is_floating_point():
        wrong = value != expected.to(value.dtype)
    else:
        a, b = value.detach().double(), expected.detach().double()
        if bool((a.isnan() & ~b.isnan()).any()):
            return f"{int((a.isnan() & ~b.isnan()).sum())} of its {a.numel()} values are NaN"
        wrong = ~torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    if not bool(wrong.any()):
        return None
    first = tuple(wrong.nonzero()[0].tolist())
    where = f"the one at {list(first)} is {_short(value[first].item())}" if first else f"it is {_short(value.item())}"
    return f"{int(wrong.sum())} of its {max(1, wrong.numel())} values are not right; {where}"


def _number(value: Any) -> bool:
    """A plain number, or a tensor of no dimension: a learner need not care which."""
    if isinstance(value, torch.Tensor):
        return value.dim() == 0 and value.dtype != torch.bool and not value.is_complex()
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _close(a: float, b: float, rtol: float, atol: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= atol + rtol * abs(b)


def article(noun: str) -> str:
    """A noun with its article.

    >>> article("int"), article("list")
    ('an int', 'a list')
    """
    return ("an " if noun[:1] in "aeiou" else "a ") + noun


def describe(value: Any, limit: int = 8) -> str:
    """A value as a reader wants it in a message: small tensors whole, large ones by shape and a few values.

    >>> describe(torch.tensor([1.0, -0.25])), describe(torch.zeros(3, 4)), describe(0.5)
    ('[1, -0.25]', 'float32 (3, 4): [0, 0, 0, …]', '0.5')
    """
    if isinstance(value, torch.Tensor):
        if value.dim() == 0:
            return _short(value.item())
        items = [_short(v) for v in value.detach().flatten()[: limit + 1].tolist()]
        if value.numel() <= limit and value.dim() == 1:
            return f"[{', '.join(items)}]"
        if value.numel() <= limit:
            return str(
                [[float(_short(v)) if value.is_floating_point() else v for v in row] for row in value.flatten(0, -2).tolist()]
            )
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}: [{', '.join(items[:3])}, …]"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(describe(v) for v in value[:limit]) + (", …" if len(value) > limit else "")
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in list(value.items())[:limit]) + "}"
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = repr(value) if isinstance(value, (str, int, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"
