"""Hub corpora, from a local folder of parquet files in place of the hub: class labels and strings, any scheme, bad data."""

import os
import socket
import subprocess
import sys

import datasets
import pytest

from course_lib.data.conll import Sentence
from course_lib.data.corpus import load_corpus
from course_lib.data.hub import read_hub
from course_lib.errors import CourseError

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
WORDS = [["Ana", "Prado", "left"], ["Lyon", "Nice", ",", "Ana"]]
IOB2 = [["B-PER", "I-PER", "O"], ["B-LOC", "B-LOC", "O", "B-PER"]]
IOB1 = [["I-PER", "I-PER", "O"], ["I-LOC", "B-LOC", "O", "I-PER"]]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Write splits as parquet files; returns the path that stands for a hub id."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    folder = tmp_path / "stub"

    def make(column="ner_tags", names=None, words="tokens", under=".", **splits):
        for split, (tokens, tags) in splits.items():
            value = datasets.Value("string")
            if names:
                value = datasets.ClassLabel(names=names)
                tags = [[t if isinstance(t, int) else names.index(t) for t in row] for row in tags]
            features = {words: datasets.List(datasets.Value("string")), column: datasets.List(value)}
            data = datasets.Dataset.from_dict({words: tokens, column: tags}, features=datasets.Features(features))
            (folder / under).mkdir(parents=True, exist_ok=True)
            data.to_parquet(folder / under / f"{split}.parquet")
        return str(folder)

    yield make
    datasets.enable_progress_bars()


def expected(tags=IOB2):
    return [Sentence(tuple(w), tuple(t)) for w, t in zip(WORDS, tags, strict=True)]


@pytest.mark.parametrize("names", [NAMES, None], ids=["class labels", "strings"])
@pytest.mark.parametrize("column", ["ner_tags", "tags", "labels"])
@pytest.mark.parametrize("tags, scheme", [(IOB2, "IOB2"), (IOB1, "IOB1")])
def test_words_and_tags_come_as_iob2_whatever_holds_them(hub, names, column, tags, scheme):
    files = read_hub(hub(column, names, train=(WORDS, tags)))
    assert set(files) == {"train"}
    assert files["train"].sentences == expected()
    assert (files["train"].scheme, files["train"].repaired) == (scheme, 0)


def test_bioes_strings_are_converted(hub):
    files = read_hub(hub(train=(WORDS, [["B-PER", "E-PER", "O"], ["S-LOC", "S-LOC", "O", "S-PER"]])))
    assert files["train"].sentences == expected()
    assert files["train"].scheme == "BIOES"


def test_splits_are_named_as_files_are_and_others_left_out(hub):
    many = [WORDS[0]] * 20, [IOB1[0]] * 20
    path = hub(names=NAMES, train=many, validation=(WORDS[:1], IOB1[:1]), test=(WORDS[1:], IOB1[1:]))
    corpus = load_corpus(f"hub:{path}")
    assert len(corpus.train) == 20
    assert corpus.validation == expected()[:1]
    assert corpus.test == expected()[1:]
    assert corpus.splits == "train, dev and test as given"
    assert "/" not in corpus.name and corpus.name.endswith("--stub")
    assert corpus.notes[:1] == ["train.txt: converted from IOB1"]
    assert "test has types never seen in training, all of them counted as misses: ['LOC']" in corpus.notes


def test_missing_splits_are_drawn(hub):
    corpus = load_corpus(f"hub:{hub(train=([WORDS[0]] * 30, [IOB2[0]] * 30))}", seed=3)
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (24, 3, 3)
    assert "drawn with seed 3" in corpus.splits


def test_one_configuration_of_several(hub):
    path = hub(under="big", train=(WORDS, IOB2))
    hub(under="small", train=(WORDS[:1], IOB2[:1]))
    configs = "".join(f"- config_name: {c}\n  data_files: {c}/train.parquet\n" for c in ("big", "small"))
    with open(f"{path}/README.md", "w", encoding="utf-8") as readme:
        readme.write(f"---\nconfigs:\n{configs}---\n")
    assert len(read_hub(f"{path}:small")["train"].sentences) == 1
    assert len(read_hub(f"{path}:big")["train"].sentences) == 2
    with pytest.raises(CourseError, match=r"Cannot load the hub corpus .*:other"):
        read_hub(f"{path}:other")


def test_rows_without_words_are_left_out(hub):
    files = read_hub(hub(train=([[], *WORDS, []], [[], *IOB2, []])))
    assert files["train"].sentences == expected()


def test_an_illegal_transition_names_split_and_row_and_repair_counts_it(hub):
    path = hub(train=([[], *WORDS], [[], ["O", "I-PER", "O"], ["B-LOC", "I-PER", "O", "B-PER"]]))
    with pytest.raises(CourseError, match=r"stub, train, row 1: I-PER after O: in IOB2, .*\(--repair\)"):
        load_corpus(f"hub:{path}")
    file = read_hub(path, repair=True)["train"]
    assert [s.tags for s in file.sentences] == [("O", "B-PER", "O"), ("B-LOC", "B-PER", "O", "B-PER")]
    assert file.repaired == 2
    many = hub(train=([WORDS[0]] * 20, [["O", "I-PER", "O"]] + [IOB2[0]] * 19))
    assert "train.txt: 1 tags repaired" in load_corpus(f"hub:{many}", repair=True).notes


@pytest.mark.parametrize(
    "made, message",
    [
        ({"train": (WORDS, [["B-PER", "PERSON", "O"], IOB2[1]])}, "train, row 0: tag 'PERSON': expected O or one of B-"),
        ({"train": (WORDS, [IOB2[0], ["O"]])}, "train, row 1: 4 words and 1 tags: expected one tag per word"),
        ({"names": NAMES, "train": (WORDS, [IOB2[0], [0, 0, 0, -1]])}, "train, row 1: tag 'None': expected O"),
        ({"column": "pos", "train": (WORDS, IOB2)}, "train: columns ['tokens', 'pos']; expected 'tokens' and one of"),
        ({"words": "text", "train": (WORDS, IOB2)}, "train: columns ['text', 'ner_tags']; expected 'tokens'"),
        ({"test": (WORDS, IOB2)}, "splits ['test']; expected 'train' among them"),
    ],
)
def test_data_that_are_not_words_and_tags_are_refused_with_their_place(hub, made, message):
    path = hub(**made)
    with pytest.raises(CourseError) as error:
        read_hub(path)
    assert str(error.value).startswith(path)
    assert message in str(error.value)


@pytest.mark.parametrize("where", ["conll2003", "owner/name:config"])
@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_without_a_network_the_error_says_what_to_do_instead(tmp_path, where, how):
    code = "import sys\nfrom course_lib.data.corpus import load_corpus\nload_corpus(sys.argv[1])"
    with socket.socket() as closed:  # a port where nobody listens, once it is closed again
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    environment |= {"HF_HUB_OFFLINE": "1"} if how == "offline" else {"HF_ENDPOINT": endpoint}
    environment["HF_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, f"hub:{where}"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"course_lib.errors.CourseError: Cannot load the hub corpus '{where}': ")
    assert last.endswith("It needs a network; offline, leave --data out (generated corpus) or give a folder of CoNLL files.")


def test_without_the_package_datasets_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CourseError, match=r"'conll2003' needs the package 'datasets'.*pip install 'course_lib\[hub\]'"):
        load_corpus("hub:conll2003")
