"""Text that a teacher has labelled: made once, read back to the bit, and enough for a student to learn all that its teacher knows."""

import json
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from course_lib.artifacts import Cache
from course_lib.data.align import make_windows, pad_id, window_labels
from course_lib.deploy.engines import TorchEngine
from course_lib.distillation import labelled_text
from course_lib.distillation.agreement import check_tags, check_tokenizers
from course_lib.distillation.labelled_text import label_text
from course_lib.distillation.objective import (
    LastHidden,
    TeacherTargets,
    distil_objective,
    soft_only_labels,
    teacher_targets,
)
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.ner.checkpoint import weights_sha256
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags
from course_lib.ner.train import Settings, train
from course_lib.tasks import NER

SENTENCES = [("the", "club", "said"), ("a",), ("mr", "smith", "was")]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two trained folders."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"teacher{seed}")
        save_model(
            load_token_classifier(find_encoder("tiny"), ["O", "B-X"], seed), load_tokenizer(find_encoder("tiny")), folder
        )
        folders.append(folder)
    return folders


def test_a_text_is_labelled_once_and_read_back_to_the_bit(teachers, tmp_path, monkeypatch):
    windows, logits = label_text(Cache(tmp_path), teachers[:1], SENTENCES)
    assert [w.sentence for w in windows] == [0, 1, 2] and [len(rows) for rows in logits] == [len(w.ids) for w in windows]
    model = load_token_classifier(teachers[0]).eval()
    with torch.no_grad():
        due = model(input_ids=torch.tensor([windows[1].ids])).logits[0].numpy()
    assert np.abs(logits[1] - due).max() <= 1e-5, "alone or in a padded batch: float32 sums in another order"
    monkeypatch.setattr(labelled_text, "teacher_targets", None)  # not asked again
    again, read = label_text(Cache(tmp_path), teachers[:1], SENTENCES)
    assert again == windows and all(np.array_equal(a, b) for a, b in zip(read, logits, strict=True))


def test_other_text_or_teachers_are_asked_anew_and_several_are_averaged(teachers, tmp_path):
    _, first = label_text(Cache(tmp_path), teachers[:1], SENTENCES)
    _, second = label_text(Cache(tmp_path), teachers[1:], SENTENCES)
    _, both = label_text(Cache(tmp_path), teachers, SENTENCES)
    assert all(np.allclose(m, (a + b) / 2, atol=1e-6) for m, a, b in zip(both, first, second, strict=True))
    assert len(label_text(Cache(tmp_path), teachers, SENTENCES[:2])[1]) == 2
    assert label_text(Cache(tmp_path), teachers, []) == ([], [])
    assert len([p for p in tmp_path.iterdir() if p.name.startswith("labels-")]) == 5


# --- teachers that cannot be averaged


def changed_tokenizer() -> Tokenizer:
    """The tiny encoder's tokenizer with two pieces that have changed numbers."""
    data = json.loads(load_tokenizer(find_encoder("tiny")).to_str())
    a, b = (p for p, i in data["model"]["vocab"].items() if i in (20, 21))
    data["model"]["vocab"] |= {a: 21, b: 20}
    return Tokenizer.from_str(json.dumps(data))


@pytest.mark.parametrize(
    ("tags", "tokenizer", "message"),
    [
        (["O", "B-Y"], None, r"other's tags are \['O', 'B-Y'\], .*teacher0.*'s \['O', 'B-X'\]: expected the same"),
        (["B-X", "O"], None, "expected the same, in the same order"),
        (["O", "B-X"], changed_tokenizer, "other has another tokenizer than .*teacher0"),
    ],
    ids=["other tags", "another order of tags", "another tokenizer"],
)
def test_teachers_that_say_or_read_other_things_are_refused_before_anything_is_kept(
    teachers, tmp_path, tags, tokenizer, message
):
    own = (tokenizer or (lambda: load_tokenizer(find_encoder("tiny"))))()
    (tmp_path / "other").mkdir()
    save_model(load_token_classifier(find_encoder("tiny"), tags, 1), own, tmp_path / "other")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(CourseError, match=message):
        label_text(cache, [teachers[0], tmp_path / "other"], SENTENCES)
    assert not list(cache.root.iterdir())
    assert label_text(cache, [tmp_path / "other"], SENTENCES)[0], "alone it may be what it is"


