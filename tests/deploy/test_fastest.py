"""Choosing an engine: measured once, remembered by file and machine, failures are rows, and the choice is the fastest."""

import shutil

import numpy as np
import pytest

from course_lib.deploy import fastest
from course_lib.deploy.engines import OnnxEngine
from course_lib.deploy.export import export_onnx
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    root = tmp_path_factory.mktemp("fastest")
    for name in ("trained", "shipped"):
        (root / name).mkdir()
    save_model(
        load_token_classifier(find_encoder("tiny"), ["O", "B-PER"], 0), load_tokenizer(find_encoder("tiny")), root / "trained"
    )
    export_onnx(root / "trained", root / "shipped" / "model.onnx")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(root / "trained" / name, root / "shipped" / name)
    return root / "shipped"


def row(engine, threads, one, many, error=None):
    return {
        "engine": engine, "threads": threads, "error": error,
        "ms_per_sentence": {"1": {"median": one, "p95": one}, "32": {"median": many, "p95": many}},
    }  # fmt: skip


def test_each_setting_is_measured_and_agrees_with_the_first(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "settings", lambda threads: [("onnxruntime", threads), ("onnxruntime", 1)])
    rows = fastest.measure(shipped, 2, rounds=1, remembered=tmp_path)
    assert [(r["engine"], r["threads"], r["error"], r["same_tags"]) for r in rows] == [
        ("onnxruntime", 2, None, 1.0),
        ("onnxruntime", 1, None, 1.0),
    ]
    assert all(r["ms_per_sentence"][size]["median"] > 0 and r["load_s"] > 0 for r in rows for size in ("1", "32"))


def test_a_measurement_is_remembered_by_file_and_made_again_when_asked(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "settings", lambda threads: [("onnxruntime", threads)])
    races = []
    race = fastest.race
    monkeypatch.setattr(fastest, "race", lambda *a, **k: races.append(a) or race(*a, **k))
    first = fastest.measure(shipped, 1, rounds=1, remembered=tmp_path)
    assert fastest.measure(shipped, 1, rounds=1, remembered=tmp_path) == first and len(races) == 1
    fastest.measure(shipped, 1, rounds=1, again=True, remembered=tmp_path)
    assert len(races) == 2
    other = tmp_path / "other"
    shutil.copytree(shipped, other)
    (other / "model.onnx").write_bytes((shipped / "model.onnx").read_bytes() + b"")
    assert fastest.measure(other, 1, rounds=1, remembered=tmp_path) and len(races) == 2, (
        "the same file elsewhere is the same file"
    )


def test_a_crash_is_a_row_and_never_chosen(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "settings", lambda threads: [("onnxruntime", 1), ("no such engine", 1)])
    rows = fastest.measure(shipped, 1, rounds=1, remembered=tmp_path)
    assert rows[1]["error"] and rows[1]["same_tags"] is None
    assert fastest.fastest(rows) == ("onnxruntime", 1)


def test_the_fastest_depends_on_the_batch():
    rows = [row("a", 2, 3.0, 1.0), row("b", 1, 2.0, 2.0), row("c", 1, 0.1, 0.1, "crashed")]
    assert fastest.fastest(rows, 1) == ("b", 1) and fastest.fastest(rows, 32) == ("a", 2)
    with pytest.raises(CourseError, match=r"No engine could run the model: c crashed\."):
        fastest.fastest(rows[2:])
    with pytest.raises(ValueError, match="batch = 8: expected 1 or 32"):
        fastest.fastest(rows, 8)


def test_settings_name_what_is_installed_with_all_threads_and_with_one():
    assert ("onnxruntime", 2) in fastest.settings(2) and ("onnxruntime", 1) in fastest.settings(2)
    assert [s for s in fastest.settings(1) if s[0] == "onnxruntime"] == [("onnxruntime", 1)]


def test_auto_takes_what_was_measured_and_a_name_takes_itself(shipped, monkeypatch):
    monkeypatch.setattr(
        fastest, "measure", lambda folder, threads: [row("onnxruntime", 1, 1.0, 3.0), row("openvino", 2, 2.0, 1.0)]
    )
    assert fastest.choose(shipped, "auto", 2) == ("onnxruntime", 1)
    assert fastest.choose(shipped, "auto", 2, batch=32) == ("openvino", 2)
    assert fastest.choose(shipped, "onnxruntime", 2) == ("onnxruntime", 2)


def test_a_chosen_engine_gives_the_same_logits(shipped):
    ids = np.array([[2, 7, 8, 3]])
    run, tags = fastest.open_with(shipped, "onnxruntime", 1)
    assert tags == ["O", "B-PER"]
    assert np.array_equal(run(ids, np.ones_like(ids)), OnnxEngine(shipped / "model.onnx", 1)(ids, np.ones_like(ids)))


@pytest.mark.oracles
def test_openvino_reads_the_same_file(shipped):
    pytest.importorskip("openvino")
    ids = np.array([[2, 7, 8, 3]])
    run, _ = fastest.open_with(shipped, "openvino", 1)
    expected = OnnxEngine(shipped / "model.onnx", 1)(ids, np.ones_like(ids))
    # fp32 on both sides, sums in other orders through two small layers: a few hundred roundings of 2^-24 of values near 1
    np.testing.assert_allclose(run(ids, np.ones_like(ids)), expected, atol=1e-4)


def test_bad_input_is_named(shipped, tmp_path, monkeypatch):
    with pytest.raises(CourseError, match=r"no model\.onnx there"):
        fastest.measure(tmp_path, 1)
    with pytest.raises(CourseError, match="--engine fast: expected one of auto, onnxruntime, openvino"):
        fastest.choose(shipped, "fast", 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CourseError, match=r"--engine openvino: it is not installed. pip install 'course_lib\[bench\]'"):
        fastest.choose(shipped, "openvino", 1)
