"""Tag schemes: IOB1, IOB2 and BIOES in, IOB2 inside; tags to entity spans and back."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from course_lib.errors import expect

PREFIXES = {"B", "I", "E", "S", "L", "U"}  # L and U are the BILOU names of E and S


class Span(NamedTuple):
    """One entity: words ``start`` (inclusive) to ``end`` (exclusive) of a sentence."""

    start: int
    end: int
    type: str


class IllegalTag(ValueError):
    """A tag that cannot stand where it stands; ``position`` is its index in the sentence."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


def split_tag(tag: str) -> tuple[str, str]:
    """``"B-PER"`` → ``("B", "PER")``; ``"O"`` → ``("O", "")``.

    Raises:
        ValueError: the tag is neither ``O`` nor a known prefix, a hyphen and a type.

    >>> split_tag("B-creative-work")
    ('B', 'creative-work')
    """
    if tag == "O":
        return "O", ""
    prefix, hyphen, kind = tag.partition("-")
    if prefix not in PREFIXES or not hyphen or not kind:
        raise ValueError(f"tag {tag!r}: expected O or one of B- I- E- S- followed by an entity type, such as B-PER")
    return {"L": "E", "U": "S"}.get(prefix, prefix), kind


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Name the scheme of a corpus: ``"IOB2"``, ``"IOB1"`` or ``"BIOES"``.

    BIOES when any tag starts with E- or S-. IOB1 when an entity starts with I- and every B- directly
    follows an entity of the same type (the only place where IOB1 uses it). Otherwise IOB2. A corpus that
    mixes schemes is not told apart here: :func:`to_iob2` finds the tag that does not fit.

    >>> detect_scheme([["I-PER", "I-PER", "O"]]), detect_scheme([["B-PER", "I-PER"]]), detect_scheme([["S-PER"]])
    ('IOB1', 'IOB2', 'BIOES')
    """
    end_or_single = starts_on_i = plain_b = False
    for tags in sentences:
        before = ("O", "")
        for tag in tags:
            prefix, kind = split_tag(tag)
            end_or_single |= prefix in "ES"
            starts_on_i |= prefix == "I" and before[1] != kind
            plain_b |= prefix == "B" and before[1] != kind
            before = (prefix, kind)
    if end_or_single:
        return "BIOES"
    return "IOB1" if starts_on_i and not plain_b else "IOB2"


def to_iob2(tags: Sequence[str], scheme: str, repair: bool = False) -> tuple[list[str], int]:
    """Convert the tags of one sentence to IOB2.

    Args:
        tags: one tag per word.
        scheme: ``"IOB1"``, ``"IOB2"`` or ``"BIOES"``.
        repair: mend illegal transitions the way conlleval reads them (a stray I-X or E-X starts an entity).
    Returns:
        The IOB2 tags, and how many tags had to be repaired.
    Raises:
        IllegalTag: an illegal transition, unless ``repair``.
        ValueError: another scheme, or a tag that is none.

    >>> to_iob2(["I-PER", "I-PER", "B-PER", "O"], "IOB1")
    (['B-PER', 'I-PER', 'B-PER', 'O'], 0)
    """
    expect(scheme in ("IOB1", "IOB2", "BIOES"), "scheme", scheme, "IOB1, IOB2 or BIOES")
    out, repaired = [], 0
    before, inside = ("O", ""), False  # inside: an entity is open and may be continued
    for position, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        continues = prefix in "IE" and inside and before[1] == kind
        legal = _legal(scheme, prefix, continues, inside)
        if not legal:
            if not repair:
                raise IllegalTag(position, _why(scheme, tag, "-".join(filter(None, before))))
            repaired += 1
        out.append("O" if prefix == "O" else f"{'I' if continues else 'B'}-{kind}")
        inside = prefix in ("B", "I") if scheme == "BIOES" else prefix != "O"
        before = (prefix, kind)
    if scheme == "BIOES" and inside:
        if not repair:
            raise IllegalTag(len(tags) - 1, f"the sentence ends inside an entity ({tags[-1]}): BIOES closes it with E- or S-")
        repaired += 1
    return out, repaired


def _legal(scheme: str, prefix: str, continues: bool, inside: bool) -> bool:
    if scheme == "IOB1":
        return prefix in "OIB"
    if scheme == "IOB2":
        return prefix in "OB" or (prefix == "I" and continues)
    if prefix in "IE":
        return continues
    return not inside  # BIOES: O, B and S may not follow an open entity


def _why(scheme: str, tag: str, before: str) -> str:
    prefix, kind = split_tag(tag)
    if scheme != "BIOES" and prefix in "ES":
        return f"{tag} after {before}: the file is in {scheme}, which has no {prefix}- tags (two schemes mixed?)"
    if prefix in "IE":
        return f"{tag} after {before}: in {scheme}, {prefix}-{kind} must follow B-{kind} or I-{kind}"
    return f"{tag} after {before}: in BIOES the open entity must first be closed with an E- tag"


def spans(tags: Sequence[str]) -> list[Span]:
    """Entities of one sentence in IOB2; a stray I-X is read as a start, as conlleval does.

    >>> spans(["B-PER", "I-PER", "O", "B-LOC"])
    [Span(start=0, end=2, type='PER'), Span(start=3, end=4, type='LOC')]
    """
    found: list[Span] = []
    for i, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        if prefix == "I" and found and found[-1].end == i and found[-1].type == kind:
            found[-1] = found[-1]._replace(end=i + 1)
        elif prefix != "O":
            found.append(Span(i, i + 1, kind))
    return found


def from_spans(entities: Iterable[Span], length: int) -> list[str]:
    """IOB2 tags of a sentence of ``length`` words; the inverse of :func:`spans`.

    >>> from_spans([Span(0, 2, "PER")], 3)
    ['B-PER', 'I-PER', 'O']
    """
    tags = ["O"] * length
    for start, end, kind in entities:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def tag_list(sentences: Iterable[Sequence[str]]) -> list[str]:
    """The labels of a model for this corpus: ``O`` first, then B- and I- of each type, sorted by type.

    >>> tag_list([["B-PER", "O"], ["B-LOC", "I-LOC"]])
    ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    """
    types = sorted({kind for tags in sentences for tag in tags if (kind := split_tag(tag)[1])})
    return ["O"] + [f"{prefix}-{kind}" for kind in types for prefix in "BI"]


def keep_types(tags: Sequence[str], types: set[str]) -> list[str]:
    """Turn the tags of all other types into O.

    >>> keep_types(["B-PER", "O", "B-MISC"], {"PER"})
    ['B-PER', 'O', 'O']
    """
    return [tag if split_tag(tag)[1] in types else "O" for tag in tags]
