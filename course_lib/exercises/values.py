"""Plain values, tensors and containers: copying, comparing and describing them for a reader."""

import math
import numbers
from typing import Any

import torch

NAN = "Is there a 0/0, an ∞ − ∞, or the root or logarithm of something negative?"


def copied(value: Any) -> Any:
    """A copy in which nothing is shared with the original; tensors keep their strides, other objects are not copied."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone(memory_format=torch.preserve_format).requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [copied(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # a named tuple takes them one by one
    return value


def kind(value: Any) -> str:
    """The name of a value's kind; all floats are one kind, and so are all integers.

    >>> kind(torch.ones(2)), kind(1), kind(True), kind([1])
    ('float tensor', 'int', 'bool', 'list')
    """
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            return "sparse tensor"
        if value.dtype == torch.bool:
            return "bool tensor"
        return ("float" if value.is_floating_point() else "complex" if value.is_complex() else "int") + " tensor"
    return "NumPy array" if type(value).__name__ == "ndarray" else "tuple" if isinstance(value, tuple) else type(value).__name__


def same(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> bool:
    """Equal in kind, shape and, within ``|a − b| ≤ atol + rtol·|b|``, in value; equal infinities and NaNs are equal."""
    return difference(a, b, rtol, atol) is None


def difference(value: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> str | None:
    """What is wrong with a value, in words that do not give the expected one away; None when nothing is.

    A learner need not care whether a number is Python's, NumPy's or a tensor without dimensions, whether a sequence is a list
    or a tuple, nor which float or which integer type a tensor has. Where a whole number is expected it must be exact.

    Args:
        value: what a learner's function returned.
        expected: what it should be close to.
        rtol, atol: tolerances; for floats, alone or in tensors.

    >>> difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    '1 of its 2 values is not right; the one at [1] is 2'
    """
    return _difference(value, expected, rtol, atol, "")


def _difference(value: Any, expected: Any, rtol: float, atol: float, where: str) -> str | None:
    """``where`` is the place within a container, as "item 2: "; empty for the whole."""
    value, expected = _plain(value), _plain(expected)
    if value is None and expected is not None:
        return f"{where}None" if where else "it returned None. Does every path through the function end in `return`?"
    if isinstance(value, bool) == isinstance(expected, bool) and _number(value) and _number(expected):
        return _number_difference(value, expected, rtol, atol, where)
    if isinstance(value, torch.Tensor) and (_number(expected) or isinstance(expected, bool)):
        return f"{where or 'it returned '}a tensor of shape {tuple(value.shape)}; expected a single {kind(expected)}"
    sequences = isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple))
    if kind(value) != kind(expected) and not sequences:
        return f"{where or 'it returned '}{article(kind(value))}; expected {article(kind(expected))}"
    if isinstance(expected, torch.Tensor):
        found = _tensor_difference(value, expected, rtol, atol)
        return found and where + found
    if sequences:
        if len(value) != len(expected):
            return f"{where}{'' if where else 'it returned '}{len(value)} items; expected {len(expected)}"
        pairs = ((f"{where}item {i}: ", v, e) for i, (v, e) in enumerate(zip(value, expected, strict=True)))
    elif isinstance(expected, dict):
        if set(value) != set(expected):
            return f"{where}its keys are {_keys(value)}; expected {_keys(expected)}"
        pairs = ((f"{where}entry {k!r}: ", value[k], e) for k, e in expected.items())
    else:
        return None if value == expected else _not_right(value, where)
    return next((found for place, v, e in pairs if (found := _difference(v, e, rtol, atol, place))), None)


def _plain(value: Any) -> Any:
    """A tensor without dimensions or a NumPy number as a Python number."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.dim() == 0 and value.layout == torch.strided and not value.is_meta else value
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 else value


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _number_difference(value: Any, expected: Any, rtol: float, atol: float, where: str) -> str | None:
    if isinstance(expected, numbers.Integral):
        return None if value == expected else _not_right(value, where)
    if math.isnan(value) or math.isnan(expected):
        return None if math.isnan(value) and math.isnan(expected) else _not_right(value, where)
    close = value == expected or abs(value - expected) <= atol + rtol * abs(expected) < math.inf
    return None if close else _not_right(value, where)


