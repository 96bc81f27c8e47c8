"""Text that a teacher has labelled, as a source of training data: made once, kept in the cache, read back to the bit.

For training runs of one's own, of which many read the same text, also in other processes and on other days: a student for each
setting that one tries. The windows go into :func:`course_lib.ner.train.train` with the labels of
:func:`course_lib.distillation.objective.soft_only_labels`, the logits into :func:`course_lib.distillation.objective.distil_objective`
as ``TeacherTargets(logits)``. Recipes keep nothing on disk: they need the hidden states too, 20 times as large as the logits of 9 tags
at a width of 384, and ask once for all the students of a soup (:class:`course_lib.recipes.stages.Answers`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from course_lib.artifacts import Cache, digest, file_sha256, new_folder
from course_lib.data.align import Window, make_windows, pad_id
from course_lib.deploy.engines import max_pieces
from course_lib.distillation.agreement import check_tags, check_tokenizers
from course_lib.distillation.objective import teacher_targets
from course_lib.errors import expect
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
        teachers: folders of token classifiers with the same tags and tokenizer, at least one; their logits are averaged.
        sentences: words of each.
        bf16: run the teachers under bf16 autocast.
        progress: called with the number of windows after each batch.
    Returns:
        The windows of the sentences, no longer than every teacher can read, and the logits of each, float32 (pieces, T).
    Raises:
        CourseError: a bad folder, or teachers with other tags or another tokenizer than the first.
        ValueError: no teacher.
    """
    from safetensors.numpy import load_file, save_file

    expect(len(teachers) > 0, "teachers", 0, "at least one folder")
    names, tokenizers = [str(folder) for folder in teachers], [load_tokenizer(folder) for folder in teachers]
    check_tokenizers(tokenizers, names)
    models, tokenizer = [load_token_classifier(folder) for folder in teachers], tokenizers[0]
    check_tags(models, names)
    windows = make_windows(sentences, tokenizer, min(max_pieces(m.config.to_dict()) for m in models))
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
