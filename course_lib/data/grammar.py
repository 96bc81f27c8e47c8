"""The little grammar of the corpus's frames: parsing and expanding (``corpus/GUIDELINES.md`` describes it)."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.errors import CourseError

Tagged = list[tuple[str, str]]  # (word, IOB2 tag)
QUOTED = 0.5  # share of the titles of works that stand in quotation marks
LITERALS = {"-LRB-": "(", "-RRB-": ")"}


@dataclass(frozen=True)
class Choice:
    """An inline choice ``( a | b )``: alternatives, each a sequence of items."""

    alternatives: tuple[tuple, ...]


@dataclass
class Grammar:
    """Frames of one domain, and the productions they may use."""

    domain: str
    frames: list[str] = field(default_factory=list)
    productions: dict[str, Choice] = field(default_factory=dict)


def parse(text: str, where: str) -> tuple:
    """Parse one frame or alternative list into a tuple of tokens and :class:`Choice` items.

    Raises:
        CourseError: brackets that do not match.
    """
    items, _ = _alternatives(text.split(), 0, where, nested=False)
    return items.alternatives[0] if len(items.alternatives) == 1 else (items,)


def _alternatives(tokens: list[str], start: int, where: str, nested: bool) -> tuple[Choice, int]:
    alternatives, current, i = [], [], start
    while i < len(tokens):
        token = tokens[i]
        if token == "(":
            inner, i = _alternatives(tokens, i + 1, where, nested=True)
            current.append(inner)
        elif token == ")" and nested:
            return Choice((*alternatives, tuple(current))), i + 1
        elif token == ")":
            raise CourseError(f"{where}: a ')' without its '('. Literal parentheses are written -LRB- and -RRB-.")
        elif token == "|":
            alternatives.append(tuple(current))
            current, i = [], i + 1
        else:
            current.append(token)
            i += 1
    if nested:
        raise CourseError(f"{where}: a '(' is never closed. Literal parentheses are written -LRB- and -RRB-.")
    return Choice((*alternatives, tuple(current))), i


def read_grammar(path: Path, shared: dict[str, Choice]) -> Grammar:
    """Read a file of frames (``- …``) and productions (``@name = …``); ``shared`` ones may be used too."""
    grammar, lines = Grammar(path.stem, productions=dict(shared)), []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if line.startswith("  |"):
            if not lines or not lines[-1][1].startswith("@"):
                raise CourseError(
                    f"{path.name}, line {number}: a line that starts with '  |' goes on a production '@name = a | b'."
                )
            lines[-1] = (lines[-1][0], lines[-1][1] + " " + line.strip())
        elif line.strip() and not line.startswith("#"):
            lines.append((number, line.strip()))
    for number, line in lines:
        where = f"{path.name}, line {number}"
        if line.startswith("- "):
            parse(line[2:], where)
            grammar.frames.append(line[2:])
        elif line.startswith("@") and " = " in line:
            name, _, body = line.partition(" = ")
            grammar.productions[name] = _alternatives(body.split(), 0, where, nested=False)[0]
        else:
            raise CourseError(f"{where}: found {line[:40]!r}; expected '- frame', '@name = a | b' or '# comment'.")
    return grammar


class Expander:
    """Expands frames into tagged words.

    Args:
        productions: what ``@name`` stands for.
        entity: draws the words of an entity of a kind, ``entity("loc.city") -> ["New", "Delhi"]``.
        rng: every choice comes from here.
    """

    def __init__(self, productions: dict[str, Choice], entity: Callable[[str], list[str]], rng: random.Random) -> None:
        self.productions, self.entity, self.rng = productions, entity, rng
        self.remembered: dict[str, tuple[str, list[str]]] = {}
        self.quotes_free = True  # no quotation marks in the frame, so that titles may have some

    def frame(self, text: str) -> Tagged:
        """One sentence from a frame."""
        self.remembered, self.quotes_free = {}, '"' not in text
        return self._sequence(parse(text, text))

    def _sequence(self, items: tuple) -> Tagged:
        return [pair for item in items for pair in self._item(item)]

    def _item(self, item: "str | Choice") -> Tagged:
        if isinstance(item, Choice):
            return self._sequence(self.rng.choice(item.alternatives))
        if item.startswith("{") and item.endswith("}"):
            return self._slot(item[1:-1])
        if item.startswith("@") and len(item) > 1:
            if item not in self.productions:
                raise CourseError(f"production {item} is not defined; a literal handle is written \\{item}")
            return self._item(self.productions[item])
        return [(LITERALS.get(item, item.removeprefix("\\")), "O")]

    def _slot(self, slot: str) -> Tagged:
        kind, _, name = slot.partition("=")
        if kind:  # {kind} or {kind=x}
            words = self.entity(kind)
            if name:
                self.remembered[name] = (kind, words)
        else:  # {=x} or {=x.last}
            name, _, part = name.partition(".")
            if name not in self.remembered:
                raise CourseError(f"slot {{={name}}} comes before {{kind={name}}}")
            kind, words = self.remembered[name]
            if part not in ("", "last"):
                raise CourseError(f"slot {{={name}.{part}}}: expected {{={name}}} or {{={name}.last}}")
            if part:
                words = last_name(words)
        label = kind.split(".")[0].upper()
        tagged = [(word, f"{'I' if i else 'B'}-{label}") for i, word in enumerate(words)]
        if kind == "misc.work" and self.quotes_free and self.rng.random() < QUOTED:
            return [('"', "O"), *tagged, ('"', "O")]
        return tagged


PARTICLES = {"van", "von", "de", "der", "den", "da", "di", "del", "al", "la", "le", "el", "bin", "dos", "du", "ter", "af"}


def last_name(words: list[str]) -> list[str]:
    """The last name of a full name, with its particles.

    >>> last_name(["Ana", "van", "der", "Berg"]), last_name(["Plato"])
    (['van', 'der', 'Berg'], ['Plato'])
    """
    start = len(words) - 1
    if words[start] in {"Jr.", "Sr.", "II", "III"} and start > 1:
        words, start = words[:-1], start - 1
    while start > 1 and words[start - 1].lower() in PARTICLES:
        start -= 1
    return words[start:]
