"""Plain values as JSON and bytes of arrays, and back: what may cross the socket between a judge and a learner's code.

A shape or a type in what comes is believed only after it was checked against limits and against the bytes that are there;
nothing is allocated before. What there may be of anything is limited, so that a message is read in about a second at most. What arrives are exact built-in types, tensors and NumPy arrays: an object whose ``==`` is always
true arrives as an object of no use.

For a process that has no ``course_lib``: this file imports nothing of it.
"""

import json
import math
from typing import Any

import numpy as np
import torch

ARRAY_LIMIT = 64 << 20  # bytes of all arrays of a message
DEPTH_LIMIT = 40  # containers in containers
INT_BITS = 4096  # of a whole number
DIMENSIONS = 16
EMPTY_LIMIT = 1 << 20  # product of the other dimensions of an array without entries: as many lists may describe it
VALUES = 250_000  # in a message, at any depth
ARRAY_VALUES = 50  # that an array counts for: it takes so much longer to make
KEYED = 2_000  # values in keys of dicts and in sets, at any depth: those that hash alike are compared with each other
CLASSES = 100  # that objects which are not plain may have

TENSORS = {
    str(t).removeprefix("torch."): t
    for t in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
ARRAYS = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
CONTAINERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class WireError(Exception):
    """A message is none, is too large, or contains what cannot be sent."""


class Foreign:
    """Stands for an object that is not plain; its class has the name of the object's class, and nothing else of it."""


def encoded(value: Any) -> tuple[bytes, list[bytes]]:
    """The JSON text of a value, in ASCII, and the bytes of its arrays.

    Raises:
        WireError: it is nested too deeply, or has too many parts.
    """
    out = _Out()
    try:
        return json.dumps(_encoded(value, out, 0)).encode("ascii"), out.arrays
    except RecursionError as error:  # by a container that contains itself
        raise WireError("it is nested too deeply") from error


def decoded(text: bytes, arrays: bytes | bytearray) -> Any:
    """The value of a frame's text and the bytes of its arrays, all of which must be used.

    Raises:
        WireError: they are not what :func:`encoded` gives.
    """
    source = _In(arrays)
    try:
        value = _decoded(json.loads(text.decode("ascii")), source, 0)
    except WireError:
        raise
    except (ValueError, TypeError, LookupError, RecursionError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise WireError(f"no message ({type(error).__name__})") from None
    if source.position != len(arrays):
        raise WireError("there are more bytes than its arrays have")
    return value


class _Count:
    """What a message has so far of what is limited."""

    def __init__(self) -> None:
        self.values, self.keyed, self.classes = 0, 0, set()

    def value(self, keyed: bool, much: int = 1) -> None:
        """One more value.

        Args:
            keyed: it is in a set, or in a key of a dict.
            much: what it counts for.
        """
        self.values += much
        self.keyed += keyed
        if self.values > VALUES or self.keyed > KEYED:
            raise WireError("it has too many parts" if self.values > VALUES else "its sets and dicts have too many entries")

    def class_(self, name: str, base: str = "") -> None:
        """One more object of this class."""
        self.classes.add((name, base))
        if len(self.classes) > CLASSES:
            raise WireError("it has objects of too many kinds")


class _Out(_Count):
    """A message that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: list[bytes] = []


def _encoded(value: Any, out: _Out, depth: int, keyed: bool = False) -> Any:
    if depth > DEPTH_LIMIT:
        raise WireError("it is nested too deeply")
    out.value(keyed)
    of = type(value)
    if value is None or of in (bool, str, float) or (of is int and value.bit_length() <= INT_BITS):
        return value
    if issubclass(of, torch.Tensor):
        out.value(keyed, ARRAY_VALUES)
        return _encoded_tensor(value, out.arrays)
    if issubclass(of, (np.ndarray, np.generic)):
        out.value(keyed, ARRAY_VALUES)
        return _encoded_array(value, out.arrays)
    if of is complex:
        return {"complex": [value.real, value.imag]}
    if of is dict:
        return {"dict": [[_encoded(k, out, depth + 1, True), _encoded(v, out, depth + 1, keyed)] for k, v in value.items()]}
    if of.__name__ in CONTAINERS and of is CONTAINERS[of.__name__]:
        inside = keyed or of in (set, frozenset)
        return {of.__name__: [_encoded(v, out, depth + 1, inside) for v in value]}
    for base in () if of is int else (int, float, str, dict, list, tuple, set, frozenset):
        if issubclass(of, base):
            plain = {int: int.__int__, float: float.__float__, str: str.__str__}.get(base, base)(value)
            out.class_(_name(of), base.__name__)
            return {"of": [_name(of), _encoded(plain, out, depth + 1, keyed)]}
    out.class_(_name(of))
    return {"foreign": _name(of)}


def _encoded_tensor(value: torch.Tensor, arrays: list[bytes]) -> Any:
    name = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.device.type != "cpu" or name not in TENSORS:
        return {"foreign": "sparse tensor" if value.layout != torch.strided else f"{name} tensor"}
    plain = value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    # the order of its dimensions in memory, largest stride first: a transposed tensor arrives as one
    order = sorted(range(plain.dim()), key=lambda d: -plain.stride(d))
    arrays.append(plain.permute(order).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"tensor": [name, list(plain.shape), order, value.requires_grad]}


def _encoded_array(value: Any, arrays: list[bytes]) -> Any:
    plain = np.asarray(value)
    if plain.dtype.name not in ARRAYS:
        return {"foreign": type(value).__name__}
    arrays.append(plain.astype(ARRAYS[plain.dtype.name], copy=False).tobytes())
    return {"number" if isinstance(value, np.generic) else "array": [plain.dtype.name, list(plain.shape)]}


def _name(of: type) -> str:
    return str(of.__name__)[:60]


class _In(_Count):
    """A message that is read: its arrays' bytes, taken one after another, and the classes that were made for it."""

    def __init__(self, data: bytes | bytearray):
        super().__init__()
        self.data, self.position, self.made = data, 0, {}

    def make(self, name: Any, base: type) -> type:
        """The class of this name; one for all its objects."""
        name = _checked_name(name)
        self.class_(name, base.__name__)
        if (name, base) not in self.made:
            self.made[name, base] = type(name, (base,), {})
        return self.made[name, base]

    def take(self, shape: Any, size: int) -> bytearray:
        """The bytes of an array, copied; ``size`` bytes for each entry."""
        if type(shape) is not list or len(shape) > DIMENSIONS:
            raise WireError("an array has a strange shape")
        if any(type(n) is not int or not 0 <= n <= ARRAY_LIMIT for n in shape):
            raise WireError("an array has a strange shape")
        if math.prod(max(n, 1) for n in shape) > (EMPTY_LIMIT if 0 in shape else ARRAY_LIMIT):
            raise WireError("an array is larger than its bytes")
        end = self.position + math.prod(shape) * size
        if end > len(self.data):
            raise WireError("an array is larger than its bytes")
        start, self.position = self.position, end
        return bytearray(self.data[start:end])


def _decoded(found: Any, source: _In, depth: int, keyed: bool = False) -> Any:
    if depth > DEPTH_LIMIT:
        raise WireError("it is nested too deeply")
    source.value(keyed)
    if found is None or type(found) in (bool, float, str):
        return found
    if type(found) is int:
        if found.bit_length() > INT_BITS:
            raise WireError("a number is too large")
        return found
    if type(found) is not dict or len(found) != 1:
        raise WireError("no value")
    ((tag, content),) = found.items()
    if tag in CONTAINERS and type(content) is list:
        inside = keyed or tag in ("set", "frozenset")
        return CONTAINERS[tag]([_decoded(v, source, depth + 1, inside) for v in content])
    if tag == "dict" and type(content) is list:
        return {_decoded(k, source, depth + 1, True): _decoded(v, source, depth + 1, keyed) for k, v in content}
    if tag == "tensor":
        source.value(keyed, ARRAY_VALUES)
        return _decoded_tensor(*content, source)
    if tag in ("array", "number"):
        source.value(keyed, ARRAY_VALUES)
        return _decoded_array(*content, source, tag == "number")
    if tag == "complex" and all(type(part) is float for part in content):
        return complex(*content)
    if tag == "of":
        name, plain = content[0], _decoded(content[1], source, depth + 1, keyed)
        if type(plain) not in (int, float, str, dict, list, tuple, set, frozenset):
            raise WireError("no value")
        return source.make(name, type(plain))(plain)
    if tag == "foreign":
        return source.make(content, Foreign)()
    raise WireError("no value")


def _decoded_tensor(name: str, shape: list, order: list, requires_grad: bool, arrays: _In) -> torch.Tensor:
    dtype = TENSORS[name] if type(name) is str and name in TENSORS else None
    if dtype is None:
        raise WireError("a tensor has a strange type")
    data = arrays.take(shape, dtype.itemsize)
    if type(order) is not list or sorted(order) != list(range(len(shape))) or any(type(d) is not int for d in order):
        raise WireError("a tensor has a strange order")
    if dtype == torch.bool:  # a byte of 2 would be both true and not true
        value = torch.frombuffer(data, dtype=torch.uint8) != 0 if data else torch.empty(0, dtype=dtype)
    else:
        value = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    value = value.view([shape[d] for d in order])
    back = sorted(range(len(order)), key=order.__getitem__)
    value = value.permute(back)
    differentiable = dtype.is_floating_point or dtype.is_complex
    return value.requires_grad_() if requires_grad is True and differentiable else value


def _decoded_array(name: str, shape: list, arrays: _In, number: bool) -> Any:
    dtype = ARRAYS[name] if type(name) is str and name in ARRAYS else None
    if dtype is None:
        raise WireError("an array has a strange type")
    data = arrays.take(shape, dtype.itemsize)
    value = np.frombuffer(data, dtype=np.uint8 if dtype == np.bool_ else dtype)
    value = (value != 0 if dtype == np.bool_ else value).reshape(shape)
    return value.reshape(())[()] if number else value


def _checked_name(name: Any) -> str:
    if type(name) is not str or not 0 < len(name) <= 60 or "\0" in name:
        raise WireError("no name")
    return name.encode("utf-8", "replace").decode()
