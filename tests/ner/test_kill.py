"""A training process killed with SIGKILL, which nothing can catch, goes on and ends with the same bits.

Each run is a process of its own, forked from a server that has imported torch once. The runs checkpoint at every
step. To be killed at a known point a run stands still there, found by watching its file operations from inside
(an audit hook); to be killed anywhere, it kills itself at its n-th file operation.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from course_lib.models.zoo import find_encoder
from course_lib.ner.train import Settings

TAGS = ["O", "B-PER", "I-PER"]
SETTINGS = Settings(epochs=3, batch_size=4, learning_rate=3e-3, seed=1)
STEPS, PER_EPOCH = 15, 5
WAIT = 250  # seconds until a process that does not do what it must is given up
WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "tempfile.mkdtemp"}


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a run is stopped: it stands still at ``event`` on a path with ``part`` in it, or dies at its n-th operation."""

    event: str = ""
    part: str = ""
    operation: int = 0


def watch(cut: Cut, folder: str) -> None:
    """Watch this process's own file operations below ``folder``."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        path = str(arguments[0]) if arguments else ""
        if event not in WRITES or not (path.startswith(folder) or not os.path.isabs(path)):  # rmtree names files by themselves
            return
        seen += 1
        if seen == cut.operation:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == cut.event and cut.part in path:
            time.sleep(2 * WAIT)

    sys.addaudithook(hook)


def work(encoder: Path, folder: Path, out: Path, settings: Settings, cut: Cut | None, masked: bool) -> None:
    """One run: train on a small fixed corpus and write weights, history and the first step taken."""
    import torch

    from course_lib.data.align import make_windows, window_labels
    from course_lib.models.zoo import load_token_classifier, load_tokenizer
    from course_lib.ner.train import make_optimizer, train
    from course_lib.pruning.masks import Masks, mask_by_sparsity

    torch.set_num_threads(1)
    rng = random.Random(0)
    sentences = [["the", *("".join(rng.choices("abc", k=3)) for _ in range(rng.randint(1, 5)))] for _ in range(20)]
    windows = make_windows(sentences, load_tokenizer(encoder))
    labels = [window_labels(w, [TAGS[len(word) % 2] for word in sentences[w.sentence]], {"O": 0, "B-PER": 1}) for w in windows]
    model = load_token_classifier(encoder, TAGS, seed=0)
    steps = []

    def sparse(model, settings):
        name = "bert.encoder.layer.0.output.dense.weight"
        optimizer, weight = make_optimizer(model, settings), model.get_parameter(name).detach()
        Masks({name: mask_by_sparsity(weight.abs(), 0.5)}).keep(model, optimizer)
        return optimizer

    if cut:
        watch(cut, str(folder))
    history = train(
        model,
        windows,
        labels,
        padding=0,
        validate=lambda m: -abs(float(m.classifier.weight.detach().abs().mean()) - 0.03),  # any number the weights decide
        settings=settings,
        folder=folder,
        progress=lambda event: steps.append(event["step"]),
        checkpoint_every=0.0,
        own_optimizer=("half of a matrix", sparse) if masked else None,
    )
    save_file(model.state_dict(), out.with_suffix(".safetensors"))
    out.write_text(json.dumps({"history": history, "first": min(steps, default=0)}))


@pytest.fixture(scope="module")
def start():
    """A function that starts a run in its own process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "course_lib.ner.train", "transformers.models.bert.modeling_bert"])
    started = []

    def start(folder: Path, out: Path, settings: Settings = SETTINGS, cut: Cut | None = None, masked: bool = False):
        process = context.Process(target=work, args=(find_encoder("tiny"), folder, out, settings, cut, masked))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def finish(process) -> None:
    process.join(WAIT)
    assert process.exitcode == 0


def outcome(out: Path) -> tuple[str, list[dict], int]:
    """sha256 over all tensors, the history but for its seconds, and the first step this process took."""
    sha = hashlib.sha256()
    for name, tensor in sorted(load_file(out.with_suffix(".safetensors")).items()):
        sha.update(name.encode() + tensor.numpy().tobytes())
    told = json.loads(out.read_text())
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in told["history"]]
    return sha.hexdigest(), history, told["first"]


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory) -> tuple[str, list[dict], int]:
    place = tmp_path_factory.mktemp("undisturbed")
    finish(start(place / "run", place / "out.json"))
    sha, history, first = outcome(place / "out.json")
    assert first == 1 and len(history) == 3
    return sha, history, first


