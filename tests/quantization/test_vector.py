"""Vector quantization: lossless with a codeword for each sub-vector, Lloyd's steps never worse, the same as scikit-learn's."""

import itertools

import pytest
import torch

from course_lib.quantization.vector import dequantize_vectors, lloyd_vectors, nearest, quantize_vectors, vector_bytes


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error_of(vectors, codewords) -> float:
    return float((vectors.double() - codewords.double()[nearest(vectors, codewords)[0]]).square().sum())


@pytest.mark.parametrize("shared, needed", [(True, 24), (False, 6)])
def test_as_many_codewords_as_sub_vectors_lose_nothing(shared, needed):
    x = normal(6, 12)
    for count in (needed, needed + 5):
        codes, codewords = quantize_vectors(x, 3, count, shared)
        assert codes.shape == (6, 4) and codes.dtype == torch.uint8
        assert codewords.shape == (1 if shared else 4, count, 3)
        assert torch.equal(dequantize_vectors(codes, codewords), x)


def test_repeated_sub_vectors_need_one_codeword_each():
    x = normal(2, 4).repeat(5, 3)  # 4 distinct sub-vectors in 30
    assert torch.equal(dequantize_vectors(*quantize_vectors(x, 2, 4)), x)


@pytest.mark.parametrize("shared", [True, False])
def test_each_code_is_the_nearest_codeword_of_its_codebook(shared):
    x = normal(40, 12, seed=1)
    codes, codewords = quantize_vectors(x, 4, 7, shared)
    for r, p in itertools.product(range(40), range(3)):
        distance = (x[r, 4 * p : 4 * p + 4].double() - codewords[0 if shared else p].double()).square().sum(dim=1)
        # ‖c‖²/2 − v·c in float32: a few roundings of numbers below 50
        assert distance[codes[r, p].long()] <= distance.min() + 1e-5
    assert torch.equal(dequantize_vectors(codes, codewords)[5, 4:8], codewords[0 if shared else 1, codes[5, 1].long()])


def test_no_step_raises_the_error_and_a_codebook_for_each_position_fits_better():
    vectors = normal(2000, 4, seed=2) ** 3
    codewords, errors = vectors[:32], []
    for _ in range(30):
        errors.append(error_of(vectors, codewords))
        codewords = lloyd_vectors(vectors, codewords, iterations=1)
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(errors)), "but for codewords kept in float32"
    assert errors[-1] < 0.8 * errors[0]
    x = normal(300, 8, seed=3) * torch.tensor([1.0, 5.0]).repeat_interleave(4)
    one, each = ((dequantize_vectors(*quantize_vectors(x, 4, 16, s)) - x).square().sum() for s in (True, False))
    assert each < one


def test_a_codeword_without_vectors_goes_to_the_worst_served_vector():
    vectors = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]])
    start = torch.tensor([[0.0, 0.0], [50.0, 50.0]])
    assert lloyd_vectors(vectors, start, iterations=10).tolist() == [[pytest.approx(0.05), 0.0], [9.0, 9.0]]


def test_the_same_seed_gives_the_same_codebook_and_sub_vectors_of_one_are_numbers():
    x = normal(50, 8, seed=4)
    for size in (1, 2):
        first, second, other = (quantize_vectors(x, size, 8, seed=s) for s in (1, 1, 2))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        assert not torch.equal(first[1], other[1])


def test_views_and_other_float_types_give_what_their_copies_give():
    x = normal(12, 16, seed=5)
    for view in (x.t(), x[::2, ::2], x.double()):
        codes, codewords = quantize_vectors(view, 2, 5)
        copied, same = quantize_vectors(view.clone().float().contiguous(), 2, 5)
        assert torch.equal(codes, copied) and torch.equal(codewords, same)


def test_constant_and_zero_matrices_come_back_exactly():
    for x in (torch.zeros(3, 4), torch.full((3, 4), 0.3)):
        assert torch.equal(dequantize_vectors(*quantize_vectors(x, 2, 2)), x)


def test_bytes_count_packed_codes_and_codewords():
    codes, codewords = quantize_vectors(normal(10, 6, seed=6), 2, 5)
    assert vector_bytes(codes, codewords) == -(-30 * 3 // 8) + 4 * 5 * 2  # 5 codewords take 3 bits


@pytest.mark.oracles
def test_lloyd_is_that_of_scikit_learn_from_the_same_start():
    cluster = pytest.importorskip("sklearn.cluster")
    vectors = normal(3000, 4, seed=7)
    start = vectors[:16].clone()
    theirs = cluster.KMeans(16, init=start.double().numpy(), n_init=1, max_iter=10, tol=0, algorithm="lloyd")
    theirs.fit(vectors.double().numpy())
    ours = error_of(vectors, lloyd_vectors(vectors, start, iterations=10))
    # Codewords in float32 and near-ties that go the other way change the error in its seventh digit a step.
    assert abs(ours - theirs.inertia_) <= 10 * 1e-5 * theirs.inertia_


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: quantize_vectors(x, 3, 4), r"size = 3: expected a number that divides the 8 columns"),
        (lambda x: quantize_vectors(x, 0, 4), r"size = 0"),
        (lambda x: quantize_vectors(x, 2, 1), r"count = 1: expected 2 to 256 codewords"),
        (lambda x: quantize_vectors(x, 2, 257), r"count = 257"),
        (lambda x: quantize_vectors(x, 2, 4, iterations=-1), r"iterations = -1"),
        (lambda x: quantize_vectors(x.int(), 2, 4), r"x = .*expected a matrix of floats"),
        (lambda x: quantize_vectors(x[0], 2, 4), r"x = .*expected a matrix of floats"),
        (lambda x: quantize_vectors(x[:0], 2, 4), r"x = .*expected a matrix of floats"),
        (lambda x: quantize_vectors(x * float("nan"), 2, 4), r"x = 'NaN or Inf': expected finite numbers"),
        (lambda x: dequantize_vectors(x, torch.ones(1, 4, 2)), r"codes = .*expected a matrix of integers"),
        (lambda x: dequantize_vectors(x.byte() + 4, torch.ones(1, 4, 2)), r"codes = 5: expected numbers below 4"),
        (lambda x: dequantize_vectors(x.byte(), torch.ones(3, 4, 2)), r"codewords = \(3, 4, 2\): expected 1 or 8 codebooks"),
    ],
)  # fmt: skip
def test_what_has_no_codewords_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.linspace(0, 1, 16).view(2, 8))
