"""A corpus and its splits: what the folder lacks is drawn by seed, said in the report, and nothing is lost or leaked."""

from collections import Counter

import pytest

from course_lib.data.conll import Sentence, write_conll
from course_lib.data.corpus import load_corpus
from course_lib.errors import CourseError


def sentences(prefix, count, tag="B-PER"):
    return [Sentence((f"{prefix}{i}", "x"), (tag, "O")) for i in range(count)]


@pytest.fixture
def folder(tmp_path):
    """Make a folder ``corp`` of splits."""

    def make(**splits):
        for name, part in splits.items():
            if isinstance(part, str):
                (tmp_path / "corp").mkdir(exist_ok=True)
                (tmp_path / "corp" / f"{name}.txt").write_text(part, "utf-8")
            else:
                write_conll(tmp_path / "corp" / f"{name}.txt", part)
        return str(tmp_path / "corp")

    return make


def order_kept(part, whole):
    places = [whole.index(s) for s in part]
    return places == sorted(places)


def test_three_files_are_used_as_given(folder):
    train, dev, test = sentences("a", 20), sentences("b", 3), sentences("c", 4)
    corpus = load_corpus(folder(train=train, dev=dev, test=test))
    assert (corpus.train, corpus.validation, corpus.test) == (train, dev, test)
    assert corpus.splits == "train, dev and test as given"
    assert corpus.name == "corp"
    assert corpus.notes == []


@pytest.mark.parametrize("count, tenth", [(2, 1), (9, 1), (10, 1), (19, 1), (20, 2), (105, 10)])
def test_without_test_dev_is_the_test_and_validation_a_tenth_of_train(folder, count, tenth):
    train, dev = sentences("a", count), sentences("b", 3)
    corpus = load_corpus(folder(train=train, dev=dev), seed=5)
    assert corpus.test == dev
    assert len(corpus.validation) == tenth
    assert Counter(corpus.train + corpus.validation) == Counter(train)
    assert order_kept(corpus.train, train) and order_kept(corpus.validation, train)
    assert corpus.splits == "no test.txt: dev.txt is the test, validation is a tenth of train, drawn with seed 5"


def test_without_dev_validation_is_a_tenth_of_train(folder):
    train, test = sentences("a", 50), sentences("c", 3)
    corpus = load_corpus(folder(train=train, test=test), seed=2)
    assert corpus.test == test
    assert len(corpus.validation) == 5
    assert Counter(corpus.train + corpus.validation) == Counter(train)
    assert corpus.splits == "no dev.txt: validation is a tenth of train, drawn with seed 2; test as given"


def test_train_alone_gives_a_tenth_each(folder):
    train = sentences("a", 50)
    corpus = load_corpus(folder(train=train))
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (40, 5, 5)
    assert Counter(corpus.train + corpus.validation + corpus.test) == Counter(train)
    assert all(order_kept(part, train) for part in (corpus.train, corpus.validation, corpus.test))
    assert corpus.splits == "train.txt alone: validation and test are a tenth each, drawn with seed 0"


def test_drawn_splits_are_the_same_for_the_same_seed_only(folder):
    path = folder(train=sentences("a", 200))
    draws = {seed: load_corpus(path, seed=seed) for seed in range(5)}
    assert all(load_corpus(path, seed=s).fingerprint() == c.fingerprint() for s, c in draws.items())
    assert len({tuple(c.validation) for c in draws.values()}) == 5
    assert len({tuple(c.test) for c in draws.values()}) == 5


@pytest.mark.parametrize("count, splits", [(1, {"dev": 3}), (1, {"test": 3}), (1, {}), (2, {})])
def test_too_few_sentences_to_draw_from_is_an_error(folder, count, splits):
    path = folder(train=sentences("a", count), **{k: sentences(k, n) for k, n in splits.items()})
    with pytest.raises(CourseError, match=rf"^{count} training sentences: too few to draw {1 if splits else 2} split"):
        load_corpus(path)


