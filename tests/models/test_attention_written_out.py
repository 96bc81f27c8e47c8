"""Tests of course_lib/models/written_out.py: identities of attention, and the encoder's own outputs."""

import numpy as np
import pytest
import torch

from course_lib.models.written_out import WrittenOut, attention, attention_weights, encoder_layer, split_heads
from course_lib.models.zoo import find_encoder, load_token_classifier

G = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(2, 5, 12, generator=G) for _ in range(3))
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])
# Sums of at most a few hundred products of numbers of size 1 in float32: eps · √terms · a few ≈ 1e-5.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def tiny():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).eval()


def test_it_is_pytorchs_attention():
    q, k, v = (split_heads(x, 3) for x in (Q, K, V))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=MASK[:, None, None, :])
    torch.testing.assert_close(attention(Q, K, V, 3, MASK), theirs.transpose(1, 2).reshape(2, 5, 12), **CLOSE)


def test_weights_sum_to_one_and_leave_padding_out():
    weights = attention_weights(Q, K, 4, MASK)
    assert weights.shape == (2, 4, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5), **CLOSE)
    assert float(weights[1, :, :, 3:].max()) == 0.0


def test_what_stands_at_padding_changes_nothing():
    k, v = K.clone(), V.clone()
    k[1, 3:], v[1, 3:] = 100.0, -100.0
    assert torch.equal(attention(Q, K, V, 2, MASK), attention(Q, k, v, 2, MASK))


def test_heads_do_not_mix():
    v = V.clone()
    v[..., :6] = 7.0
    assert torch.equal(attention(Q, K, v, 2, MASK)[..., 6:], attention(Q, K, V, 2, MASK)[..., 6:])


def test_a_head_has_consecutive_columns():
    assert torch.equal(split_heads(Q, 3)[0, 1, 4], Q[0, 4, 4:8])


def test_columns_must_divide_into_heads():
    with pytest.raises(ValueError, match="heads = 5: expected a divisor of 12"):
        attention(Q, K, V, 5, MASK)


def test_each_layer_is_the_encoders_own(tiny):
    ids = torch.randint(5, 60, (2, 7), generator=G)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad():
        theirs = tiny(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        ours = WrittenOut(tiny).hidden(ids, mask.bool())
        layer = tiny.base_model.encoder.layer[0]
        assert torch.equal(encoder_layer(layer, ours[0], mask.bool()), ours[1])
    assert len(ours) == len(theirs.hidden_states)
    for a, b in zip(ours, theirs.hidden_states, strict=True):
        torch.testing.assert_close(a[mask.bool()], b[mask.bool()], **CLOSE)
    logits = WrittenOut(tiny)(ids.numpy(), mask.numpy())
    np.testing.assert_allclose(logits[mask.bool().numpy()], theirs.logits[mask.bool()].numpy(), **CLOSE)


def test_another_attention_takes_its_place(tiny):
    ids, mask = np.full((1, 4), 7), np.ones((1, 4), dtype=np.int64)
    silent = WrittenOut(tiny, lambda q, k, v, heads, mask: torch.zeros_like(v))
    assert not np.allclose(silent(ids, mask), WrittenOut(tiny)(ids, mask))
