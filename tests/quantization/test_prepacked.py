"""oneDNN's product with a weight laid out once gives the exact sums, rounded once and scaled; or it is not used."""

import copy
import os
import pickle
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.quantization import prepacked as module
from course_lib.quantization.linear import Int8Linear
from course_lib.quantization.prepacked import prepack, prepacked_is_exact, prepacked_matmul
from course_lib.quantization.scheme import Scheme

DYNAMIC = Scheme(activation="dynamic")


def codes(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


@given(
    m=st.integers(1, 40),
    k=st.integers(1, 80),
    n=st.integers(1, 40),
    zero=st.integers(-128, 127),
    shared=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_exact_sum_rounded_once_times_the_scale(m, k, n, zero, shared, seed):
    a, w = codes((m, k), seed), codes((n, k), seed + 1)
    scale = torch.rand(1 if shared else n, generator=torch.Generator().manual_seed(seed)) + 0.5
    packed = prepack(w)
    assert (packed is None) == (not prepacked_is_exact())
    if packed is not None:
        exact = (a.double() - zero) @ w.double().t()
        assert torch.equal(prepacked_matmul(a, zero, packed, scale), exact.float() * scale)


@pytest.mark.parametrize("scheme", [DYNAMIC, Scheme(activation="static"), Scheme(4, "tensor", activation="dynamic")], ids=str)
def test_a_layer_gives_the_same_with_it_and_without(scheme, monkeypatch):
    linear, x = nn.Linear(40, 24), torch.randn(300, 40)
    make = lambda: Int8Linear.from_float(linear, scheme, (x.min(), x.max()) if scheme.activation == "static" else None)  # noqa: E731
    whole = make()(x)
    monkeypatch.setattr(module, "prepacked_is_exact", lambda: False)
    without = make()
    assert torch.equal(without(x), whole)
    assert without._prepacked is False


def test_new_codes_copies_and_pickles_get_a_layout_of_their_own():
    x = torch.randn(9, 40)
    layer, other = (Int8Linear.from_float(nn.Linear(40, 24), DYNAMIC) for _ in range(2))
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._prepacked is None
        assert torch.equal(twin(x), layer(x))
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))
    layer.store(layer.zero_codes())
    assert torch.equal(layer(x), layer.bias.expand(9, 24))


def test_a_layout_made_in_inference_mode_serves_outside_of_it():
    layer, x = Int8Linear.from_float(nn.Linear(40, 24), DYNAMIC).eval(), torch.randn(9, 40, requires_grad=True)
    with torch.inference_mode():
        whole = layer(x.detach())
    assert torch.equal(layer(x), whole)


def test_it_is_not_used_where_it_is_missing_or_wrong(monkeypatch):
    prepacked_is_exact()
    for wrong in (lambda a, z, w, s: torch.zeros(len(a), 64), lambda a, z, w, s: torch.ops.onednn.no_such_operator(a)):
        monkeypatch.setattr(module, "prepacked_matmul", wrong)
        assert not prepacked_is_exact.__wrapped__()
    assert prepack(codes((4, 4), 0).view(torch.uint8)) is None
    assert prepack(codes((0, 4), 0)) is None


def test_it_is_not_trusted_where_fewer_instructions_make_it_saturate():
    """Where oneDNN is told to do without VNNI the layer's output stays that of the exact sums."""
    code = (
        "import torch; from course_lib.quantization.linear import Int8Linear\n"
        "from course_lib.quantization.scheme import Scheme\n"
        "for k in (40, 768):\n"
        "    w, x = torch.full((64, k), 127, dtype=torch.int8), torch.full((33, k), 127.0)\n"
        "    layer = Int8Linear.from_codes(w, torch.ones(64), None, None, Scheme(activation='dynamic'))\n"
        "    assert (layer(x) == 127 * 127 * k).all()\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_it_takes_the_processors_instructions_and_not_onednns_reference():
    """Of two int8 tensors oneDNN has a kernel with AMX alone; elsewhere its reference takes thousands of times as long."""
    a, w = codes((160, 384), 0), codes((1536, 384), 1)
    packed = prepack(w)
    if packed is None:
        assert not prepacked_is_exact()
        return
    scale = torch.ones(1536)

    def fastest(run) -> float:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    for zero in (0, 5):
        ours, plain = (
            fastest(lambda zero=zero: prepacked_matmul(a, zero, packed, scale)),
            fastest(lambda: torch._int_mm(a, w.t())),
        )
        assert ours < 50 * plain, (zero, ours, plain)
