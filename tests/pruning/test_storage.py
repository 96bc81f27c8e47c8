"""Sparse formats: back to the same matrix, each as large as its formula says, and paying from the density the formula names."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from course_lib.pruning.masks import n_m_mask
from course_lib.pruning.storage import Bitmask, Coo, Csr, TwoFour, encode_bitmask, encode_coo, encode_csr, encode_two_four
from course_lib.pruning.storage_bytes import (
    bitmask_break_even,
    bitmask_bytes,
    coo_break_even,
    coo_bytes,
    csr_beats_bitmask,
    csr_break_even,
    csr_bytes,
    dense_bytes,
    index_dtype,
    two_four_bytes,
)

FORMATS = {"coo": (encode_coo, coo_bytes), "csr": (encode_csr, csr_bytes), "bitmask": (encode_bitmask, bitmask_bytes)}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.bool]


def sparse(rows: int, columns: int, density: float, seed: int = 0) -> torch.Tensor:
    """A matrix with exactly round(density·n) nonzeros in random places."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.zeros(rows * columns)
    places = torch.randperm(rows * columns, generator=generator)[: round(density * rows * columns)]
    w[places] = torch.randn(len(places), generator=generator).abs() + 0.1
    return w.view(rows, columns)


@st.composite
def matrices(draw, multiple: int = 1) -> torch.Tensor:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 5)) * multiple
    numbers = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(numbers).view(rows, columns).to(draw(st.sampled_from(DTYPES)))


@settings(deadline=None)
@given(matrices(), st.sampled_from(list(FORMATS)))
def test_a_matrix_comes_back_and_takes_the_bytes_of_the_formula(w, name):
    encode, size = FORMATS[name]
    stored = encode(w)
    back = stored.decode()
    assert torch.equal(back, w) and back.dtype == w.dtype
    assert stored.stored_bytes == size(tuple(w.shape), int((w != 0).sum()), w.element_size())


@settings(deadline=None)
@given(matrices(multiple=4))
def test_two_of_four_come_back_and_take_the_bytes_of_the_formula(w):
    w = w * n_m_mask(w.float(), 2, 4).to(w.dtype)
    stored = encode_two_four(w)
    back = stored.decode()
    assert torch.equal(back, w) and back.dtype == w.dtype
    assert stored.stored_bytes == two_four_bytes(tuple(w.shape), w.element_size())


@pytest.mark.parametrize("name", list(FORMATS))
def test_views_full_and_empty_matrices_and_odd_numbers_come_back(name):
    encode, _ = FORMATS[name]
    w = sparse(40, 300, 0.2)
    assert torch.equal(encode(w.t()).decode(), w.t())
    assert torch.equal(encode(w[:, ::3]).decode(), w[:, ::3])
    for whole in (torch.zeros(3, 5), torch.ones(3, 5), torch.nn.Parameter(torch.ones(2, 2))):
        assert torch.equal(encode(whole).decode(), whole.detach())
    odd = torch.tensor([[math.inf, -0.0, 1e-45]])  # −0 is a zero, the smallest subnormal is none
    assert torch.equal(encode(odd).decode(), odd) and len(encode(odd).values) == 2
    assert len(encode(odd.bfloat16()).values) == 1, "1e-45 is 0 in bfloat16, and −0 is a zero there too"
    assert encode(torch.tensor([[math.nan, 0.0]])).decode()[0, 0].isnan()


