"""Masked attention scores: their range with and without padding, and what codes of either make of the model."""

import pytest
import torch

from course_lib.models.zoo import find_encoder, load_token_classifier
from course_lib.quantization.affine import choose_from_range, fake_quantize
from course_lib.quantization.scores import NAME, quantized_scores, score_range, score_ranges, scores_through


@pytest.fixture
def tiny():
    return load_token_classifier(find_encoder("tiny"), ["O", "B-X", "I-X"]).eval()


def batches(padded: bool) -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(5, 80, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths = (9, 5, 2)
    if not padded:
        return [{"input_ids": ids[i : i + 1, :n], "attention_mask": torch.ones(1, n, dtype=torch.long)} for i, n in enumerate(lengths)]  # fmt: skip
    return [{"input_ids": ids, "attention_mask": (torch.arange(9) < torch.tensor(lengths)[:, None]).long()}]


@torch.inference_mode()
def logits(model, padded: bool = True) -> torch.Tensor:
    return torch.cat([model(**b).logits[b["attention_mask"].bool()] for b in batches(padded)])


def test_only_scores_of_real_queries_with_real_keys_count():
    scores = torch.arange(18, dtype=torch.float32).view(1, 2, 3, 3)  # two heads; padding last
    low, high = score_range(scores, torch.tensor([[1, 1, 0]]))
    assert (float(low), float(high)) == (0.0, 13.0)
    with pytest.raises(ValueError, match=r"scores = \(1, 2, 3, 3\): expected \(B, H, L, L\)"):
        score_range(scores, torch.tensor([[1, 1]]))
    with pytest.raises(ValueError, match="padding alone"):
        score_range(scores, torch.zeros(1, 3))


def test_attention_written_out_is_the_models_own_and_goes_as_it_came(tiny):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own, whole = tiny.config._attn_implementation, logits(tiny)
    with scores_through(tiny, lambda layer, scores: scores):
        assert tiny.config._attn_implementation == NAME
        # sums of at most 37 products in another order, some dozens of them in a row, on logits below 1
        assert (logits(tiny) - whole).abs().max() <= 2000 * 2.0**-24
    assert tiny.config._attn_implementation == own and NAME not in ALL_ATTENTION_FUNCTIONS
    assert torch.equal(logits(tiny), whole)


def test_real_scores_have_the_same_range_padded_or_not_and_the_mask_ruins_the_other(tiny):
    alone, real = score_ranges(tiny, batches(False)), score_ranges(tiny, batches(True))
    for (a, b), (c, d) in zip(alone, real, strict=True):
        assert abs(a - c) <= 1e-5 * abs(a) and abs(b - d) <= 1e-5 * abs(b)  # float32 sums in another order
    seen = score_ranges(tiny, batches(True), lambda scores, mask: scores.aminmax())
    assert all(low == torch.finfo(torch.float32).min for low, _ in seen)


def test_a_range_that_holds_the_mask_makes_attention_even(tiny):
    with scores_through(tiny, lambda layer, scores: scores.masked_fill(scores > -1e30, 0.0)):
        even = logits(tiny)
    seen = score_ranges(tiny, batches(True), lambda scores, mask: scores.aminmax())
    with quantized_scores(tiny, seen):
        assert torch.equal(logits(tiny), even)
    codes = choose_from_range(*seen[0], 8, symmetric=False)
    assert fake_quantize(torch.linspace(-50, 50, 11), *codes, 8, symmetric=False).unique().numel() == 1


def test_masked_keys_get_the_lowest_code_which_shows_where_the_real_range_is_narrow(tiny):
    """The untrained model's scores span a hundredth: clipped to their lower end, padding is nearly as visible as the rest."""
    ranges, moved = score_ranges(tiny, batches(True)), {}
    assert all(high - low < 0.1 for low, high in ranges)
    for padded in (False, True):
        whole = logits(tiny, padded)
        with quantized_scores(tiny, ranges):
            moved[padded] = float((logits(tiny, padded) - whole).abs().max())
    assert moved[False] < moved[True] / 10  # rounding: 1/255 of a range; padding: whole weights of the softmax


def test_a_range_for_each_layer_is_expected(tiny):
    with pytest.raises(ValueError, match=r"ranges = 0: expected one for each of \d layers"):
        quantized_scores(tiny, []).__enter__()
