"""One call for every runtime: ``engine(input_ids, attention_mask) -> logits``, all of them numpy arrays."""

from pathlib import Path
from typing import Protocol

import numpy as np

from course_lib.artifacts import read_json
from course_lib.errors import CourseError


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


class OnnxEngine:
    """An ONNX file in ONNX Runtime on the CPU.

    Args:
        path: the ``.onnx`` file.
        threads: threads of one call.
    Raises:
        CourseError: the file is not a readable ONNX model.
    """

    def __init__(self, path: Path | str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class for each way a file can be wrong
            raise CourseError(
                f"Cannot load {path}: {str(error).rstrip('.')}. The file is damaged; run `course compress` again."
            ) from error

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})[0]


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
        CourseError: a file that cannot be read, or files of different models.
    """
    folder = Path(folder)
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
    import torch

    from course_lib.models.zoo import load_token_classifier, model_tags

    torch.set_num_threads(threads)
    model = load_token_classifier(folder)
    return TorchEngine(model), model_tags(model)