def test_two_of_four_of_a_transposed_view():
    w = sparse(8, 12, 1.0).t()
    w = w * n_m_mask(w, 2, 4)
    assert torch.equal(encode_two_four(w.t().contiguous().t()).decode(), w)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_file_is_as_large_as_the_formula_and_its_header(tmp_path, name):
    encode, size = FORMATS[name]
    w = sparse(700, 300, 0.1)
    stored = encode(w)
    tensors = {k: v for k, v in vars(stored).items() if isinstance(v, torch.Tensor)}
    save_file(tensors, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    assert len(content) == 8 + int.from_bytes(content[:8], "little") + size((700, 300), 21_000)


@pytest.mark.parametrize("shape", [(768, 768), (256, 3072), (2000, 200)])
@pytest.mark.parametrize("value_bytes", [1, 2, 4])
def test_formats_pay_below_their_break_even_density_and_not_above(shape, value_bytes):
    """At the density itself sizes are equal; one more or one less nonzero decides (a bitmask's last byte too: n is a multiple of 8)."""
    entries = shape[0] * shape[1]
    assert entries % 8 == 0
    dense = dense_bytes(shape, value_bytes)
    cases = [
        (coo_break_even(shape, value_bytes), lambda k: coo_bytes(shape, k, value_bytes), lambda k: dense),
        (csr_break_even(shape, value_bytes), lambda k: csr_bytes(shape, k, value_bytes), lambda k: dense),
        (bitmask_break_even(value_bytes), lambda k: bitmask_bytes(shape, k, value_bytes), lambda k: dense),
        (
            csr_beats_bitmask(shape),
            lambda k: csr_bytes(shape, k, value_bytes),
            lambda k: bitmask_bytes(shape, k, value_bytes),
        ),
    ]
    for density, ours, other in cases:
        assert 0 < density < 1
        below, above = math.ceil(density * entries) - 1, math.floor(density * entries) + 1
        assert ours(below) < other(below) and ours(above) > other(above)


def test_a_break_even_holds_whatever_the_width_of_the_pointers():
    """Fewer than 32 768 nonzeros: pointers of two bytes; a matrix of two columns has no density at which CSR pays."""
    assert csr_bytes((100, 200), 10_000) == 10_000 * 5 + 101 * 2
    density = csr_break_even((100, 200))
    assert (
        csr_bytes((100, 200), int(density * 20_000))
        <= dense_bytes((100, 200))
        < csr_bytes((100, 200), int(density * 20_000) + 1)
    )
    assert csr_break_even((1000, 1), value_bytes=1) < 0


@pytest.mark.parametrize("value_bytes", [1, 2, 4])
def test_two_of_four_takes_what_a_bitmask_takes_at_half_density(value_bytes):
    assert two_four_bytes((64, 64), value_bytes) == bitmask_bytes((64, 64), 64 * 64 // 2, value_bytes)


@pytest.mark.oracles
@pytest.mark.filterwarnings("ignore:Sparse")  # torch calls its own format beta
def test_scipy_and_torch_keep_the_same_values_columns_and_pointers():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    w = sparse(300, 500, 0.15)
    csr, coo = encode_csr(w), encode_coo(w)
    theirs = scipy_sparse.csr_matrix(w.numpy())
    assert (csr.values.numpy() == theirs.data).all()
    assert (csr.columns.numpy() == theirs.indices).all() and (csr.pointers.numpy() == theirs.indptr).all()
    torchs = w.to_sparse_coo().coalesce()
    assert torch.equal(torch.stack([coo.rows, coo.columns]).long(), torchs.indices())
    assert torch.equal(coo.values, torchs.values())
    rebuilt = torch.sparse_csr_tensor(csr.pointers.long(), csr.columns.long(), csr.values, csr.shape)
    assert torch.equal(rebuilt.to_dense(), w)


@pytest.mark.parametrize("encode", [encode_coo, encode_csr, encode_bitmask, encode_two_four])
@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 2, 4)])
def test_what_is_no_matrix_is_refused(encode, shape):
    with pytest.raises(ValueError, match=r"w = \(.*\): expected a matrix \(rows, columns\) with at least one entry"):
        encode(torch.ones(shape))


def test_a_matrix_that_is_not_two_of_four_is_refused():
    with pytest.raises(ValueError, match="w = '2 groups of four with more than two nonzeros': expected at most two"):
        encode_two_four(torch.tensor([[1.0, 1, 1, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"w = \(2, 6\): expected a number of columns that is a multiple of 4"):
        encode_two_four(torch.zeros(2, 6))


@pytest.mark.parametrize("size", [coo_bytes, csr_bytes, bitmask_bytes])
@pytest.mark.parametrize("nonzeros", [-1, 13])
def test_more_nonzeros_than_entries_are_refused(size, nonzeros):
    with pytest.raises(ValueError, match=rf"nonzeros = {nonzeros}: expected between 0 and 3·4"):
        size((3, 4), nonzeros)


@pytest.mark.parametrize("count", [1, 256, 257, 2**15, 2**15 + 1, 2**31, 2**31 + 1])
def test_the_chosen_width_holds_the_largest_number_and_the_next_narrower_does_not(count):
    widths = [torch.uint8, torch.int16, torch.int32, torch.int64]
    chosen = widths.index(index_dtype(count))
    assert count - 1 <= torch.iinfo(widths[chosen]).max
    assert chosen == 0 or count - 1 > torch.iinfo(widths[chosen - 1]).max


def test_the_parts_of_each_format_can_be_read():
    """The same matrix four times, written out."""
    w = torch.tensor([[0.0, 5.0, 0.0, 7.0], [0.0, 0.0, 3.0, 0.0]])
    coo, csr, bits, pairs = encode_coo(w), encode_csr(w), encode_bitmask(w), encode_two_four(w)
    assert [type(s) for s in (coo, csr, bits, pairs)] == [Coo, Csr, Bitmask, TwoFour]
    assert (coo.rows.tolist(), coo.columns.tolist(), coo.values.tolist()) == ([0, 0, 1], [1, 3, 2], [5, 7, 3])
    assert (csr.pointers.tolist(), csr.columns.tolist()) == ([0, 2, 3], [1, 3, 2])
    assert bits.bits.tolist() == [0b0100_1010]
    assert torch.equal(pairs.decode(), w) and len(pairs.values) == 4
