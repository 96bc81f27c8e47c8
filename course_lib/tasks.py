"""What a model is trained for: a tag for each word (NER), or a label for each text (classification).

Both are a token classifier read at some of its pieces, so pruning, quantization, distillation and export need not know which: a
tag is read at the first piece of each word, a text's label at the first piece of all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from course_lib.classification.predict import classify_text, predict_labels, text_labels
from course_lib.data.align import Window, window_labels
from course_lib.errors import CourseError
from course_lib.ner.predict import predict_tags, predict_text


@dataclass(frozen=True)
class Task:
    """What is done differently for a task.

    Attributes:
        name: as in a model's config, ``course_task``.
        read_at: window → positions of the pieces at which the model is read.
        labels: (window, sentence, label → number) → a label for each piece, −100 where it is not read.
        predict: (words of each sentence, engine, tokenizer, labels, …) → tags of each, as the sentences' own ``tags``.
        prose: (texts, engine, tokenizer, labels, max_pieces=…) → records for people.
    """

    name: str
    read_at: Callable[[Window], Sequence[int]]
    labels: Callable[[Window, object, dict[str, int]], list[int]]
    predict: Callable[..., list[list[str]]]
    prose: Callable


NER = Task(
    "ner",
    lambda window: [position for position, _ in window.heads],
    lambda window, sentence, index: window_labels(window, sentence.tags, index),
    predict_tags,
    predict_text,
)
CLASSIFICATION = Task("classification", lambda window: [0], text_labels, predict_labels, classify_text)
TASKS = {task.name: task for task in (NER, CLASSIFICATION)}


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        CourseError: there is none.
    """
    if name not in TASKS:
        raise CourseError(f"task {name!r}; expected one of: {', '.join(TASKS)}.")
    return TASKS[name]


def task_of(config: dict) -> Task:
    """The task of a model, from its ``config.json``; NER where it does not say."""
    return find_task(config.get("course_task", NER.name))
