"""Tracking: what a run writes for TensorBoard, and that nothing happens without a folder."""

import subprocess
import sys

import pytest
import torch

from course_lib.errors import CourseError
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
        "t.step('a', {'step': 1, 'loss': 1.0}); t.weights('a', None, 0); t.close(); print('tensorboard' in sys.modules or 'torch' in sys.modules)"
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


def test_a_folder_without_the_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(CourseError, match=r"--log-dir .*course_lib\[tracking\]"):
        Tracker(tmp_path)