def wait_for(condition: Callable[[], bool], process) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert process.is_alive(), f"the run ended by itself with {process.exitcode}"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def names(folder: Path, pattern: str) -> list[str]:
    return sorted(p.name for p in folder.glob(pattern))


POINTS = {
    # While step 4's checkpoint is only begun: nothing is in its folder yet.
    "in the first epoch": (Cut("open", ".step-0000004-0000"), "step-0000003-0000", ".step-0000004-0000.*", 4),
    # All files are there, the rename is not done: the run loses this step.
    "while a checkpoint is written": (Cut("os.rename", ".step-0000005-0000"), "step-0000004-0000", ".step-0000005-0000.*", 5),
    # The new best weights are there and the checkpoint that knows of them is not.
    "between best weights and checkpoint": (Cut("os.rename", ".step-0000005-0001"), "step-0000005-0000", "best-0001", 0),
    "in a later epoch": (Cut("os.rename", ".step-0000013-0002"), "step-0000012-0002", ".step-0000013-0002.*", 13),
    # The newest checkpoint is whole and the one before it is still there.
    "while the last one is deleted": (Cut("shutil.rmtree", "step-0000007-0001"), "step-0000008-0001", "step-0000007-0001", 9),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_ends_as_if_it_had_been_left_alone(start, undisturbed, tmp_path, point):
    cut, newest, leftover, first = POINTS[point]
    folder, out = tmp_path / "run", tmp_path / "out.json"
    process = start(folder, out, cut=cut)
    wait_for(lambda: names(folder, newest) and names(folder, leftover), process)
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT)
    assert process.exitcode == -signal.SIGKILL
    assert max(names(folder, "step-*")) == newest and names(folder, leftover) and not out.exists()
    finish(start(folder, out))
    sha, history, resumed_at = outcome(out)
    assert sha == undisturbed[0]
    assert history == undisturbed[1]
    assert resumed_at == (first or PER_EPOCH)  # an epoch's end reports its last step again
    assert names(folder, ".*") == [] and names(folder, "step-*") == [f"step-{STEPS:07d}-0003"]


def test_killed_again_and_again_at_any_file_operation_it_still_gets_there(start, undisturbed, tmp_path):
    """Starts upon the checkpoints of other settings, so that it is killed while deleting those as well."""
    folder, out = tmp_path / "run", tmp_path / "out.json"
    finish(start(folder, out, dataclasses.replace(SETTINGS, epochs=1, seed=2)))
    assert outcome(out)[0] != undisturbed[0]
    out.unlink()
    rng, kills = random.Random(0), 0
    for operation in [1, 2, 3, 4, 5, 6, *(rng.randint(1, 90) for _ in range(200))]:
        process = start(folder, out, cut=Cut(operation=operation))
        process.join(WAIT)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 10
    assert outcome(out)[:2] == undisturbed[:2]
    assert names(folder, ".*") == [] and names(folder, "step-*") == [f"step-{STEPS:07d}-0003"]


def test_checkpoints_of_other_settings_are_not_used(start, undisturbed, tmp_path):
    """A killed run with another seed left its newest checkpoint in a later epoch; this run begins at step 1."""
    folder, out = tmp_path / "run", tmp_path / "out.json"
    process = start(folder, out, dataclasses.replace(SETTINGS, seed=2), Cut("os.rename", ".step-0000012-0002"))
    wait_for(lambda: names(folder, "step-0000011-0002") and names(folder, ".step-0000012-0002.*"), process)
    process.kill()
    process.join(WAIT)
    finish(start(folder, out))
    assert outcome(out) == undisturbed
    assert names(folder, ".*") == [] and names(folder, "step-*") == [f"step-{STEPS:07d}-0003"]


def test_a_masked_model_that_was_killed_stays_sparse_and_ends_with_the_same_bits(start, tmp_path):
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    finish(start(tmp_path / "a", whole, masked=True))
    process = start(tmp_path / "b", out, cut=Cut("os.rename", ".step-0000008-0001"), masked=True)
    wait_for(lambda: names(tmp_path / "b", "step-0000007-0001") and names(tmp_path / "b", ".step-0000008-0001.*"), process)
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT)
    finish(start(tmp_path / "b", out, masked=True))
    assert outcome(out)[:2] == outcome(whole)[:2] and outcome(out)[2] == 8
    weight = load_file(out.with_suffix(".safetensors"))["bert.encoder.layer.0.output.dense.weight"]
    assert int((weight == 0).sum()) == weight.numel() // 2
