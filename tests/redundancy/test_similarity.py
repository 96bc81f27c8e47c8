"""CKA: 1 for a turned copy, the same as by centred Gram matrices, streamed or whole, and padding has no say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from redundant_models import batches, real_batches, real_encoder, tiny

from course_lib.errors import CourseError
from course_lib.models.surgery import encoder_layers
from course_lib.pruning.unit_masks import mask_layers
from course_lib.redundancy.similarity import Covariance, cka_of, layer_similarity, linear_cka, states_of

CLOSE = 1e-10  # float64 sums of some 10³ products of numbers of size 1, divided by each other


def drawn(seed: int, n: int = 30, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """``tr(KHLH) / √(tr(KHKH)·tr(LHLH))`` with Gram matrices K = XXᵀ, L = YYᵀ and H that centres."""
    n = len(x)
    h = torch.eye(n, dtype=torch.float64) - torch.full((n, n), 1 / n, dtype=torch.float64)
    k, l = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h  # noqa: E741
    return float((k * l).sum() / (k.norm() * l.norm()))


@given(st.integers(0, 99), st.floats(0.01, 100), st.floats(-50, 50))
def test_a_turned_shifted_and_scaled_copy_is_the_same(seed, scale, shift):
    x = drawn(seed)
    q = torch.linalg.qr(drawn(seed + 1, 6, 6)).Q
    assert linear_cka(x, x @ q) == pytest.approx(1, abs=CLOSE)
    assert linear_cka(x, scale * x @ q + shift) == pytest.approx(1, abs=CLOSE)
    assert linear_cka(x, x @ q) == pytest.approx(linear_cka(x @ q, x), abs=CLOSE)


@given(st.integers(0, 99), st.integers(2, 12))
def test_it_is_the_formula_with_centred_gram_matrices(seed, d):
    x, y = drawn(seed), drawn(seed + 1, d=d).exp()
    found = linear_cka(x, y)
    assert found == pytest.approx(naive_cka(x, y), abs=CLOSE) and 0 <= found <= 1 + CLOSE


def test_a_map_that_is_not_orthogonal_is_a_difference():
    x = drawn(0)
    assert linear_cka(x, x * torch.tensor([9.0, 1, 1, 1, 1, 1])) < 0.8


@given(st.integers(0, 99), st.integers(1, 30), st.floats(0, 1e6))
def test_covariances_are_the_same_streamed_or_whole_and_far_from_zero_too(seed, size, shift):
    x, covariance = drawn(seed), Covariance(6)
    for part in (x + shift).split(size):
        covariance.add(part)
    due = torch.cov(x.T, correction=0)
    # Taken from the first row: what is lost is the rounding of x + shift itself, ε·shift for each number.
    assert (covariance.matrix() - due).abs().max() <= 1e-12 + 16 * 2**-53 * shift


def test_layers_are_compared_over_real_tokens_alone_and_as_by_hand():
    model, data = tiny(), batches()
    found = layer_similarity(model, data)
    with torch.no_grad(), states_of(encoder_layers(model)) as states:
        rows = [[], [], []]
        for batch in data:
            states.clear()
            model(**batch)
            for kept, state in zip(rows, states, strict=True):
                kept.append(state[batch["attention_mask"] == 1])
    rows = [torch.cat(r) for r in rows]
    assert found.tokens == len(rows[0]) == 80 and found.names == ["embeddings", "layer 0", "layer 1"]
    for i in range(3):
        for j in range(3):
            assert float(found.cka[i, j]) == pytest.approx(naive_cka(rows[i], rows[j]), abs=CLOSE)
            due = float(torch.cosine_similarity(rows[i], rows[j], dim=-1).mean())
            assert float(found.cosine[i, j]) == pytest.approx(due, abs=CLOSE)
    padded = [b | {"input_ids": torch.where(b["attention_mask"] == 1, b["input_ids"], 7)} for b in data]
    assert torch.allclose(layer_similarity(model, padded).cka, found.cka, rtol=0, atol=CLOSE)
    assert found.neighbours() == [float(found.cosine[0, 1]), float(found.cosine[1, 2])]


def test_a_layer_that_does_nothing_leaves_its_states_the_same():
    model = tiny()
    mask_layers(model, [0])  # leads around layer 1
    found = layer_similarity(model, batches())
    assert float(found.cka[1, 2]) == pytest.approx(1, abs=CLOSE) and float(found.cosine[1, 2]) == pytest.approx(1, abs=CLOSE)


def test_neighbours_in_the_real_encoder_are_more_alike_than_its_ends():
    found = layer_similarity(real_encoder(), real_batches(12))
    cka = found.cka
    assert cka.shape == (7, 7) and torch.allclose(cka, cka.T) and torch.allclose(cka.diagonal(), torch.ones(7).double())
    assert all(cka[i, i + 1] > cka[0, 6] for i in range(6))
    assert all(0 < c < 1 for c in found.neighbours())


def test_bad_input_is_refused():
    x = drawn(0)
    for a, b in ((x, x[:5]), (x[:1], x[:1]), (x[0], x[0])):
        with pytest.raises(ValueError, match=r"x, y = .*expected the same two examples or more"):
            linear_cka(a, b)
    with pytest.raises(ValueError, match=r"covariance = .*expected vectors that differ in every set"):
        linear_cka(x, torch.ones(30, 2))
    with pytest.raises(ValueError, match=r"widths = \[3\]: expected numbers that add up to 6"):
        cka_of(torch.eye(6), [3])
    with pytest.raises(ValueError, match=r"x = 'NaN or infinity'"):
        linear_cka(x, x / 0)
    with pytest.raises(ValueError, match=r"batches = \[\]: expected at least one batch"):
        layer_similarity(tiny(), [])
    with pytest.raises(CourseError, match=r"expected a BERT-like encoder"):
        layer_similarity(torch.nn.Linear(2, 2), batches())
