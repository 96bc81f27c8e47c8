"""What crosses the socket between the judge and a learner's code, and what is turned away."""

import collections
import contextlib
import enum
import json
import math
import socket
import struct
import threading
import time
from pprint import pformat

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.classroom import plain, wire
from course_lib.classroom.plain import ARRAYS, TENSORS, Foreign, WireError, decoded
from course_lib.classroom.wire import receive, send
from course_lib.exercises.registry import all_exercises
from course_lib.exercises.values import describe, kind, same


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    with a, b:
        yield a, b


def there(value):
    """The value as it arrives at the other side."""
    a, b = socket.socketpair()
    with a, b:
        sender = threading.Thread(target=send, args=(a, value))  # a large one fills the socket
        sender.start()
        found = receive(b, time.monotonic() + 30)
        sender.join()
    return found


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.complex_numbers(),
    lambda inside: (
        st.lists(inside, max_size=3) | st.tuples(inside, inside) | st.dictionaries(st.text(max_size=3), inside, max_size=3)
    ),
    max_leaves=10,
)


@given(plain_values)
def test_plain_values_arrive_as_they_are(value):
    assert repr(there(value)) == repr(value)


@pytest.mark.parametrize("dtype", TENSORS.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 4), (2, 1, 3)], ids=str)
def test_tensors_of_every_type_and_shape_arrive_bit_for_bit(dtype, shape):
    value = (torch.arange(math.prod(shape)) * 3 - 4).reshape(shape).to(dtype)
    found = there(value)
    assert type(found) is torch.Tensor and found.dtype == dtype and found.stride() == value.stride()
    assert torch.equal(found, value)


def test_a_transposed_tensor_arrives_transposed():
    value = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    found = there(value)
    assert found.stride() == value.stride() and torch.equal(found, value)


def test_special_numbers_arrive_in_tensors():
    value = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    assert there(value).view(torch.int32).tolist() == value.view(torch.int32).tolist()


def test_a_tensor_that_requires_a_gradient_arrives_as_one():
    assert there(torch.nn.Parameter(torch.ones(2))).requires_grad
    assert not there(torch.ones(2)).requires_grad


@pytest.mark.parametrize("code", ARRAYS)
def test_numpy_arrays_and_numbers_arrive_bit_for_bit(code):
    array = np.arange(6).reshape(2, 3).T.astype(code)
    found = there([array, array[1, 1]])
    assert found[0].dtype == array.dtype and np.array_equal(found[0], array)
    assert type(found[1]) is type(array[1, 1]) and found[1] == array[1, 1]


def test_sets_and_dicts_keep_their_types_and_keys():
    value = [{1, "a"}, frozenset((2,)), {1: "x", (2, 3): {"y"}}]
    assert there(value) == value


def test_the_cases_of_every_exercise_arrive_as_they_are():
    for exercise in all_exercises().values():
        for case in exercise.draw(0):
            for value in (case.args, case.calls):
                found = there(value)
                assert same(found, value, rtol=0, atol=0) and pformat(found) == pformat(value), (exercise.id, case.label)


class AlwaysEqual:
    def __eq__(self, other):
        return True

    __hash__ = None


class EqualFloat(AlwaysEqual, float):
    pass


class EqualTensor(torch.Tensor):
    def __eq__(self, other):
        return torch.ones(self.shape, dtype=torch.bool)

    __hash__ = torch.Tensor.__hash__

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True if function is torch.Tensor.__eq__ else super().__torch_function__(function, types, args, kwargs or {})


class EqualArray(np.ndarray):
    def __eq__(self, other):
        return True


def test_an_object_with_its_own_equality_arrives_without_it():
    found = there([AlwaysEqual(), EqualFloat(2.5), torch.ones(2).as_subclass(EqualTensor), np.ones(2).view(EqualArray)])
    assert isinstance(found[0], Foreign) and found[0] != 1 and kind(found[0]) == "AlwaysEqual"
    assert found[1] == 2.5 and found[1] != 3.0 and kind(found[1]) == "EqualFloat"
    assert type(found[2]) is torch.Tensor and (found[2] == 2).tolist() == [False, False]
    assert type(found[3]) is np.ndarray and (found[3] == 2).tolist() == [False, False]


