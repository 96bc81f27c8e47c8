"""Tracking: what a run writes for TensorBoard, and that nothing happens without a folder."""

import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from course_lib.artifacts import Cache
from course_lib.data.generated import generate
from course_lib.deploy.export import export_onnx, quantize_onnx
from course_lib.errors import CourseError
from course_lib.models.zoo import find_encoder, load_token_classifier, load_tokenizer, save_model
from course_lib.precision.loss_scaler import LossScaler, ScalerSettings
from course_lib.precision.mixed import always, train
from course_lib.recipes import compress as compress_module
from course_lib.recipes.teacher import Context
from course_lib.tracking import EVERY, Tracker


def read(folder):
    """Scalars of a run by name, as TensorBoard's own reader sees them: ``{name: [(step, value), …]}``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_without_a_folder_nothing_is_imported_or_written(tmp_path):
    code = (
        "import sys; from course_lib.tracking import Tracker; t = Tracker(); t.scalars('a', {'b': 1.0}, 0);"
        "t.step('a', {'step': 1, 'loss': 1.0}); t.weights('a', None, 0); t.mixed_step('a', 1, None); t.int8_scales('a', 'none.onnx'); t.close();"
        "print(any(name in sys.modules for name in ('tensorboard', 'torch', 'onnx')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and not list(tmp_path.iterdir())


def test_scalars_come_back_as_they_were_written(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.scalars("teacher", {"epoch/loss": 0.5}, 3)
    tracker.scalars("student", {"epoch/loss": 0.25}, 4)
    tracker.close()
    assert read(tmp_path / "teacher") == {"epoch/loss": [(3, 0.5)]}
    assert read(tmp_path / "student") == {"epoch/loss": [(4, 0.25)]}


def test_some_losses_and_every_f1_of_a_training_loop_are_kept(tmp_path):
    tracker = Tracker(tmp_path)
    for step in range(1, 2 * EVERY + 1):
        tracker.step("run", {"epoch": 0, "step": step, "steps": 20, "loss": step / 4})
    tracker.step("run", {"epoch": 1, "step": 2 * EVERY, "steps": 20, "loss": 2.0, "f1": 0.75})
    tracker.close()
    found = read(tmp_path / "run")
    assert found["step/loss"] == [(1, 0.25), (EVERY, EVERY / 4), (2 * EVERY, EVERY / 2)]
    assert found["epoch/loss"] == [(2 * EVERY, 2.0)] and found["epoch/validation_f1"] == [(2 * EVERY, 0.75)]
    assert found["memory/peak_mib"][0][1] > 10


def test_sparsity_and_scale_of_each_matrix_and_of_all(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0, 0, 0], [4.0, 0, 0, 0]]))
        model[1].weight.fill_(1.0)
    tracker = Tracker(tmp_path)
    tracker.weights("run", model, 0)
    tracker.close()
    found = {name: rows[0][1] for name, rows in read(tmp_path / "run").items()}
    assert (
        found["sparsity/0.weight"] == 0.75 and found["sparsity/1.weight"] == 0 and found["sparsity/all"] == pytest.approx(0.6)
    )
    assert found["scale/0.weight"] == pytest.approx((25 / 8) ** 0.5) and "scale/0.bias" not in found


def learn(steps: int, overflow_at: int, tracker: Tracker | None = None) -> list:
    """One weight trained in fp16; the gradient of one step, counted from 1, is infinite."""
    weight = torch.nn.Parameter(torch.ones(4))
    batches = [math.inf if step == overflow_at else 1.0 for step in range(1, steps + 1)]
    losses = lambda factor: (loss for loss in [(weight * weight).sum() * factor])  # noqa: E731
    scaler = LossScaler(ScalerSettings(first=8.0))
    return train(batches, losses, torch.optim.SGD([weight], lr=0.1), always(torch.float16), scaler, tracker=tracker, run="fp16")


def test_mixed_training_writes_losses_and_the_loss_scale_and_every_step_that_was_skipped(tmp_path):
    tracker = Tracker(tmp_path)
    done = learn(2 * EVERY + 3, overflow_at=EVERY + 3, tracker=tracker)
    tracker.close()
    found, written = read(tmp_path / "fp16"), [1, EVERY, EVERY + 3, 2 * EVERY]
    assert found["step/loss_scale"] == [(1, 8.0), (EVERY, 8.0), (EVERY + 3, 8.0), (2 * EVERY, 4.0)]
    assert found["step/loss"] == [(step, pytest.approx(done[step - 1].loss)) for step in written]
    assert found["step/loss"][0][1] == 4.0 and found["step/loss"][2][1] == math.inf


def test_mixed_training_that_is_not_tracked_trains_alike_and_imports_and_writes_nothing(tmp_path):
    tracker = Tracker(tmp_path / "log")
    assert learn(12, 3) == learn(12, 3, Tracker()) == learn(12, 3, tracker)
    tracker.close()
    code = (
        "import sys, torch; from course_lib.precision.mixed import always, train; from course_lib.tracking import Tracker\n"
        "w = torch.nn.Parameter(torch.ones(2)); o = torch.optim.SGD([w], lr=0.1)\n"
        "for tracker in (None, Tracker()): train([1] * 12, lambda _: iter([w.sum()]), o, always(torch.bfloat16), tracker=tracker)\n"
        "print('tensorboard' in sys.modules)"
    )
    (tmp_path / "empty").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "empty", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and not list((tmp_path / "empty").iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of a tiny model; its files of 8- and 4-bit embeddings are beside it."""
    root, source = tmp_path_factory.mktemp("tiny"), find_encoder("tiny")
    save_model(load_token_classifier(source, ["O", "B-PER", "I-PER"], 0), load_tokenizer(source), root)
    export_onnx(root, root / "fp32.onnx")
    quantize_onnx(root / "fp32.onnx", root / "model.onnx")
    quantize_onnx(root / "fp32.onnx", root / "packed.onnx", embedding_bits=4)
    return root


