"""The main job's parts: what is timed, what is said about the figures, and corpora that share nothing with the natural set.

The whole of it, as a command, is in tests/test_pipeline.py.
"""

import json

import pytest
import torch

from course_lib.artifacts import Cache
from course_lib.data.align import make_windows
from course_lib.data.conll import Sentence
from course_lib.data.corpus import Corpus
from course_lib.deploy.engines import OnnxEngine
from course_lib.errors import CourseError
from course_lib.measure.scorecard import contender, scorecard
from course_lib.models.zoo import find_encoder, load_tokenizer
from course_lib.recipes import compress as module
from course_lib.recipes.compress import TIMED, compress, notes, timed_rows
from course_lib.recipes.recipe import Distil, DropLayers, Quantize, Recipe, Training, TrimVocabulary
from course_lib.recipes.teacher import Context

RECIPE = Recipe("mine", Training(1, 8, 5e-3), (DropLayers([0]), Distil(1, 8, 5e-3), Quantize()), "# the text of the recipe\n")


def corpus(types, name="small", note=()):
    rows = [Sentence(("the", "city", "of", "Oslo"), ("O", "O", "O", f"B-{t}")) for t in types] * 10
    return Corpus(name, rows, rows, rows, "given", list(note))


@pytest.fixture
def context(tmp_path):
    """A context over a corpus with these types."""
    before = torch.get_num_threads()
    yield lambda *arguments, **options: Context.create(
        corpus(*arguments, **options), Cache(tmp_path / "cache"), 5, threads=1, bf16=False
    )
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_encoder("tiny"))


def numbered(count):
    """Sentences that differ, of one to twenty words."""
    return [
        Sentence(tuple("abcdefghij"[int(d)] for d in f"{i:04d}") * (i % 5 + 1), ("O",) * 4 * (i % 5 + 1)) for i in range(count)
    ]


def test_timed_sentences_are_drawn_by_seed_from_the_whole_test(tokenizer):
    data = numbered(2 * TIMED)
    all_rows = [list(w.ids) for w in make_windows([s.words for s in data], tokenizer, 512)]
    rows = timed_rows(data, tokenizer, 512, seed=1)
    assert len(rows) == TIMED and rows == timed_rows(data, tokenizer, 512, seed=1) != timed_rows(data, tokenizer, 512, seed=2)
    places = [all_rows.index(row) for row in rows]
    assert places == sorted({*places}), "each once, in their order"
    assert min(places) < TIMED / 2 and max(places) > 1.5 * TIMED


def test_a_small_test_is_timed_whole_and_repeated_to_fill_a_batch(tokenizer):
    rows = timed_rows(numbered(7), tokenizer, 512, seed=0)
    assert len(rows) == 56 and rows == rows[:7] * 8 and len({tuple(row) for row in rows}) == 7
    assert len(timed_rows(numbered(32), tokenizer, 512, seed=0)) == 32


def test_a_long_sentence_counts_by_its_windows(tokenizer):
    long = Sentence(("city",) * 500, ("O",) * 500)
    rows = timed_rows([long] * 40, tokenizer, 32, seed=0)
    assert max(map(len, rows)) <= 32 and len(rows) == 40 * len(make_windows([long.words], tokenizer, 32))


def test_a_test_without_any_piece_is_refused(tokenizer):
    nothing = [Sentence(("\ufe0f",), ("O",))] * 5
    assert make_windows([s.words for s in nothing], tokenizer) == [], "or this tests nothing"
    with pytest.raises(CourseError, match="no word the tokenizer knows a piece for"):
        timed_rows(nothing, tokenizer, 512, seed=0)


@pytest.mark.parametrize(
    "shared, said",
    [
        (set(), "Natural set: not scored, it shares no entity type with this corpus."),
        ({"PER", "LOC"}, "Natural set: hand-written sentences, without MISC, ORG."),
        ({"PER", "LOC", "ORG", "MISC"}, "Natural set: hand-written sentences, all four types."),
    ],
)
def test_the_notes_say_what_the_natural_set_is_worth(shared, said, context):
    lines = notes(
        context(["PER"], note=["test has types never seen"]), [[1]] * 40, {"teacher": 12.34, "student": 12.34}, shared
    )
    assert said in lines and lines[-1] == "test has types never seen"
    assert lines[0].startswith("Latency: 40 test sentences (mean 12.3 pieces)") and " 1 threads," in lines[0]
    assert any("fp32. The epoch was chosen on validation" in line for line in lines)


