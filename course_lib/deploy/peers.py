"""What a user would take instead: the one-click ways to run a trained token classifier on a CPU, each a short recipe.

Each way is made in a process of its own (``python -m course_lib.deploy.peers WAY FOLDER TARGET ROWS``), so that a converter
that crashes costs its own row only.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_lib.deploy.export import export_onnx, export_plain, quantize_onnx
from course_lib.errors import CourseError

Make = Callable[[Path, Path, list[list[int]]], Path]


@dataclass(frozen=True)
class Way:
    """A way to run a model.

    Attributes:
        name: unique, for people.
        engine, precision: as of a scorecard.
        kind: of :func:`course_lib.deploy.kinds.load`.
        make: (model folder, empty folder, piece ids to calibrate with) → what ``kind`` opens.
        tuned: whether it takes more than the tool's own first example: knowing which options matter.
    """

    name: str
    engine: str
    precision: str
    kind: str
    make: Make
    tuned: bool = False


def as_trained(folder: Path, target: Path, rows: list[list[int]]) -> Path:
    """The trained weights; the engine does the rest when it opens them."""
    return folder


def plain(folder: Path, target: Path, rows: list[list[int]]) -> Path:
    """ONNX as exported."""
    export_plain(folder, target / "model.onnx")
    return target / "model.onnx"


def fused(folder: Path, target: Path, rows: list[list[int]]) -> Path:
    """ONNX with attention, layer norms and GELU fused."""
    export_onnx(folder, target / "model.onnx", by_hand=False)
    return target / "model.onnx"


def by_hand(folder: Path, target: Path, rows: list[list[int]]) -> Path:
    """Dynamic int8 per channel on fused ONNX whose slow parts were mended: what :func:`export_onnx` does for a shipped folder."""
    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(folder, Path(scratch) / "model.onnx")
        quantize_onnx(Path(scratch) / "model.onnx", target / "model.onnx")
    return target / "model.onnx"


def dynamic_plain(folder: Path, target: Path, rows: list[list[int]]) -> Path:
    """``onnxruntime.quantization.quantize_dynamic`` with its defaults, on ONNX as exported."""
    from onnxruntime.quantization import quantize_dynamic

    from course_lib.deploy.export import quiet

    with tempfile.TemporaryDirectory() as scratch, quiet():
        quantize_dynamic(str(plain(folder, Path(scratch), rows)), str(target / "model.onnx"))
    return target / "model.onnx"


def dynamic_fused(folder: Path, target: Path, rows: list[list[int]]) -> Path:
    """Dynamic int8 per channel on fused ONNX."""
    with tempfile.TemporaryDirectory() as scratch:
        quantize_onnx(fused(folder, Path(scratch), rows), target / "model.onnx", per_channel=True)
    return target / "model.onnx"


def feeds(rows: list[list[int]], size: int) -> list[dict[str, np.ndarray]]:
    """Calibration sentences in batches of ``size``, as the runtimes take them."""
    from course_lib.deploy.worker import numbered

    return [{"input_ids": ids, "attention_mask": mask} for _, ids, mask in numbered(rows, size)]


class _Reader:
    """Batches one by one, as ONNX Runtime's quantizer asks for them."""

    def __init__(self, batches: list[dict]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict | None:
        return next(self.batches, None)


def static_qdq(folder: Path, target: Path, rows: list[list[int]], size: int = 1) -> Path:
    """``onnxruntime.quantization.quantize_static``: min-max ranges, weights per channel, QuantizeLinear nodes.

    Calibrated sentence by sentence (``size`` at a time). With padding in the batches, what the mask adds to the attention
    scores reaches down to −3.4e38; 255 steps over that range are 1.3e36 wide, every real score becomes zero, and all
    pieces get the same attention: F1 falls from .82 to .25 (``data_scripts/static_collapse.py``).
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from course_lib.deploy.export import quiet

    with tempfile.TemporaryDirectory() as scratch, quiet():
        source, prepared = plain(folder, Path(scratch), rows), Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(target / "model.onnx"), _Reader(feeds(rows, size)), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return target / "model.onnx"


def nncf_int8(folder: Path, target: Path, rows: list[list[int]]) -> Path:
    """NNCF's post-training int8 for transformers, saved as OpenVINO's own format; calibrated on padded batches."""
    import logging

    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        model = openvino.Core().read_model(str(plain(folder, Path(scratch), rows)))
        batches = feeds(rows, 8)
        quantized = nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
        openvino.save_model(quantized, str(target / "model.xml"), compress_to_fp16=False)
    return target / "model.xml"


WAYS = (
    Way("PyTorch fp32", "pytorch", "fp32", "pytorch", as_trained),
    Way("PyTorch bf16", "pytorch", "bf16", "pytorch-bf16", as_trained),
    Way("PyTorch quantize_dynamic", "pytorch", "int8", "quantize_dynamic", as_trained),
    Way("torchao int8, compiled", "pytorch", "int8", "torchao-int8", as_trained),
    Way("ORT fp32", "onnxruntime", "fp32", "onnxruntime-defaults", plain),
    Way("ORT int8", "onnxruntime", "int8", "onnxruntime-defaults", dynamic_plain),
    Way("ORT int8, static", "onnxruntime", "int8", "onnxruntime-defaults", static_qdq),
    Way("ORT fp32, fused", "onnxruntime", "fp32", "onnxruntime-defaults", fused, tuned=True),
    Way("ORT int8, fused", "onnxruntime", "int8", "onnxruntime-defaults", dynamic_fused, tuned=True),
    Way("ORT int8, mended", "onnxruntime", "int8", "onnxruntime", by_hand, tuned=True),
    Way("OpenVINO fp32", "openvino", "fp32", "openvino", plain),
    Way("OpenVINO bf16", "openvino", "bf16", "openvino-bf16", plain),
    Way("OpenVINO int8 (NNCF)", "openvino", "int8", "openvino", nncf_int8),
)


def find_way(name: str) -> Way:
    """The way of this name.

    Raises:
        CourseError: there is none.
    """
    found = [way for way in WAYS if way.name == name]
    if not found:
        raise CourseError(f"way {name!r}: expected one of {', '.join(way.name for way in WAYS)}.")
    return found[0]


def make_way(way: Way, folder: Path, target: Path, rows: list[list[int]], patience: float = 600.0) -> Path:
    """Make what a way opens, in a process of its own.

    Args:
        folder: a trained token classifier.
        target: an empty folder for what is made.
        rows: piece ids of sentences to calibrate with.
        patience: seconds.
    Returns:
        What :attr:`Way.kind` opens.
    Raises:
        CourseError: the process crashed or took too long, with its last words.
    """
    if way.make is as_trained:
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.json"
        file.write_text(json.dumps(rows), "utf-8")
        command = [sys.executable, "-m", "course_lib.deploy.peers", way.name, str(folder), str(target), str(file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
        except subprocess.TimeoutExpired as error:
            raise CourseError(f"{way.name}: not made within {patience:g} seconds.") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise CourseError(f"{way.name}: making it ended with exit status {done.returncode}: {last[0]}")
    (made,) = (target / name for name in ("model.onnx", "model.xml") if (target / name).exists())
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(folder / name, target / name)
    return made


def main(name: str, folder: str, target: str, rows_file: str) -> None:
    """Make one way; the other end of :func:`make_way`."""
    find_way(name).make(Path(folder), Path(target), json.loads(Path(rows_file).read_text("utf-8")))


if __name__ == "__main__":
    main(*sys.argv[1:])
