"""Tracking: losses, F1, sparsity, scales and memory of a run as TensorBoard event files, where a folder is named.

Off, which is the default, a :class:`Tracker` imports nothing and writes nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.errors import CourseError

if TYPE_CHECKING:
    import torch

    from course_lib.precision.mixed import Step

EVERY = 10  # steps between two losses that are written


class Tracker:
    """Writes scalars of named runs below one folder, each run in its own; without a folder it does nothing.

    ``tensorboard --logdir FOLDER`` shows them side by side. A run that is killed and started again goes on in the same folder.

    Args:
        folder: where the event files go, None for no tracking.
    Raises:
        CourseError: a folder is named and the package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._writers: dict = {}
        if folder is not None:
            try:
                import tensorboard  # noqa: F401
            except ImportError as error:
                raise CourseError(
                    f"--log-dir {folder}: the package tensorboard is missing. Install it with pip install 'course_lib[tracking]'."
                ) from error

    def scalars(self, run: str, values: Mapping[str, float], step: int) -> None:
        """Write ``{"group/name": value}`` of the run at this step."""
        if self.folder is None:
            return
        if run not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[run] = SummaryWriter(str(self.folder / run))
        for name, value in values.items():
            self._writers[run].add_scalar(name, float(value), step)
        self._writers[run].flush()

    def step(self, run: str, event: Mapping) -> None:
        """Write what a training loop reports (:func:`course_lib.ner.train.train`): some of the losses, every F1, with peak memory."""
        if self.folder is None:
            return
        from course_lib.deploy.worker import peak_mib

        if "f1" in event:
            values = {"epoch/loss": event["loss"], "epoch/validation_f1": event["f1"], "memory/peak_mib": peak_mib()}
            self.scalars(run, values, event["step"])
        elif event["step"] % EVERY == 0 or event["step"] == 1:
            self.scalars(run, {"step/loss": event["loss"]}, event["step"])

    def mixed_step(self, run: str, number: int, step: "Step") -> None:
        """Write loss and loss scale of some steps of :func:`course_lib.precision.mixed.train`, and of every one that was skipped.

        Args:
            run: as of :meth:`scalars`.
            number: of the step, from 1.
            step: what it did.
        """
        if self.folder is not None and (number == 1 or number % EVERY == 0 or not step.taken):
            self.scalars(run, {"step/loss": step.loss, "step/loss_scale": step.scale}, number)

    def int8_scales(self, run: str, file: Path) -> None:
        """Write the smallest, mean and largest scale of each tensor that an ONNX file holds as integers.

        A matrix (D, R) of :func:`course_lib.deploy.export.quantize_onnx` has a scale for each of its R outputs or one for all, a table of
        embeddings one for all or one for each block of its rows; a tensor without a readable name is called like the node that reads it.

        Args:
            run: as of :meth:`scalars`.
            file: ``model.onnx``, quantized.
        """
        if self.folder is None:
            return
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(str(file)).graph
        readers = {name: node.name for node in graph.node for name in node.input}
        held, values = {tensor.name for tensor in graph.initializer}, {}
        for tensor in graph.initializer:
            stem, _, kind = tensor.name.rpartition("_")
            if kind in ("scale", "scales") and held & {f"{stem}_quantized", f"{stem}_codes"}:
                reader = readers.get(f"{stem}_quantized", stem)
                name = reader.strip("/").removesuffix("_quant") if "::" in stem else stem
                scales = numpy_helper.to_array(tensor)
                for end, value in (("smallest", scales.min()), ("mean", scales.mean()), ("largest", scales.max())):
                    values[f"int8_scale_{end}/{name}"] = value
        self.scalars(run, values, 0)

    def weights(self, run: str, model: "torch.nn.Module", step: int) -> None:
        """Write sparsity and root mean square of every weight matrix of the model, and the sparsity of all of them."""
        if self.folder is None:
            return
        matrices = {name: p.detach() for name, p in model.named_parameters() if p.dim() >= 2}
        zeros = {name: (p == 0).sum().item() for name, p in matrices.items()}
        values = {"sparsity/all": sum(zeros.values()) / max(1, sum(p.numel() for p in matrices.values()))}
        for name, p in matrices.items():
            values[f"sparsity/{name}"] = zeros[name] / p.numel()
            values[f"scale/{name}"] = p.float().square().mean().sqrt().item()
        self.scalars(run, values, step)

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
