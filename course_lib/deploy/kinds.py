"""How a contender of the race is opened, by the name of its kind."""

import importlib

from course_lib.deploy.engines import Engine
from course_lib.errors import CourseError


def load(kind: str, path: str, threads: int) -> Engine:
    """The engine of a contender.

    Args:
        kind: a key of :data:`KINDS`, or ``package.module:function`` of a function of yours, called with path and threads.
        path: a model folder for the PyTorch kinds, a file for the others.
        threads: threads of one call.
    Raises:
        CourseError: no such kind.
    """
    if ":" in kind:
        module, _, name = kind.partition(":")
        return getattr(importlib.import_module(module), name)(path, threads)
    if kind not in KINDS:
        raise CourseError(f"engine {kind!r}: expected one of {', '.join(KINDS)}, or package.module:function.")
    return KINDS[kind](path, threads)


def _trained(path: str, threads: int):
    import torch

    from course_lib.models.zoo import load_token_classifier

    torch.set_num_threads(threads)
    return load_token_classifier(path).eval()


def pytorch(path: str, threads: int) -> Engine:
    """Eager PyTorch in fp32."""
    from course_lib.deploy.engines import TorchEngine

    return TorchEngine(_trained(path, threads))


def pytorch_bf16(path: str, threads: int) -> Engine:
    """Eager PyTorch with weights and arithmetic in bf16."""
    import torch

    from course_lib.deploy.engines import TorchEngine

    return TorchEngine(_trained(path, threads).to(torch.bfloat16))


def quantize_dynamic(path: str, threads: int) -> Engine:
    """``torch.ao.quantization.quantize_dynamic`` over all linear layers, as its tutorial for BERT has it; deprecated."""
    import warnings

    import torch

    from course_lib.deploy.engines import TorchEngine

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(_trained(path, threads), {torch.nn.Linear}, dtype=torch.qint8)
    return TorchEngine(model)


def torchao_int8(path: str, threads: int) -> Engine:
    """torchao's ``Int8DynamicActivationInt8WeightConfig``, compiled with dynamic shapes; needs a C++ compiler."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    from course_lib.deploy.engines import TorchEngine

    model = _trained(path, threads)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return TorchEngine(torch.compile(model, dynamic=True))


def onnxruntime(path: str, threads: int) -> Engine:
    """ONNX Runtime."""
    from course_lib.deploy.engines import OnnxEngine

    return OnnxEngine(path, threads)


def onnxruntime_defaults(path: str, threads: int) -> Engine:
    """ONNX Runtime with its own settings, as who takes the tool as it comes has it."""
    from course_lib.deploy.engines import OnnxEngine

    return OnnxEngine(path, threads, as_it_comes=True)


def openvino(path: str, threads: int) -> Engine:
    """OpenVINO, computing in fp32 (or in the int8 of the file)."""
    from course_lib.deploy.engines import OpenVinoEngine

    return OpenVinoEngine(path, threads)


def openvino_bf16(path: str, threads: int) -> Engine:
    """OpenVINO, computing in bf16."""
    from course_lib.deploy.engines import OpenVinoEngine

    return OpenVinoEngine(path, threads, bf16=True)


KINDS = {
    "pytorch": pytorch, "pytorch-bf16": pytorch_bf16, "quantize_dynamic": quantize_dynamic, "torchao-int8": torchao_int8,
    "onnxruntime": onnxruntime, "onnxruntime-defaults": onnxruntime_defaults, "openvino": openvino, "openvino-bf16": openvino_bf16,
}  # fmt: skip