def test_what_is_not_plain_arrives_as_its_name():
    def generator():
        yield 1

    values = [generator(), len, object(), torch.ones(2).to_sparse(), np.array(["a"]), torch.ones(2, device="meta")]
    assert [kind(v) for v in there(values)] == [
        "generator", "builtin_function_or_method", "object", "sparse tensor", "NumPy array", "float32 tensor",
    ]  # fmt: skip


def test_subclasses_of_containers_keep_name_and_content():
    pair = collections.namedtuple("Pair", "a b")
    found = there([collections.Counter("aab"), pair(1, 2), collections.defaultdict(list, x=[1]), enum.IntEnum("E", "ONE").ONE])
    assert [kind(v) for v in found] == ["Counter", "tuple", "defaultdict", "E"]
    assert found[:3] == [{"a": 2, "b": 1}, (1, 2), {"x": [1]}] and found[3] == 1


def test_what_is_too_large_or_deep_is_not_sent(pair, monkeypatch):
    deep: list = []
    deep.append(deep)
    with pytest.raises(WireError, match="deeply"):
        send(pair[0], deep)
    monkeypatch.setattr(wire, "ARRAY_LIMIT", 100)
    with pytest.raises(WireError, match="more than can be sent"):
        send(pair[0], torch.ones(26))
    assert kind(there(2**5000)) == "int" and isinstance(there(2**5000), Foreign)


MERSENNE = 2**61 - 1  # all its multiples hash to 0