def _not_right(value: Any, where: str) -> str:
    if isinstance(value, float) and math.isnan(value):
        return f"{where or 'it is '}NaN, not a number. {NAN}"
    noun = "number" if _number(value) else "value"
    return f"{where}{_short(value)} is not the right {noun}" if where else f"that is not the right {noun}"


def _tensor_difference(value: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> str | None:
    if value.shape != expected.shape:
        return f"its shape is {tuple(value.shape)}; expected {tuple(expected.shape)}"
    if expected.dtype == torch.bool:
        wrong = value != expected
    elif expected.is_floating_point():
        a, b = value.detach().double(), expected.detach().double()
        nan = a.isnan() & ~b.isnan()
        if bool(nan.any()):
            return f"{_of(int(nan.sum()), a.numel())} NaN, not a number. {NAN}"
        wrong = ~torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    elif expected.is_complex():
        wrong = ~torch.isclose(value.detach().to(torch.complex128), expected.to(torch.complex128), rtol=rtol, atol=atol)
    else:
        wrong = value.long() != expected.long()  # not in a smaller type, where −1 and 255 are the same
    if not bool(wrong.any()):
        return None
    first = wrong.nonzero()[0].tolist()
    return f"{_of(int(wrong.sum()), wrong.numel())} not right; the one at {first} is {_short(value[tuple(first)].item())}"


def _of(count: int, total: int) -> str:
    return f"{count:,} of its {total:,} values {'is' if count == 1 else 'are'}"


def _keys(value: dict) -> str:
    return ", ".join(sorted(map(repr, value))) or "none"


def article(noun: str) -> str:
    """A noun with its article.

    >>> article("int"), article("list")
    ('an int', 'a list')
    """
    return ("an " if noun[:1].lower() in "aeiou" else "a ") + noun


def describe(value: Any, limit: int = 8) -> str:
    """A value as a reader wants it in a message: small tensors whole, large ones by shape and a few values.

    >>> describe(torch.tensor([1.0, -0.25])), describe(torch.zeros(3, 4)), describe(0.5), describe(2_000_000)
    ('[1, -0.25]', 'float32 (3, 4): [0, 0, 0, …]', '0.5', '2_000_000')
    """
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta:
            return f"{article(kind(value))} of shape {tuple(value.shape)}"
        if value.numel() <= limit and math.prod(max(n, 1) for n in value.shape) <= limit:  # or of millions of empty lists
            return _nested(value.detach().tolist())
        first = ", ".join(_short(v) for v in value.detach().flatten()[:3].tolist())
        inside = f"{first}, …" if value.numel() else ""
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}: [{inside}]"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(describe(v) for v in value[:limit]) + (", …" if len(value) > limit else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        inside = [f"{k!r}: {describe(v)}" for k, v in list(value.items())[:limit]]
        if len(value) > 2 and sum(map(len, inside)) > 300:  # nobody reads more of a long one than how it begins
            return "{" + ", ".join(inside[:2]) + f", … {len(value)} entries in all" + "}"
        return "{" + ", ".join(inside) + (", …" if len(value) > limit else "") + "}"
    return _short(_plain(value))


def _nested(value: Any) -> str:
    return f"[{', '.join(map(_nested, value))}]" if isinstance(value, list) else _short(value)


def _short(value: Any) -> str:
    if isinstance(value, (float, complex)):
        return f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 10**15:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    text = repr(value) if isinstance(value, (str, bool, type(None))) else article(kind(value))
    return text if len(text) <= 60 else text[:57] + "…" + text[0] * (text[0] in "'\"")
