"""Tags for words of any sentence and entities with offsets in prose.

Most tests use an engine that reads a tag off each piece alone, so that the right answer for every word is known.
"""

import random
import warnings

import numpy as np
import pytest
import torch

from course_lib.data.align import make_windows
from course_lib.deploy.engines import TorchEngine
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer
from course_lib.ner.predict import predict_tags, predict_text

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
READ = {"w": 1, "x": 2, "y": 3, "z": 4}  # first letter of a word → its tag; all other words are O


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_encoder("tiny"))


class Letters:
    """An engine that tags by the letter a word starts with, and later pieces of a word at random."""

    def __init__(self, tokenizer) -> None:
        pieces = tokenizer.get_vocab()
        self.tags = np.zeros(len(pieces), dtype=np.int64)
        for piece, i in pieces.items():
            self.tags[i] = i % len(TAGS) if piece.startswith("##") else READ.get(piece, 0)
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        assert input_ids.dtype == attention_mask.dtype == np.int64 and input_ids.shape == attention_mask.shape
        self.batches.append(input_ids.shape)
        chosen = self.tags[input_ids]
        chosen[attention_mask == 0] = 1  # a tag at padding must never be read
        return np.eye(len(TAGS), dtype=np.float32)[chosen]


@pytest.fixture
def engine(tokenizer) -> Letters:
    return Letters(tokenizer)


def read_off(words: list[str]) -> list[str]:
    """What the letters say, with an I- that continues nothing turned into a B-."""
    tags, before = [], "O"
    for word in words:
        tag = TAGS[READ.get(word[0], 0)]
        if tag[0] == "I" and before[2:] != tag[2:]:
            tag = "B" + tag[1:]
        tags.append(tag)
        before = tag
    return tags


def draw(rng: random.Random, words: int) -> list[str]:
    return ["".join(rng.choices("wxyzabc12", k=rng.randint(1, 6))) for _ in range(words)]


# Words


def test_every_word_gets_the_tag_of_its_first_piece_in_the_order_given(tokenizer, engine):
    rng = random.Random(0)
    sentences = [draw(rng, rng.randint(0, 40)) for _ in range(100)]
    expected = [read_off(words) for words in sentences]
    assert {tag for tags in expected for tag in tags} == set(TAGS)
    for batch_size in (1, 7, 32):
        assert predict_tags(sentences, engine, tokenizer, TAGS, batch_size=batch_size) == expected
    assert max(rows for rows, _ in engine.batches[-3:]) == 32


def test_a_sentence_of_ten_thousand_words_is_read_to_its_end(tokenizer, engine):
    words = draw(random.Random(1), 10_000)
    (tags,) = predict_tags([words], engine, tokenizer, TAGS)
    assert tags == read_off(words)
    assert max(length for _, length in engine.batches) == 512


@pytest.mark.parametrize("limit", [6, 16, 64])
def test_windows_never_exceed_the_models_positions(tokenizer, engine, limit):
    sentences = [draw(random.Random(seed), 60) for seed in range(5)]
    assert predict_tags(sentences, engine, tokenizer, TAGS, max_pieces=limit) == [read_off(words) for words in sentences]
    assert max(length for _, length in engine.batches) == limit


def test_a_word_longer_than_the_model_is_one_word(tokenizer, engine):
    """WordPiece cuts words of up to 100 characters; here one is seven windows long. Longer ones are a single [UNK]."""
    words = ["w" + "a" * 99, "x" * 100, "a", "x"]
    assert predict_tags([words], engine, tokenizer, TAGS, max_pieces=16) == [["B-PER", "I-PER", "O", "B-PER"]]


def test_empty_input_gives_empty_output_without_asking_the_engine(tokenizer):
    def engine(ids, mask):
        pytest.fail("there is nothing to ask")

    assert predict_tags([], engine, tokenizer, TAGS) == []
    assert predict_tags([[], []], engine, tokenizer, TAGS) == [[], []]
    assert predict_tags([["\ufe0f", "\u200d"]], engine, tokenizer, TAGS) == [["O", "O"]]
    assert list(predict_text([], engine, tokenizer, TAGS)) == []
    assert list(predict_text(["", " \n\t\r\n "], engine, tokenizer, TAGS)) == []


def test_words_without_pieces_and_empty_sentences_keep_their_places(tokenizer, engine):
    sentences = [["w", "\ufe0f", "x"], [], ["\ufe0f"], ["y", "z"]]
    assert predict_tags(sentences, engine, tokenizer, TAGS) == [["B-PER", "O", "B-PER"], [], ["O"], ["B-LOC", "I-LOC"]]


