"""Predicting with a shipped folder and nothing else: onnxruntime, tokenizers, numpy and this package, no PyTorch.

    pip install --no-deps onnxruntime tokenizers numpy
    pip install --no-deps course_lib
    python -m course_lib.deploy.runtime DIR "Ana Ruiz left Chelsea for Lisbon."

prints a JSON line for each sentence. Without texts it reads standard input, a text on each line.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from course_lib.artifacts import read_json
from course_lib.deploy.engines import max_pieces, open_onnx
from course_lib.errors import CourseError
from course_lib.machine import processors
from course_lib.models.zoo import load_tokenizer
from course_lib.tasks import task_of


class Runtime:
    """A shipped model folder, ready to find names.

    Args:
        folder: with ``model.onnx``, ``config.json`` and ``tokenizer.json``.
        threads: of one call; None: all processors of this process.
    Raises:
        CourseError: a file is missing, damaged, or of another model.
    """

    def __init__(self, folder: Path | str, threads: int | None = None) -> None:
        folder = Path(folder)
        if not (folder / "model.onnx").is_file():
            raise CourseError(f"{folder}: no model.onnx there. `make course` makes artifacts/course/model.")
        self.engine, self.tags = open_onnx(folder, threads or processors())
        config = read_json(folder / "config.json")
        self.tokenizer, self.limit, self.task = load_tokenizer(folder), max_pieces(config), task_of(config)

    def entities(self, texts: Iterable[str], at_once: int = 1) -> Iterator[dict]:
        """What the model says of running prose: entities, a record for each sentence (:func:`course_lib.ner.predict.predict_text`);
        or a label, a record for each text (:func:`course_lib.classification.predict.classify_text`)."""
        return self.task.prose(texts, self.engine, self.tokenizer, self.tags, at_once=at_once, max_pieces=self.limit)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.deploy.runtime", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", help="a shipped model folder, such as artifacts/course/model")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts; none: the lines of standard input")
    parser.add_argument("--threads", type=int, help="threads to compute with; default: all processors of this process")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="lines that are read and batched together")
    given = parser.parse_intermixed_args(arguments)  # texts may follow options
    try:
        lines = given.texts or (line.rstrip("\r\n") for line in sys.stdin)
        for record in Runtime(given.folder, given.threads).entities(lines, given.at_once):
            print(json.dumps(record, ensure_ascii=False), flush=True)
    except UnicodeDecodeError as error:
        print(f"Error: standard input is not UTF-8 ({error.reason}). Convert the text to UTF-8.", file=sys.stderr)
        return 2
    except (CourseError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8")
    sys.exit(main())
