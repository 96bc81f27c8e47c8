"""Trimming a vocabulary: text whose pieces are kept is read exactly as before, and other words are still cut into pieces."""

import random
from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn

from course_lib.artifacts import new_folder
from course_lib.data.align import make_windows
from course_lib.data.generated import generate
from course_lib.deploy.engines import TorchEngine
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, minilm_folder, save_model
from course_lib.ner.predict import predict_tags
from course_lib.redundancy.vocabulary import choose_pieces, count_pieces, trim_tokenizer, trim_vocabulary

WORDS = [list(s.words) for s in generate(0, {"train": 300, "validation": 1, "test": 1}).train]
SEEN, UNSEEN = WORDS[:150], WORDS[150:]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(minilm_folder())


@pytest.fixture(scope="module")
def kept(tokenizer):
    return choose_pieces(count_pieces(SEEN, tokenizer), tokenizer)


def pieces(tokenizer, sentence):
    return tokenizer.encode(list(sentence), is_pretokenized=True).tokens


def test_pieces_are_counted_without_special_ones(tokenizer):
    counts = count_pieces([["the", "the", "Oslo"], []], tokenizer)
    assert counts == {tokenizer.token_to_id("the"): 2, tokenizer.token_to_id("oslo"): 1}


def test_what_is_kept_is_what_occurs_special_pieces_and_characters(tokenizer, kept):
    tokens = {tokenizer.id_to_token(i) for i in kept}
    assert kept == sorted(set(kept)) and tokens >= {*SPECIAL, "a", "##a", "z", "##z"}
    assert tokens >= {t for s in SEEN for t in pieces(tokenizer, s)}
    assert 2500 < len(kept) < 6000, "of 30 522"


def test_the_most_frequent_are_kept_first_and_ties_go_to_the_lower_id(tokenizer):
    ids = [tokenizer.token_to_id(w) for w in ("london", "paris", "berlin")]
    counts = Counter({ids[0]: 2, ids[1]: 5, ids[2]: 2})
    bare = choose_pieces(Counter(), tokenizer)
    for most, expected in ((0, []), (1, [ids[1]]), (2, [ids[1], min(ids[0], ids[2])]), (9, ids), (None, ids)):
        assert set(choose_pieces(counts, tokenizer, most)) - set(bare) == set(expected)


def test_text_whose_pieces_are_kept_is_cut_as_before(tokenizer, kept):
    smaller = trim_tokenizer(tokenizer, kept)
    assert smaller.get_vocab_size() == len(kept)
    for sentence in SEEN:
        assert pieces(smaller, sentence) == pieces(tokenizer, sentence)


def test_other_words_are_cut_into_kept_pieces_that_spell_them(tokenizer, kept):
    smaller, changed = trim_tokenizer(tokenizer, kept), 0
    rng = random.Random(0)
    made_up = [["".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(1, 12)))] for _ in range(300)]
    for sentence in UNSEEN + made_up:
        before, after = pieces(tokenizer, sentence), pieces(smaller, sentence)
        assert "".join(before).replace("##", "") == "".join(after).replace("##", ""), "the same text in other pieces"
        changed += before != after
    assert changed > 100


def test_without_its_characters_a_word_is_unknown_as_a_whole(tokenizer):
    smaller = trim_tokenizer(tokenizer, choose_pieces(Counter(), tokenizer, characters="abc"))
    assert pieces(smaller, ["cab", "abz"]) == ["[CLS]", "c", "##a", "##b", "[UNK]", "[SEP]"]
    assert smaller.get_vocab_size() == 5 + 6, "five special pieces, three characters twice"


def test_a_model_says_exactly_the_same_and_is_smaller(tokenizer, kept, tmp_path):
    """Rows of a matrix are copied and nothing else changes: the same bits."""
    model = load_token_classifier(minilm_folder(), ["O", "B-X"], 0).eval()
    expected = [TorchEngine(model)(*_batch(w)) for w in make_windows(SEEN[:30], tokenizer)]
    before = model.num_parameters()
    smaller, report = trim_vocabulary(model, tokenizer, kept)
    assert before - model.num_parameters() == (30522 - len(kept)) * 384
    assert report.parameters_before - report.parameters_after == (30522 - len(kept)) * 384
    assert f"30522 → {len(kept)} pieces" in str(report)
    windows = make_windows(SEEN[:30], smaller)
    for window, logits in zip(windows, expected, strict=True):
        assert (TorchEngine(model)(*_batch(window)) == logits).all()
    with new_folder(tmp_path / "small") as folder:
        save_model(model, smaller, folder)
    again, read = load_token_classifier(tmp_path / "small"), load_tokenizer(tmp_path / "small")
    assert again.config.vocab_size == len(kept)
    assert predict_tags(UNSEEN, TorchEngine(again), read, ["O", "B-X"]) == predict_tags(
        UNSEEN, TorchEngine(model), smaller, ["O", "B-X"]
    )