@pytest.mark.parametrize("saturates", [True, False])
def test_the_notes_warn_of_int8_that_saturates(saturates, context, monkeypatch):
    monkeypatch.setattr(module, "int8_saturates", lambda: saturates)
    assert (
        any("reduce_range = true" in line for line in notes(context(["PER"]), [[1]], {"teacher": 1.0, "student": 1.5}, set()))
        is saturates
    )


@pytest.fixture
def student_only(monkeypatch):
    """Only the two students in ONNX Runtime, to save time."""
    monkeypatch.setattr(module, "PLAN", module.PLAN[-2:])


def test_a_corpus_of_other_types_is_scored_without_the_natural_set(student_only, context, tmp_path, capsys):
    card = compress(context(["DISEASE", "GENE"]), "tiny", RECIPE, tmp_path / "out")
    assert [c["f1"]["natural"] for c in card["contenders"]] == [None, None]
    assert all(c["f1"]["test"] and c["f1"]["validation"] and c["error"] is None for c in card["contenders"])
    assert "natural" not in card["data"]["sentences"]
    assert "Natural set: not scored" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert [c["difference"] and c["difference"]["against"] for c in card["contenders"]] == [None, "student, ORT fp32"]
    assert json.loads((tmp_path / "out" / "scorecard.json").read_text()) == card
    assert f"wrote {tmp_path / 'out' / 'scorecard.json'}" in capsys.readouterr().err


def test_a_contender_that_crashes_when_timed_is_reported_and_the_rest_is_published(
    student_only, context, tmp_path, monkeypatch
):
    """It is scored in this process and dies in its own: the file is damaged in between."""

    class Damages(OnnxEngine):
        def __init__(self, path, threads):
            super().__init__(path, threads)
            if path.parent.name.startswith("onnx-"):
                path.write_bytes(b"junk")

    monkeypatch.setattr(module, "OnnxEngine", Damages)
    crashed, final = compress(context(["PER"]), "tiny", RECIPE, tmp_path / "out")["contenders"]
    assert "CourseError" in crashed["error"] and crashed["load_s"] is None and crashed["peak_mib"] is None
    assert crashed["ms_per_sentence"]["1"] == crashed["ms_per_sentence"]["32"] == {"median": None, "p95": None}
    assert final["error"] is None and final["final"] and final["ms_per_sentence"]["1"]["median"] > 0
    assert "student, ORT fp32 failed: " in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert {f.name for f in (tmp_path / "out" / "model").iterdir()} >= {"model.onnx", "recipe.toml"}
    assert not list((tmp_path / "cache").glob("scorecard-*")), "the next run tries again"


def test_the_same_sentences_under_another_name_get_a_scorecard_of_their_own(student_only, context, tmp_path, monkeypatch):
    """Nothing is trained again; but a scorecard from the cache must not carry the other corpus's name."""
    measured = []

    def measure(context, trained, folders):
        measured.append(context.corpus.name)
        return scorecard(0, 1, context.corpus.figures(), [contender("x", "student", "onnxruntime", "int8")], [])

    monkeypatch.setattr(module, "measure", measure)
    for name in ("small", "other", "small"):
        card = compress(context(["PER"], name), "tiny", RECIPE, tmp_path / "out")
        assert card["data"]["name"] == name
    assert measured == ["small", "other"]
    assert len(list((tmp_path / "cache").glob("teacher-*"))) == 1


def test_a_recipe_that_trims_the_vocabulary_times_each_model_on_its_own_pieces(context, tmp_path):
    """The student's numbers of pieces would mean other pieces to the teacher, or none."""
    steps = (TrimVocabulary("abcdefghijklmnopqrstuvwxyz"), *RECIPE.steps)
    here = context(["PER", "LOC"])
    card = compress(here, "tiny", Recipe("trimmed", Training(1, 8, 5e-3), steps, "# trimmed\n"), tmp_path / "out")
    assert all(c["error"] is None for c in card["contenders"])
    ((teacher,), (student,)) = (tmp_path / "cache").glob("teacher-*"), (tmp_path / "cache").glob("student-*")
    sizes = {kind: load_tokenizer(folder).get_vocab_size() for kind, folder in (("teacher", teacher), ("student", student))}
    by_name = {c["name"]: c for c in card["contenders"]}
    assert sizes["student"] < sizes["teacher"]
    whole = compress(here, "tiny", RECIPE, tmp_path / "whole")
    saved = (
        next(c for c in whole["contenders"] if c["final"])["parameters_stored"]
        - by_name["student, ORT int8"]["parameters_stored"]
    )
    hidden = json.loads((teacher / "config.json").read_text())["hidden_size"]
    assert saved == (sizes["teacher"] - sizes["student"]) * hidden
    assert load_tokenizer(tmp_path / "out" / "model").get_vocab_size() == sizes["student"], "the tokenizer that is shipped"
