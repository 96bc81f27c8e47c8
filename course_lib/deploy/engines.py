"""One call for every runtime: ``engine(input_ids, attention_mask) -> logits``, all of them numpy arrays."""

import re
from pathlib import Path
from typing import Protocol

import numpy as np

from course_lib.artifacts import read_json
from course_lib.deploy.settings import TunedEngine
from course_lib.errors import CourseError

FORMAT = 1  # of shipped folders, as ``course_format`` in config.json has it; a folder that says nothing is of format 1
SLOW_FUSION = "SkipLayerNormFusion"  # ONNX Runtime's name of what would undo :mod:`course_lib.deploy.norms` at load
NEWER = (  # what ONNX Runtime says of a file that is whole and was made for a later version
    r"Unsupported model IR version: \d+, max supported IR version: \d+",
    r"Opset \d+ is under development",
    r"[\w.:()-]+ is not a registered function/op",
)


class Engine(Protocol):
    """Anything that turns a batch of pieces into logits."""

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """``input_ids`` and ``attention_mask``: int64 (B, L). Returns float32 (B, L, T), T tags."""


class TorchEngine:
    """A PyTorch token classifier, run eagerly in evaluation mode without gradients.

    Args:
        model: the classifier.
        bf16: run under bf16 autocast.
    """

    def __init__(self, model, bf16: bool = False) -> None:
        self.model, self.bf16 = model, bf16

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        import torch

        training = self.model.training
        self.model.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            out = self.model(input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask))
        self.model.train(training)
        return out.logits.float().numpy()


class OnnxEngine(TunedEngine):
    """An ONNX file in ONNX Runtime on the CPU.

    Args:
        path: the ``.onnx`` file.
        threads: threads of one call.
        as_it_comes: with ONNX Runtime's own settings; else without the fusion that :mod:`course_lib.deploy.norms` takes back.
    Raises:
        CourseError: ONNX Runtime is not installed or too old, or the file is not a readable ONNX model with the inputs and
            output of :func:`course_lib.deploy.export.export_plain`.
    """

    def __init__(self, path: Path | str, threads: int, as_it_comes: bool = False) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise CourseError("ONNX Runtime is not installed: pip install onnxruntime.") from error

        try:
            super().__init__(path, threads, without=() if as_it_comes else (SLOW_FUSION,))
        except Exception as error:  # ONNX Runtime has a class for each way a file can be wrong
            newer, reason = re.search("|".join(NEWER), str(error)), str(error).strip().rstrip(".")
            if "bad_alloc" in reason:
                advice = "not enough memory."
            elif newer:
                advice = (
                    f"{newer[0]}. It needs a newer ONNX Runtime than {onnxruntime.__version__}: pip install -U onnxruntime."
                )
            else:
                advice = f"{reason}. The file is damaged; run `course compress` again."
            raise CourseError(f"Cannot load {path}: {advice}") from error
        found = [sorted(n.name for n in names) for names in (self.session.get_inputs(), self.session.get_outputs())]
        if found != [["attention_mask", "input_ids"], ["logits"]]:
            raise CourseError(
                f"{path}: inputs {found[0]}, outputs {found[1]}; expected input_ids and attention_mask, and logits. "
                "It is no token classifier of `course compress`."
            )


class OpenVinoEngine:
    """An ONNX or OpenVINO file in OpenVINO on the CPU.

    Args:
        path: the ``.onnx`` or ``.xml`` file.
        threads: threads of one call.
        bf16: let it compute in bf16. It would do so by itself on processors with AMX, whatever the file's precision, so
            fp32 is asked for in words.
    Raises:
        CourseError: OpenVINO is not installed, or cannot read the file.
    """

    def __init__(self, path: Path | str, threads: int, bf16: bool = False) -> None:
        try:
            import openvino
        except ImportError as error:
            raise CourseError("OpenVINO is not installed: pip install 'course_lib[bench]'.") from error
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self.request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise CourseError(f"Cannot load {path}: {str(error).strip().splitlines()[-1]}") from error

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        self.request.infer({"input_ids": input_ids, "attention_mask": attention_mask})
        return self.request.get_output_tensor(0).data.copy()


def max_pieces(config: dict) -> int:
    """Pieces an encoder can read at once, special tokens included, by its ``config.json``."""
    positions = config.get("max_position_embeddings", 512)
    return positions - 2 if config.get("model_type") in {"roberta", "xlm-roberta", "camembert"} else positions


def open_onnx(folder: Path | str, threads: int) -> tuple[Engine, list[str]]:
    """Open a shipped folder in ONNX Runtime.

    Returns:
        The engine and the tags its logits stand for.
    Raises:
        CourseError: a file that is missing or cannot be read, files of different models, or a folder of a later version.
    """
    folder = Path(folder)
    missing = [name for name in ("model.onnx", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise CourseError(
            f"Cannot read {folder / missing[0]}: it is missing. A shipped folder holds model.onnx, config.json and tokenizer.json: copy "
            "it again, or make it with `course compress`."
        )
    form = read_json(folder / "config.json").get("course_format", FORMAT)
    if form != FORMAT:
        raise CourseError(
            f"{folder / 'config.json'}: course_format = {form!r}; this course_lib reads format {FORMAT}. The folder was made by "
            "another version: use that one, or run `course compress` again."
        )
    engine, config = OnnxEngine(folder / "model.onnx", threads), read_json(folder / "config.json")
    labels, count = config.get("id2label", {}), engine.session.get_outputs()[0].shape[-1]
    if set(labels) != {str(i) for i in range(count)}:
        raise CourseError(
            f"{folder / 'config.json'}: id2label = {labels}; expected the {count} tags of model.onnx by number. "
            "The files belong to different models; run `course compress` again."
        )
    return engine, [labels[str(i)] for i in range(count)]


def open_model(folder: Path | str, threads: int) -> tuple[Engine, list[str]]:
    """Open a model folder with the engine it ships for: ``model.onnx`` in ONNX Runtime, else PyTorch.

    Returns:
        The engine and the tags its logits stand for.
    Raises:
        CourseError: no model there, or one that cannot be read.
    """
    folder = Path(folder)
    if (folder / "model.onnx").is_file():
        return open_onnx(folder, threads)
    if not (folder / "model.safetensors").is_file():
        raise CourseError(
            f"--model {folder}: no model.onnx or model.safetensors there. `make course` makes artifacts/course/model."
        )
    try:
        import torch
    except ImportError as error:
        raise CourseError(
            f"{folder} holds no model.onnx, and PyTorch, which reads its model.safetensors, is not installed: pip install torch "
            "transformers, or ship a folder of `course compress`."
        ) from error

    from course_lib.models.zoo import load_token_classifier, model_tags

    torch.set_num_threads(threads)
    model = load_token_classifier(folder)
    return TorchEngine(model), model_tags(model)
