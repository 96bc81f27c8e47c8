"""Labelled texts: files, splits, and the generated messages with what makes them hard."""

import numpy as np
import pytest
import torch

from course_lib.data.align import batches, collate, make_windows, pad_id
from course_lib.data.texts import (
    FOLDER,
    SIZES,
    Text,
    TextCorpus,
    generate_texts,
    load_texts,
    parted,
    read_texts,
    read_topics,
    write_texts,
)
from course_lib.errors import CourseError
from course_lib.models.zoo import load_encoder, load_tokenizer, minilm_folder

SMALL = {"train": 400, "validation": 50, "test": 200}


@pytest.fixture(scope="module")
def messages():
    return generate_texts(0, SMALL)


def test_the_same_seed_makes_the_same_messages_and_another_one_others(messages):
    assert generate_texts(0, SMALL).fingerprint() == messages.fingerprint() != generate_texts(1, SMALL).fingerprint()
    assert [len(messages.train), len(messages.validation), len(messages.test)] == list(SMALL.values())


def test_the_sizes_that_nobody_asked_to_change_can_be_made():
    made = generate_texts(0)
    assert [len(made.train), len(made.validation), len(made.test)] == list(SIZES.values())


def test_no_text_occurs_twice_and_no_phrase_crosses_a_split(messages):
    everything = [t.text for t in [*messages.train, *messages.validation, *messages.test]]
    assert len({*everything}) == len(everything)
    for phrases in read_topics(FOLDER / "topics.txt").values():
        parts = parted(phrases)
        assert sum(map(len, parts.values())) == len(phrases) == 36 and all(parts.values())
    train = " ".join(t.text for t in messages.train)
    own = [p for phrases in read_topics(FOLDER / "topics.txt").values() for p in parted(phrases)["test"]]
    assert not [p for p in own if p in train]


def test_a_messages_label_is_its_topic_and_often_another_topic_is_named():
    topics = read_topics(FOLDER / "topics.txt")
    both = 0
    messages = generate_texts(0, {"train": 300, "validation": 1, "test": 1}).train
    for t in messages:
        named = {name for name, phrases in topics.items() for p in phrases if p.lower() in t.text.lower()}
        assert t.label in named
        both += len(named) > 1
    assert both > 100, "counting words cannot tell which of two counts"


def test_counting_words_does_badly_where_the_encoder_without_any_training_does_better(messages):
    """A bag of words learns nothing that carries over; a linear map on the mean of MiniLM's states is at least 0.10 better."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = messages.train, messages.test
    labels, gold = [t.label for t in train], [t.label for t in test]
    words = CountVectorizer()
    bag = LogisticRegression(max_iter=1000).fit(words.fit_transform([t.text for t in train]), labels)
    counted = bag.score(words.transform([t.text for t in test]), gold)

    encoder, tokenizer = load_encoder("minilm"), load_tokenizer(minilm_folder())

    def means(texts):
        windows, out = make_windows([t.words for t in texts], tokenizer), np.zeros((len(texts), 384))
        for indices in batches(windows, 32):
            ids, mask = map(torch.from_numpy, collate([windows[i] for i in indices], pad_id(tokenizer)))
            with torch.inference_mode():
                states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            out[indices] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
        return out

    read = LogisticRegression(max_iter=1000, C=10).fit(means(train), labels).score(means(test), gold)
    assert counted < 0.35 and read >= counted + 0.10


def test_a_label_is_the_one_tag_of_its_text():
    assert Text("Hello there", "staff").tags == ("B-staff",)
    corpus = TextCorpus("a", [Text("x", "b"), Text("y", "a")], [], [], "made up")
    assert corpus.tags == ["a", "b"] and corpus.types == {"a", "b"} and corpus.task == "classification"
    assert corpus.figures()["tokens"] == {"train": 2, "validation": 0, "test": 0}


def test_files_come_back_as_they_were_written(tmp_path, messages):
    for name, part in (("train", messages.train), ("dev", messages.validation), ("test", messages.test)):
        write_texts(tmp_path / f"{name}.tsv", part)
    again = load_texts(str(tmp_path))
    assert (again.train, again.validation, again.test) == (messages.train, messages.validation, messages.test)
    assert again.fingerprint() == messages.fingerprint() and again.name == tmp_path.name


def test_missing_splits_are_drawn_and_labels_that_only_they_have_are_noted(tmp_path):
    lines = [f"{'good' if i % 2 else 'bad'}\tnumber {i} here" for i in range(40)]
    (tmp_path / "train.tsv").write_text("\n".join(lines), "utf-8")
    corpus = load_texts(str(tmp_path), seed=1)
    assert [len(corpus.train), len(corpus.validation), len(corpus.test)] == [32, 4, 4] and "seed 1" in corpus.splits
    (tmp_path / "test.tsv").write_text("strange\tnever seen", "utf-8")
    assert "never seen in training" in load_texts(str(tmp_path)).notes[0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no text found"),
        ("good no tab here", r"line 1: 'good no tab here'; expected a label, a tab and a text"),
        ("good\tfine\n\tno label", "line 2"),
        ("good\t ", "line 1"),
        ("good\tfine\ngood\tas well", "only label in train.tsv is 'good'"),
        (b"good\t\xff", "not UTF-8"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    (tmp_path / "train.tsv").write_bytes(
        text if isinstance(text, bytes) else (text * 20 if "as well" in text else text).encode()
    )
    if "as well" in message or "only label" in message:
        (tmp_path / "train.tsv").write_text("good\tfine\n" * 20)
    with pytest.raises(CourseError, match=message):
        load_texts(str(tmp_path))


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(CourseError, match=r"no train.tsv there"):
        load_texts(str(tmp_path))
    with pytest.raises(CourseError, match="Cannot read"):
        read_texts(tmp_path / "none.tsv")


def test_more_texts_than_there_are_is_an_error(tmp_path):
    (tmp_path / "frames.txt").write_text("\n".join(f"{i} {{topic}} {{other}}" for i in range(10)))
    (tmp_path / "topics.txt").write_text(
        "[a]\n" + "\n".join(f"a{i}" for i in range(10)) + "\n[b]\n" + "\n".join(f"b{i}" for i in range(10))
    )
    with pytest.raises(CourseError, match=r"no new train text in 1000 draws after \d+"):
        generate_texts(0, {"train": 5000, "validation": 1, "test": 1}, tmp_path)
    with pytest.raises(ValueError, match=r"sizes\['test'\]"):
        generate_texts(0, {"train": 5, "validation": 1}, tmp_path)
