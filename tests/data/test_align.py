"""Words to pieces and back: every word of every sentence gets exactly one prediction, from a window with context."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from course_lib.data.align import (
    IGNORED,
    Window,
    batches,
    collate,
    make_windows,
    pad,
    pad_id,
    special_ids,
    window_bounds,
    window_labels,
)
from course_lib.data.natural import load_natural
from course_lib.models.zoo import find_encoder, load_tokenizer
from course_lib.ner.predict import predict_tags

WITHOUT_PIECES = ["\ufe0f", "\ufffd", "\x07", "\x00", "\u200b", "\u00a0", "", " "]
PRIME = 97  # piece ids are told apart modulo this


@pytest.fixture(scope="module", params=["tiny", "minilm"])
def tokenizer(request):
    return load_tokenizer(find_encoder(request.param))


def awkward_sentences(seed=0):
    """Sentences that have broken aligners: very long, empty, of pieceless words, of one word with 5 000 pieces."""
    rng = random.Random(seed)

    def word():
        if rng.random() < 0.1:
            return rng.choice(WITHOUT_PIECES)
        return "".join(rng.choice("abcdeXYZ019-.'é日😀") for _ in range(rng.randrange(1, 12)))

    return [
        [],
        [word() for _ in range(700)],
        ["a"] * 10_000,
        [word() for _ in range(10_000)],
        list(WITHOUT_PIECES),
        ["-" * 5000],
        ["Ana", "日本" * 2500, "left", "\ufe0f", "."],
        ["Ana"],
        *([word() for _ in range(rng.randrange(1, 40))] for _ in range(50)),
        [],
    ]


def first_piece(word, tokenizer, cache):
    """Id of the first piece of a word encoded alone (oracle: word pieces do not look at neighbours), None without pieces."""
    if word not in cache:
        cache[word] = next(iter(tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids), None)
    return cache[word]


def one_hot(values, classes):
    return (np.arange(classes) == values[..., None]).astype(np.float32)


@pytest.mark.parametrize("max_pieces", [64, 128, 512])
def test_each_word_with_pieces_is_the_head_of_exactly_one_window_at_its_first_piece(tokenizer, max_pieces):
    sentences, cache = awkward_sentences(), {}
    windows = make_windows(sentences, tokenizer, max_pieces)
    cls, sep = special_ids(tokenizer)
    spoken = Counter()
    for w in windows:
        assert 3 <= len(w.ids) <= max_pieces
        assert (w.ids[0], w.ids[-1]) == (cls, sep)
        for position, word in w.heads:
            assert w.ids[position] == first_piece(sentences[w.sentence][word], tokenizer, cache)
            spoken[w.sentence, word] += 1
    with_pieces = {
        (i, k) for i, s in enumerate(sentences) for k, word in enumerate(s) if first_piece(word, tokenizer, cache) is not None
    }
    assert set(spoken) == with_pieces
    assert set(spoken.values()) == {1}
    assert [w.sentence for w in windows] == sorted(w.sentence for w in windows)


@pytest.mark.parametrize("max_pieces", [64, 128])
def test_every_word_gets_exactly_one_prediction_and_it_is_that_of_its_own_first_piece(tokenizer, max_pieces):
    sentences, cache = awkward_sentences(1), {}
    tags = [f"B-{i}" for i in range(PRIME)]

    def engine(input_ids, attention_mask):
        assert input_ids.shape[1] <= max_pieces
        logits = one_hot(input_ids % PRIME, PRIME)
        logits[attention_mask == 0] = np.inf  # whoever reads padding gets tag 0
        return logits

    predicted = predict_tags(sentences, engine, tokenizer, tags, max_pieces=max_pieces)
    assert [len(p) for p in predicted] == [len(s) for s in sentences]
    ids = [[first_piece(word, tokenizer, cache) for word in s] for s in sentences]
    assert predicted == [["O" if i is None else tags[i % PRIME] for i in row] for row in ids]
    assert len({t for row in predicted for t in row}) > 15  # the engine does tell words apart


@pytest.mark.parametrize("max_pieces", [64, 128, 512])
def test_predictions_of_long_sentences_have_context_on_both_sides_except_at_the_sentences_ends(tokenizer, max_pieces):
    # Words of one piece, so that a word's index is its piece's index. The engine answers with the pieces to the left
    # (or right) of each position, window marks not counted.
    lengths = [1, max_pieces - 3, max_pieces - 2, max_pieces - 1, max_pieces, 700, 2048, 10_000]
    sentences, size = [["a"] * n for n in lengths], max_pieces - 2
    tags = [f"B-{i}" for i in range(size)]

    def left(input_ids, attention_mask):
        places = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
        return one_hot(places - 1, size)

    def right(input_ids, attention_mask):
        return one_hot(attention_mask.sum(1, keepdims=True) - 2 - np.arange(input_ids.shape[1]), size)

    for engine in (left, right):
        for n, row in zip(lengths, predict_tags(sentences, engine, tokenizer, tags, max_pieces=max_pieces), strict=True):
            context = [int(t[2:]) for t in (row if engine is left else reversed(row))]
            assert all(c >= min(i, size // 8) for i, c in enumerate(context)), n
            if n <= size:  # it fits: everything is context
                assert context == list(range(n))


def test_bounds_partition_the_sentence_overlap_and_leave_context():
    for size in (*range(4, 40), 62, 126, 510):
        for length in (*range(0, 4 * size + 3), 10_007):
            bounds = window_bounds(length, size)
            assert [i for _, _, a, b in bounds for i in range(a, b)] == list(range(length))
            assert (bounds[0][0], bounds[-1][1]) == (0, length)
            for start, end, a, b in bounds:
                assert 0 <= start <= a <= b <= end <= length and end - start <= size
                assert a - start >= size // 8 or start == 0
                assert end - b >= size // 8 or end == length
            for (_, end, _, _), (start, *_) in pairwise(bounds):
                assert end - start >= size // 4
            if length <= size:
                assert bounds == [(0, length, 0, length)]
            else:  # no more windows than the overlap asks for
                assert len(bounds) == 1 + -(-(length - size) // (size - size // 4))


@pytest.mark.parametrize("size", [3, 0, -1])
def test_windows_too_small_to_overlap_are_refused(size):
    with pytest.raises(ValueError, match=rf"size = {size}: expected room for at least 4 pieces"):
        window_bounds(10, size)


def test_a_sentence_that_fits_is_what_the_tokenizer_itself_makes_of_it(tokenizer):
    sentences = [n.sentence.words for n in load_natural()]
    windows = make_windows(sentences, tokenizer)
    assert [w.sentence for w in windows] == list(range(len(sentences)))
    encodings = tokenizer.encode_batch([list(s) for s in sentences], is_pretokenized=True)
    assert [w.ids for w in windows] == [tuple(e.ids) for e in encodings]
    for window, encoded in zip(windows, encodings, strict=True):
        first = {}
        for position, word in enumerate(encoded.word_ids):
            if word is not None:
                first.setdefault(word, position)
        assert window.heads == tuple((position, word) for word, position in first.items())


def test_nothing_gives_no_windows(tokenizer):
    assert make_windows([], tokenizer) == []
    assert make_windows([[], ["\ufe0f", ""]], tokenizer) == []
    assert predict_tags([[], ["\ufe0f"]], None, tokenizer, ["O"]) == [[], ["O"]]


def test_labels_stand_at_heads_alone_and_each_word_is_labelled_once(tokenizer):
    rng = random.Random(0)
    words = ["".join(rng.choice("abc-") for _ in range(9)) for _ in range(300)]
    tags = [f"B-{i}" for i in range(300)]
    index = {tag: i for i, tag in enumerate(tags)}
    windows = make_windows([words], tokenizer, 64)
    assert len(windows) > 5
    labelled = []
    for w in windows:
        labels = window_labels(w, tags, index)
        assert len(labels) == len(w.ids)
        assert labels[0] == labels[-1] == IGNORED == -100
        assert {p: label for p, label in enumerate(labels) if label != IGNORED} == dict(w.heads)
        labelled += [label for label in labels if label != IGNORED]
    assert labelled == list(range(300))


def test_a_tag_the_model_has_no_label_for_is_a_key_error():
    with pytest.raises(KeyError, match="B-LOC"):
        window_labels(Window(0, (1, 5, 2), ((1, 0),)), ["B-LOC"], {"O": 0})


def random_windows(count, seed):
    rng = random.Random(seed)
    return [Window(i, tuple(range(rng.randrange(3, 200))), ()) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_hold_every_window_once(count, size, seed):
    made = list(batches(random_windows(count, 1), size, None if seed is None else random.Random(seed)))
    assert sorted(i for batch in made for i in batch) == list(range(count))
    assert all(1 <= len(batch) <= size for batch in made)
    assert sum(len(batch) < size for batch in made) <= 1


def test_seeded_batches_are_reproducible_and_differ_by_seed_and_epoch():
    windows = random_windows(500, 2)

    def epochs(seed):
        rng = random.Random(seed)
        return [list(batches(windows, 8, rng)), list(batches(windows, 8, rng))]

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(1)[1]
    assert epochs(1)[0] != epochs(2)[0]


def lengths_apart(made, windows):
    """Do no two batches interleave by length? Then no other batches of this size would have less padding."""
    ranges = sorted((min(n), max(n)) for n in ([len(windows[i].ids) for i in batch] for batch in made))
    return all(a[1] <= b[0] for a, b in pairwise(ranges))


def test_lengths_in_a_batch_are_as_similar_as_can_be_in_its_pool_of_32_batches():
    windows = random_windows(3000, 3)
    made = list(batches(windows, 8, random.Random(0)))
    pools = [made[i : i + 32] for i in range(0, len(made), 32)]
    assert len(pools) == 12
    assert all(lengths_apart(pool, windows) for pool in pools)
    # what batches are for: the order of batches is random, not by length
    longest = [max(len(windows[i].ids) for i in batch) for batch in pools[0]]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_without_a_generator_the_longest_come_first():
    windows = random_windows(100, 4)
    order = [len(windows[i].ids) for batch in batches(windows, 8) for i in batch]
    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_of_no_windows_is_refused(size):
    with pytest.raises(ValueError, match=rf"size = {size}: expected at least 1"):
        list(batches([], size))


def test_collate_fills_up_with_padding_the_mask_hides():
    ids, mask = collate([Window(0, (5, 6, 7), ()), Window(1, (8,), ())], 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64
    assert pad([[1], []], -100).tolist() == [[1], [-100]]


def test_special_pieces_of_both_families_and_of_neither(tokenizer):
    assert special_ids(tokenizer) == tuple(tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]"))
    assert pad_id(tokenizer) == tokenizer.token_to_id("[PAD]")
    roberta = Tokenizer(models.WordLevel({"x": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "[CLS]": 4}, unk_token="x"))
    assert (special_ids(roberta), pad_id(roberta)) == ((1, 2), 3)
    bare = Tokenizer(models.WordLevel({"x": 0, "<s>": 1}, unk_token="x"))
    assert pad_id(bare) == 0
    with pytest.raises(ValueError, match=r"expected the special tokens \[CLS\] and \[SEP\] \(or <s> and </s>\), found neither"):
        special_ids(bare)
