"""Read a learner's notebook, whatever state it is in: its code as statements, its answers to open questions.

Nothing is run. Metadata of cells hardly matters, so cells may be copied, deleted, renamed or re-flagged. For a process that has no ``course_lib``, where a notebook that breaks the parser breaks nothing else: this file
imports nothing of it.
"""

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .statements import Statement, read_statements

ANSWER_LIMIT = 20_000  # characters of an open answer
HERE = "YOUR ANSWER HERE"
KEEPING = ("time", "capture", "timeit", "prun")  # cell magics whose cell is Python all the same

MAGIC = re.compile(r"(\s*)(?:[%!?]|[\w.\[\]'\"]+\?+\s*$)")


class Unreadable(Exception):
    """The file is no notebook; the text says why, for the learner."""


@dataclass
class Notebook:
    """A notebook's code as statements, and what else grading looks at.

    Attributes:
        sources: text of each code cell as Python, magics taken out.
        statements: of all cells, in order.
        broken: code cell → why it is no Python: "line 3: invalid syntax".
        marked: code cell → the exercise it was made for, by its metadata.
        texts: the other cells: metadata, id and text.
        lesson: that it was made for, by its metadata; None when that is gone.
        language: of its kernel.
    """

    sources: list[str] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    marked: dict[int, str] = field(default_factory=dict)
    texts: list[tuple[dict, str, str]] = field(default_factory=list)
    lesson: str | None = None
    language: str = "python"


def read_notebook(data: bytes) -> Notebook:
    """Read what was handed in.

    Raises:
        Unreadable: it is no notebook.
    """
    found = _parsed_json(data)
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list):
        old = isinstance(found, dict) and "worksheets" in found
        raise Unreadable("it is in the format of 2014; open and save it in Jupyter" if old else "it is JSON, but no notebook")
    about = _dict(found.get("metadata"))
    notebook = Notebook(
        lesson=_text(_dict(about.get("course")).get("lesson")),
        language=_text(_dict(about.get("kernelspec")).get("language"))
        or _text(_dict(about.get("language_info")).get("name"))
        or "python",
    )
    for cell in filter(lambda c: isinstance(c, dict), found["cells"]):
        source, metadata = _source(cell.get("source")), _dict(cell.get("metadata"))
        if cell.get("cell_type") == "code":
            _add_code(notebook, source, metadata)
        else:
            notebook.texts.append((metadata, str(cell.get("id")), source))
    return notebook


def why_missing(notebook: Notebook, name: str) -> str | None:
    """Why a notebook has no function of this name, where a cell that is no Python seems to have it; else None."""
    for cell, reason in notebook.broken.items():
        defines = re.search(rf"^\s*((async\s+)?def|class)\s+{name}\b|^{name}\s*=", notebook.sources[cell], re.MULTILINE)
        if defines or notebook.marked.get(cell) == name:
            return reason
    return None


def open_answers(notebook: Notebook, questions: Mapping[str, str]) -> dict[str, str]:
    """What was written to each open question, the question itself taken out; the last answer that is not empty counts.

    Args:
        notebook: what was handed in.
        questions: id → text of the question's cell as it was handed out.
    """
    answers = dict.fromkeys(questions, "")
    for metadata, cell, text in notebook.texts:
        ids = (_dict(metadata.get("course")).get("open"), _dict(metadata.get("nbgrader")).get("grade_id"))
        for name, question in questions.items():
            if name in ids or cell == f"open-{name}" or _asks(text, question):
                answers[name] = _written(text, question) or answers[name]
    return answers


def without_magics(source: str) -> str:
    """A cell's text without IPython's magics, each line where it was; a cell of another language is empty.

    >>> without_magics("%%time\\n!ls\\nx = 1  # 50 %")
    '\\npass\\nx = 1  # 50 %'
    """
    if source.lstrip().startswith("%%"):
        first, _, rest = source.lstrip().partition("\n")
        source = "\n" + rest if first[2:].split(" ")[0].strip() in KEEPING else ""
    return "\n".join(m.group(1) + "pass" if (m := MAGIC.match(line)) else line for line in source.split("\n"))


def _add_code(notebook: Notebook, source: str, metadata: dict) -> None:
    cell = len(notebook.sources)
    if exercise := _text(_dict(metadata.get("course")).get("exercise")):
        notebook.marked[cell] = exercise
    try:
        try:
            statements = read_statements(source, cell)
        except SyntaxError:
            source = without_magics(source)
            statements = read_statements(source, cell)
        notebook.statements += statements
    except SyntaxError as error:
        notebook.broken[cell] = f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        notebook.broken[cell] = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
    notebook.sources.append(source)


def _parsed_json(data: bytes) -> Any:
    if not data.strip(b"\0 \t\r\n"):
        raise Unreadable("the file is empty")
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return json.loads(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is no UTF-8 text (byte {error.start:,}); was it opened and saved in another program?") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is no JSON (line {error.lineno:,}: {error.msg}); was it cut off?") from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is no notebook ({type(error).__name__})") from None


def _source(value: Any) -> str:
    if isinstance(value, list):
        value = "".join(v for v in value if isinstance(v, str))
    return value if isinstance(value, str) else ""


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value[:100] if isinstance(value, str) else None


def _asks(text: str, question: str) -> bool:
    """The text begins with the question: its cell has lost its metadata."""
    asked = _words(question.replace(HERE, ""))
    return bool(asked) and _words(text).startswith(asked)


def _written(text: str, question: str) -> str:
    asked = question.replace(HERE, "").strip()
    text = text.strip()
    if asked and text.startswith(asked):
        text = text[len(asked) :]
    return text.replace(HERE, "").strip()[:ANSWER_LIMIT]


def _words(text: str) -> str:
    return " ".join(text.split())
