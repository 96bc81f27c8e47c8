"""Running prose to sentences and words, every word with its place in the text."""

import re
from typing import NamedTuple

ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st sen rep gov gen col capt lt sgt rev hon pres no vol fig inc ltd corp co bros dept univ est approx "
    "jan feb mar apr jun jul aug sep sept oct nov dec mt ave blvd vs v cf al ed eds e.g i.e etc p pp".split()
)
# Kept with their full stop only before a name or number; elsewhere they are words ("no.", "an ed.").
_WORD = re.compile(
    r"""
      (?:https?://|www\.)[^\s<>"]*[^\s<>".,;:!?)\]}']   # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                        # e-mail
    | [@\#]\w+                                            # handles and tags
    | (?:[A-Za-z]\.){2,}                                  # U.S.  a.m.
    | \d+(?:[.,]\d+)*\w*(?:[-‐‑](?=[^\W\d])\w+)+          # 12-year-old, but 2 - 1
    | \d+(?:[.,:]\d+)*(?:st|nd|rd|th|s)?\b                # 1,250  3.5  7:30  3rd  1990s
    | \w+(?:[-‐‑]\w+)+                                    # two-year
    | (?:[A-Za-z]['’])(?=[A-ZÀ-Þ])\w+(?:[-‐‑]\w+)*       # O'Neill, L'Oréal
    | \w+
    | \.\.\.|--+
    | \S
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(?i)(n['’]t|['’](?:s|re|ve|ll|d|m))$")
_BEFORE_CLITIC = re.compile(r"(?i)\w+(?:[-‐‑]\w+)*(?:n['’]t|['’](?:s|re|ve|ll|d|m))\b")
_AFTER_WORD = re.compile(r"(?i)['’](?:s|re|ve|ll|d|m)\b")
# Words that begin sentences and hardly ever names: behind "U.S." or "p.m." one of these starts a new sentence.
_STARTERS = frozenset(
    "a after all also although an and another as at because before but by despite did do during each every few for from had he "
    "her here his how however i if in instead is it its many meanwhile more most my no nobody not now on once one only our she "
    "since so some still such that the their then there these they this those though to under until was we were what when where "
    "which while who why with yet you your".split()
)
_SHORT = re.compile(r"(?:[A-Za-z]\.){2,}")
_ITEM = re.compile(r"\d{1,3}|[a-zA-Z]")
_CLOSERS = "\"'”’)]»"
_ENDERS = {".", "!", "?", "…", "..."}


class Word(NamedTuple):
    """A word and its characters ``text[start:end]`` in the prose it came from."""

    text: str
    start: int
    end: int


def split_words(text: str) -> list[Word]:
    """Split prose into words: punctuation alone, clitics off, abbreviations and numbers whole.

    >>> [w.text for w in split_words("Dr. Lee didn't reach Washington, D.C. before 7:30 p.m.")]
    ['Dr.', 'Lee', 'did', "n't", 'reach', 'Washington', ',', 'D.C.', 'before', '7:30', 'p.m.']
    """
    words: list[Word] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        clitic = _BEFORE_CLITIC.match(text, position)
        if clitic:
            cut = _CLITIC.search(clitic.group()).start() + position
            words += [Word(text[a:b], a, b) for a, b in ((position, cut), (cut, clitic.end())) if b > a]
            position = clitic.end()
            continue
        match = _WORD.match(text, position)
        if words and words[-1].end == position and any(c.isalnum() for c in words[-1].text):
            match = _AFTER_WORD.match(text, position) or match  # behind what is no plain word: O'Neill's, U.S.'s
        end = match.end()
        if (
            match.group().lower() in ABBREVIATIONS
            and text[end : end + 1] == "."
            and _abbreviates(match.group(), text[end + 1 :])
        ):
            end += 1
        elif len(match.group()) == 1 and match.group().isupper() and re.match(r"\.\s+[A-Z]", text[end:]):
            end += 1  # an initial: "J. Smith"
        words.append(Word(text[position:end], position, end))
        position = end
    return words


def _abbreviates(word: str, after: str) -> bool:
    """Is the full stop part of ``word``? Always, unless the sentence plainly ends there."""
    if word.lower() == "no":  # "No. 5", but "No. He left."
        return bool(re.match(r"\s*\d", after))
    return word[0].isupper() or word.lower() not in {"co", "ed", "fig", "mar", "p"} or bool(re.match(r"\s*\d", after))


def split_sentences(text: str) -> list[list[Word]]:
    """Split prose into sentences of words; a line feed always ends a sentence.

    A sentence ends after ``.``, ``!``, ``?`` or ``…``, further such marks, and the closing quotes and brackets behind
    them, when the next word does not start with a lower-case letter; not after an abbreviation or an initial that
    stands before a name, and not after the number that opens a list item ("1. Open the lid."). Behind "U.S." and its
    like, whose full stop may be both, it ends where the next word is one that begins sentences ("The", "She").

    >>> [[w.text for w in s] for s in split_sentences("Mr. Wu left. Did he? Yes.")]
    [['Mr.', 'Wu', 'left', '.'], ['Did', 'he', '?'], ['Yes', '.']]
    """
    sentences: list[list[Word]] = []
    for line in re.finditer(r"[^\n\r]+", text):
        current: list[Word] = []
        ended = False  # a mark that may end the sentence, and since then only such marks and closing ones
        for text_of, start, end in split_words(line.group()):
            word = Word(text_of, start + line.start(), end + line.start())
            if ended and _starts(word, current, text):
                sentences.append(current)
                current, ended = [], False
            current.append(word)
            ended = _may_end(word, current) or (ended and word.text in _CLOSERS)
        if current:
            sentences.append(current)
    return sentences


def _starts(word: Word, current: list[Word], text: str) -> bool:
    """Does ``word`` start a sentence, after a ``current`` one that may have ended?"""
    if word.text in _ENDERS or (word.text in _CLOSERS and _closes(word, current, text)):
        return False
    if _SHORT.fullmatch(current[-1].text):
        return word.text[0].isupper() and word.text.lower() in _STARTERS
    return not word.text[0].islower()


def _may_end(word: Word, current: list[Word]) -> bool:
    """Can the sentence end with ``word``, the last of ``current``?"""
    if _SHORT.fullmatch(word.text):
        return True
    item = word.text == "." and len(current) == 2 and _ITEM.fullmatch(current[0].text) and word.start == current[0].end
    return word.text in _ENDERS and not item


def _closes(mark: Word, current: list[Word], text: str) -> bool:
    """Does a quote or bracket close? A straight quote by the spaces around it; between two spaces, by the count."""
    if mark.text not in {'"', "'"} or mark.start == current[-1].end:
        return True
    if text[mark.end : mark.end + 1].strip():  # a letter follows: it opens
        return False
    return sum(w.text == mark.text for w in current) % 2 == 1
