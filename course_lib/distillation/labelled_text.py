"""Text that a teacher has labelled, as a source of training data: made once, kept in the cache, read back to the bit."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from course_lib.artifacts import Cache, digest, file_sha256, new_folder
from course_lib.data.align import Window, make_windows, pad_id
from course_lib.deploy.engines import max_pieces
from course_lib.distillation.objective import teacher_targets
from course_lib.models.zoo import WEIGHTS, load_token_classifier, load_tokenizer

LOGITS = "logits.safetensors"


def label_text(
    cache: Cache,
    teachers: Sequence[Path],
    sentences: Sequence[Sequence[str]],
    bf16: bool = False,
    progress: Callable | None = None,
) -> tuple[list[Window], list[np.ndarray]]:
    """What teachers say to sentences, from the cache where they were asked before.

    Args:
        cache: where answers are kept, by a hash of the teachers' weights and the sentences.
        teachers: folders of token classifiers with the same tags and tokenizer; their logits are averaged.
        sentences: words of each.
        bf16: run the teachers under bf16 autocast.
        progress: called with the number of windows after each batch.
    Returns:
        The windows of the sentences, and the logits of each, float32 (pieces, T).
    """
    from safetensors.numpy import load_file, save_file

    tokenizer: Tokenizer = load_tokenizer(teachers[0])
    models = [load_token_classifier(folder) for folder in teachers]
    windows = make_windows(sentences, tokenizer, max_pieces(models[0].config.to_dict()))
    made_of = [file_sha256(Path(folder) / WEIGHTS) for folder in teachers], [w.ids for w in windows], bf16
    target = cache.path("labels", digest(*made_of))
    lengths = [len(w.ids) for w in windows]
    if not cache.ready(target):
        logits = teacher_targets(models, windows, pad_id(tokenizer), bf16, progress).logits
        with new_folder(target) as folder:
            save_file(
                {"logits": np.concatenate([np.zeros((0, models[0].config.num_labels), np.float32), *logits])}, folder / LOGITS
            )
    together = load_file(target / LOGITS)["logits"]
    return windows, np.split(together, np.cumsum(lengths)[:-1]) if windows else []