def test_a_tokenizer_is_what_it_does_not_how_its_file_looks(teachers, tmp_path):
    (tmp_path / "same").mkdir()
    save_model(load_token_classifier(teachers[1]), load_tokenizer(teachers[1]), tmp_path / "same")
    file = tmp_path / "same" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")), indent=4), "utf-8")
    assert file.read_bytes() != (teachers[1] / "tokenizer.json").read_bytes()
    _, due = label_text(Cache(tmp_path / "cache"), teachers, SENTENCES)
    _, found = label_text(Cache(tmp_path / "again"), [teachers[0], tmp_path / "same"], SENTENCES)
    assert all(np.array_equal(a, b) for a, b in zip(found, due, strict=True))


def test_without_a_teacher_or_a_name_for_each_nothing_is_checked(tmp_path):
    with pytest.raises(ValueError, match="teachers = 0: expected at least one folder"):
        label_text(Cache(tmp_path), [], SENTENCES)
    with pytest.raises(ValueError, match="models = 0: expected at least one"):
        check_tags([], [])
    with pytest.raises(ValueError, match=r"names = \['a', 'b'\]: expected 1, one for each"):
        check_tokenizers([changed_tokenizer()], ["a", "b"])


# --- a student that has seen nothing else

TAGS = ["O", "B-LOC", "B-PER"]
SETTINGS = Settings(epochs=12, batch_size=8, learning_rate=5e-3)


def spoken(count: int, seed: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Words and tags of sentences about a person in a place."""
    rng, words, tags = random.Random(seed), [], []
    for _ in range(count):
        name, place = rng.choice("Ana Bob Cid Dee Eve".split()), rng.choice("Rome Oslo Lima Bern".split())
        cut = rng.choice((2, 3, 5))
        words.append(("Mr", name, "was", "in", place)[:cut])
        tags.append(("O", "B-PER", "O", "O", "B-LOC")[:cut])
    return words, tags


def fitted(folder, seed, windows, labels, objective=None, model=None):
    """A tiny classifier trained on windows, the best of its epochs by F1 on sentences of its own."""
    tokenizer, (words, gold) = load_tokenizer(find_encoder("tiny")), spoken(20, 100)
    model = model or load_token_classifier(find_encoder("tiny"), TAGS, seed)
    validate = lambda m: entity_f1(gold, predict_tags(words, TorchEngine(m), tokenizer, TAGS))  # noqa: E731
    more = {} if objective is None else {"objective": objective}
    train(model, windows, labels, pad_id(tokenizer), validate, SETTINGS, folder, **more)
    return model


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """The folder of a teacher that has learnt names and places from hard labels."""
    folder, tokenizer = tmp_path_factory.mktemp("expert"), load_tokenizer(find_encoder("tiny"))
    words, tags = spoken(40, 0)
    windows, index = make_windows(words, tokenizer), {tag: i for i, tag in enumerate(TAGS)}
    labels = [window_labels(w, tags[w.sentence], index) for w in windows]
    save_model(fitted(folder / "training", 0, windows, labels), tokenizer, folder)
    return folder


def test_a_student_of_labelled_text_alone_learns_what_its_teacher_knows(expert, tmp_path):
    """It never sees a tag that a person gave. Test sentences are of the same names, where the teacher makes no mistake."""
    (words, gold), tokenizer = spoken(60, 200), load_tokenizer(expert)

    def f1(model):
        return entity_f1(gold, predict_tags(words, TorchEngine(model.eval()), tokenizer, TAGS))

    def student(logits, windows, folder):
        model = load_token_classifier(find_encoder("tiny"), TAGS, 5)
        listener = LastHidden(model)
        objective = distil_objective(listener, TeacherTargets(logits), 2.0, hard=0.5, hidden=0.0)
        fitted(tmp_path / folder, 5, windows, soft_only_labels(windows, NER.read_at), objective, model)
        listener.remove()
        return model

    windows, logits = label_text(Cache(tmp_path / "cache"), [expert], spoken(40, 300)[0])
    untaught, taught = f1(load_token_classifier(find_encoder("tiny"), TAGS, 5)), student(logits, windows, "first")
    assert f1(load_token_classifier(expert)) == 1.0 and untaught < 0.5 and f1(taught) > 0.95
    again = label_text(Cache(tmp_path / "cache"), [expert], spoken(40, 300)[0])
    assert weights_sha256(student(again[1], again[0], "from the cache")) == weights_sha256(taught)
    asked = teacher_targets(load_token_classifier(expert), windows, pad_id(tokenizer), bf16=False).logits
    assert weights_sha256(student(asked, windows, "asked")) == weights_sha256(taught), "as from a teacher that is asked itself"