def test_types_of_validation_and_test_unseen_in_training_are_noted(folder):
    path = folder(train=sentences("a", 5), dev=sentences("b", 2, "B-LOC"), test=sentences("c", 2, "B-ORG") + sentences("d", 1))
    corpus = load_corpus(path)
    assert [n.split(" types")[0] for n in corpus.notes] == ["validation has", "test has"]
    assert "never seen in training" in corpus.notes[0] and corpus.notes[0].endswith("['LOC']")
    assert "counted as misses" in corpus.notes[1] and corpus.notes[1].endswith("['ORG']")
    assert corpus.tags == ["O", "B-PER", "I-PER"]
    assert corpus.types == {"PER"}


def test_a_type_that_only_drawn_away_sentences_hold_is_noted(folder):
    train = sentences("a", 19) + [Sentence(("z",), ("B-LOC",))]
    path = folder(train=train)
    noted = 0
    for seed in range(30):
        corpus = load_corpus(path, seed=seed)
        away = "LOC" not in corpus.types
        assert bool(corpus.notes) == away
        noted += away
    assert 0 < noted < 30  # both happened


def test_notes_say_what_was_converted_and_repaired(folder):
    path = folder(
        train="a I-PER\nb I-PER\n\nc O\n", dev="a S-PER\n\nb B-PER\nc E-PER\n", test="a O\nb I-PER\nc B-PER\n\nd B-PER\n"
    )
    with pytest.raises(CourseError, match=r"test\.txt, line 2"):
        load_corpus(path)
    corpus = load_corpus(path, repair=True)
    assert corpus.notes == [
        "train.txt: converted from IOB1",
        "dev.txt: converted from BIOES",
        "test.txt: 1 tags repaired",
    ]
    assert [s.tags for s in corpus.train] == [("B-PER", "I-PER"), ("O",)]
    assert corpus.validation[1].tags == ("B-PER", "I-PER")


def test_a_corpus_without_entities_is_an_error(folder):
    with pytest.raises(CourseError, match=r"^corp: no entity in its 5 training sentences"):
        load_corpus(folder(train=sentences("a", 5, "O"), dev=sentences("b", 2), test=sentences("c", 2)))


@pytest.mark.parametrize("splits", [{}, {"dev": sentences("a", 3)}])
def test_a_folder_without_train_is_an_error_that_says_what_is_expected(folder, tmp_path, splits):
    path = folder(**splits) if splits else str(tmp_path / "absent")
    with pytest.raises(CourseError) as error:
        load_corpus(path)
    assert str(error.value) == (
        f"--data {path}: no train.txt there. Expected a folder with train.txt (and dev.txt, test.txt), or hub:ID."
    )


def test_an_empty_split_file_is_an_error_not_an_absent_split(folder):
    with pytest.raises(CourseError, match=r"dev\.txt: no sentence found"):
        load_corpus(folder(train=sentences("a", 20), dev=""))


def test_the_name_is_the_folders_own_even_when_it_is_given_as_a_dot(folder, monkeypatch):
    monkeypatch.chdir(folder(train=sentences("a", 20)))
    assert load_corpus(".").name == "corp"


def test_equal_data_equal_fingerprint_any_change_another(folder):
    def fingerprint(train, dev, test):
        return load_corpus(folder(train=train, dev=dev, test=test)).fingerprint()

    a, b, c = sentences("a", 4), sentences("b", 3), sentences("c", 3)
    base = fingerprint(a, b, c)
    assert fingerprint(a, b, c) == base
    others = [
        (a, c, b),
        (a[::-1], b, c),
        (a + b[:1], b[1:], c),  # the border between two splits moved
        (a, b, [*c[:-1], Sentence(c[-1].words, ("B-LOC", "O"))]),
        (a, b, [*c[:-1], Sentence(("other", "x"), c[-1].tags)]),
    ]
    assert len({base, *(fingerprint(*parts) for parts in others)}) == 6


def test_figures_count_sentences_and_tokens_of_each_split(folder):
    corpus = load_corpus(folder(train=sentences("a", 4), dev=sentences("b", 3), test=[Sentence(("z",), ("O",))]))
    assert corpus.figures() == {
        "name": "corp",
        "sentences": {"train": 4, "validation": 3, "test": 1},
        "tokens": {"train": 8, "validation": 6, "test": 1},
        "splits": "train, dev and test as given",
    }
