"""The integer product is exact: whatever the shape, the codes, the zero points and the machine."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.quantization import int_matmul as module
from course_lib.quantization.int_matmul import centred_matmul, int_matmul, int_mm_is_exact, to_int8

sizes = st.integers(0, 40)
seeds = st.integers(0, 2**31)


def codes(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Random codes over the whole range of the type."""
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    return torch.randint(low, high, shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def exact(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.double() @ b.double()


@given(m=sizes, k=sizes, n=sizes, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_it_equals_the_float64_product_of_the_codes(m, k, n, seed):
    a, b = codes((m, k), torch.int8, seed), codes((k, n), torch.int8, seed + 1)
    product = int_matmul(a, b)
    assert product.dtype == torch.int32
    assert torch.equal(product.double(), exact(a, b))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rows", [1, 17, 64])
def test_it_equals_it_for_the_largest_codes_where_16_bit_sums_would_saturate(rows, sign):
    a, b = torch.full((rows, 3072), 127, dtype=torch.int8), torch.full((3072, 24), 127 * sign, dtype=torch.int8)
    assert (int_matmul(a, b) == sign * 127 * 127 * 3072).all()


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_an_inner_dimension_of_one_is_exact_too(rows):
    """torch 2.13's kernel is not there."""
    a, b = codes((rows, 1), torch.int8, 0), codes((1, 9), torch.int8, 1)
    assert torch.equal(int_matmul(a, b).double(), exact(a, b))


def test_strides_do_not_matter():
    a, b = codes((30, 40), torch.int8, 0), codes((50, 40), torch.int8, 1)
    for left, right in ((a, b.t()), (a[::2, ::2], b.t()[::2]), (a.t()[:20], b.t()[:30])):
        assert not right.is_contiguous() or not left.is_contiguous()
        assert torch.equal(int_matmul(left, right).double(), exact(left, right))


@given(
    m=st.integers(1, 20),
    k=st.integers(1, 40),
    n=st.integers(1, 20),
    seed=seeds,
    types=st.tuples(*[st.sampled_from([torch.int8, torch.uint8])] * 2),
    zeros=st.tuples(st.booleans(), st.booleans()),
)
@settings(max_examples=80, deadline=None)
def test_the_zero_point_corrections_equal_the_float64_product_of_the_centred_codes(m, k, n, seed, types, zeros):
    a, b = codes((m, k), types[0], seed), codes((k, n), types[1], seed + 1)
    a_zero = codes((m, 1), types[0], seed + 2).int() if zeros[0] else None
    b_zero = codes((1, n), types[1], seed + 3).int().view(-1) if zeros[1] else None
    centred = a.double() - (0 if a_zero is None else a_zero), b.double() - (0 if b_zero is None else b_zero)
    expected = exact(*centred)
    assert torch.equal(centred_matmul(a, a_zero, b, b_zero).double(), expected)
    sums = to_int8(b, None)[0].sum(0, dtype=torch.int32)
    assert torch.equal(centred_matmul(a, a_zero, b, b_zero, sums).double(), expected)


def test_sums_that_pass_32_bits_on_the_way_come_back():
    """K·z_m·z_n and Σ a·b each are near 2³¹, their difference is 0."""
    k = 33000
    a, b = torch.full((1, k), 255, dtype=torch.uint8), torch.full((k, 1), 255, dtype=torch.uint8)
    assert centred_matmul(a, torch.tensor(255), b, torch.tensor([255])).item() == 0
    assert centred_matmul(a, torch.tensor(0), b, torch.tensor([0])).item() == 255 * 255 * k


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_moving_codes_to_int8_changes_no_difference(seed):
    x, zero = codes((5, 5), torch.uint8, seed), codes((5, 1), torch.uint8, seed + 1).int()
    moved, moved_zero = to_int8(x, zero)
    assert moved.dtype == torch.int8
    assert torch.equal(moved.int() - moved_zero, x.int() - zero)


def test_int8_codes_are_left_as_they_are():
    x, zero = codes((2, 2), torch.int8, 0), torch.tensor(3, dtype=torch.int32)
    assert to_int8(x, zero) == (x, zero)


# Machines


def test_without_the_kernel_the_result_is_the_same(monkeypatch):
    a, b = codes((20, 30), torch.int8, 0), codes((30, 10), torch.int8, 1)
    expected = exact(a, b)
    monkeypatch.setattr(module, "int_mm_is_exact", lambda device: False)
    assert torch.equal(int_matmul(a, b).double(), expected)
    with torch.autocast("cpu", torch.bfloat16):  # would round the products of float32 matrices
        assert torch.equal(int_matmul(a, b).double(), expected)


def test_shapes_that_the_kernel_refuses_fall_back(monkeypatch):
    def refuses(a, b):
        raise RuntimeError("self.size(0) needs to be greater than 16")

    a, b = codes((3, 30), torch.int8, 0), codes((30, 10), torch.int8, 1)
    int_mm_is_exact(a.device)
    monkeypatch.setattr(torch, "_int_mm", refuses)
    assert torch.equal(int_matmul(a, b).double(), exact(a, b))


@pytest.mark.parametrize("kernel", ["saturating", "missing", "right"])
def test_the_kernel_is_trusted_only_where_it_is_exact(monkeypatch, kernel):
    def saturating(a, b):  # what x86 without VNNI does: a moved to 0 … 255, pairs of products in 16 bits
        pairs = (a.int() + 128).unsqueeze(-1) * b.int()
        sums = pairs.view(len(a), -1, 2, b.shape[1]).sum(2).clamp(-(2**15), 2**15 - 1).sum(1)
        return (sums - 128 * b.sum(0)).int()

    if kernel == "missing":
        monkeypatch.delattr(torch, "_int_mm")
    else:
        right = lambda a, b: (a.double() @ b.double()).int()  # noqa: E731
        monkeypatch.setattr(torch, "_int_mm", saturating if kernel == "saturating" else right)
    assert int_mm_is_exact.__wrapped__(torch.device("cpu")) == (kernel == "right")


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_it_is_exact_with_fewer_instructions_too(instructions):
    """oneDNN can be told to do without VNNI; there its int8 kernels saturate (where it is not used, nothing changes)."""
    code = (
        "import torch; from course_lib.quantization.int_matmul import int_matmul\n"
        "for m in (1, 5, 40):\n"
        "    a, b = (torch.randint(-128, 128, s, dtype=torch.int8) for s in ((m, 256), (256, 24)))\n"
        "    for left, right in ((a, b), (a * 0 + 127, b * 0 + 127), (a * 0 + 127, b * 0 - 127)):\n"
        "        assert torch.equal(int_matmul(left, right).double(), left.double() @ right.double()), m\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# Bad input


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.int8), "a = .*float32.*expected an int8 matrix"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.zeros(3, 2, dtype=torch.uint8), "b = .*uint8.*expected an int8 matrix"),
        (torch.zeros(3, dtype=torch.int8), torch.zeros(3, 2, dtype=torch.int8), "a = .*expected an int8 matrix"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.zeros(4, 2, dtype=torch.int8), r"b = \(4, 2\): expected 3 rows"),
        (torch.zeros(1, 2**17, dtype=torch.int8), torch.zeros(2**17, 1, dtype=torch.int8), "131 071 columns"),
    ],
)
def test_bad_input_is_named(a, b, message):
    with pytest.raises(ValueError, match=message):
        int_matmul(a, b)


def test_centred_sums_that_may_not_fit_32_bits_are_refused():
    a, b = torch.zeros(1, 33100, dtype=torch.uint8), torch.zeros(33100, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"at most 33,025 columns"):
        centred_matmul(a, torch.tensor(1), b, torch.tensor([1]))
