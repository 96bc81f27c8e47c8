"""Tests of course_lib/exercises/trained.py: finished models in full mode, stand-ins in fast mode."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from course_lib import console
from course_lib.data.generated import generate
from course_lib.deploy.engines import OnnxEngine, TorchEngine
from course_lib.errors import CourseError
from course_lib.exercises import trained
from course_lib.measure.size import stored_parameters
from course_lib.models.zoo import load_token_classifier, load_tokenizer, model_tags
from course_lib.ner.evaluate import entity_f1
from course_lib.ner.predict import predict_tags

STAGES = (trained.teacher, trained.student, trained.shipped)


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A folder that is no course's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """The stand-ins, made once for this module; several ask for them at the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("course"))
        patch.setenv("COURSE_FAST", "1")
        with ThreadPoolExecutor(2 * len(STAGES)) as pool:
            asked = [pool.submit(stage) for stage in (*STAGES, *STAGES)]
        made = [future.result() for future in asked]
        yield {stage.__name__: made[i :: len(STAGES)] for i, stage in enumerate(STAGES)}


def test_full_mode_asks_for_the_command_and_makes_nothing(away, monkeypatch):
    monkeypatch.delenv("COURSE_FAST", raising=False)
    for stage in STAGES:
        with pytest.raises(CourseError, match=r"teacher-\w+ is missing: .*`course compress` once \(about 7 minutes"):
            stage()
    assert not list((away / "artifacts" / "cache").iterdir())


def test_full_mode_finds_what_the_command_left(away, monkeypatch):
    monkeypatch.delenv("COURSE_FAST", raising=False)
    for stage in STAGES:  # each error names the next folder that is missing
        while True:
            try:
                folder = stage()
                break
            except CourseError as error:
                (away / str(error).split(" is missing")[0]).mkdir()
        assert folder.parent == away / "artifacts" / "cache"


def test_artifacts_are_those_of_the_course_one_is_in(away, monkeypatch):
    assert trained.artifacts_folder() == away / "artifacts"
    (away / "course_lib" / "exercises").mkdir(parents=True)
    (away / "work" / "4_bert_ner").mkdir(parents=True)
    monkeypatch.chdir(away / "work" / "4_bert_ner")
    assert trained.artifacts_folder() == away / "artifacts"


def test_the_corpus_is_the_generated_one_and_smaller_in_fast_mode(monkeypatch):
    monkeypatch.setenv("COURSE_FAST", "1")
    assert {k: len(getattr(trained.corpus(), k)) for k in trained.STAND_IN_SIZES} == trained.STAND_IN_SIZES
    monkeypatch.delenv("COURSE_FAST")
    assert trained.corpus().fingerprint() == generate(0).fingerprint()


def test_each_stand_in_is_made_once_whoever_asks(stand_ins):
    assert all(len(folders) == 2 and len(set(folders)) == 1 for folders in stand_ins.values())


def test_stand_ins_have_learnt_something(stand_ins, monkeypatch):
    monkeypatch.setenv("COURSE_FAST", "1")
    sentences = trained.corpus().test
    for name, (folder, _) in stand_ins.items():
        tokenizer, tags = load_tokenizer(folder), model_tags(load_token_classifier(stand_ins["teacher"][0]))
        engine = OnnxEngine(folder / "model.onnx", 1) if name == "shipped" else TorchEngine(load_token_classifier(folder))
        f1 = entity_f1([s.tags for s in sentences], predict_tags([s.words for s in sentences], engine, tokenizer, tags))
        assert f1 > 0.2, name  # no entity is found by chance: an untrained head scores below 0.02


def test_the_student_is_smaller_than_the_teacher(stand_ins):
    teacher, student = (load_token_classifier(stand_ins[name][0]) for name in ("teacher", "student"))
    assert len(teacher.bert.encoder.layer) == len(trained.STAND_IN_LAYERS)
    assert stored_parameters(student) < stored_parameters(teacher)


def test_threads_and_messages_are_left_as_they_were(away, monkeypatch):
    monkeypatch.setenv("COURSE_FAST", "1")
    monkeypatch.setattr(trained, "_stage", lambda *given, **settings: (_ for _ in ()).throw(CourseError("stop")))
    monkeypatch.setattr(trained, "_small_encoder", lambda cache: "none")
    before = torch.get_num_threads(), console.stderr.quiet
    with pytest.raises(CourseError, match="stop"):
        trained.teacher()
    assert (torch.get_num_threads(), console.stderr.quiet) == before
