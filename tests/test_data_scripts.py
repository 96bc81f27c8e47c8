"""The scripts that prove the corpus and write measured figures into the README."""

import importlib.util
from pathlib import Path

import pytest

from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus
from course_lib.data.natural import load_natural

SCRIPTS = Path(__file__).parent.parent / "data_scripts"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prove():
    return load("prove_corpus")


def sentence(text: str, tags: str) -> Sentence:
    return Sentence(tuple(text.split()), tuple(tags.split()))


def test_prose_f1_of_a_perfect_tagger_is_one_and_of_a_shifted_one_is_zero(prove, monkeypatch):
    natural = load_natural()[:40]
    gold = [list(n.sentence.tags) for n in natural]
    monkeypatch.setattr(prove, "open_model", lambda model, threads: (None, []))
    monkeypatch.setattr(prove, "load_tokenizer", lambda model: None)

    def tagger(shift):
        def predict(texts, engine, tokenizer, tags):
            for text in texts:
                position = 0
                for item in natural:
                    start = text.find(item.prose, position)
                    if start >= 0:
                        position = start + len(item.prose)
                        found = [
                            {"start": start + s.start + shift, "end": start + s.end + shift, "type": s.type}
                            for s in item.character_spans()
                        ]
                        yield {"entities": found}

        return predict

    assert any(tag != "O" for tags in gold for tag in tags)
    for shift, expected in ((0, 1.0), (1, 0.0)):
        monkeypatch.setattr(prove, "predict_text", tagger(shift))
        assert prove.prose_f1(Path("any"), natural, 1) == expected


def test_share_of_seen_entities_counts_mentions_without_case(prove):
    train = [sentence("Rome is old", "B-LOC O O")]
    test = [sentence("rome and Oslo", "B-LOC O B-LOC"), sentence("Rome sang", "B-PER O")]
    assert prove.share_seen(Corpus("c", train, [], test, "")) == pytest.approx(1 / 3)


def test_dictionary_f1_finds_what_training_named(prove):
    train = [sentence("Rome is old", "B-LOC O O")]
    assert prove.dictionary_f1(Corpus("c", train, [], [], ""), train * 3)[0] == 1.0


def test_readme_sections_are_replaced_and_a_missing_one_is_named():
    readme = load("update_readme")
    text = "a\n<!-- begin x -->\nold\nolder\n<!-- end x -->\nb\n"
    assert readme.fill(text, "x", "new") == "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n"
    assert readme.fill(readme.fill(text, "x", "1"), "x", "2") == readme.fill(text, "x", "2")
    with pytest.raises(ValueError, match="begin y"):
        readme.fill(text, "y", "new")


def test_the_readme_has_every_section_and_is_short():
    readme = load("update_readme")
    for name, (path, _) in readme.SECTIONS.items():
        text = path.read_text("utf-8")
        stretch = text.split(f"<!-- begin {name} -->\n")[1].split(f"<!-- end {name} -->")[0]
        assert stretch.strip(), f"{name} is empty: run data_scripts/update_readme.py"
    assert len(readme.README.read_text("utf-8").splitlines()) <= 150


def test_gains_compare_the_final_model_with_the_eager_teacher():
    readme = load("update_readme")
    times = lambda ms: {"1": {"median": ms}, "32": {"median": ms / 2}}  # noqa: E731
    teacher = {"ms_per_sentence": times(8.0), "bytes": 90, "final": False}
    final = {"ms_per_sentence": times(1.0), "bytes": 15, "final": True, "difference": {"value": -0.012}}
    assert readme.gains({"contenders": [teacher, final]}) == pytest.approx((-1.2, 8.0, 8.0, 6.0))


def test_the_collapse_of_static_int8_is_measured_for_both_ways_to_calibrate(tmp_path):
    """A random model has nothing to lose; its figures are there, in order, and float is that of the model."""
    from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model

    save_model(load_token_classifier(find_encoder("tiny"), ["O", "B-LOC"], 0), load_tokenizer(find_encoder("tiny")), tmp_path)
    rows = load("static_collapse").collapse(
        tmp_path, [sentence("Rome is old", "B-LOC O O")] * 20, [sentence("Oslo", "B-LOC")], 1
    )
    assert [row["calibrated"] for row in rows] == [None, 1, 8]
    assert all(0 <= row["f1"] <= 1 for row in rows)
