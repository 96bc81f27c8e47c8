"""Packed weights, and the modules that hold them: what is read back is exactly what the codes stand for."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.granularity import block_size, spread
from course_lib.quantization.affine import choose_affine, fake_quantize, quantize
from course_lib.quantization.codebook_weights import CodebookWeight, Nf4Weight, VectorWeight, empty_weight, quantized_weight
from course_lib.quantization.codebooks import dequantize_codebook, quantize_codebook
from course_lib.quantization.embedding import QuantizedEmbedding
from course_lib.quantization.nf4 import dequantize_nf4, quantize_nf4
from course_lib.quantization.packed_linear import CodebookLinear, Int4Linear, PackedLinear
from course_lib.quantization.scheme import Scheme, weight_bytes
from course_lib.quantization.vector import dequantize_vectors, quantize_vectors
from course_lib.quantization.weights import IntegerWeight, PackedWeight, of_rows

integer_schemes = st.builds(
    Scheme, bits=st.integers(2, 8), granularity=st.sampled_from(["tensor", "channel", 1, 2, 8]), symmetric=st.booleans()
)
codebook_schemes = st.one_of(
    st.builds(
        Scheme, bits=st.integers(2, 5), granularity=st.sampled_from(["tensor", "channel", 8]), codebook=st.just("kmeans")
    ),
    st.builds(Scheme, bits=st.just(4), granularity=st.sampled_from(["tensor", "channel", 8]), codebook=st.just("nf4")),
)
vector_schemes = st.builds(
    Scheme,
    bits=st.sampled_from([2, 4, 8]),
    granularity=st.just("tensor"),
    codebook=st.just("vectors"),
    size=st.sampled_from([2, 4]),
)
any_scheme = st.one_of(integer_schemes, codebook_schemes, vector_schemes)


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def stored_bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in module.state_dict().values())


# Integers


@given(integer_schemes, st.integers(1, 9), st.sampled_from([8, 16, 24]), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_an_integer_weight_reads_back_as_the_fake_quantized_one(scheme, rows, columns, by_rows, seed):
    w = matrix(rows, columns, seed)
    stored = quantized_weight(w, scheme, by_rows)
    scale, zero = choose_affine(w, scheme.bits, scheme.symmetric, scheme.granularity)
    block = block_size(w.shape, scheme.granularity)
    assert torch.equal(stored.codes(), quantize(w, scale, zero, scheme.bits, scheme.symmetric, block))
    assert torch.equal(stored.dequantize(), fake_quantize(w, scale, zero, scheme.bits, scheme.symmetric, block))
    assert not (stored.zero_codes() - (0 if scheme.symmetric else spread(zero, w.shape, block))).any()


@given(any_scheme, st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_its_bytes_are_those_of_the_formula_and_a_state_dict_carries_it(scheme, rows, seed):
    stored = quantized_weight(matrix(rows, 16, seed), scheme)
    assert stored_bytes(stored) == weight_bytes((rows, 16), scheme)
    other = empty_weight((rows, 16), scheme)
    other.load_state_dict(stored.state_dict())
    assert torch.equal(other.dequantize(), stored.dequantize())


@pytest.mark.parametrize("bits", range(2, 9))
def test_odd_shapes_are_packed_too(bits):
    w = matrix(3, 5)
    assert torch.equal(quantized_weight(w, Scheme(bits)).codes(), quantize(w, *choose_affine(w, bits, True, "channel"), bits))


@given(any_scheme, st.integers(2, 9), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_single_rows_are_those_of_the_whole(scheme, rows, seed):
    stored = quantized_weight(matrix(rows, 32, seed), scheme, by_rows=True)
    chosen = torch.tensor([rows - 1, 0, 0, rows // 2])
    assert torch.equal(stored.dequantize(chosen), stored.dequantize()[chosen])
    assert torch.equal(stored.codes(chosen), stored.codes()[chosen])


def test_constant_and_zero_weights_survive():
    for scheme in (Scheme(2), Scheme(4, symmetric=False), Scheme(4, 4, codebook="nf4"), Scheme(3, codebook="kmeans")):
        assert torch.equal(quantized_weight(torch.zeros(2, 8), scheme).dequantize(), torch.zeros(2, 8))
        torch.testing.assert_close(
            quantized_weight(torch.full((2, 8), 0.3), scheme).dequantize(), torch.full((2, 8), 0.3), rtol=2**-22, atol=0
        )


# Codebooks


@given(codebook_schemes, st.integers(1, 6), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_codebook_weight_reads_back_as_its_codes_and_levels(scheme, rows, by_rows, seed):
    w = matrix(rows, 16, seed)
    stored = quantized_weight(w, scheme, by_rows)
    if scheme.codebook == "nf4":
        codes, scale = quantize_nf4(w, scheme.granularity)
        expected = dequantize_nf4(codes, scale)
    else:
        codes, levels = quantize_codebook(w, scheme.bits, scheme.granularity)
        expected = dequantize_codebook(codes, levels)
    assert torch.equal(stored.codes(), codes)
    assert torch.equal(stored.dequantize(), expected)


@given(vector_schemes, st.integers(1, 6), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_vector_weight_reads_back_as_its_codewords(scheme, rows, by_rows, seed):
    w = matrix(rows, 32, seed)
    stored = quantized_weight(w, scheme, by_rows)
    codes, codewords = quantize_vectors(w, scheme.size, 2**scheme.bits)
    assert torch.equal(stored.codes(), codes)
    assert torch.equal(stored.dequantize(), dequantize_vectors(codes, codewords))
    if codes.numel() <= 2**scheme.bits:
        assert torch.equal(stored.dequantize(), w), "a codeword for each vector loses nothing"


@given(any_scheme, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_codes_of_zero_stand_for_what_is_nearest_to_it(scheme, seed):
    stored = quantized_weight(matrix(4, 16, seed), scheme)
    before = stored.dequantize().abs()
    stored.store(stored.zero_codes())
    zeros = stored.dequantize()
    if scheme.codebook in (None, "nf4"):
        assert not zeros.any()
    else:
        assert (zeros.norm() <= before.norm()).all()


def test_few_distinct_weights_are_kept_by_a_kmeans_codebook():
    w = torch.tensor([-1.5, 0.0, 0.25, 3.0])[torch.randint(0, 4, (6, 8), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(quantized_weight(w, Scheme(2, "tensor", codebook="kmeans")).dequantize(), w)


def test_a_kmeans_codebook_errs_less_than_the_uniform_grid_of_as_many_levels():
    w = matrix(32, 64)
    for bits in (2, 3, 4):
        ours, uniform = (quantized_weight(w, Scheme(bits, "tensor", codebook=kind)).dequantize() for kind in ("kmeans", None))
        assert (ours - w).square().sum() < (uniform - w).square().sum()


# Modules


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        (Scheme(4, 8), Int4Linear),
        (Scheme(3, 8, symmetric=False), PackedLinear),
        (Scheme(3, "tensor", codebook="kmeans"), CodebookLinear),
        (Scheme(4, 8, codebook="nf4"), CodebookLinear),
        (Scheme(4, "tensor", codebook="vectors", size=2), CodebookLinear),
    ],
    ids=str,
)
def test_a_packed_linear_layer_computes_with_the_unpacked_weight(scheme, kind, bias):
    linear, x = nn.Linear(16, 5, bias), matrix(7, 16).view(1, 7, 16).requires_grad_()
    packed = kind.from_float(linear, scheme)
    weight = quantized_weight(linear.weight.detach(), scheme).dequantize()
    out = packed(x)
    assert torch.equal(out, F.linear(x, weight, linear.bias))
    out.sum().backward()
    off = (x.grad.double() - weight.double().sum(0)).abs()  # the sum of a column of 5, in another order
    assert (off <= 5 * torch.finfo(torch.float32).eps * weight.abs().sum(0)).all(), "gradients pass to the input"
    assert packed(x.double()).dtype == torch.float64
    assert f"in_features=16, out_features=5, {scheme}" in repr(packed)


@pytest.mark.parametrize(
    "scheme", [Scheme(), Scheme(4), Scheme(2, 8, symmetric=False), Scheme(3, "tensor"), Scheme(4, 8, codebook="nf4")], ids=str
)
def test_an_embedding_gives_the_rows_of_the_unpacked_table(scheme):
    table = nn.Embedding(11, 24, padding_idx=0)
    quantized = QuantizedEmbedding.from_float(table, scheme)
    ids = torch.tensor([[3, 0, 10], [3, 3, 1]])
    assert torch.equal(quantized(ids), quantized.weight.dequantize()[ids])
    assert quantized(ids.int()).shape == (2, 3, 24)
    assert quantized(ids[:0]).shape == (0, 3, 24)
    assert f"11, 24, {scheme}" in repr(quantized)


@pytest.mark.parametrize("wrong", [11, -1])
def test_ids_out_of_range_are_an_error(wrong):
    quantized = QuantizedEmbedding.from_float(nn.Embedding(11, 24), Scheme())
    with pytest.raises((IndexError, RuntimeError), match=r"out of range"):
        quantized(torch.tensor([wrong]))


# Bad input


@pytest.mark.parametrize(
    ("weight", "scheme", "message"),
    [
        (torch.zeros(2, 6), Scheme(4, 4), "granularity = .*expected numbers that divide the shape"),
        (torch.zeros(2, 8, dtype=torch.int8), Scheme(), "x = torch.int8: expected a floating-point tensor"),
        (torch.zeros(0, 8), Scheme(), "at least one entry"),
        (torch.full((2, 8), float("nan")), Scheme(), "finite"),
        (torch.full((2, 8), float("inf")), Scheme(4, 4, codebook="nf4"), "finite"),
        (torch.full((2, 8), float("nan")), Scheme(3, codebook="kmeans"), "finite"),
        (torch.zeros(0, 8), Scheme(3, codebook="kmeans"), "at least one"),
        (torch.zeros(2, 6), Scheme(4, "tensor", codebook="vectors", size=4), "size = 4: expected a number that divides"),
    ],
)
def test_weights_that_cannot_be_quantized_are_named(weight, scheme, message):
    with pytest.raises(ValueError, match=message):
        quantized_weight(weight, scheme)


def test_codes_and_levels_that_do_not_fit_are_named():
    ones = torch.ones(2, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"codes = .*uint8.*expected a matrix of torch.int8"):
        IntegerWeight.from_codes(ones, torch.ones(2), None, Scheme())
    with pytest.raises(ValueError, match=r"scale = \(3,\): expected 2 numbers"):
        IntegerWeight.from_codes(ones.to(torch.int8), torch.ones(3), None, Scheme())
    with pytest.raises(ValueError, match=r"zero_point = None: expected 2 integers"):
        IntegerWeight.from_codes(ones, torch.ones(2), None, Scheme(symmetric=False))
    with pytest.raises(ValueError, match=r"codes = .*numbers from -8 to 7 for 4 bits"):
        IntegerWeight.from_codes(ones.to(torch.int8) * 8, torch.ones(2), None, Scheme(4))
    kmeans, nf4 = Scheme(2, "tensor", codebook="kmeans"), Scheme(4, codebook="nf4")
    vectors = Scheme(2, "tensor", codebook="vectors", size=4)
    for kind, scheme, numbers in ((CodebookWeight, kmeans, 4), (Nf4Weight, nf4, 2), (VectorWeight, vectors, 16)):
        kind.from_codes(ones, torch.ones(numbers), scheme)
        with pytest.raises(ValueError, match=r"codes = .*int8.*expected a matrix of torch.uint8"):
            kind.from_codes(ones.to(torch.int8), torch.ones(numbers), scheme)
        with pytest.raises(ValueError, match=r"(codebook|scale|codewords) = \(17,\): expected"):
            kind.from_codes(ones, torch.ones(17), scheme)
    with pytest.raises(ValueError, match=r"codes = .4 to 4.: expected numbers from 0 to 3 for 2 bits"):
        CodebookWeight.from_codes(ones * 4, torch.ones(4), kmeans)


def test_rows_that_cannot_be_read_alone_are_refused():
    with pytest.raises(ValueError, match=r"bits = 3: expected bits with which a row of 12 fills whole bytes"):
        QuantizedEmbedding(5, 12, Scheme(3))
    with pytest.raises(ValueError, match=r"granularity = .*expected blocks within one row, or of all rows"):
        QuantizedEmbedding(4, 8, Scheme(4, (2, 8)))
    with pytest.raises(ValueError, match=r"rows = .*expected None"):
        quantized_weight(matrix(2, 8), Scheme(4)).codes(torch.tensor([0]))


def test_integer_activations_are_not_for_these_modules():
    with pytest.raises(ValueError, match=r"scheme = .*expected float activations"):
        PackedLinear(8, 8, Scheme(activation="dynamic"))
    with pytest.raises(ValueError, match=r"an embedding reads ids"):
        QuantizedEmbedding(8, 8, Scheme(activation="dynamic"))


def test_layers_take_weights_whose_codes_somebody_else_chose():
    weight, bias = IntegerWeight.from_float(matrix(6, 16), Scheme(4)), torch.arange(6.0)
    by_rows = IntegerWeight.from_float(matrix(6, 16), Scheme(4), by_rows=True)
    layer, table = PackedLinear.from_weight(weight, bias), QuantizedEmbedding.from_weight(by_rows)
    assert layer.weight is weight and torch.equal(layer.bias, bias) and table.weight is by_rows
    assert torch.equal(table(torch.tensor([4, 0])), weight.dequantize()[[4, 0]])
    assert layer.extra_repr() == f"in_features=16, out_features=6, {Scheme(4)}" and table.extra_repr() == f"6, 16, {Scheme(4)}"


def test_codes_that_are_stored_are_read_back_whole_and_by_rows():
    codes = torch.randint(0, 8, (5, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = PackedWeight((5, 16), Scheme(3, symmetric=False), by_rows=True)
    packed.store(codes)
    assert torch.equal(packed.codes() & 7, codes & 7)
    assert torch.equal(packed.codes(torch.tensor([3, 1])), packed.codes()[[3, 1]])


def test_values_of_rows_are_picked_unless_one_block_has_all_rows():
    values = torch.arange(6.0).view(3, 2)
    assert torch.equal(of_rows(values, torch.tensor([2, 0])), values[[2, 0]])
    assert of_rows(values, None) is values
    assert torch.equal(of_rows(values[:1], torch.tensor([2, 0])), values[:1])
