"""Checkpoints of a training run: whole or absent, plain tensors and JSON, enough to go on to the bit."""

import hashlib
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from course_lib.artifacts import new_folder, read_json, write_json


def weights_sha256(model: torch.nn.Module) -> str:
    """sha256 over names, shapes and bytes of all weights and buffers, in order."""
    sha = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        sha.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.dim()
            else str(tensor.item()).encode()
        )
    return sha.hexdigest()


@dataclass
class State:
    """Where a run stands: finished epochs, finished steps, loss summed over the steps of this epoch, history."""

    epoch: int = 0
    step: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run in one folder, ``step-0000120-0001`` and so on (steps and epochs done); the newest counts.

    Args:
        folder: where they live.
        made_of: digest of data and settings; checkpoints of another run are deleted, not used.
    """

    def __init__(self, folder: Path, made_of: str) -> None:
        self.folder, self.made_of, self.state = Path(folder), made_of, State()

    def _newest(self) -> Path | None:
        """The newest checkpoint; one without its state is what a killed run was just deleting."""
        return max((p for p in self.folder.glob("step-*") if (p / "state.json").is_file()), default=None)

    def resume(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Restore weights, optimizer, random state and :attr:`state` from the newest checkpoint; False when there is none."""
        newest = self._newest()
        if newest and read_json(newest / "state.json")["made_of"] != self.made_of:
            newest = None
            for p in (*self.folder.glob("step-*"), *self.folder.glob("best-*")):
                shutil.rmtree(p)
        for leftover in (*self.folder.glob(".step-*"), *self.folder.glob(".best-*")):  # what a killed run was just writing
            shutil.rmtree(leftover)
        if newest is None:
            return False
        saved = read_json(newest / "state.json")
        self.state = State(**{k: v for k, v in saved.items() if k != "made_of"})
        model.load_state_dict(load_file(newest / "model.safetensors"))
        tensors = load_file(newest / "optimizer.safetensors")
        torch.set_rng_state(tensors.pop("rng"))
        description = optimizer.state_dict()
        description["state"] = {}
        for key, value in tensors.items():
            number, name = key.split(".")
            description["state"].setdefault(int(number), {})[name] = value
        optimizer.load_state_dict(description)
        return True

    def save(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint of this moment, then delete the older ones."""
        path = self.folder / f"step-{self.state.step:07d}-{self.state.epoch:04d}"
        tensors = {f"{n}.{k}": v for n, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
        with new_folder(path) as temporary:
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary / "model.safetensors")
            save_file({**tensors, "rng": torch.get_rng_state()}, temporary / "optimizer.safetensors")
            write_json(temporary / "state.json", {**asdict(self.state), "made_of": self.made_of})
        for p in self.folder.glob("step-*"):
            if p != path:
                shutil.rmtree(p)

    def save_best(self, model: torch.nn.Module, epoch: int) -> None:
        """Keep these weights as the best so far, those of ``epoch``."""
        with new_folder(self.folder / f"best-{epoch:04d}") as temporary:
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary / "model.safetensors")
        for p in self.folder.glob("best-*"):
            if int(p.name.removeprefix("best-")) < epoch and p.name != self._referenced():
                shutil.rmtree(p)

    def _referenced(self) -> str | None:
        """The best epoch that the newest checkpoint knows of: a rerun would still need it."""
        newest = self._newest()
        history = read_json(newest / "state.json")["history"] if newest else []
        return f"best-{max(history, key=lambda h: h['validation_f1'])['epoch']:04d}" if history else None

    def load_best(self, model: torch.nn.Module) -> None:
        """Put the best epoch's weights into ``model``."""
        best = max(self.state.history, key=lambda h: h["validation_f1"])["epoch"]  # the first of equals
        model.load_state_dict(load_file(self.folder / f"best-{best:04d}" / "model.safetensors"))
