"""Sentences and their copies with gaps: embeddings do not depend on padding, the loss is lowest where copies are nearest."""

import pytest
import torch

from course_lib.models.matching import embed, gapped, matching_accuracy, matching_losses
from course_lib.models.zoo import find_encoder, load_encoder, load_tokenizer

SENTENCES = [
    f"the {a} and the {b} of {c} in a new city for mr {d}".split()
    for a, b, c, d in zip("abcdefgh", "hgfedcba", "cdefghab", "qrstuvwx", strict=True)
]


@pytest.fixture(scope="module")
def tiny():
    return load_encoder("tiny"), load_tokenizer(find_encoder("tiny"))


def test_copies_hold_half_of_the_words_in_order_and_come_from_the_seed():
    pairs = gapped([["w" + str(i) for i in range(400)], ["short"]], seed=0)
    ((whole, copy),) = pairs
    assert len(whole) == 400 and 150 < len(copy) < 250
    assert list(copy) == sorted(copy, key=whole.index)
    assert pairs == gapped([list(whole), ["short"]], seed=0) != gapped([list(whole)], seed=1)


def test_embeddings_have_length_one_and_do_not_depend_on_padding(tiny):
    encoder, tokenizer = tiny
    with torch.no_grad():
        together, alone = embed(encoder, tokenizer, SENTENCES), torch.cat([embed(encoder, tokenizer, [s]) for s in SENTENCES])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)  # sums over other lengths, in fp32


def test_a_sentence_is_nearest_to_itself(tiny):
    assert matching_accuracy(*tiny, [(tuple(s), tuple(s)) for s in SENTENCES], size=3) == 1.0
    shifted = list(zip(map(tuple, SENTENCES), map(tuple, SENTENCES[1:] + SENTENCES[:1]), strict=True))
    assert matching_accuracy(*tiny, shifted, size=3) == 0.0


def test_losses_come_one_by_one_with_gradients_and_are_lower_for_true_copies(tiny):
    pairs = [(tuple(s), tuple(s)) for s in SENTENCES]
    shifted = list(zip(map(tuple, SENTENCES), map(tuple, SENTENCES[1:] + SENTENCES[:1]), strict=True))
    true, wrong = list(matching_losses(*tiny, pairs, size=4)), list(matching_losses(*tiny, shifted, size=4))
    assert len(true) == 2 and all(loss.requires_grad for loss in true)
    assert sum(true) < sum(wrong)