@pytest.mark.parametrize(
    "message, says",
    [
        ({"set": [MERSENNE * i for i in range(plain.KEYED + 1)]}, "entries"),
        ({"dict": [[MERSENNE * i, 0] for i in range(plain.KEYED + 1)]}, "entries"),
        ({"list": [{"set": [MERSENNE * i for i in range(plain.KEYED // 2)]} for _ in range(3)]}, "entries"),
        ({"frozenset": [{"tuple": [{"list": [{"frozenset": [MERSENNE * i]}]}]} for i in range(plain.KEYED)]}, "entries"),
        ({"dict": [[{"tuple": [0] * 100 + [i]}, 0] for i in range(plain.KEYED // 100)]}, "entries"),
        ({"of": ["Counter", {"dict": [[MERSENNE * i, 0] for i in range(plain.KEYED + 1)]}]}, "entries"),
        ({"list": [0] * plain.VALUES}, "parts"),
        ({"list": [{"tensor": ["float32", [0], [0], False]}] * (plain.VALUES // plain.ARRAY_VALUES)}, "parts"),
        ({"list": [{"array": ["float32", [0]]}] * (plain.VALUES // plain.ARRAY_VALUES)}, "parts"),
        ({"list": [{"foreign": f"A{i}"} for i in range(plain.CLASSES + 1)]}, "kinds"),
        ({"list": [{"of": [f"A{i}", i]} for i in range(plain.CLASSES + 1)]}, "kinds"),
    ],
    ids="set dict sets nested tuples counter long tensors arrays foreign of".split(),
)  # fmt: skip
def test_what_would_keep_the_judge_busy_is_turned_away(message, says):
    """Limits are on counts, so that no time is measured here: 150 000 keys that hash alike take minutes."""
    with pytest.raises(WireError, match=says):
        decoded(json.dumps(message).encode(), b"")


def test_the_limits_leave_room_for_an_ordinary_answer_and_hold_for_both_sides():
    keys = set(range(plain.KEYED))
    assert there(keys) == keys
    with pytest.raises(WireError, match="entries"):
        plain.encoded(keys | {"one more"})
    assert len(there([object() for _ in range(5000)])) == 5000
    one, other = there([AlwaysEqual(), AlwaysEqual()])
    assert type(one) is type(other), "objects of one kind have one class, however many there are"
    with pytest.raises(WireError, match="kinds"):
        plain.encoded([type(f"A{i}", (), {})() for i in range(plain.CLASSES + 1)])
    with pytest.raises(WireError, match="parts"):
        plain.encoded([0] * plain.VALUES)


def test_an_array_without_entries_is_described_in_a_few_words():
    for shape in ([67_108_864, 0], [2**21, 0], [2**11, 0, 2**10]):
        for message in (tensor(shape=shape, order=list(range(len(shape)))), {"array": ["float32", shape]}):
            with pytest.raises(WireError, match="larger"):
                decoded(json.dumps(message).encode(), b"")
    assert describe(torch.empty(67_108_864, 0)) == "float32 (67108864, 0): []"
    assert there(torch.empty(0, 768)).shape == (0, 768)
    assert describe(-(2**4000)) == "a whole number of 4001 bits", "and a long number as well"


def tensor(name="float32", shape=(2,), order=(0,), grad=False):
    return {"tensor": [name, shape, order, grad]}


@pytest.mark.parametrize(
    "message, data",
    [
        (tensor(shape=[2**40]), b""),
        (tensor(shape=[2**62, 2**62], order=[0, 1]), b""),
        (tensor(shape=[0, 2**60], order=[0, 1]), b""),
        (tensor(shape=[2**25, 0, 2**25, 2**25], order=[0, 1, 2, 3]), b""),
        (tensor(shape=[3]), bytes(8)),
        (tensor(shape=[1]), bytes(8)),
        (tensor(shape=[-1]), bytes(8)),
        (tensor(shape=[2.0]), bytes(8)),
        (tensor(shape=[True]), bytes(4)),
        (tensor(shape="2"), bytes(8)),
        (tensor(shape=[1] * 17, order=list(range(17))), bytes(4)),
        (tensor(order=[1]), bytes(8)),
        (tensor(order=[0, 0]), bytes(8)),
        (tensor(order=[False]), bytes(8)),
        (tensor(name="object"), bytes(8)),
        (tensor(name=["float32"]), bytes(8)),
        ({"tensor": []}, b""),
        ({"array": ["object", [1]]}, bytes(8)),
        ({"array": ["float64", [2**61]]}, bytes(8)),
        ({"number": ["float64", [2]]}, bytes(8)),
        ({"dict": [[{"list": []}, 1]]}, b""),
        ({"dict": [[1]]}, b""),
        ({"set": [{"list": []}]}, b""),
        ({"list": {}}, b""),
        ({"list": [], "tuple": []}, b""),
        ({"complex": ["1", 2.0]}, b""),
        ({"of": ["x", None]}, b""),
        ({"of": ["x"]}, b""),
        ({"foreign": ""}, b""),
        ({"foreign": 3}, b""),
        ({"eval": "1"}, b""),
        ([1], b""),
        ({}, b""),
        (None, b"more"),
        (10**2000, b""),
    ],
)  # fmt: skip
def test_a_message_that_lies_is_turned_away(message, data):
    with pytest.raises(WireError):
        decoded(json.dumps(message).encode(), data)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"9" * 5000, b"[" * 100_000, b'{"list":[' * 60 + b"1" + b"]}" * 60])
def test_a_text_that_is_no_message_is_turned_away(text):
    with pytest.raises(WireError):
        decoded(text, b"")


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_bytes_give_a_value_or_a_wire_error(text, data):
    with contextlib.suppress(WireError):
        decoded(text, data)


def test_a_byte_that_is_neither_0_nor_1_is_an_ordinary_true():
    text = json.dumps({"list": [tensor("bool", [2], [0]), {"array": ["bool", [2]]}]}).encode()
    found = decoded(text, bytes([2, 0, 255, 0]))
    assert torch.equal(found[0], torch.tensor([True, False])) and found[0].view(torch.uint8).tolist() == [1, 0]
    assert found[1].view(np.uint8).tolist() == [1, 0]


@pytest.mark.parametrize("lengths", [(wire.TEXT_LIMIT + 1, 0), (0, wire.ARRAY_LIMIT + 1), (2**32 - 1, 2**64 - 1)])
def test_a_frame_that_announces_too_much_is_turned_away_before_it_is_read(pair, lengths):
    pair[0].sendall(struct.pack("<IQ", *lengths))
    with pytest.raises(WireError, match="announced"):
        receive(pair[1], time.monotonic() + 5)


def test_a_side_that_closes_or_says_nothing_is_noticed(pair):
    pair[0].sendall(struct.pack("<IQ", 100, 0) + b"only so much")
    with pytest.raises(TimeoutError):
        receive(pair[1], time.monotonic() + 0.05)
    pair[0].close()
    with pytest.raises(EOFError):
        receive(pair[1], time.monotonic() + 5)


def test_a_side_that_takes_nothing_is_noticed(pair):
    with pytest.raises(TimeoutError):
        send(pair[0], torch.ones(4_000_000), time.monotonic() + 0.1)
    with pytest.raises(TimeoutError):
        send(pair[0], 1, time.monotonic() - 1)