def _batch(window):
    ids = torch.tensor([window.ids]).numpy()
    return ids, (ids == ids).astype("int64")


def test_keeping_all_changes_nothing(tokenizer):
    assert trim_tokenizer(tokenizer, range(30522)).to_str() == tokenizer.to_str()


def test_embeddings_that_were_frozen_stay_frozen_and_gradients_flow_otherwise(tokenizer, kept):
    model = load_token_classifier(minilm_folder(), ["O", "B-X"], 0)
    model.get_input_embeddings().weight.requires_grad_(False)
    smaller, _ = trim_vocabulary(model, tokenizer, kept)
    words = model.get_input_embeddings()
    assert not words.weight.requires_grad and words.padding_idx == smaller.token_to_id("[PAD]") == 0
    words.weight.requires_grad_(True)
    model(input_ids=torch.tensor([[1, 2]])).logits.sum().backward()
    assert words.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("table_knows", [True, False], ids=["with padding_idx", "without"])
def test_the_padding_piece_keeps_its_meaning_whether_or_not_the_table_knows_of_it(tokenizer, kept, table_knows):
    """Here [UNK] pads, whose number changes, 100 of 30 522 to less."""
    model, unknown = load_token_classifier(minilm_folder(), ["O", "B-X"], 0), tokenizer.token_to_id("[UNK]")
    model.config.pad_token_id, model.get_input_embeddings().padding_idx = unknown, unknown if table_knows else None
    smaller, _ = trim_vocabulary(model, tokenizer, kept)
    new = smaller.token_to_id("[UNK]")
    assert new < unknown and model.config.pad_token_id == new
    assert model.get_input_embeddings().padding_idx == (new if table_knows else None)


@pytest.mark.parametrize("where", ["padding_idx", "pad_token_id"])
def test_a_padding_piece_that_would_go_is_refused_and_the_model_left_as_it_is(tokenizer, kept, where):
    model, lost = load_token_classifier(minilm_folder(), ["O", "B-X"], 0), next(i for i in range(30522) if i not in {*kept})
    words = model.get_input_embeddings()
    setattr(words if where == "padding_idx" else model.config, where, lost)
    with pytest.raises(ValueError, match=f"keep = 'without {lost}': expected the model's {where} among the pieces"):
        trim_vocabulary(model, tokenizer, kept)
    assert model.get_input_embeddings() is words and model.config.vocab_size == 30522


def test_bad_input_is_refused_and_the_model_left_as_it_is(tokenizer):
    tiny, its_own = load_token_classifier(find_encoder("tiny"), ["O", "B-X"], 0), load_tokenizer(find_encoder("tiny"))
    vocabulary = tiny.config.vocab_size
    with pytest.raises(ValueError, match=r"keep = \[99999\]: expected ids of the \d+ pieces"):
        trim_vocabulary(tiny, its_own, [*range(its_own.get_vocab_size()), 99999])
    with pytest.raises(ValueError, match=r"keep = 'without \[0, 1, 2, 3\]': expected all special pieces"):
        trim_vocabulary(tiny, its_own, [7])
    with pytest.raises(ValueError, match="most = -1: expected at least 0 pieces"):
        choose_pieces(Counter(), tokenizer, most=-1)
    with pytest.raises(CourseError, match="word embeddings for 30522 pieces; give the model's own tokenizer"):
        trim_vocabulary(tiny, tokenizer, range(30522))
    tied = load_token_classifier(find_encoder("tiny"), ["O", "B-X"], 0)
    tied.copy = nn.Linear(1, 1)
    tied.copy.weight = tied.get_input_embeddings().weight
    with pytest.raises(CourseError, match="its word embeddings are tied"):
        trim_vocabulary(tied, its_own, range(its_own.get_vocab_size()))
    with pytest.raises(CourseError, match="BPE with None; expected WordPiece"):
        choose_pieces(Counter(), Tokenizer(models.BPE()))
    assert tiny.config.vocab_size == vocabulary == tiny.get_input_embeddings().num_embeddings