def test_a_predicted_continuation_of_nothing_becomes_a_start(tokenizer, engine):
    sentences = [["x"], ["a", "x", "x"], ["y", "x", "x"], ["w", "z"], ["w", "x", "a", "z", "z"]]
    assert predict_tags(sentences, engine, tokenizer, TAGS) == [
        ["B-PER"],
        ["O", "B-PER", "I-PER"],
        ["B-LOC", "B-PER", "I-PER"],
        ["B-PER", "B-LOC"],
        ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"],
    ]


def test_progress_counts_all_windows(tokenizer, engine):
    sentences = [draw(random.Random(seed), 30) for seed in range(9)] + [[]]
    done = []
    predict_tags(sentences, engine, tokenizer, TAGS, batch_size=4, max_pieces=64, progress=done.append)
    windows = make_windows(sentences, tokenizer, 64)
    assert sum(done) == len(windows) > 9
    assert done == [4] * (len(windows) // 4) + [len(windows) % 4] * (len(windows) % 4 > 0)


def test_a_models_tags_do_not_depend_on_what_shares_the_batch(tokenizer):
    """A random network in fp64, where padding moves logits by 1e-15 and no two are that close."""
    model = load_token_classifier(find_encoder("tiny"), TAGS, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.base_model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    sentences = [draw(random.Random(seed), 1 + 3 * seed) for seed in range(12)]
    engine = TorchEngine(model)
    together = predict_tags(sentences, engine, tokenizer, TAGS)
    alone = [predict_tags([words], engine, tokenizer, TAGS)[0] for words in sentences]
    assert together == alone
    assert predict_tags(sentences[::-1], engine, tokenizer, TAGS, batch_size=5) == together[::-1]
    assert len({tag for tags in together for tag in tags}) > 1


# Prose


def test_offsets_point_into_the_text_given(tokenizer, engine):
    text = "  Wu   Xi met a man.\r\n\nIn\tYork, “Wilma”   left!  😀 caf\u00e9 Zürich. "
    records = list(predict_text([text], engine, tokenizer, TAGS))
    assert [r["text"] for r in records] == ["Wu   Xi met a man.", "In\tYork, “Wilma”   left!", "😀 caf\u00e9 Zürich."]
    for record in records:
        assert record["text"] == text[record["start"] : record["end"]]
        for entity in record["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]]
            assert record["start"] <= entity["start"] < entity["end"] <= record["end"]
    found = [[(e["type"], e["text"]) for e in r["entities"]] for r in records]
    assert found == [[("PER", "Wu   Xi")], [("LOC", "York"), ("PER", "Wilma")], [("LOC", "Zürich")]]


def test_records_come_text_by_text_each_counted_from_its_own_start(tokenizer, engine):
    texts = ["A b. Wu c.", "", "York d. E f.", "Wu c."]
    records = list(predict_text(iter(texts), engine, tokenizer, TAGS))
    assert [(r["text"], r["start"], r["end"]) for r in records] == [
        ("A b.", 0, 4),
        ("Wu c.", 5, 10),
        ("York d.", 0, 7),
        ("E f.", 8, 12),
        ("Wu c.", 0, 5),
    ]
    assert [len(r["entities"]) for r in records] == [0, 1, 1, 0, 1]


def test_prose_and_words_give_the_same_tags_on_random_text(tokenizer, engine):
    """Random characters, odd ones among them: offsets always hold, entities are in order and apart."""
    rng = random.Random(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            text = "".join(rng.choices("wxyzWXYZab  .,!?'\"\n\r\t\ufe0f\u200dé😀-$5", k=rng.randint(0, 60)))
            position = 0
            for record in predict_text([text], engine, tokenizer, TAGS, batch_size=3, max_pieces=16):
                assert record["start"] >= position and record["text"] == text[record["start"] : record["end"]]
                position = record["start"]
                for entity in record["entities"]:
                    assert entity["start"] >= position and entity["text"] == text[entity["start"] : entity["end"]] != ""
                    position = entity["end"]
                assert position <= record["end"]
                position = record["end"]


def test_one_text_instead_of_a_list_is_refused(tokenizer, engine):
    """Its characters would otherwise be taken for texts."""
    with pytest.raises(ValueError, match="texts = 'Wu left': expected a list of texts"):
        list(predict_text("Wu left", engine, tokenizer, TAGS))
