"""The settings of ONNX Runtime that decide how fast a file runs: threads, waiting, and what it rewrites when it loads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

LEVELS = ("none", "basic", "extended", "all")


def open_session(
    path: Path | str,
    threads: int,
    level: str = "all",
    without: Sequence[str] = (),
    spinning: bool = True,
    profile: Path | None = None,
):
    """Open an ONNX file with these settings.

    Args:
        path: the ``.onnx`` file.
        threads: of one call, at least 1.
        level: how much of the graph ONNX Runtime rewrites as it loads it: one of :data:`LEVELS`.
        without: its own optimizers to leave out, such as ``"SkipLayerNormFusion"``.
        spinning: whether threads that have nothing to do stay awake and ask again and again, which answers soonest on an idle
            machine, or sleep.
        profile: where a profile is written, without its ending; None: none.
    Returns:
        An ``onnxruntime.InferenceSession``.
    Raises:
        ValueError: no such level, or no thread.
    """
    import onnxruntime

    from course_lib.errors import expect

    expect(level in LEVELS, "level", level, f"one of {', '.join(LEVELS)}")
    expect(threads >= 1, "threads", threads, "at least 1")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    name = "ORT_DISABLE_ALL" if level == "none" else f"ORT_ENABLE_{level.upper()}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    left_out = list(without) or None
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out)


class TunedEngine:
    """An engine (``engine(input_ids, attention_mask) -> logits``) with settings of :func:`open_session`."""

    def __init__(self, path: Path | str, threads: int, **settings) -> None:
        self.session = open_session(path, threads, **settings)

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})[0]
