"""Duplicates: exact ones to the bit, near ones as all pairs say, whatever the blocks."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redundant_models import logits, real_encoder, tiny

from course_lib.errors import CourseError
from course_lib.models.surgery import encoder_layers
from course_lib.redundancy.duplicates import (
    duplicate_bytes,
    equal_layers,
    equal_rows,
    equal_tensors,
    near_layers,
    near_matrices,
    near_rows,
    near_tensors,
)
from course_lib.redundancy.sharing import share_layers, storage_account
from course_lib.redundancy.storage import share


def test_rows_are_equal_to_the_bit_or_not_at_all():
    w = torch.randn(8, 5)
    w[3], w[6], w[7] = w[0], w[0], w[2]
    assert equal_rows(w) == [[0, 3, 6], [2, 7]]
    w[6, 0] = torch.nextafter(w[6, 0], torch.tensor(torch.inf))
    assert equal_rows(w) == [[0, 3], [2, 7]]
    assert equal_rows(torch.tensor([[0.0, 1.0], [-0.0, 1.0]])) == [[0, 1]]


@given(st.integers(0, 99), st.integers(1, 9), st.sampled_from([0.3, 0.8, 1.0]))
@settings(max_examples=40)
def test_near_rows_are_those_that_all_pairs_give_whatever_the_block(seed, block, threshold):
    g = torch.Generator().manual_seed(seed)
    w = torch.randint(-2, 3, (9, 3), generator=g).double()
    due = {}
    for i, j in itertools.combinations(range(9), 2):
        size = w[i].norm() * w[j].norm()
        cosine = float(w[i] @ w[j] / size) if size else 0.0
        if abs(cosine) >= threshold - 1e-12:
            due[i, j] = cosine
    found = near_rows(w, threshold, block)
    assert {(i, j) for i, j, _ in found} == due.keys()
    assert all(cosine == pytest.approx(due[i, j], abs=1e-12) for i, j, cosine in found)
    assert [abs(c) for _, _, c in found] == sorted((abs(c) for _, _, c in found), reverse=True)


def test_equal_tensors_are_what_sharing_saves_without_a_change():
    model = tiny(torch.float32)
    first, second = encoder_layers(model)
    second.attention.load_state_dict(first.attention.state_dict())
    assert equal_layers(model) == []
    groups, before, whole = equal_tensors(model), logits(model), storage_account(model)["unique"]
    assert len(groups) == 10 and all(len(g) == 2 for g in groups)
    saved = duplicate_bytes(groups, model)
    share(model, {b: a for a, b in groups})
    assert torch.equal(logits(model), before) and whole - storage_account(model)["unique"] == saved == 4 * (4 * 33 * 32 + 64)
    assert equal_tensors(model) == [], "what is shared is stored once"


def test_equal_layers_are_found_shared_or_copied_and_are_near_too():
    model = tiny()
    first, second = encoder_layers(model)
    second.load_state_dict(first.state_dict())
    assert equal_layers(model) == [[0, 1]]
    assert near_layers(model) == [(0, 1, pytest.approx(1.0))]
    shared = tiny()
    share_layers(shared, [[0, 1]])
    assert equal_layers(shared) == [[0, 1]] and near_matrices(shared, 0.999) == []
    with torch.no_grad():
        second.output.dense.weight.mul_(-1.01)
    assert equal_layers(model) == []
    names = {(a, b): c for a, b, c in near_matrices(model)}
    key = ("bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.1.output.dense.weight")
    assert names[key] == pytest.approx(-1.0) and len(names) == 6


def test_tensors_of_other_shapes_and_zeros_are_near_to_nothing():
    x = torch.randn(3, 4)
    assert near_tensors({"a": x, "b": x.T.contiguous(), "c": torch.zeros(3, 4), "d": 2 * x}, 0.5) == [
        ("a", "d", pytest.approx(1.0))
    ]
    assert near_rows(torch.zeros(3, 2)) == []


def test_the_real_encoder_stores_nothing_twice_and_what_is_planted_among_its_words_is_found():
    """Measured: no equal or near rows among 2 000 pieces, no two matrices or layers alike."""
    encoder = real_encoder()
    assert equal_layers(encoder) == [] and near_layers(encoder, 0.5) == [] and near_matrices(encoder, 0.9) == []
    words = encoder.embeddings.word_embeddings.weight.detach()[:2000]
    assert equal_rows(words) == [] and near_rows(words, 0.9, block=512) == []
    noise = 0.02 * torch.randn(384, generator=torch.Generator().manual_seed(0)) * words[1500].norm() / 384**0.5
    planted = torch.cat([words, words[7:8], (noise - 3 * words[1500])[None]])
    assert equal_rows(planted) == [[7, 2000]]
    assert [(i, j) for i, j, _ in near_rows(planted, 0.99, block=512)] == [(7, 2000), (1500, 2001)]


def test_bad_input_is_refused():
    for threshold in (0, 1.5, -1):
        with pytest.raises(ValueError, match=r"threshold = .*expected a cosine above 0 and at most 1"):
            near_rows(torch.ones(2, 2), threshold)
    with pytest.raises(ValueError, match=r"block = 0: expected at least one row"):
        near_rows(torch.ones(2, 2), block=0)
    with pytest.raises(ValueError, match=r"weight = .*a floating-point matrix"):
        equal_rows(torch.ones(3))
    with pytest.raises(CourseError, match=r"expected a BERT-like encoder"):
        equal_layers(torch.nn.Linear(2, 2))