def scales_of(file) -> dict[str, np.ndarray]:
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(file)).graph.initializer}
    return {name: scale for name, scale in tensors.items() if name.endswith(("_scale", "_scales"))}


@pytest.mark.parametrize(("file", "table"), [("model.onnx", "weight_scale"), ("packed.onnx", "weight_scales")])
def test_the_scales_of_integers_are_those_in_the_file(file, table, model, tmp_path):
    tracker = Tracker(tmp_path)
    tracker.int8_scales("int8", model / file)
    tracker.close()
    found = {name: rows[0][1] for name, rows in read(tmp_path / "int8").items()}
    due = scales_of(model / file)
    assert len(found) == 3 * len(due) and len(due) > 8
    for end, pick in (("smallest", np.min), ("mean", np.mean), ("largest", np.max)):
        ours = sorted(value for name, value in found.items() if name.startswith(f"int8_scale_{end}/"))
        assert ours == pytest.approx(sorted(float(pick(scale)) for scale in due.values()), rel=1e-6)
    words = due[f"model.bert.embeddings.word_embeddings.{table}"]
    assert found["int8_scale_largest/model.bert.embeddings.word_embeddings.weight"] == pytest.approx(float(words.max()))
    attention = due["Attention_0_qkv_weight_scale"]
    assert len(attention) > 1 and found["int8_scale_mean/Attention_0_qkv_weight"] == pytest.approx(float(attention.mean()))
    assert any("encoder/layer.0/intermediate" in name for name in found) and not any("onnx" in name for name in found)


def test_a_file_of_floats_has_no_scales(model, tmp_path):
    tracker = Tracker(tmp_path)
    tracker.int8_scales("fp32", model / "fp32.onnx")
    tracker.close()
    assert read(tmp_path / "fp32") == {}


def test_compress_writes_the_scales_of_both_integer_models_where_a_folder_is_named_and_nowhere_else(
    model, tmp_path, monkeypatch
):
    """Its stages are made up here: what is shown is what it does between them."""

    def made(context, trained, recipe, int8):
        folder = tmp_path / f"{'int8' if int8 else 'onnx'}-{trained.name}"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes((model / ("model.onnx" if int8 else "fp32.onnx")).read_bytes())
        return folder

    for name, stage in {
        "check_recipe": lambda *given: None, "make_ensemble": lambda *given: [tmp_path / "teacher"], "make_onnx": made,
        "make_student": lambda *given: tmp_path / "student", "measure": lambda *given: {"contenders": []}, "publish": lambda *given: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(compress_module, name, stage)
    context = Context.create(generate(0, {"train": 4, "validation": 1, "test": 1}), Cache(tmp_path / "cache"), 0, 1, False)
    compress_module.compress(context, "tiny", SimpleNamespace(), tmp_path / "out")
    assert not (tmp_path / "log").exists()
    context = replace(context, tracker=Tracker(tmp_path / "log"))
    compress_module.compress(context, "tiny", SimpleNamespace(), tmp_path / "out")
    context.tracker.close()
    assert sorted(p.name for p in (tmp_path / "log").iterdir()) == ["student", "teacher"], "beside what their training wrote"
    attention = float(scales_of(model / "model.onnx")["Attention_0_qkv_weight_scale"].max())
    for run in ("student", "teacher"):
        assert read(tmp_path / "log" / run)["int8_scale_largest/Attention_0_qkv_weight"] == [(0, pytest.approx(attention))]


def test_a_folder_without_the_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(CourseError, match=r"--log-dir .*course_lib\[tracking\]"):
        Tracker(tmp_path)
